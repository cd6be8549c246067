"""Studies of victims that are given as files: what is measured of them, what is refused, and what a kill costs."""

import json
import math
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import bdjax
from bdjax.errors import InvalidInput
from bdjax.io.datasets import normalization
from bdjax.io.foreign.weights import load_weights
from bdjax.io.store.trees import save_tree
from bdjax.study import given
from bdjax.study.resolve import resolve
from bdjax.types import Weights


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A study with one backdoored victim, `victim.safetensors` beside its folder, and its results."""
    folder = tmp_path_factory.mktemp("given")
    found = bdjax.run(tiny.study(folder, ratios=(0.1,), seeds=(3,)), folder / "study", progress=False)
    (model,) = (folder / "study" / "models").glob("*.safetensors")
    shutil.copy(model, folder / "victim.safetensors")
    (folder / "acc.json").write_text(json.dumps([float(found["acc"].squeeze()), float(found["asr"].squeeze())]))
    return folder


def study(folder, **changes):
    """Two seeds of a defense of the given victim, tested under the attack that made it."""
    fields = {"ratios": None, "victims": {"mine": str(folder / "victim.safetensors")}, "defenses": ("none", "ft")}
    return tiny.study(folder, **fields | changes)


def test_a_given_victim_has_the_figures_that_it_had_where_it_was_trained(folder):
    """Its trigger is that of its seed, 3; badnets' has no chance in it, so seeds 0 and 1 measure the same."""
    found = bdjax.run(study(folder), progress=False)
    acc, asr = json.loads((folder / "acc.json").read_text())
    assert found["attack"].values.tolist() == ["mine"] and found["ratio"].values.tolist() == [math.inf]
    assert (found["acc"].sel(defense="none") == acc).all() and (found["asr"].sel(defense="none") == asr).all()
    assert (found["seconds"].sel(defense="none") == 0).all() and (found["seconds"].sel(defense="ft") > 0).all()
    assert np.isnan(found["overlap"]).all()
    assert (found["der"].sel(defense="none") == 0.5).all()


def test_without_an_attack_nothing_is_said_of_one(folder):
    found = bdjax.run(study(folder, attacks=None, audits=("mm_bd:steps=2,images=2",)), progress=False)
    assert (found["acc"].sel(defense="none") > 0.9).all()
    assert np.isnan(found["asr"]).all() and np.isnan(found["ra"]).all() and np.isnan(found["der"]).all()
    assert np.isfinite(found["mm_bd_margin"]).all()


def test_seeds_are_of_the_defense(folder, tmp_path):
    """Three models: the victim once for both seeds, and one purified model for each."""
    found = bdjax.run(study(folder), tmp_path / "out", progress=False)
    assert len(list((tmp_path / "out" / "models").glob("*.safetensors"))) == 3
    assert found.attrs["models"] == found.attrs["models_finished"] == 3


def test_several_victims_and_attacks(folder):
    """Each victim under each attack; the poisoned set that it was trained on gives its ratio and lets `abl` run."""
    attacks, two = (tiny.ATTACK, "blended"), {name: str(folder / "victim.safetensors") for name in ("a", "b")}
    found = bdjax.run(study(folder, victims=two, attacks=attacks, defenses=("none",), seeds=(0,)), progress=False)
    assert found["attack"].values.tolist() == [f"{name} under {attack}" for name in two for attack in attacks]
    np.savez(folder / "set.npz", **tiny.poisoned_arrays())
    attacks = (f"set:{folder / 'set.npz'}",)
    found = bdjax.run(
        study(
            folder,
            attacks=attacks,
            defenses=("none", "abl:isolation_epochs=1,epochs=1,unlearning_epochs=1"),
            seeds=(0,),
        ),
        progress=False,
    )
    assert found["ratio"].values.tolist() == [0.1] and np.isfinite(found["acc"]).all()


def test_a_second_run_does_nothing_and_a_lost_victim_is_put_again(folder, tmp_path):
    bdjax.run(study(folder, normalization="half"), tmp_path / "half", progress=False)
    bdjax.run(study(folder, normalization="0.5/0.5"), tmp_path / "half", progress=False)  # the same figures
    with pytest.raises(InvalidInput, match="holds a study of normalization"):
        bdjax.run(study(folder), tmp_path / "half", progress=False)
    bdjax.run(study(folder), tmp_path / "out", progress=False)
    before = tiny.files(tmp_path / "out", "models", "results")
    told = tiny.Recorder()
    bdjax.run(study(folder), tmp_path / "out", progress=told)
    assert tiny.files(tmp_path / "out", "models", "results") == before and not told.models
    victim = next(
        path for path in (tmp_path / "out" / "models").iterdir() if b'\\"ft\\"' not in path.read_bytes()[:2000]
    )
    content = victim.read_bytes()
    victim.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    for path in (tmp_path / "out" / "results").glob("score-*"):
        path.unlink()  # so that the victim is read
    bdjax.run(study(folder), tmp_path / "out", progress=False)
    assert victim.read_bytes() == content


def test_addresses_are_of_the_weights_and_not_of_the_file(folder, tmp_path):
    copy = tmp_path / "other.safetensors"
    shutil.copy(folder / "victim.safetensors", copy)
    one, same = (resolve(study(folder, victims=(f"mine={path}",))) for path in (folder / "victim.safetensors", copy))
    assert one.victims["mine"].digest == same.victims["mine"].digest
    assert str(tmp_path) not in str(same.study.victims)
    moved = jax.tree.map(lambda leaf: leaf + 1e-3, one.victims["mine"].weights)
    assert given.victim(moved, "it").digest != one.victims["mine"].digest


def broken(folder, tmp_path):
    """Weights of which one is no number."""
    net = resolve(tiny.study(folder)).net
    weights = load_weights(folder / "victim.safetensors", net)
    params = weights.params | {"linear": weights.params["linear"] | {"bias": jnp.full(3, jnp.nan)}}
    save_tree(tmp_path / "nan.safetensors", Weights(params, {}))
    return str(tmp_path / "nan.safetensors")


WRONG = {
    "ratios": (lambda folder, tmp: {"ratios": (0.1,)}, "both victims and ratios"),
    "training set": (
        lambda folder, tmp: {"defenses": ("none", "abl")},
        "abl for mine needs train: what the victim was",
    ),
    "trigger": (lambda folder, tmp: {"attacks": None, "audits": ("retuning",)}, "retuning for mine needs .*no trigger"),
    "rows": (lambda folder, tmp: {"detectors": ("abl",)}, "abl for mine needs train"),
    "own training": (lambda folder, tmp: {"attacks": ("input_aware",)}, "makes its trigger while it trains the victim"),
    "no file": (lambda folder, tmp: {"victims": ("nowhere.pt",)}, "nowhere.pt"),
    "network": (lambda folder, tmp: {"model": "small_cnn:width=4"}, "is only in the"),
    "no name": (lambda folder, tmp: {"victims": (f"a b={folder}/victim.safetensors",)}, "'a b' is no name"),
    "two": (lambda folder, tmp: {"victims": (f"{folder}/victim.safetensors",) * 2}, "is given twice"),
    "names": (
        lambda folder, tmp: {"victims": (f"a={folder}/victim.safetensors", f"a=./{folder}/victim.safetensors")},
        "called 'a'|no such file",
    ),
    "not finite": (lambda folder, tmp: {"victims": (broken(folder, tmp),)}, "not finite"),
    "type": (lambda folder, tmp: {"victims": (3,)}, "victims: 3; give texts"),
    "misfit": (
        lambda folder, tmp: {"normalization": "9/0.01"},
        "victim mine: right on .*which is chance",
    ),
    "weights": (lambda folder, tmp: {"victims": {"mine": {"a": np.zeros(3)}}}, "victim 'mine': no path"),
    "normalization": (lambda folder, tmp: {"normalization": "cifar"}, "normalization 'cifar'; did you mean cifar10?"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_is_refused_in_a_line(folder, tmp_path, name):
    change, message = WRONG[name]
    with pytest.raises(InvalidInput, match=message) as error:
        bdjax.run(study(folder, **change(folder, tmp_path)), tmp_path / "out", progress=False)
    assert "\n" not in str(error.value) and not (tmp_path / "out" / "models").exists()


@pytest.mark.parametrize(
    ("text", "mean", "std"),
    [
        ("half", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        ("cifar10", (0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261)),
        ("0.1,0.2,0.3/2", (0.1, 0.2, 0.3), (2.0, 2.0, 2.0)),
    ],
)
def test_normalizations(folder, text, mean, std):
    """The network takes the figures; an image of exactly the mean is all zeros to it, so its logits are the bias."""
    assert normalization.parse(text, 3) == (mean, std)
    work = resolve(tiny.study(folder, normalization=text))
    weights = work.net.init(jax.random.key(0))
    image = jnp.broadcast_to(jnp.asarray(mean), (1, 16, 16, 3))
    np.testing.assert_allclose(work.net.apply(weights, image)[0], 0, atol=1e-6)
    assert work.base != resolve(tiny.study(folder)).base


@pytest.mark.parametrize("text", ["0.5", "1/0", "1,2/1", "nan/1", "inf/1", "a/b", "0.5/-1", "1/2/3", "half "])
def test_wrong_normalizations(text):
    with pytest.raises(InvalidInput, match="normalization"):
        normalization.parse(text, 3)
