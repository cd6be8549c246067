"""Facts of CLP: the bound of a channel by hand, which norm goes with which convolution, and what is pruned."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdjax import train
from bdjax.cards import lookup
from bdjax.defenses.clp import CLP, bounds, pairs, spectral
from bdjax.defenses.parts.pruning import kept
from bdjax.errors import InvalidInput
from bdjax.models import MODELS
from bdjax.types import Given, Layer, Net, Weights

SHAPE, CLASSES = (8, 8, 3), 3


def network(name="small_cnn", **static):
    return MODELS[name].make(SHAPE, CLASSES, (0.5,) * 3, (0.25,) * 3, **static)


def test_largest_singular_values_by_hand():
    """Matrices of two channels in and two places.

    Rows (3, 0) and (0, 4) have singular values 4 and 3. Rows (1, 1) and (1, 1) are of rank one: 2. Rows (1, 2) and
    (2, 1) have 3 and 1. Rows (2, 2) and (1, -1) are orthogonal: their lengths, sqrt 8 and sqrt 2.
    """
    channels = [[[3, 0], [0, 4]], [[1, 1], [1, 1]], [[1, 2], [2, 1]], [[2, 2], [1, -1]]]
    kernel = jnp.asarray(channels, float).transpose(2, 1, 0)[:, None]  # (height 2, width 1, in 2, out 4)
    np.testing.assert_allclose(spectral(kernel), [4, 2, 3, np.sqrt(8)], rtol=1e-6)


def test_one_channel_or_one_place_is_a_vector():
    """A 1x1 convolution is a vector over the channels in, a convolution of one channel one over the places."""
    pointwise = jnp.asarray([[3.0, 1.0], [4.0, 1.0]])[None, None]
    np.testing.assert_allclose(spectral(pointwise), [5, np.sqrt(2)], rtol=1e-6)
    single = jnp.asarray([[3.0], [4.0]]).reshape(2, 1, 1, 1)
    np.testing.assert_allclose(spectral(single), [5], rtol=1e-6)


def test_largest_singular_values_are_those_of_svd():
    with jax.enable_x64(True):
        kernel = jax.random.normal(jax.random.key(0), (3, 3, 5, 7))
        matrices = np.asarray(kernel).reshape(9, 5, 7).transpose(2, 1, 0)
        np.testing.assert_allclose(spectral(kernel), np.linalg.svd(matrices, compute_uv=False)[:, 0], rtol=1e-12)


def one_layer(scale, variance) -> tuple[Weights, tuple[tuple[Layer, Layer], ...]]:
    """A convolution of two channels with bounds 4 and 2, and its normalisation."""
    kernel = jnp.asarray([[[3, 0], [0, 4]], [[1, 1], [1, 1]]], float).transpose(2, 1, 0)[:, None]
    params = {"conv": {"kernel": kernel}, "norm": {"scale": jnp.asarray(scale), "bias": jnp.ones(2)}}
    weights = Weights(params, {"norm": {"mean": jnp.zeros(2), "var": jnp.asarray(variance)}})
    return weights, ((Layer("norm", "norm", ("norm",), "norm"), Layer("conv", "conv", ("conv",), "conv")),)


def test_normalisation_is_folded_in():
    """4 * |-0.5| / sqrt 4 = 1 and 2 * 3 / sqrt 0.25 = 12; with epsilon 0.75, 2 * 3 / sqrt 1 = 6."""
    weights, paired = one_layer([-0.5, 3.0], [4.0, 0.25])
    np.testing.assert_allclose(bounds(weights, paired, 0.0)["norm"], [1, 12], rtol=1e-6)
    np.testing.assert_allclose(bounds(weights, paired, 0.75)["norm"][1], 6, rtol=1e-6)


def test_channels_above_the_mean_by_u_deviations_go():
    """Nine bounds of 1 and one of 11: mean 2, sample deviation sqrt(90 / 9), and 11 is 9 / sqrt 10 = 2.846 above."""
    bound = jnp.asarray([1.0] * 9 + [11.0])
    np.testing.assert_array_equal(kept(bound, 2.84), [1] * 9 + [0])
    np.testing.assert_array_equal(kept(bound, 2.85), [1] * 10)


def test_few_channels_are_never_far_enough():
    """Of n numbers none is above (n - 1) / sqrt(n) sample deviations: 2.47 for 8, 3.75 for 16."""
    for count, pruned in ((8, 0), (16, 1)):
        assert int(jnp.sum(1 - kept(jnp.eye(count)[0] * 1e3, 3.0))) == pruned


def test_a_layer_without_deviation_is_left_alone():
    np.testing.assert_array_equal(kept(jnp.asarray([7.0]), 3.0), [1])
    np.testing.assert_array_equal(kept(jnp.asarray([jnp.inf, 1.0, 2.0]), 3.0), [1, 1, 1])


def names(net, shortcuts_last=False):
    return {norm.name: conv.name for norm, conv in pairs(net, shortcuts_last)}


def test_norms_after_their_convolutions():
    assert names(network(width=1)) == {f"bn{number}": f"conv{number}" for number in (1, 2, 3)}
    found = names(network("resnet18", width=1))
    assert len(found) == 20 and found["bn1"] == "conv1"
    assert found["layer2_0.shortcut_1"] == "layer2_0.shortcut_0"
    assert all(norm.replace("bn", "conv").replace("shortcut_1", "shortcut_0") == conv for norm, conv in found.items())
    assert found == names(network("resnet18", width=1), True)


def test_norms_before_their_convolutions():
    """The first of a block goes with the last convolution of the block before, which is the one that ends its sum."""
    net = network("preact_resnet18", width=1)
    plain, registered = names(net), names(net, True)
    assert len(plain) == 16
    assert plain["layer1_0.bn1"] == "conv1" and plain["layer1_1.bn1"] == "layer1_0.conv2"
    assert plain["layer2_0.bn1"] == "layer1_1.conv2" and plain["layer2_0.bn2"] == "layer2_0.conv1"
    changed = {norm: registered[norm] for norm in plain if plain[norm] != registered[norm]}
    assert changed == {f"layer{stage}_1.bn1": f"layer{stage}_0.shortcut_0" for stage in (2, 3, 4)}
    assert {norm: plain[norm] for norm in changed} == {
        f"layer{stage}_1.bn1": f"layer{stage}_0.conv2" for stage in (2, 3, 4)
    }


@pytest.mark.parametrize("name", ["small_cnn", "preact_resnet18", "resnet18"])
@pytest.mark.parametrize("shortcuts_last", [False, True])
def test_every_norm_has_as_many_channels_as_its_convolution(name, shortcuts_last):
    net = network(name, width=2)
    shapes = jax.eval_shape(net.init, jax.random.key(0))
    found = jax.eval_shape(lambda weights: bounds(weights, pairs(net, shortcuts_last), 1e-5), shapes)
    assert set(found) == {layer.name for layer in net.layers if layer.kind == "norm"}


def test_a_network_whose_norms_read_other_channels_than_a_convolution_gave_is_refused():
    static = {
        name: setting.default for name, setting in CLP.card.settings.items() if not isinstance(setting.default, float)
    }
    with pytest.raises(
        InvalidInput, match=r"clp: denseblock1_2\.norm1 normalizes other channels than those of denseblock1_1"
    ):
        CLP.make(network("densenet161", depth="21", width=4), SHAPE, CLASSES, **static)


def test_a_network_without_norms_is_refused():
    with pytest.raises(InvalidInput, match="clp"):
        pairs(Net(None, None, (Layer("conv", "conv", ("conv",), "conv"), Layer("linear", "linear", (), "linear"))))


def pruned(net, victim, text):
    spec = lookup(text, {"clp": CLP}, "defense")
    (stage,) = CLP.make(net, SHAPE, CLASSES, **spec.static)
    given = lambda victim: Given(spec.traced, None, victim=victim)  # noqa: E731
    return train.fit(jax.random.key(0), stage, given, victim).weights


def test_scale_and_bias_of_outliers_and_nothing_else():
    """No rows are read. One channel of conv3, of eight, is made ten times as steep: 2.47 deviations at most."""
    net = network(width=2)
    victim = net.init(jax.random.key(1))
    kernel = victim.params["conv3"]["kernel"].at[..., 5].multiply(10)
    params = victim.params | {"conv3": {"kernel": kernel}, "bn3": victim.params["bn3"] | {"bias": jnp.ones(8)}}
    victim = victim.replace(params=params)
    after = pruned(net, victim, "clp:u=2.4")
    expected = np.ones(8)
    expected[5] = 0
    np.testing.assert_array_equal(after.params["bn3"]["scale"], expected)
    np.testing.assert_array_equal(after.params["bn3"]["bias"], expected)
    rest = [{**weights.params, "bn3": 0} for weights in (after, victim)]
    jax.tree.map(np.testing.assert_array_equal, *rest)
    jax.tree.map(np.testing.assert_array_equal, after.batch_stats, victim.batch_stats)
    jax.tree.map(np.testing.assert_array_equal, pruned(net, victim, "clp"), victim)


def test_dead_channels_hide_others_without_epsilon():
    """A channel that training switched off has a variance of almost 0, and so a bound without meaning."""
    weights, paired = one_layer([1e-4, 3.0], [1e-20, 1.0])
    hidden, seen = bounds(weights, paired, 0.0)["norm"], bounds(weights, paired, 1e-5)["norm"]
    assert hidden[0] > 1e5 * hidden[1] and seen[0] < seen[1]


def test_presets():
    paper, benchmark = (lookup(f"clp:preset={preset}", {"clp": CLP}, "defense") for preset in ("paper", "benchmark"))
    assert CLP.card.needs_of(paper.static) == CLP.card.needs_of(benchmark.static) == ("victim",)
    assert paper.traced["u"] == benchmark.traced["u"] == 3
    assert (paper.static["shortcuts_last"], benchmark.static["shortcuts_last"]) == (False, True)
    assert (paper.traced["epsilon"], benchmark.traced["epsilon"]) == (1e-5, 0)
