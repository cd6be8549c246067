"""WaNet: the warp against interpolation worked out by hand, and the rows that its training warps and relabels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from bdjax.attacks import ATTACKS
from bdjax.attacks.training.batches import augmentation, share
from bdjax.attacks.wanet import places
from bdjax.cards import lookup
from bdjax.data import warp
from bdjax.data.sources import split
from bdjax.keys import root
from bdjax.train import fit
from bdjax.types import COVER, POISONED, Batch, Data, Given, Net, Weights

SHAPE = (16, 16, 1)


def build(settings: str = "", net=None, shape=SHAPE, classes=4):
    spec = lookup(f"wanet:{settings}", ATTACKS, "attack")
    return ATTACKS["wanet"].make(net, shape, classes, **spec.static), spec.traced


def poisoned(attack, settings, rows: int = 8, count: int = 2, seed: int = 0):
    label = jnp.arange(rows, dtype=jnp.int32) % 4
    return attack.init(root(seed), (), settings, label, jnp.arange(rows, 0.0, -1), jnp.int32(count))


def test_bicubic_matrix_has_the_rows_of_pytorch():
    matrix = warp.bicubic(32, 4)
    np.testing.assert_allclose(matrix[0], [1, 0, 0, 0], atol=1e-12)
    np.testing.assert_allclose(matrix[31], [0, 0, 0, 1], atol=1e-12)
    np.testing.assert_allclose(matrix[5], [0.5181, 0.5725, -0.0906, 0], atol=5e-5)
    np.testing.assert_allclose(matrix[16], [-0.0839, 0.5295, 0.6562, -0.1019], atol=5e-5)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-12)


def test_sample_is_bilinear_and_zero_outside():
    image = jnp.array([[1.0, 2.0], [3.0, 8.0]])[:, :, None]
    where = jnp.array([[0.0, 1.0], [0.5, 0.0], [0.25, 0.5], [1.0, 1.5], [-2.0, 0.0]])
    # at (1/4, 1/2): 3/4 (1/2 + 2/2) + 1/4 (3/2 + 8/2) = 2.5
    np.testing.assert_allclose(warp.sample(image, where)[:, 0], [2, 2, 2.5, 4, 0])


def test_rotation_by_a_right_angle_turns_the_corners():
    image = jnp.arange(9.0).reshape(3, 3, 1)
    turned = warp.sample(image, jnp.round(warp.rotation(3, 3, jnp.pi / 2)))[:, :, 0]
    np.testing.assert_array_equal(turned, np.rot90(image[:, :, 0], -1))


def test_displacement_has_the_size_that_the_benchmark_measures():
    attack, settings = build(shape=(32, 32, 3))

    @jax.jit
    @jax.vmap
    def moved(key):
        trigger = attack.init(key, (), settings, jnp.zeros(4, jnp.int32), jnp.zeros(4), 1).trigger
        return trigger["control"], places(trigger, 32, 32) - warp.identity(32, 32, jnp.float32)

    control, shift = moved(jax.random.split(root(0), 20))
    np.testing.assert_allclose(np.abs(control).mean(axis=(1, 2, 3)), 1, rtol=1e-5)
    assert abs(np.abs(shift).mean() - 0.18) < 0.02  # pixels along an axis, as measured with the authors' transform


def test_strength_zero_and_constant_images_are_left_alone():
    attack, settings = build()
    trigger = poisoned(attack, settings).trigger
    image = jax.random.uniform(root(1), SHAPE)
    still = trigger | {"strength": jnp.array(0.0)}
    stamp, cover = jax.jit(attack.stamp), jax.jit(attack.cover)
    np.testing.assert_allclose(stamp((), still, image, 0), image, atol=1e-6)
    constant = jnp.full(SHAPE, 0.3)
    np.testing.assert_allclose(stamp((), trigger, constant, 3), constant, rtol=1e-6)
    np.testing.assert_allclose(cover((), trigger, constant, 3), constant, rtol=1e-6)


def test_cover_noise_is_a_rows_own_and_always_the_same():
    attack, settings = build()
    trigger, image = poisoned(attack, settings).trigger, jax.random.uniform(root(1), SHAPE)
    cover = jax.jit(attack.cover)
    one, again, other = (cover((), trigger, image, jnp.int32(row)) for row in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert jnp.abs(one - other).max() > 0.01


def test_two_cover_rows_follow_each_poisoned_one():
    attack, settings = build()
    role = np.asarray(poisoned(attack, settings, rows=12, count=3).role)
    np.testing.assert_array_equal(role, [POISONED] * 3 + [COVER] * 6 + [0] * 3)


def test_share_of_a_batch():
    keys = jax.random.split(root(0), 2000)
    drawn = jax.vmap(share, (0, None, None, None))
    floor = drawn(keys, 0.1, 128, "floor")
    assert (floor == 12).all()  # the benchmark's 9.4% of 128
    low = drawn(keys, 0.005, 128, "floor")
    assert set(np.unique(low)) == {0, 1} and abs(low.mean() - 0.64) < 4 * np.sqrt(0.64 * 0.36 / 2000)
    mean = drawn(keys, 0.1, 128, "stochastic")
    assert set(np.unique(mean)) == {12, 13} and abs(mean.mean() - 12.8) < 4 * np.sqrt(0.8 * 0.2 / 2000)
    assert (drawn(keys, 0.125, 128, "stochastic") == 16).all()
    assert (drawn(keys, 0.0, 128, "stochastic") == 0).all()


@pytest.mark.parametrize("kind", ["sample", "batch"])
def test_augmentation_draws_for_each_image_or_for_the_batch(kind):
    image = jnp.tile(jax.random.uniform(root(1), (1, *SHAPE)), (6, 1, 1, 1))
    rows = Batch(image, jnp.zeros(6, jnp.int32), jnp.arange(6), jnp.ones(6))
    given = Given({"rotation": jnp.array(10.0)}, None)
    augment = jax.jit(lambda key: augmentation(kind, 3, True, "bilinear", "mean")(key, rows, given))
    alike = [bool(jnp.allclose(result, result[:1], atol=1e-6)) for result in map(augment, map(root, range(5)))]
    assert all(alike) if kind == "batch" else sum(alike) == 0


def test_augmentation_fills_with_the_mean_colour_of_the_rows_that_count():
    image = jnp.full((4, *SHAPE), 0.3).at[3].set(0.9)
    rows = Batch(image, jnp.zeros(4, jnp.int32), jnp.array([0, 1, 2, -1]), jnp.array([1.0, 1.0, 1.0, 0.0]))
    given = Given({"rotation": jnp.array(10.0)}, None)
    keys = jnp.stack([root(seed) for seed in range(4)])

    def run(fill: str):
        augment = augmentation("sample", 5, True, "nearest", fill)
        return jax.jit(jax.vmap(lambda key: augment(key, rows, given)))(keys)

    filled, dark = run("mean"), run("black")
    np.testing.assert_allclose(filled[:, :3], 0.3, atol=1e-5)
    assert dark[:, :3].min() == 0


def spy() -> Net:
    """A net of 8 rows whose logits are its parameters and whose statistics are the images that it was given."""

    def apply(weights, image, train=False, weight=None, edit=None):
        return weights.params, image, {}

    return Net(lambda key: Weights(jnp.zeros((8, 4)), jnp.zeros((8, *SHAPE))), apply, ())


def test_training_warps_and_relabels_the_first_rows_of_a_batch():
    settings = "augmentation=dataset,batch=8,target=3,learning_rate=1,momentum=0,weight_decay=0,schedule=constant"
    attack, floats = build(settings, spy())
    poison = poisoned(attack, floats)
    data = Data(jnp.asarray(np.random.default_rng(0).integers(0, 256, (8, *SHAPE)), jnp.uint8), jnp.arange(8) % 3)
    floats = {name: jnp.asarray(value) for name, value in floats.items()}
    given = Given(floats, lambda key, image: image, whole=split(data))
    stage = attack.train[0]
    rows = stage.source(given).read(jnp.array([4, 2, 7, 1, 0, 3, 6, 5]))

    @jax.jit
    def train(poison):
        known = given._replace(carry=tiny.on_record(poison).carry)
        return stage.step(root(1), stage.init(root(0), known, None), rows, known)

    state, info = train(poison)
    image, clean = state.still["batch_stats"], rows.image
    warped = jax.vmap(attack.stamp, (None, None, 0, None))((), poison.trigger, clean, 0)
    np.testing.assert_allclose(image[:2], warped[:2], atol=1e-6)
    np.testing.assert_array_equal(image[6:], clean[6:])
    for row in range(2, 6):
        assert jnp.abs(image[row] - warped[row]).max() > 0.01 and jnp.abs(image[row] - clean[row]).max() > 0.01
    # From equal logits one step raises the label's alone.
    learned = jnp.argmax(state.moving, axis=1)
    np.testing.assert_array_equal(learned, jnp.where(jnp.arange(8) < 2, 3, rows.label))
    assert np.isfinite(info["loss"])


def test_training_hands_on_the_trigger_it_was_given():
    attack, floats = build("epochs=1,batch=8,augmentation=dataset", spy())
    poison = poisoned(attack, floats)
    data = Data(jnp.zeros((8, *SHAPE), jnp.uint8), jnp.arange(8, dtype=jnp.int32) % 4)
    floats = {name: jnp.asarray(value) for name, value in floats.items()}

    def given(operands):
        rows, settings = operands
        return Given(settings, lambda key, image: image, whole=split(rows))

    trained = fit(root(0), attack.train[0], given, (data, floats), tiny.on_record(poison))
    jax.tree.map(np.testing.assert_array_equal, trained.carry, poison.trigger)
