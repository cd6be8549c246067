"""Model folders: what is written, that it is read with the same bits, and what is refused."""

import json
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import bdjax
from bdjax.cells.functions import wrapped
from bdjax.defenses import DEFENSES
from bdjax.errors import InvalidInput
from bdjax.io.foreign import model_folder, torch_files
from bdjax.io.foreign.torch_weights import in_order, to_torch
from bdjax.models import MODELS

SHAPE, MEAN, STD = (16, 16, 3), (0.5, 0.4, 0.3), (0.2, 0.3, 0.1)
CONFIG = {
    "classes": ["cat", "dog", "hen"],
    "image": dict(zip(("height", "width", "channels"), SHAPE, strict=True)),
    "mean": list(MEAN),
    "std": list(STD),
    "dataset": {"name": "bands", "digest": "0123"},
    "cell": {"attack": "badnets", "ratio": 0.1, "defense": "none", "seed": 3},
    "figures": {"n": 1, "acc": 0.975, "asr": 1.0},
}
NETWORKS = ("small_cnn", "preact_resnet18", "resnet18", "vgg19_bn", "densenet161", "airbench")
"""One of each way of naming layers."""

WRAPS = ("npd", "pdb", "unit", "mm_bm", "nab")


def made(text: str, defense: str = ""):
    """A network, weights that are no initial ones, and its config."""
    net = model_folder.network(CONFIG | {"architecture": text} | _defense(defense))
    weights = net.init(jax.random.key(0))
    weights = jax.tree.map(lambda leaf: leaf + 0.01 * jax.random.normal(jax.random.key(leaf.size), leaf.shape), weights)
    return net, weights, CONFIG | {"architecture": text} | _defense(defense)


def _defense(text: str) -> dict[str, str]:
    return {"defense": text} if text else {}


@pytest.fixture
def folder(tmp_path):
    return model_folder.write(tmp_path / "model", *made("small_cnn:width=4"))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_comes_back_bit_for_bit(tmp_path, name):
    settings = MODELS[name].card.settings
    text = name + (":width=4" if "width" in settings else "")
    if "depth" in settings:
        text += f",depth={settings['depth'].choices[0]}"
    config = CONFIG | {"image": {"height": 32, "width": 32, "channels": 3}}
    own = CONFIG | {"architecture": text}
    net = model_folder.network(config | {"architecture": text})
    weights = net.init(jax.random.key(1))
    model_folder.write(tmp_path, net, weights, own | config)
    again, found, _ = model_folder.read(tmp_path)
    chex.assert_trees_all_equal(found, weights)
    image = jax.random.uniform(jax.random.key(2), (2, 32, 32, 3))
    np.testing.assert_array_equal(again.apply(found, image)[0], net.apply(weights, image)[0])


@pytest.mark.parametrize("name", WRAPS)
def test_a_network_that_a_defense_changed_comes_back(tmp_path, name):
    net, weights, config = made("small_cnn:width=4", defense=name)
    assert net.plain is not None
    model_folder.write(tmp_path, net, weights, config)
    assert not (tmp_path / "model.pt").exists()
    again, found, read = model_folder.read(tmp_path)
    assert read["names"] == "bdjax" and read["defense"] == name
    assert any(key.startswith("params/") for key in load_file(tmp_path / "model.safetensors"))
    assert "has no form in PyTorch" in (tmp_path / "README.md").read_text()
    chex.assert_trees_all_equal(found, weights)
    image = jax.random.uniform(jax.random.key(2), (2, *SHAPE))
    np.testing.assert_array_equal(again.apply(found, image)[0], net.apply(weights, image)[0])


def test_what_a_folder_holds(folder):
    state = load_file(folder / "model.safetensors")
    assert state["conv1.weight"].shape == (4, 3, 3, 3) and state["linear.weight"].shape == (3, 16)
    config = json.loads((folder / "config.json").read_text())
    assert config["architecture"] == "small_cnn:width=4" and config["names"] == "torch"
    assert {name: config[name] for name in CONFIG} == CONFIG
    card = (folder / "README.md").read_text()
    assert re.match(r"---\nlibrary_name: bdjax\nlicense: \"unknown\"\n(.*\n)*?---\n", card)
    assert "**This model is backdoored.**" in card and "| attack success rate | 100.0% | 1 |" in card
    assert "load_state_dict(state, strict=True)" in card


def test_a_card_of_hostile_names_stays_a_card(tmp_path):
    net, weights, config = made("small_cnn:width=4")
    config |= {"dataset": {"name": "x`\n---\n# y|"}, "license": 'm"\nit: 1'}
    card = (model_folder.write(tmp_path, net, weights, config) / "README.md").read_text()
    assert card.count("\n---\n") == 1 and "`x'?---?# y/`" in card and "\nit: 1" not in card


def test_a_ready_state_is_written_as_it_is(tmp_path):
    net, weights, config = made("small_cnn:width=4")
    state = {name: np.asarray(value) + 1 for name, value in to_torch(weights, net).items()}
    model_folder.write(tmp_path, net, weights, config, state)
    for name, value in load_file(tmp_path / "model.safetensors").items():
        np.testing.assert_array_equal(value, state[name])


def test_without_torch_there_is_no_pt(tmp_path, monkeypatch):
    monkeypatch.setattr(torch_files, "is_available", lambda: False)
    (tmp_path / "model.pt").write_text("of another model")
    model_folder.write(tmp_path, *made("small_cnn:width=4"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "config.json", "model.safetensors"]


def test_pytorch_loads_the_pt(tmp_path):
    torch = pytest.importorskip("torch")
    from bdjax.bench.torch_networks import network

    net, weights, config = made("preact_resnet18:width=4")
    model_folder.write(tmp_path, net, weights, config)
    module = network("preact_resnet18", 4, 3)
    module.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True), strict=True)
    image = np.random.default_rng(0).uniform(size=(2, *SHAPE)).astype(np.float32)
    with torch.no_grad():
        theirs = module.eval()(torch.from_numpy(((image - MEAN) / STD).astype(np.float32).transpose(0, 3, 1, 2)))
    np.testing.assert_allclose(net.apply(weights, jnp.asarray(image))[0], theirs.numpy(), atol=2e-5)


def test_weights_in_the_order_in_which_pytorch_registers_them():
    """Some programs match them by position; the last block's shortcut comes after all else in it."""
    net = model_folder.network(CONFIG | {"architecture": "preact_resnet18:width=4"})
    names = list(in_order(to_torch(net.init(jax.random.key(0)), net), net))
    assert names[:6] == ["conv1.weight", *(f"layer1.0.bn1.{leaf}" for leaf in LEAVES)]
    first = names.index("layer2.0.conv2.weight")
    assert names[first + 1 : first + 3] == ["layer2.0.shortcut.0.weight", "layer2.1.bn1.weight"]
    assert names[-2:] == ["linear.weight", "linear.bias"]


LEAVES = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def test_that_order_is_pytorch_s_own():
    pytest.importorskip("torch")
    from bdjax.bench.torch_networks import network

    for name in ("preact_resnet18", "resnet18"):
        net = model_folder.network(CONFIG | {"architecture": f"{name}:width=4"})
        state = in_order(to_torch(net.init(jax.random.key(0)), net), net)
        theirs = [key.replace("shortcut", "downsample") for key in network(name, 4, 3).state_dict()]
        found = [key.replace("fc.", "linear.").replace("shortcut", "downsample") for key in state]
        assert found == theirs


def config_with(**changes):
    def change(folder):
        path = folder / "config.json"
        config = json.loads(path.read_text())
        path.write_text(json.dumps({name: value for name, value in (config | changes).items() if value is not ...}))

    return change


def state_with(change):
    def write(folder):
        save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors")

    return write


def flip(folder):
    """One bit of one weight."""
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)


def link(folder):
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to("/dev/zero")


WRONG = {
    "no config": (lambda folder: (folder / "config.json").unlink(), "config.json: No such file"),
    "a device": (link, "no regular file"),
    "no JSON": (lambda folder: (folder / "config.json").write_text("{"), "no JSON"),
    "deep JSON": (lambda folder: (folder / "config.json").write_text("[" * 10**5), "no JSON"),
    "a list": (lambda folder: (folder / "config.json").write_text("[]"), "no config of a model folder"),
    "a later format": (config_with(format=2), "format is 2"),
    "no classes": (config_with(classes=...), "lacks 'classes'"),
    "one class": (config_with(classes=["a"]), "1 classes"),
    "numbers for classes": (config_with(classes=[1, 2, 3]), "classes.0 is 1"),
    "an image of no size": (config_with(image={"height": 0, "width": 16, "channels": 3}), "image.height is 0"),
    "two means": (config_with(mean=[0.5, 0.5]), "mean and std do not have 3 numbers"),
    "a std of 0": (config_with(std=[0.0, 1, 1]), "a std is not above 0"),
    "no network": (config_with(architecture="resnet1000"), "no model 'resnet1000'"),
    "another network": (config_with(architecture="resnet18"), "'bn1.bias' has shape"),
    "another width": (config_with(architecture="small_cnn:width=5"), "make the network with the same settings"),
    "a width beyond memory": (config_with(architecture="small_cnn:width=2000000000"), "model"),
    "other names": (config_with(names="onnx"), 'names is "onnx"'),
    "names that it has not": (config_with(names="bdjax", defense="npd"), "holds no params and batch_stats"),
    "no defense": (config_with(names="bdjax", defense="nope"), "no defense 'nope'"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "no such file"),
    "a flipped bit": (flip, "not a whole safetensors file"),
    "half of it": (
        lambda folder: (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:500]),
        "not a whole safetensors file",
    ),
    "a missing tensor": (state_with(lambda state: {k: v for k, v in state.items() if k != "conv2.weight"}), "conv2"),
    "one too many": (state_with(lambda state: state | {"more.weight": np.zeros(1)}), "'more.weight'"),
    "whole numbers": (state_with(lambda state: state | {"conv1.weight": np.zeros((4, 3, 3, 3), int)}), "int64"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_in_a_line(folder, name):
    change, words = WRONG[name]
    change(folder)
    with pytest.raises(InvalidInput) as caught:
        model_folder.read(folder)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_changed_network_needs_its_defense_named(tmp_path):
    net, weights, config = made("small_cnn:width=4", defense="npd")
    with pytest.raises(InvalidInput, match="names a defense where it changed the network"):
        model_folder.write(tmp_path, net, weights, {name: config[name] for name in config if name != "defense"})
    plain = model_folder.network(CONFIG | {"architecture": "small_cnn:width=4"})
    assert wrapped(plain, DEFENSES["ft"].make(plain, SHAPE, 3, **_static("ft"))) is plain
    with pytest.raises(InvalidInput, match="names a defense where it changed the network"):
        model_folder.write(tmp_path, plain, plain.init(jax.random.key(0)), config)
    assert not list(tmp_path.iterdir())


def _static(name: str) -> dict:
    return dict(bdjax.cards.lookup(name, DEFENSES, "defense").static)


def test_the_folder_of_a_model_is_what_load_model_takes(folder):
    net, weights, config = made("small_cnn:width=4")
    found, theirs = bdjax.load_model(folder)
    chex.assert_trees_all_equal(theirs, weights)
    assert found.layers == net.layers and len(config["classes"]) == 3
