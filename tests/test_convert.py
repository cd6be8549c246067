"""PyTorch's weights in our networks give PyTorch's logits and running statistics (see reference/make.py)."""

from pathlib import Path

import chex
import jax
import numpy as np
import pytest
from reference.filling import fill, images

from bdjax.errors import InvalidInput
from bdjax.io.foreign.torch_weights import from_torch
from bdjax.models import MODELS

NAMES = ("preact_resnet18", "resnet18")
WIDTH, SIZE = 4, 16


def stored(name):
    with np.load(Path(__file__).parent / "reference" / f"{name}.npz") as file:
        answers = dict(file)
    shapes = [tuple(int(side) for side in shape if side) for shape in answers["shapes"]]
    return fill(answers["names"].tolist(), shapes), answers


def network(name, width=WIDTH):
    return MODELS[name].make((SIZE, SIZE, 3), 10, (0.0,) * 3, (1.0,) * 3, width=width)


@pytest.mark.parametrize("name", NAMES)
def test_logits_and_running_statistics(name):
    state, answers = stored(name)
    net = network(name)
    weights = from_torch(state, net)
    image = images(len(answers["evaluated"]), SIZE)

    evaluated, same, _ = jax.jit(net.apply)(weights, image)
    np.testing.assert_allclose(evaluated, answers["evaluated"], atol=1e-5)
    chex.assert_trees_all_equal(same, weights.batch_stats)

    trained, batch_stats, _ = jax.jit(lambda weights, image: net.apply(weights, image, train=True))(weights, image)
    np.testing.assert_allclose(trained, answers["trained"], atol=1e-4)
    names = [key for key in state if "running" in key]
    parts = np.split(answers["running"], np.cumsum([state[key].size for key in names])[:-1])
    theirs = from_torch(state | dict(zip(names, parts, strict=True)), net).batch_stats
    chex.assert_trees_all_close(batch_stats, theirs, rtol=1e-4, atol=1e-5)


def test_leading_module_is_dropped():
    state, _ = stored("resnet18")
    net = network("resnet18")
    wrapped = from_torch({f"module.{name}": value for name, value in state.items()}, net)
    chex.assert_trees_all_equal(wrapped, from_torch(state, net))


@pytest.mark.parametrize("missing", ["layer2.0.shortcut.0.weight", "layer4.1.bn2.running_var", "linear.bias"])
def test_missing_key_is_named(missing):
    state, _ = stored("preact_resnet18")
    del state[missing]
    with pytest.raises(InvalidInput, match=f"no '{missing}'"):
        from_torch(state, network("preact_resnet18"))


def test_superfluous_key_is_named():
    state, _ = stored("resnet18")
    with pytest.raises(InvalidInput, match=r"has 'fc\.weight'"):
        from_torch(state | {"fc.weight": np.zeros((10, 32))}, network("resnet18"))


def test_wrong_shape_is_named():
    state, _ = stored("preact_resnet18")
    with pytest.raises(InvalidInput, match=r"has shape .*; the network's is"):
        from_torch(state, network("preact_resnet18", width=8))
    state["linear.weight"] = state["linear.weight"].T
    with pytest.raises(InvalidInput, match=r"'linear\.weight' has shape \(32, 10\); the network's is \(10, 32\)"):
        from_torch(state, network("preact_resnet18"))


@pytest.mark.parametrize("kind", [complex, bool, np.int64, str])
def test_what_is_no_number_with_a_fraction_is_named(kind):
    state, _ = stored("resnet18")
    state["linear.bias"] = state["linear.bias"].astype(kind)
    with pytest.raises(InvalidInput, match=r"'linear\.bias' is .*; give floating-point weights"):
        from_torch(state, network("resnet18"))
