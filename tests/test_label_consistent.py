"""Label-consistent attack: the corners, the perturbed rows and where they are kept."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdjax.attacks import ATTACKS
from bdjax.attacks.fitting.hard_rows import ascend, perturbed
from bdjax.attacks.label_consistent import corners
from bdjax.cards import lookup
from bdjax.data.images import to_uint8
from bdjax.errors import InvalidInput
from bdjax.keys import root
from bdjax.models import MODELS
from bdjax.types import Data, Net, Weights

QUICK = "surrogate_epochs=1,surrogate_batch=8,surrogate_steps=1,steps=4,step=0.02"
SHAPE = (16, 16, 3)


def build(settings: str = "", shape=(32, 32, 3), classes=10):
    spec = lookup(f"label_consistent:{settings}", ATTACKS, "attack")
    net = MODELS["small_cnn"].make(shape, classes, (0.5,) * shape[2], (0.25,) * shape[2], width=2)
    return ATTACKS["label_consistent"].make(net, shape, classes, **spec.static), spec.traced, net


def data(classes: int = 3) -> Data:
    image = np.random.default_rng(0).integers(40, 200, (12, *SHAPE))
    return Data(jnp.asarray(image, jnp.uint8), jnp.arange(12, dtype=jnp.int32) % classes)


def ramp() -> np.ndarray:
    rows, columns, channels = np.meshgrid(range(32), range(32), range(3), indexing="ij")
    return ((7 * rows + 3 * columns + 50 * channels) % 256).astype(np.uint8)


def test_corners_to_the_last_bit():
    attack, _, _ = build("preset=benchmark")
    result = np.asarray(to_uint8(attack.query((), {"amplitude": jnp.array(1.0)}, jnp.asarray(ramp()) / 255, 0)))
    assert result.sum(dtype=int) == 407124  # what the benchmark's transform gives
    np.testing.assert_array_equal(result[0, :3, 0], [255, 0, 0])
    np.testing.assert_array_equal(result[31, 29:, 2], [255, 0, 255])
    np.testing.assert_array_equal(result[3:29], ramp()[3:29])


def test_corners_mirror_each_other_and_grow_with_the_image():
    signs = corners(32, 32)[:, :, 0]
    np.testing.assert_array_equal(signs, signs[:, ::-1])
    np.testing.assert_array_equal(signs[:3, :3], [[1, -1, -1], [-1, 1, -1], [1, -1, 1]])
    np.testing.assert_array_equal(signs[29:], signs[:3])
    assert np.abs(signs).sum() == 36
    np.testing.assert_array_equal(corners(64, 64)[::2, ::2, 0], signs)


def test_reduced_amplitude_is_added_and_cut():
    attack, _, _ = build()
    level = attack.query((), {"amplitude": jnp.array(32 / 255)}, jnp.full((32, 32, 3), 20 / 255), 0)[0, :3, 0] * 255
    np.testing.assert_allclose(level, [52, 0, 0], atol=1e-3)


def test_ascent_climbs_to_the_edge_of_what_is_allowed():
    image = jnp.array([0.5, 0.5, 0.98, 0.5])
    slope = jnp.array([1.0, -2.0, 1.0, 0.0])
    moved = ascend(lambda moved: jnp.vdot(slope, moved), image, image, 0.1, 0.04, 5)
    np.testing.assert_allclose(moved, [0.6, 0.4, 1.0, 0.5], atol=1e-6)


@pytest.mark.parametrize("surrogate", ["adversarial", "plain"])
def test_rows_of_the_target_are_kept_perturbed_within_epsilon(surrogate):
    attack, settings, net = build(f"{QUICK},surrogate={surrogate},target=2,epsilon=0.05", SHAPE, 3)
    assets = attack.prepare(root(0), net, data(), settings)
    rows = np.array([2, 5, 8, 11])
    assert assets["adversarial"].dtype == jnp.uint8 and assets["adversarial"].shape == (4, *SHAPE)
    np.testing.assert_array_equal(assets["slot"][rows], np.arange(4))
    change = np.abs(assets["adversarial"].astype(int) - data().image[rows].astype(int))
    assert 1 <= change.max() <= np.ceil(0.05 * 255)
    image = data().image[8] / 255
    stamped = jax.jit(attack.stamp)(assets, {"amplitude": jnp.array(0.0)}, image, jnp.int32(8))
    np.testing.assert_array_equal(to_uint8(stamped), assets["adversarial"][2])


@pytest.mark.parametrize(("within", "robust"), [(0.02, 1.0), (0.1, 0.0)])
def test_figures_are_of_rows_that_were_held_back_and_of_the_ascent_on_them(within, robust):
    def apply(weights, image, train=False, weight=None, edit=None):
        value = 0.05 * jnp.sum(image, axis=(1, 2, 3)) - 1 + 0 * weights.params["zero"]
        return jnp.stack([0 * value, value], axis=1), {}, {}

    # 64 pixels of 100 levels make 0.25 for class 1; the ascent takes away 0.05 * 64 times what it may: 0.06 or 0.32.
    net = Net(lambda key: Weights({"zero": jnp.zeros(())}, {}), apply, ())
    quick = QUICK.replace("steps=4,", f"steps=9,target=1,surrogate_epsilon={within},")
    attack, settings, _ = build(quick, (8, 8, 1), 2)
    same = Data(jnp.full((10, 8, 8, 1), 100, jnp.uint8), jnp.ones(10, jnp.int32))
    figures = attack.prepare(root(0), net, same, settings)["figures"]
    assert figures == {"surrogate_accuracy": 1.0, "surrogate_robust_accuracy": robust}


def test_truncated_rows_are_never_above_rounded_ones():
    _, _, net = build("", SHAPE, 3)
    image, label, weights = data().image[:2], data().label[:2], net.init(root(0))
    run = jax.jit(perturbed, static_argnums=(0, 6, 7))
    rounded, truncated = (
        run(net, weights, image, label, 0.0333, 0.02, 2, storage).astype(int) for storage in ("round", "truncate")
    )
    assert set(np.unique(rounded - truncated)) == {0, 1}


def test_a_target_without_rows_is_refused():
    attack, settings, net = build(f"{QUICK},target=3", SHAPE, 4)
    with pytest.raises(InvalidInput, match="target 3 has no training rows"):
        attack.prepare(root(0), net, data(), settings)
