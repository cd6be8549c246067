"""Facts of AWM: the perturbation's step and bound and the loss by hand, what is masked, and which rows are read."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdjax import train
from bdjax.cards import lookup
from bdjax.defenses.awm import AWM, bounded, climb, places, robust, under
from bdjax.errors import InvalidInput
from bdjax.models import MODELS
from bdjax.types import Batch, Given, Layer, Net, Source, Weights

SHAPE, CLASSES, ROWS = (8, 8, 3), 3, 10


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def network(name="small_cnn", **settings):
    return MODELS[name].make(SHAPE, CLASSES, (0.5,) * 3, (0.25,) * 3, width=2, **settings)


def pixel():
    """Logits (p, 0), p the only pixel times the only weight."""

    def apply(weights, image, *args, **kwargs):
        return jnp.stack([weights.params["w"] * image[:, 0, 0, 0], jnp.zeros(len(image))], 1), {}, {}

    return Net(None, apply, ())


def batch(values, label):
    image = jnp.asarray(values, float).reshape(-1, 1, 1, 1)
    return Batch(image, jnp.asarray(label), jnp.arange(len(label)), jnp.ones(len(label)))


def built(text, net, victim=None):
    spec = lookup(text, {"awm": AWM}, "defense")
    image = jax.random.uniform(jax.random.key(1), (ROWS, *SHAPE))
    label = jnp.arange(ROWS, dtype=jnp.int32) % CLASSES
    clean = Source(ROWS, lambda row: Batch(image[row], label[row], row, (row >= 0).astype(image.dtype)))
    given = Given(spec.traced, lambda key, image: image, clean=clean, victim=victim)
    return AWM.make(net, SHAPE, CLASSES, **spec.static)[0], given


def test_the_perturbation_leaves_the_models_own_labels():
    """Pixels .5 and .25 under w = 1 are both of class 0, whatever their labels: d falls by 10 mean(1 - sigma(x)).

    A padded row, of class 1 by its pixel of -1, does not count.
    """
    rows = batch([0.5, 0.25, -1], [1, 0, 0]).replace(weight=jnp.array([1.0, 1, 0]))
    found = climb(pixel(), Weights({"w": jnp.ones(())}, {}), jnp.zeros((1, 1, 1)), rows, 10.0)
    chance = 1 / (1 + np.exp(-np.array([0.5, 0.25])))
    np.testing.assert_allclose(found, np.full((1, 1, 1), -10 * np.mean(1 - chance)), rtol=1e-9)


def test_the_bound_scales_what_is_longer():
    """|(3, -1)|_1 = 4: at a bound of 2 half of it, at 5 all, and no perturbation stays none."""
    delta = jnp.array([3.0, -1.0])
    np.testing.assert_allclose(bounded(delta, 2.0), [1.5, -0.5])
    np.testing.assert_allclose(bounded(delta, 5.0), delta)
    np.testing.assert_allclose(bounded(jnp.zeros(2), 5.0), [0, 0])


def test_the_loss_by_hand():
    """One pixel .5 of label 0 under w = 2, perturbed by .75 and cut to 1: losses log(1 + e^-1) and log(1 + e^-2).

    A mask (.25, .5) has the norm .75.
    """
    settings = {"alpha": 0.9, "penalty": 0.1}
    mask = {"one": jnp.array([0.25, 0.5])}
    weights, rows = Weights({"w": jnp.array(2.0)}, {}), batch([0.5], [0])
    value, info = robust(pixel(), weights, mask, jnp.full((1, 1, 1), 0.75), rows, settings)
    clean, moved = np.log1p(np.exp(-1)), np.log1p(np.exp(-2))
    np.testing.assert_allclose(value, 0.9 * clean + 0.1 * moved + 0.1 * 0.75, rtol=1e-12)
    np.testing.assert_allclose(info["perturbed_loss"], moved, rtol=1e-12)


@pytest.mark.parametrize(("masked", "leaf", "count"), [("kernels", "kernel", 3), ("scales", "scale", 3)])
def test_kernels_or_scales_alone_are_masked(masked, leaf, count):
    net = network()
    victim = net.init(jax.random.key(0))
    stage, given = built(f"awm:masked={masked},epochs=2,passes=1,batch=5,learning_rate=0.2", net, victim)
    left = train.fit(jax.random.key(0), stage, lambda _: given, ()).weights
    jax.tree.map(np.testing.assert_array_equal, left.batch_stats, victim.batch_stats)
    shares = []
    for layer, leaves in left.params.items():
        for name, after in leaves.items():
            before = victim.params[layer][name]
            if name == leaf and layer != "linear":
                shares.append(np.asarray(after / before).ravel())  # the mask
            else:
                np.testing.assert_array_equal(after, before)
    mask = np.concatenate(shares)
    assert len(shares) == count and 0 <= mask.min() < 0.95 and mask.max() <= 1 + 1e-12


def test_shortcuts_are_masked_and_mask_and_weights_have_one_shape():
    net = network("resnet18")
    params, paths = net.init(jax.random.key(0)).params, places(net, "kernels")
    assert len(paths) == 20 and "layer2_0.shortcut_0" in paths  # 1 + 4 stages of 2 blocks of 2, and 3 shortcuts
    half = under(paths, params, dict.fromkeys(paths, 0.5))
    shortcut = params["layer2_0"]["shortcut_0"]["kernel"]
    np.testing.assert_allclose(half["layer2_0"]["shortcut_0"]["kernel"], shortcut / 2)
    np.testing.assert_array_equal(half["linear"]["kernel"], params["linear"]["kernel"])


def test_a_network_without_convolution_is_refused():
    net = network()._replace(layers=(Layer("linear", "linear", ("linear",), "linear"),))
    for masked, missing in (("kernels", "no convolution"), ("scales", "no normalization")):
        with pytest.raises(InvalidInput, match=missing):
            places(net, masked)


def test_which_rows_are_read():
    """Of 10 rows in batches of 4: two full batches a pass with replacement, else three that have every row once."""

    def order(text):
        stage, given = built(text, network())
        return np.asarray(stage.order(jax.random.key(0), train.State(None, {}, None, None), jnp.int32(0), given))

    assert order("awm:batch=4,passes=3").shape == (6, 4)
    assert order("awm:batch=128,passes=3").shape == (3, 10)
    found = order("awm:batch=4,passes=2,replace=false")
    assert found.shape == (6, 4)
    for part in np.split(found, 2):
        assert sorted(part.ravel()) == [-1, -1, *range(10)]


def test_each_round_has_a_new_perturbation_from_zero():
    """What the round before left has no part in it."""
    net = network()
    victim = net.init(jax.random.key(0))
    stage, given = built("awm:batch=5,passes=1,bound=3", net, victim)
    state = stage.init(jax.random.key(0), given, None)
    key, sums = jax.random.key(4), {"loss": jnp.zeros(())}
    one = stage.renew(key, state, sums, jnp.int32(0), given).still["delta"]
    other = state.replace(still={"delta": jnp.full(SHAPE, 0.3)})
    np.testing.assert_array_equal(one, stage.renew(key, other, sums, jnp.int32(1), given).still["delta"])
    assert 0 < float(jnp.sum(jnp.abs(one))) <= 3 * (1 + 1e-12)


def test_presets():
    paper, benchmark = (lookup(f"awm:preset={preset}", {"awm": AWM}, "defense") for preset in ("paper", "benchmark"))
    assert (paper.static["masked"], benchmark.static["masked"]) == ("kernels", "scales")
    assert (paper.static["optimizer"], benchmark.static["optimizer"]) == ("adam", "sgd")
    assert paper.traced["bound"] == benchmark.traced["bound"] == 1000
