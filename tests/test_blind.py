"""Blind backdoors: the balance of two losses by numbers worked out by hand, the trigger, and when the attack is on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from bdjax import train
from bdjax.attacks import ATTACKS
from bdjax.attacks.training import portions
from bdjax.attacks.training.balance import balanced, divisor, least
from bdjax.attacks.training.blind_training import attacking
from bdjax.cards import lookup
from bdjax.data.sources import split
from bdjax.keys import root
from bdjax.types import Data, Given, Net, Weights

SHAPE = (16, 16, 3)
ROWS, TARGET = 10, 3
STILL = f"learning_rate=1,momentum=0,weight_decay=0,schedule=constant,target={TARGET}"


def build(settings: str = "", net=None, shape=SHAPE):
    spec = lookup(f"blind:{settings}", ATTACKS, "attack")
    floats = {name: jnp.asarray(value) for name, value in spec.traced.items()}
    return ATTACKS["blind"].make(net, shape, 4, **spec.static), floats


def data() -> Data:
    image = np.random.default_rng(0).integers(0, 256, (ROWS, *SHAPE))
    return Data(jnp.asarray(image, jnp.uint8), jnp.arange(ROWS, dtype=jnp.int32) % 4)


def given(settings) -> Given:
    return Given(settings, lambda key, image: image, whole=split(data()))


@pytest.mark.parametrize(
    ("a", "b", "share"),
    [
        ((1, 0), (0, 1), 0.5),
        ((2, 0), (0, 1), 0.2),  # (0.4, 0.8), at right angles to the line
        ((1, 1), (-1, 0), 0.4),  # (-0.2, 0.4)
        ((1, 0), (-1, 0), 0.5),
        ((1, 0), (2, 1), 0.999),  # all of the first is shortest
        ((3, 1), (1, 0), 0.001),
        ((1, 1), (1, 1), 0.999),
    ],
)
def test_the_share_of_the_shortest_point(a, b, share):
    a, b = jnp.array(a, float), jnp.array(b, float)
    found = least(a @ a, a @ b, b @ b)
    np.testing.assert_allclose(found, share, rtol=1e-6)
    lengths = [np.linalg.norm(c * a + (1 - c) * b) for c in np.linspace(0, 1, 11)]
    assert np.linalg.norm(found * a + (1 - found) * b) <= min(lengths) + 3e-3


def test_divisors():
    for normalization, expected in (("loss_norm", 6), ("loss", 2), ("norm", 3), ("none", 1)):
        assert divisor(jnp.array(2.0), jnp.array(3.0), normalization) == expected
    assert divisor(jnp.array(20.0), jnp.array(30.0), "loss_norm") == 10
    assert divisor(jnp.array(20.0), jnp.array(30.0), "loss") == 10
    assert divisor(jnp.array(20.0), jnp.array(30.0), "norm") == 30


def test_gradients_are_balanced_over_all_parameters_after_they_are_divided():
    # Norms 5 and 2, at right angles. As they are: 4 / 29. By their norms: a half. By their losses 1 and 1/2, 5 and 4:
    # 16 / 41. By both, to 1 and 2: 4 / 5.
    one = {"kernel": jnp.array([3.0, 0.0]), "bias": jnp.array(4.0)}
    other = {"kernel": jnp.array([0.0, 2.0]), "bias": jnp.array(0.0)}
    losses = jnp.array(1.0), jnp.array(0.5)
    for normalization, share in (("none", 4 / 29), ("norm", 0.5), ("loss", 16 / 41), ("loss_norm", 0.8)):
        found = balanced((one, other), losses, normalization)
        np.testing.assert_allclose(found, (share, 1 - share), rtol=1e-4)


def test_the_trigger_of_the_released_code():
    attack, _ = build(shape=(32, 32, 3))
    found = np.asarray(attack.query((), {}, jnp.full((32, 32, 3), 0.5), jnp.int32(0)))
    expected = np.full((32, 32), 0.5)
    white = [(3, 23), (3, 25), (4, 24), (6, 24), (7, 23), (7, 25)]
    black = [(3, 24), (5, 25), (7, 24)]
    expected[tuple(np.transpose(white))], expected[tuple(np.transpose(black))] = 1, 0
    np.testing.assert_array_equal(found, np.repeat(expected[:, :, None], 3, axis=2))


def test_the_trigger_of_smaller_images_in_grey():
    attack, _ = build(shape=(16, 16, 1))
    found = np.asarray(attack.stamp((), {}, jnp.full((16, 16, 1), 0.5), jnp.int32(0)))[:, :, 0]
    np.testing.assert_array_equal(np.argwhere(found == 1), [[2, 11], [2, 12], [4, 11], [4, 12]])
    np.testing.assert_array_equal(np.argwhere(found == 0), [[3, 12]])


def test_how_many_rows_of_a_batch_are_triggered():
    def count(ratio, portion):
        return int(portions.count(root(0), jnp.array(ratio), jnp.array(10.0), portion))

    assert [count(0.3, "ratio"), count(0.3, "all")] == [3, 10]
    assert [count(0.0, "ratio"), count(0.0, "all")] == [0, 0]


def spy() -> Net:
    """A net of 10 rows whose logits are its parameters and whose statistics count how often it was run."""

    def apply(weights, image, train=False, weight=None, edit=None):
        return weights.params + 0 * image.mean(), weights.batch_stats + 1, {}

    return Net(lambda key: Weights(jnp.zeros((ROWS, 4)), jnp.zeros(())), apply, ())


def begun(settings: str, net=None, count: int = 3, batch: int = ROWS):
    """The stage, its state before any step, and what it is given."""
    attack, floats = build(f"batch={batch},{STILL},{settings}", net or spy())
    label, priority = data().label, jnp.arange(ROWS, 0.0, -1)
    poison = attack.init(root(0), (), floats, label, priority, jnp.int32(count))
    (stage,) = attack.train
    door = given(floats)._replace(carry=tiny.on_record(poison).carry)
    return stage, stage.init(root(0), door, None), door


def steps(settings: str, number: int, net=None, count: int = 3):
    """The states after each of the first steps, and what each tells."""
    stage, state, door = begun(settings, net, count)

    @jax.jit
    def step(state, key):
        rows = stage.source(door).read(stage.order(root(1), state, 0, door)[0])
        return stage.step(key, state, rows, door)

    found = []
    for index in range(number):
        state, info = step(state, root(index))
        found.append((state, info))
    return found


def test_the_attack_waits_for_as_many_losses_as_count_and_for_a_low_mean():
    assert [float(info["attacking"]) for _, info in steps("window=2,threshold=9", 4)] == [0, 0, 1, 1]
    assert [float(info["attacking"]) for _, info in steps("window=2,threshold=0.1", 3)] == [0, 0, 0]
    assert [float(info["attacking"]) for _, info in steps("window=1,threshold=9", 3, count=0)] == [0, 0, 0]


def test_it_ends_again_when_losses_rise():
    _, state, _ = begun("window=2")
    still = state.still | {"step": jnp.int32(5)}
    assert attacking(still | {"losses": jnp.array([0.2, 1.6])}, 1.0)
    assert not attacking(still | {"losses": jnp.array([0.4, 1.6])}, 1.0)


def test_the_oldest_loss_is_forgotten():
    found = steps("window=2,threshold=0", 3)
    losses = [float(info["loss"]) for _, info in found]
    np.testing.assert_allclose(found[-1][0].still["losses"], [losses[2], losses[1]])
    assert losses[0] > losses[1] > losses[2]


def test_a_window_of_zero_is_an_epoch():
    stage, state, door = begun("", batch=4)
    assert state.still["losses"].size == 3 == stage.order(root(0), state, 0, door).shape[0]


def test_both_losses_are_weighed_and_the_copy_has_the_labels_that_are_wanted():
    (before, _), (after, info) = steps("window=1,threshold=9,balance=fixed,backdoor_weight=0.5,clean_weight=2", 2)
    params, label = before.moving, data().label[order()]
    wanted, row = jnp.where(jnp.arange(ROWS) < 3, TARGET, label), jnp.arange(ROWS)

    def loss(params):
        logs = jax.nn.log_softmax(params)
        return -0.5 * logs[row, wanted].mean() - 2 * logs[row, label].mean()

    np.testing.assert_allclose(after.moving, params - jax.grad(loss)(params), atol=1e-6)
    assert info["backdoor_loss"] > info["loss"] > 0


def order():
    """The rows of the batches that `steps` takes."""
    stage, state, door = begun("")
    return stage.order(root(1), state, 0, door)[0]


def test_statistics_move_with_the_copies_only_while_the_attack_is_on():
    found = steps("window=2,threshold=9", 3)
    assert [int(state.still["batch_stats"]) for state, _ in found] == [1, 2, 4]


def test_the_ratio_tells_how_many_rows_of_the_copy_are_triggered():
    seen = []

    def apply(weights, image, train=False, weight=None, edit=None):
        seen.append(image)
        return weights.params + 0 * image.mean(), image, {}

    net = Net(lambda key: Weights(jnp.zeros((ROWS, 4)), jnp.zeros((ROWS, *SHAPE))), apply, ())
    stage, state, door = begun("", net)
    rows = stage.source(door).read(stage.order(root(1), state, 0, door)[0])
    seen.clear()
    stage.step(root(0), state, rows, door)
    copies, clean = seen
    np.testing.assert_array_equal(clean, rows.image)
    assert ((copies != clean).any(axis=(1, 2, 3)) == (np.arange(ROWS) < 3)).all()


def quick() -> Net:
    """A linear net whose statistics are a moving mean of the images."""

    def apply(weights, image, train=False, weight=None, edit=None):
        moved = 0.9 * weights.batch_stats + 0.1 * image.mean(0)
        logits = (image - weights.batch_stats).reshape(len(image), -1) @ weights.params
        return logits, moved if train else weights.batch_stats, {}

    return Net(lambda key: Weights(jax.random.normal(key, (16 * 16 * 3, 4)) / 30, jnp.zeros(SHAPE)), apply, ())


def test_without_poison_it_is_plain_training_also_beside_a_poisoned_cell():
    net = quick()
    attack, floats = build("batch=4,epochs=3,threshold=9,target=3", net)
    with jax.enable_x64(True):
        floats, label = {name: jnp.asarray(float(value)) for name, value in floats.items()}, data().label

        def victim(count):
            poison = attack.init(root(0), (), floats, label, jnp.arange(ROWS, 0.0, -1), count)
            return train.fit(root(0), attack.train[0], lambda rows: given(floats), (), tiny.on_record(poison)).weights

        lifted = jax.vmap(victim)(jnp.array([0, 4], jnp.int32))
        plain = train.supervised(net, lambda given: given.whole, epochs=3, batch=4, fresh=True)
        clean = train.fit(root(0), plain, lambda rows: given(floats), (), None).weights
        jax.tree.map(lambda one, many: np.testing.assert_allclose(many[0], one, atol=1e-9), clean, lifted)
    moved = jax.tree.map(lambda many: np.abs(many[0] - many[1]).max(), lifted.params)
    assert max(jax.tree.leaves(moved)) > 1e-3
