"""Studies of what users bring: poisoned sets, triggers, attacks; an audit; a defense that changes the network."""

import json
import re
import sys

import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import bdjax
from bdjax import metrics
from bdjax.data import sources
from bdjax.data.poison import all_to_one
from bdjax.errors import InvalidInput
from bdjax.io.store.trees import load_trained
from bdjax.study import resolve
from bdjax.types import Data


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with a clean dataset and a poisoned set of it: 18 rows of classes 1 and 2, sent to class 0."""
    folder = tmp_path_factory.mktemp("data")
    np.savez(folder / "set.npz", **tiny.poisoned_arrays())
    tiny.dataset(folder)
    return folder


@pytest.mark.parametrize(("dataset", "defenses"), [("set.npz", ("none", "ft:epochs=2")), ("bands0.npz", ("none",))])
def test_a_users_poisoned_set(data, dataset, defenses):
    text = f"set:{data / 'set.npz'}"
    study = tiny.study(data, dataset=str(data / dataset), attacks=(text,), ratios=(0.1,), defenses=defenses)
    found = bdjax.run(study)
    (name,) = found["attack"].values
    assert re.fullmatch(r"set:set\.npz#[0-9a-f]{12}", name) and found["ratio"].values.tolist() == [0.1]
    assert (found["acc"].sel(defense="none") == 1).all() and (found["asr"].sel(defense="none") > 0.9).all()
    assert (found["asr"] + found["ra"] <= 1).all() and (found["status"] == 0).all()
    # Where the set is the dataset its poisoned rows are no clean images, so the defender gets none of them.
    assert (found["overlap"] == 0).all() == (dataset == "set.npz")


def test_a_poisoned_set_beside_other_attacks_and_its_baseline(data):
    attacks = (f"set:{data / 'set.npz'}", tiny.ATTACK)
    found = bdjax.run(tiny.study(data, attacks=attacks, ratios=(0.0, 0.1), seeds=(0,), clean="reserved"))
    assert (found["asr"].sel(ratio=0.0) < 0.1).all() and (found["asr"].sel(ratio=0.1) > 0.4).all()
    assert (found["overlap"] == 0).all()
    with pytest.raises(InvalidInput, match="ratio 0 cannot be run on it; give the clean dataset"):
        bdjax.run(tiny.study(data, dataset=str(data / "set.npz"), attacks=attacks[:1], ratios=(0.0, 0.1)))
    other = tiny.dataset(data, 1)
    with pytest.raises(InvalidInput, match="made from another dataset"):
        bdjax.run(tiny.study(data, dataset=other, attacks=attacks[:1]))


def test_evaluate_by_hand():
    """Four images of one pixel; the network calls dark 0 and bright 1, the trigger makes all but the last bright."""
    image = np.asarray([0, 10, 240, 20], np.uint8).reshape(4, 1, 1, 1)
    label = np.asarray([0, 1, 1, 0])
    weights = jnp.asarray(2.0)

    def net(weights, image):
        bright = image[:, 0, 0, 0] * weights - 1
        return jnp.stack([-bright, bright], axis=1)

    def stamp(image):
        return jnp.where(image < 15 / 255, 1.0, image)

    found = bdjax.evaluate(net, weights, Data(image, label), stamp=stamp, goal=all_to_one(1))
    # Clean, it says 0 0 1 0: three are right. Two count for the goal 1: one is moved there, one stays.
    assert found == {"acc": 0.75, "asr": 0.5, "ra": 0.5}
    swapped = bdjax.evaluate(net, weights, Data(image, label), stamp=stamp, goal=lambda label: 1 - label)
    # Stamped they are 1 1 1 0; wanted 1 0 0 1.
    assert swapped == {"acc": 0.75, "asr": 0.25, "ra": 0.75}
    nothing = bdjax.evaluate(net, weights, Data(image, label), stamp=stamp, goal=lambda label: label)
    assert nothing["acc"] == 0.75 and np.isnan(nothing["asr"]) and np.isnan(nothing["ra"])


PLUGIN = '''
"""An attack of one's own: a bright upright stripe."""

import jax.numpy as jnp

from bdjax.attacks import ATTACKS
from bdjax.cards import Card, Method, Setting
from bdjax.data.poison import all_to_one, relabel, roles
from bdjax.types import Attack, Poison

CARD = Card(
    name="stripe", title="Stripe", citation="of this test", year=2026, version=1, kind="static",
    stage="pre-training", controls="data",
    settings={"level": Setting(1.0, "of the stripe", "pixels in [0, 1]", low=0.0, high=1.0)},
)


def make(net, shape, classes) -> Attack:
    stripe = (jnp.arange(shape[1]) // 4 == 1)[None, :, None]
    goal = all_to_one(0)

    def eligible(label):
        return label != 0

    def init(key, assets, settings, label, priority, count) -> Poison:
        role = roles(priority, eligible(label), count)
        return Poison(role, relabel(role, label, goal), {"level": settings["level"]})

    def stamp(assets, trigger, image, row):
        return jnp.where(stripe, trigger["level"].astype(image.dtype), image)

    return Attack(init, stamp, stamp, goal, eligible)


ATTACKS["stripe"] = Method(CARD, make)
'''


def test_an_attack_from_outside_the_package(data, tmp_path, monkeypatch):
    assert len([line for line in PLUGIN.splitlines() if line.strip()]) < 40
    (tmp_path / "striped.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(bdjax.ATTACKS, "stripe", None)  # so that what the plugin registers goes with the test
    recorder = tiny.Recorder()
    attacks = ("stripe", "stripe:level=0.9")
    study = tiny.study(data, attacks=attacks, ratios=(0.0, 0.1), defenses=("none", "ft:epochs=2"), plugins=("striped",))
    found = bdjax.run(study, tmp_path / "out", recorder)
    assert "striped" in sys.modules and found["attack"].values.tolist() == list(attacks)
    assert (found["acc"] > 0.9).all() and (found["asr"].sel(ratio=0.1, defense="none") > 0.9).all()
    assert (found["asr"].sel(ratio=0.0, defense="none") < 0.2).all()
    assert recorder.compiled_labels.count("victims stripe") == 4  # both levels by one program
    cards = json.loads((tmp_path / "out" / "study.json").read_text())["cards"]
    assert "stripe" in cards["attacks"]
    with pytest.raises(InvalidInput, match="no_such_module"):
        bdjax.run(tiny.study(data, plugins=("no_such_module",)))


def test_the_retuning_audit(data):
    """One linear layer that forgot nothing of a patch, and one that never saw it."""
    audit = "retuning:epochs=3,poisoned=5,batch=8,learning_rate=0.05"
    found = bdjax.run(tiny.study(data, audits=(audit,), defenses=("none",), seeds=(0,)))
    for name in ("retuning_acc", "retuning_asr", "retuning_ra"):
        assert np.isfinite(found[name]).all() and ((found[name] >= 0) & (found[name] <= 1)).all()
    assert (found["retuning_asr"].sel(ratio=0.1) >= found["asr"].sel(ratio=0.1) - 0.1).all()
    assert (found["retuning_asr"].sel(ratio=0.0) > found["asr"].sel(ratio=0.0)).all()


def test_a_defense_that_changes_the_network_is_scored_on_its_own(data):
    """NPD inserts a layer; what is stored has it, and scoring the network without it gives other numbers."""
    npd = "npd:epochs=3,warmup_epochs=1,batch=16,learning_rate=0.5"
    study = tiny.study(
        data,
        model="small_cnn:width=2",
        recipe="epochs=6,batch=16,learning_rate=0.2",
        ratios=(0.1,),
        seeds=(0,),
        defenses=("none", npd),
    )
    found = bdjax.run(study, data / "npd")
    built = resolve.resolve(study)
    cells = {cell["defense"]: cell for cell in json.loads((data / "npd" / "study.json").read_text())["cells"]}
    attack, test = (
        built.attacks[tiny.ATTACK][1],
        Data(*map(jnp.asarray, (built.dataset.test.image, built.dataset.test.label))),
    )

    def scored(net, weights):
        triggered = sources.stamped(test, {}, attack.query, ())
        sums = metrics.counts(net, weights, sources.split(test), triggered, attack.goal)
        return {name: float(value) for name, value in metrics.rates(sums).items()}

    weights = {
        name: load_trained(data / "npd" / "models" / f"{cell['model']}.safetensors")[0].weights
        for name, cell in cells.items()
    }
    for defense, net in (("none", built.net), (npd, built.net_of(npd))):
        for name, value in scored(net, weights[defense]).items():
            assert value == pytest.approx(float(found[name].sel(defense=defense).squeeze()), abs=1e-6), (defense, name)
    plain = weights[npd].replace(
        params={name: leaf for name, leaf in weights[npd].params.items() if name in weights["none"].params}
    )
    np.testing.assert_array_equal(plain.params["conv1"]["kernel"], weights["none"].params["conv1"]["kernel"])
    assert scored(built.net, plain) == pytest.approx(scored(built.net, weights["none"]))
    assert scored(built.net_of(npd), weights[npd]) != scored(built.net, plain)
