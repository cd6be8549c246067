"""LIRA: what its generator may change, whose losses each network follows, and what its stages hand on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from bdjax import train
from bdjax.attacks import ATTACKS
from bdjax.cards import lookup
from bdjax.data.sources import split
from bdjax.keys import root
from bdjax.models.auxiliary.autoencoder import autoencoder, spread
from bdjax.types import POISONED, Data, Given, Net, Poison, Weights

SHAPE = (16, 16, 3)
ROWS, TARGET = 10, 3
STILL = "augmentation=dataset,learning_rate=1,momentum=0,weight_decay=0.5,schedule=constant,target=3"


def build(settings: str = "", net=None, shape=SHAPE):
    spec = lookup(f"lira:width=2,halvings=1,{settings}", ATTACKS, "attack")
    floats = {name: jnp.asarray(float(value)) for name, value in spec.traced.items()}
    return ATTACKS["lira"].make(net, shape, 4, **spec.static), floats


def data() -> Data:
    image = np.random.default_rng(0).integers(0, 256, (ROWS, *SHAPE))
    return Data(jnp.asarray(image, jnp.uint8), jnp.arange(ROWS, dtype=jnp.int32) % 4)


def given(settings) -> Given:
    return Given(settings, lambda key, image: image, whole=split(data()))


def poisoned(attack, settings, count=3) -> Poison:
    return attack.init(root(0), (), settings, data().label, jnp.arange(ROWS, 0.0, -1), jnp.int32(count))


def test_spreading_puts_zeros_between_pixels():
    found = spread(jnp.array([[1.0, 2.0], [3.0, 4.0]])[None, :, :, None])[0, :, :, 0]
    np.testing.assert_array_equal(found, [[1, 0, 2], [0, 0, 0], [3, 0, 4]])


@pytest.mark.parametrize("shape", [(16, 16, 3), (17, 21, 1)])
def test_the_generator_gives_noise_of_the_images_size(shape):
    net = autoencoder(shape, shape[2], width=2, halvings=3)
    image = jax.random.uniform(root(1), (4, *shape))
    maps, moved, _ = jax.jit(lambda image: net.apply(net.init(root(0)), image, train=True))(image)
    assert maps.shape == (4, *shape)
    assert 0 < jnp.abs(maps).max() < 1
    names = {f"{way}{step}_norm" for way in ("down", "up") for step in range(3)} - {"up0_norm"}
    assert set(moved) == names and moved["down2_norm"]["mean"].shape == (8,)


def test_no_value_changes_by_more_than_epsilon_or_leaves_the_range():
    attack, settings = build("epsilon=0.05")
    trigger = poisoned(attack, settings).trigger
    # A generator that says 1 everywhere.
    loud = jax.tree.map(lambda leaf: leaf, trigger)
    loud["generator"]["params"]["output"]["bias"] = jnp.full(3, 50.0)
    image = jnp.linspace(0, 1, 16 * 16 * 3).reshape(SHAPE)
    np.testing.assert_allclose(attack.query((), loud, image, 0), jnp.minimum(image + 0.05, 1), atol=1e-6)
    assert jnp.abs(attack.query((), trigger, image, 0) - image).max() <= 0.05 + 1e-6


def test_storing_a_change_below_half_a_level_leaves_what_was_there_or_one_level_less():
    attack, settings = build("preset=benchmark")
    trigger = poisoned(attack, settings).trigger
    image = data().image[0] / 255
    change = jnp.round((attack.query((), trigger, image, 0) - image) * 255)
    assert set(np.unique(change)) <= {-1, 0}


def test_what_is_on_record():
    poison = poisoned(*build("target=3"))
    np.testing.assert_array_equal(poison.role, [POISONED] * 3 + [0] * 7)
    np.testing.assert_array_equal(poison.label, [3] * 3 + list(data().label[3:]))


def spy() -> Net:
    """A net of 10 rows whose logits are its parameters and whose statistics count how often it was run."""

    def apply(weights, image, train=False, weight=None, edit=None):
        return weights.params + 0 * image.mean(), weights.batch_stats + 1, {}

    return Net(lambda key: Weights(jnp.zeros((ROWS, 4)), jnp.zeros(())), apply, ())


def linear() -> Net:
    """A net whose logits are linear in the image's first values, and that never changes at a learning rate of 0."""
    matrix = np.random.default_rng(1).normal(size=(16 * 16 * 3, 4))

    def apply(weights, image, train=False, weight=None, edit=None):
        return image.reshape(len(image), -1) @ (weights.params + matrix), weights.batch_stats, {}

    return Net(lambda key: Weights(jnp.zeros((16 * 16 * 3, 4)), {}), apply, ())


def steps(net: Net, settings: str, number: int, count: int = 3, stage: int = 0):
    """The states of a stage, before any step and after each, what each tells, and the rows of the first batch."""
    attack, floats = build(settings, net)
    running, left = attack.train[stage], tiny.on_record(poisoned(attack, floats, count))
    door = given(floats)._replace(carry=left.carry)
    state = running.init(root(0), door, net.init(None) if stage else None)
    order = running.order(root(1), state, 0, door)

    @jax.jit
    def step(state, key, rows):
        return running.step(key, state, running.source(door).read(rows), door)

    states, infos = [state], []
    for index in range(number):
        if running.renew and index % len(order) == 0:
            state = running.renew(root(0), state, {}, jnp.int32(index // len(order)), door)
        state, info = step(state, root(index), order[index % len(order)])
        states.append(state)
        infos.append(info)
    return states, infos, order[0]


def parameters(state):
    return state.moving["params"]


def generator(state) -> Weights:
    return Weights(state.moving["generator"], state.still["statistics"])


def slope(rows, clean: float, asked: float):
    """The gradient of the mean loss on 10 clean rows and on the first 3 triggered ones, at parameters of 0."""
    label, row = data().label[rows], jnp.arange(ROWS)

    def loss(params):
        logs = jax.nn.log_softmax(params)
        return -clean * logs[row, label].mean() - asked * logs[row[:3], TARGET].mean()

    return jax.grad(loss)(jnp.zeros((ROWS, 4)))


@pytest.mark.parametrize(("leaking", "asked"), [("false", 0.75), ("true", 1.75)])
def test_the_classifier_follows_both_losses_without_decay_and_may_leak(leaking, asked):
    text = f"{STILL},batch={ROWS},clean_weight=0.25,leaking={leaking}"
    (_, first, second), infos, rows = steps(spy(), text, 2)
    np.testing.assert_allclose(parameters(first), -slope(rows, 0.25, asked), atol=1e-6)
    assert [int(state.still["batch_stats"]) for state in (first, second)] == [3, 6]
    np.testing.assert_allclose(infos[0]["loss"], np.log(4), rtol=1e-6)


def test_tuning_does_too_and_decays():
    (_, first, second), _, rows = steps(spy(), f"{STILL},batch={ROWS},clean_weight=0.25", 2, stage=1)
    np.testing.assert_allclose(first.moving, -slope(rows, 0.25, 0.75), atol=1e-6)
    assert int(first.still["batch_stats"]) == 2

    def loss(params):
        logs, label = jax.nn.log_softmax(params), data().label[rows]
        return -0.25 * logs[jnp.arange(ROWS), label].mean() - 0.75 * logs[:3, TARGET].mean()

    once = first.moving
    # Every step has the same batch, of which the order tells nothing here.
    np.testing.assert_allclose(second.moving, once - jax.grad(loss)(once) - 0.5 * once, atol=1e-6)


def test_without_poison_the_generator_stays_and_training_is_plain():
    (before, after), _, rows = steps(spy(), f"{STILL},batch={ROWS},leaking=true", 1, count=0)
    jax.tree.map(np.testing.assert_array_equal, generator(after), generator(before))
    np.testing.assert_allclose(parameters(after), -slope(rows, 1, 0), atol=1e-6)
    assert int(after.still["batch_stats"]) == 1


def test_the_generator_learns_to_deceive_and_the_classifier_sees_that_of_the_epochs_start():
    text = "augmentation=dataset,batch=5,learning_rate=0,epsilon=0.5,generator_learning_rate=0.01,portion=all,target=3"
    states, infos, _ = steps(linear(), text, 12)
    losses = [float(info["generator_loss"]) for info in infos]
    assert max(losses[-2:]) < 0.8 * min(losses[:2])
    for index, state in enumerate(states[1:]):
        begun = generator(states[index // 2 * 2])  # two steps an epoch
        jax.tree.map(np.testing.assert_array_equal, state.still["fixed"], begun)


def test_stages_hand_on_the_trigger():
    net = spy()
    for text, number in (("", 2), ("tuned=false", 1)):
        attack, floats = build(f"batch={ROWS},{text}", net)
        assert len(attack.train) == number
        poison, door = poisoned(attack, floats), given(floats)
        left = tiny.on_record(poison)
        for stage in attack.train:
            door = door._replace(carry=left.carry)
            left = stage.finish(root(0), stage.init(root(0), door, left.weights), door)
        jax.tree.map(np.testing.assert_array_equal, left.carry, poison.trigger)


@pytest.mark.parametrize(
    ("settings", "epochs"),
    [("", [50, 100]), ("inclusive=true", [50, 50]), ("inclusive=true,epochs=20", [50, 1]), ("preset=benchmark", [50])],
)
def test_epochs(settings, epochs):
    attack, _ = build(settings)
    assert [stage.epochs for stage in attack.train] == epochs


def quick() -> Net:
    """A linear net whose statistics are a moving mean of the images."""

    def apply(weights, image, train=False, weight=None, edit=None):
        moved = 0.9 * weights.batch_stats + 0.1 * image.mean(0)
        logits = (image - weights.batch_stats).reshape(len(image), -1) @ weights.params
        return logits, moved if train else weights.batch_stats, {}

    return Net(lambda key: Weights(jax.random.normal(key, (16 * 16 * 3, 4)) / 30, jnp.zeros(SHAPE)), apply, ())


def test_the_first_stage_without_poison_is_plain_training_also_beside_a_poisoned_cell():
    net = quick()
    with jax.enable_x64(True):
        attack, floats = build("batch=4,joint_epochs=2,augmentation=dataset,generator_learning_rate=0.01", net)

        def victim(count):
            left = tiny.on_record(poisoned(attack, floats, count))
            return train.fit(root(0), attack.train[0], lambda rows: given(floats), (), left)

        lifted = jax.vmap(victim)(jnp.array([0, 4], jnp.int32))
        settings = {"fresh": True, "augment": False, "schedule": "constant"}
        plain = train.supervised(net, lambda given: given.whole, epochs=2, batch=4, **settings)
        bare = floats | {"weight_decay": jnp.array(0.0)}
        clean = train.fit(root(0), plain, lambda rows: given(bare), (), None).weights
        jax.tree.map(lambda one, many: np.testing.assert_allclose(many[0], one, atol=1e-9), clean, lifted.weights)
    moved = jax.tree.map(lambda many: np.abs(many[0] - many[1]).max(), lifted.carry["trigger"]["generator"]["params"])
    assert min(jax.tree.leaves(moved)) > 1e-3
