"""The input-aware attack: its losses against numbers worked out by hand, and what its two stages make of a batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from bdjax.attacks import ATTACKS
from bdjax.attacks.parts import partners
from bdjax.attacks.training.generators import Generators, distance, diversity_loss
from bdjax.attacks.training.input_aware_training import pairs, two_orders
from bdjax.cards import lookup
from bdjax.data.sources import split
from bdjax.keys import root
from bdjax.models.auxiliary.hourglass import doubled, hourglass
from bdjax.models.parts.layers import halved
from bdjax.types import COVER, POISONED, Data, Given, Net, Poison, Weights

SHAPE = (16, 16, 3)
ROWS = 10


def build(settings: str = "", net=None, shape=SHAPE):
    spec = lookup(f"input_aware:width=2,{settings}", ATTACKS, "attack")
    floats = {name: jnp.asarray(value) for name, value in spec.traced.items()}
    return ATTACKS["input_aware"].make(net, shape, 4, **spec.static), floats


def data() -> Data:
    image = np.random.default_rng(0).integers(0, 256, (ROWS, *SHAPE))
    return Data(jnp.asarray(image, jnp.uint8), jnp.arange(ROWS, dtype=jnp.int32) % 4)


def poisoned(attack, settings, count: int = 3) -> Poison:
    return attack.init(root(0), (), settings, data().label, jnp.arange(ROWS, 0.0, -1), jnp.int32(count))


def given(settings) -> Given:
    return Given(settings, lambda key, image: image, whole=split(data()))


def test_distance_is_the_root_mean_square_and_has_a_gradient_at_zero():
    one = jnp.zeros((2, 1, 2, 1)).at[1, 0, :, 0].set(jnp.array([1.0, 7.0]))
    np.testing.assert_allclose(distance(one, jnp.zeros_like(one)), [0, 5])  # sqrt((1 + 49) / 2)
    slope = jax.grad(lambda x: distance(x, jnp.zeros_like(x)).sum())(one)
    np.testing.assert_allclose(slope[:, 0, :, 0], [[0, 0], [0.1, 0.7]], rtol=1e-6)  # x / (2 times 5)


def test_diversity_loss_is_a_mean_over_rows_that_count():
    images, triggers = jnp.array([2.0, 6.0, 5.0]), jnp.array([1.0, 2.0, 0.0])
    np.testing.assert_allclose(diversity_loss(images, triggers, jnp.array([1.0, 1.0, 0.0])), 2.5, rtol=1e-5)
    assert diversity_loss(images, triggers, jnp.zeros(3)) == 0


def test_patterns_and_masks_lie_where_the_authors_and_the_benchmark_have_them():
    maps = jnp.array([-50.0, 0.0, 50.0])
    once, twice = (Generators(None, None, squashing) for squashing in ("once", "twice"))
    np.testing.assert_allclose(once.squashed(maps), [0, 0.5, 1], atol=1e-6)
    np.testing.assert_allclose(twice.squashed(maps), [0.119, 0.5, 0.881], atol=1e-3)
    np.testing.assert_allclose(once.masks(jnp.array([-0.5, 0.0, 0.5])), [0.0, 0.5, 1.0], atol=1e-3)


def test_doubling_is_bilinear_between_the_centres_of_pixels():
    row = jnp.array([0.0, 4.0])[None, None, :, None]
    np.testing.assert_allclose(doubled(row)[0, :, :, 0], [[0, 1, 3, 4]] * 2)


def test_halving_takes_the_largest_and_its_gradient_goes_there():
    image = jnp.array([[1.0, 5.0, 0.0, 2.0], [3.0, 4.0, 7.0, 6.0]])[None, :, :, None]
    np.testing.assert_array_equal(halved(image)[0, :, :, 0], [[5, 7]])
    slope = jax.grad(lambda x: jnp.sum(halved(x) * jnp.array([10.0, 20.0])[None, None, :, None]))(image)
    np.testing.assert_array_equal(slope[0, :, :, 0], [[0, 10, 0, 0], [0, 0, 20, 0]])


@pytest.mark.parametrize("shape", [(16, 16, 3), (17, 21, 1)])
def test_generators_have_the_size_of_their_images_and_slow_statistics(shape):
    net = hourglass(shape, 1, width=2)
    weights, image = net.init(root(0)), jax.random.uniform(root(1), (4, *shape))
    maps, moved, _ = jax.jit(lambda image: net.apply(weights, image, train=True))(image)
    assert maps.shape == (4, *shape[:2], 1)
    kernel, step = weights.params["down0_1"]["conv"]["kernel"], moved["down0_1"]["norm"]["mean"]
    first = jax.lax.conv_general_dilated(
        jnp.pad((image - 0.5) / 0.25, ((0, 0), (0, -shape[0] % 8), (0, -shape[1] % 8), (0, 0))),
        kernel,
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    np.testing.assert_allclose(step, 0.05 * first.mean(axis=(0, 1, 2)), atol=1e-5)


def test_as_many_rows_as_are_poisoned_are_on_record_as_cover():
    role = np.asarray(poisoned(*build()).role)
    np.testing.assert_array_equal(role, [POISONED] * 3 + [COVER] * 3 + [0] * 4)


@pytest.fixture
def _float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.usefixtures("_float64")
def test_triggers_differ_from_image_to_image_and_cover_and_cross_have_that_of_another():
    attack, settings = build()
    poison, image = poisoned(attack, settings), data().image[0].astype(float) / 255
    assets = attack.prepare(root(2), None, data(), settings)
    # Statistics that make the untrained generators heed their images.
    lively = jax.tree_util.tree_map_with_path(
        lambda path, leaf: 0.05 * leaf if path[-1].key == "var" else leaf, poison.trigger
    )
    both = Generators(hourglass(SHAPE, 3, 2), hourglass(SHAPE, 1, 2), "once")
    other = partners.partner(assets, lively["key"], jnp.int32(0))

    @jax.jit
    def run(trigger):
        images = jnp.stack([image, other, other])
        pattern, share = both.pattern_of(trigger, images), both.mask_of(trigger, images)
        own = attack.stamp(assets, trigger, image, 0), attack.cover(assets, trigger, image, 0)
        own += (attack.cross(assets, trigger, image, 0, other),)
        return jnp.stack(own), image + (pattern - image) * share

    found, expected = run(lively)
    np.testing.assert_allclose(found, expected, atol=1e-9)
    assert jnp.abs(found[0] - found[1]).max() > 1e-2


def spy() -> Net:
    """A net of 10 rows whose logits are its parameters and whose statistics are the images that it was given."""

    def apply(weights, image, train=False, weight=None, edit=None):
        return weights.params + 1e-3 * image.mean(), image, {}

    return Net(lambda key: Weights(jnp.zeros((ROWS, 4)), jnp.zeros((ROWS, *SHAPE))), apply, ())


STILL = f"batch={ROWS},learning_rate=1,momentum=0,weight_decay=0,schedule=constant,target=3"


def test_pairs_are_two_orders_of_all_rows_side_by_side():
    door = given({})
    assert set(pairs(door)) == {"first", "second"}
    rows = jax.tree.map(np.asarray, two_orders(4, False)(root(0), 0, door, None))
    for half in rows.values():
        assert half.shape == (3, 4)
        assert sorted(half.ravel()) == [-1, -1, *range(ROWS)] and (half[2, 2:] == -1).all()
    assert (rows["first"] != rows["second"]).any()


def second_stage(count: int, settings: str = ""):
    """The second stage with a trigger that it begins with: its state before and after a step, the batch, the attack."""
    attack, floats = build(f"{STILL},rounding=floor,{settings}", spy())
    poison, stage = poisoned(attack, floats, count), attack.train[1]
    door = given(floats)._replace(carry=tiny.on_record(poison).carry)
    state = stage.init(root(0), door, spy().init(None))
    rows = first_rows(stage, state, door)
    after, info = jax.jit(lambda state: stage.step(root(2), state, rows, door))(state)
    return state, after, rows, door, info


def first_rows(stage, state, door):
    order, source = stage.order(root(1), state, 0, door), stage.source(door)
    return {name: source[name].read(order[name][0]) for name in source}


def test_training_gives_the_first_rows_their_triggers_and_the_next_those_of_others():
    state, after, rows, door, info = second_stage(3)
    image, given_image = rows["first"].image, after.still["batch_stats"]
    pattern_net = Weights(state.moving["pattern"], state.still["statistics"])
    net, mask = hourglass(SHAPE, 3, 2), hourglass(SHAPE, 1, 2)
    squash = Generators(net, mask, "once")
    expected = image
    for first, source in ((0, image[:3]), (3, rows["second"].image[3:6])):
        pattern = squash.squashed(net.apply(pattern_net, source, train=True)[0])
        share = squash.mask_of(door.carry["trigger"], source)
        expected = expected.at[first : first + 3].add((pattern - expected[first : first + 3]) * share)
    np.testing.assert_allclose(given_image, expected, atol=2e-5)
    np.testing.assert_array_equal(given_image[6:], image[6:])
    learned = jnp.argmax(after.moving["params"], axis=1)
    np.testing.assert_array_equal(learned, jnp.where(jnp.arange(ROWS) < 3, 3, rows["first"].label))
    assert info["diversity_loss"] > 0 and all(np.isfinite(value) for value in info.values())


def test_without_poison_images_and_the_generator_stay_as_they_are():
    state, after, rows, _, info = second_stage(0)
    np.testing.assert_array_equal(after.still["batch_stats"], rows["first"].image)
    jax.tree.map(np.testing.assert_array_equal, after.moving["pattern"], state.moving["pattern"])
    jax.tree.map(np.testing.assert_array_equal, after.still["statistics"], state.still["statistics"])
    assert info["diversity_loss"] == 0


def test_more_than_half_of_a_batch_is_never_poisoned():
    _, after, rows, _, _ = second_stage(8)
    learned = jnp.argmax(after.moving["params"], axis=1)
    np.testing.assert_array_equal(learned, jnp.where(jnp.arange(ROWS) < 5, 3, rows["first"].label))


def test_accumulated_gradients_are_summed():
    _, after, _, _, _ = second_stage(3, "accumulated=true")
    total = after.still["total"]
    assert sum(float(jnp.abs(leaf).sum()) for leaf in jax.tree.leaves(total)) > 0
    first = after.opt_state["pattern"][0].mu
    # Adam's mean after one step is half of what it was given.
    jax.tree.map(lambda mean, total: np.testing.assert_allclose(mean, total / 2, rtol=1e-5), first, total)


def test_the_first_stage_trains_the_mask_alone_and_hands_on_the_ratio():
    attack, floats = build(f"{STILL},mask_epochs=2", spy())
    poison, stage = poisoned(attack, floats), attack.train[0]

    door = given(floats)._replace(carry=tiny.on_record(poison).carry)

    @jax.jit
    def step(key, state):
        return stage.step(key, state, first_rows(stage, state, door), door)

    state, losses = stage.init(root(0), door, None), []
    for number in range(4):
        state, info = step(root(number), state)
        losses.append(info["loss"])
    trained = stage.finish(root(0), state, door)
    assert losses[-1] < losses[0]
    np.testing.assert_array_equal(trained.carry["role"], poison.role)
    trigger = trained.carry["trigger"]
    jax.tree.map(np.testing.assert_array_equal, trigger["pattern"], poison.trigger["pattern"])
    assert jnp.abs(trigger["mask"]["params"]["middle"]["conv"]["kernel"]).sum() > 0
    assert jax.tree.structure(trigger) == jax.tree.structure(poison.trigger)


@pytest.mark.parametrize(("settings", "epochs"), [("", 100), ("inclusive=true", 75), ("inclusive=true,epochs=20", 1)])
def test_epochs_of_the_classifier(settings, epochs):
    attack, _ = build(settings)
    assert [stage.epochs for stage in attack.train] == [25, epochs]
