"""Networks with torchvision's numbers: names, beginnings, layers and sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from shallow import SIZE, network

from bdjax.errors import InvalidInput
from bdjax.io.foreign.torch_weights import from_torch, to_torch, torchvision_names
from bdjax.models.parts.layers import merge_pairs

COUNTS = {
    "preact_resnet34": 21_279_306,
    "resnet34": 21_289_802,
    "resnet50": 23_528_522,
    "vgg19_bn": 139_622_218,
    "vgg19": 139_611_210,
    "densenet161:depth=161": 26_494_090,
    "densenet161:depth=121": 6_964_106,
}
"""Parameters at 10 classes, of torchvision's networks; of preact_resnet34 those of the field's benchmark."""


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def test_own_names_are_read_too():
    """Names as this library has them, up to dots; and a network that torchvision lacks has no others."""
    net = network("resnet34", width=1)
    weights = jax.jit(net.init)(jax.random.key(0))
    names = {theirs: own for own, theirs in torchvision_names(net).items()}
    state = {name: value for name, value in to_torch(weights, net).items() if "tracked" not in name}
    own = {f"{names[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}": value for name, value in state.items()}
    assert "layer2.0.shortcut.0.weight" in own and "layer2.0.downsample.0.weight" in state
    for each in (own, state):
        jax.tree.map(np.testing.assert_array_equal, from_torch(each, net), weights)
    del state["layer2.0.downsample.1.bias"]
    with pytest.raises(InvalidInput, match=r"no 'layer2\.0\.downsample\.1\.bias'"):
        from_torch(state, net)
    for other in ("preact_resnet34", "vgg19:head=small"):
        assert torchvision_names(network(other, width=1)) == {}


@pytest.mark.parametrize("text", COUNTS)
def test_parameters_are_as_many_as_published(text):
    params = jax.eval_shape(network(text).init, jax.random.key(0)).params
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == COUNTS[text]


@pytest.mark.parametrize(
    ("text", "fan"),
    [("preact_resnet34", ""), ("shallow residual", "out"), ("vgg19_bn", "out"), ("shallow dense", "in")],
)
def test_beginnings(text, fan):
    """Variances of kernels as torchvision draws them; a mean square of n draws is known to sqrt(2 / n) of itself."""
    net = network(text, width=4)
    weights = jax.jit(net.init)(jax.random.key(3))
    for layer in net.layers:
        if layer.kind not in ("conv", "linear"):
            continue
        place = weights.params
        for name in layer.path:
            place = place[name]
        kernel, bias = np.asarray(place["kernel"]), place.get("bias", np.zeros(1))
        inputs, outputs = np.prod(kernel.shape[:-1]), np.prod(kernel.shape[:-2]) * kernel.shape[-1]
        variance = {"in": 2 / inputs, "out": 2 / outputs, "": 1 / (3 * inputs)}[fan]
        if layer.kind == "linear":
            variance = 1e-4 if "vgg" in text else 1 / (3 * inputs)
            assert np.any(bias) == ("res" in text)
        else:
            assert not np.any(bias)
        assert abs(np.mean(kernel**2) / variance - 1) < 5 * np.sqrt(2 / kernel.size), layer.name


@pytest.mark.parametrize("name", ["resnet34", "resnet50", "preact_resnet34", "vgg19_bn", "vgg19", "densenet161"])
def test_layers_are_in_forward_order(name):
    net = network(name, width=1)
    kinds = [layer.kind for layer in net.layers]
    assert set(kinds) <= {"conv", "norm", "relu", "add", "concat", "pool", "linear"} and kinds.count("pool") == 1
    assert kinds[kinds.index("pool") :] == ["pool", *["linear"] * (3 if "vgg" in name else 1)]
    taps = jax.eval_shape(net.apply, jax.eval_shape(net.init, jax.random.key(0)), jnp.zeros((2, SIZE, SIZE, 3)))[2]
    assert sorted(taps) == sorted(layer.tap for layer in net.layers)


def test_a_single_row_or_column_is_left_as_it_is():
    image = jnp.arange(6.0).reshape(1, 1, 6, 1)
    np.testing.assert_array_equal(merge_pairs(image, jnp.maximum).ravel(), [1, 3, 5])
