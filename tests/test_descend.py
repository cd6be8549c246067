"""The one loop: what a step changes and what it leaves, when a stage ends, and that an epoch in pieces is an epoch."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bdjax import train
from bdjax.keys import root
from bdjax.train.descend import TAKEN
from bdjax.types import Batch, Given, Source, Trained

ROWS = 10
LABEL = jnp.arange(ROWS) % 2


def rows(label=LABEL) -> Source:
    """Rows whose image is their number."""

    def read(row):
        image = jnp.where(row < 0, 0, row).astype(jnp.float32)[:, None, None, None]
        return Batch(image, label[row], row, (row >= 0).astype(jnp.float32))

    return Source(label.size, read)


def given(**fields) -> Given:
    settings = {"learning_rate": jnp.float32(0.1), "momentum": jnp.float32(0.9), "weight_decay": jnp.float32(0.0)}
    return Given(settings, lambda key, image: image + 100, clean=rows(), **fields)


def total(_key, moving, still, batch, _given):
    """A loss whose slope is the sum of the images of a batch; `still` remembers which rows were read."""
    value = moving * jnp.sum(batch.image * batch.weight[:, None, None, None])
    seen = still["seen"].at[batch.row].add(batch.weight)
    return value, (still | {"seen": seen}, {"loss": value, "rows": jnp.sum(batch.weight)})


def stage(**changes):
    parts = {
        "epochs": 3,
        "batch": 4,
        "begin": lambda key, given, weights: (jnp.float32(0), {"seen": jnp.zeros(ROWS)}),
        "loss": total,
        "rule": train.sgd(momentum=None, decay=None),
        "leave": lambda key, state, given: Trained(None, {"moving": state.moving, "seen": state.still["seen"]}),
        "augment": False,
    }
    return train.descend(lambda given: given.clean, **parts | changes)


def carry_of(running, known, epochs=None, pieces=lambda steps: [(0, steps)]):
    """State and sums after some epochs, each in pieces."""
    carry = train.begin(running, root(0), known, None)
    steps = train.steps_in(running, carry[0], known)
    for epoch in range(running.epochs if epochs is None else epochs):
        for start, stop in pieces(steps):
            carry = train.advance(running, root(0), carry, known, epoch, start, stop)
    return carry


def test_every_row_is_read_once_an_epoch_and_the_slope_followed():
    state, sums = carry_of(stage(), given(), 1)
    np.testing.assert_array_equal(state.still["seen"], jnp.ones(ROWS))
    np.testing.assert_allclose(state.moving, -0.1 * sum(range(ROWS)), rtol=1e-6)
    assert (int(state.step), float(sums["rows"]), TAKEN in sums) == (3, ROWS, False)


def test_augmentation_is_the_datasets_or_ones_own():
    plain, own = (
        carry_of(stage(augment=one, epochs=1), given())[0].moving
        for one in (True, lambda key, batch, epoch, given: batch.replace(image=batch.image * (epoch + 2)))
    )
    np.testing.assert_allclose(plain, -0.1 * (45 + 100 * ROWS), rtol=1e-5)
    np.testing.assert_allclose(own, -0.1 * 2 * 45, rtol=1e-5)


MASK = jnp.arange(ROWS) < 3


def test_steps_over_padding_alone_change_nothing_but_the_clock():
    """Three rows by 4 are one step of three; momentum would move what the others leave."""

    def order(key, epoch, given, still):
        return train.chosen(key, MASK, 4)

    running = stage(order=order, epochs=1, rule=train.sgd(decay=None))
    state, sums = carry_of(running, given())
    np.testing.assert_array_equal(state.still["seen"], MASK)
    np.testing.assert_allclose(state.moving, -0.1 * (0 + 1 + 2), rtol=1e-6)
    np.testing.assert_allclose(optax.tree.get(state.opt_state, "trace"), 3, rtol=1e-6)
    assert (int(state.step), float(sums[TAKEN]), float(sums["rows"])) == (3, 1, 3)


def test_a_masked_order_ends_its_cosine():
    factors = []

    def schedule(clock):
        factors.append((clock.steps, clock.epochs))
        return jnp.cos(jnp.pi / 2 * clock.step / (clock.steps * clock.epochs))

    running = stage(
        order=lambda key, epoch, given, still: train.chosen(key, MASK, 4),
        epochs=2,
        rule=train.sgd(momentum=None, decay=None, schedule=schedule),
    )
    state, _ = carry_of(running, given())
    assert set(factors[1:]) == {(3, 2)}
    np.testing.assert_allclose(state.moving, -0.3 * (1 + np.cos(np.pi / 4)), rtol=1e-5)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_chosen_rows_come_first_in_random_order(share):
    mask = jnp.arange(ROWS) < share * ROWS
    orders = [np.asarray(train.chosen(root(seed), mask, 4)) for seed in range(2)]
    for order in orders:
        assert order.shape == (3, 4)
        flat = order.ravel()
        assert sorted(flat[flat >= 0]) == list(range(int(share * ROWS)))
        assert (flat[int(share * ROWS) :] == -1).all()
    assert share < 1 or not np.array_equal(*orders)


def test_a_mean_of_no_rows_is_zero():
    assert train.mean(jnp.array([3.0, 5.0]), jnp.zeros(2)) == 0
    assert train.mean(jnp.array([3.0, 5.0]), jnp.array([1.0, 0.0])) == 3


def test_until_is_asked_once_an_epoch_with_its_means_and_ends_the_stage():
    asked = []

    def until(info, given):
        asked.append(sorted(info))
        return info["loss"] < -5  # the loss falls with the moving number

    running = stage(until=until, epochs=6)
    whole = [carry_of(running, given(), epochs) for epochs in range(7)]
    losses = [float(sums["loss"]) / 3 for _, sums in whole[1:]]
    ended = next(index for index, loss in enumerate(losses) if loss < -5) + 1  # the epoch that made it true is kept
    assert 1 <= ended < 6 and asked[0] == ["loss", "rows"]
    for state, sums in whole[ended + 1 :]:
        assert state.moving == whole[ended][0].moving and sums["loss"] == 0 and sums[TAKEN] == 0
        np.testing.assert_array_equal(state.still["seen"], whole[ended][0].still["seen"])
    assert whole[ended][0].moving != whole[ended - 1][0].moving


def renewing():
    """Halves of the rows, drawn anew before every epoch; only what was drawn is read."""

    def begin(key, given, weights):
        return jnp.float32(0), {"seen": jnp.zeros(ROWS), "half": jnp.zeros(ROWS, bool), "drawn": jnp.zeros((), int)}

    def renew(key, moving, still, given):
        half = jax.random.permutation(key, jnp.arange(ROWS) < ROWS // 2)
        return still | {"half": half, "drawn": still["drawn"] + 1}

    def order(key, epoch, given, still):
        return train.chosen(key, still["half"], 2)

    return stage(begin=begin, renew=renew, order=order, batch=2, epochs=4)


def test_what_is_renewed_is_renewed_once_an_epoch_before_its_order():
    halves = []
    for epochs in range(1, 5):
        state, sums = carry_of(renewing(), given(), epochs)
        halves.append(tuple(np.flatnonzero(state.still["half"])))
        assert int(state.still["drawn"]) == epochs and float(sums["rows"]) == 5
    assert len(set(halves)) > 1
    seen = np.zeros(ROWS)
    for half in halves:
        seen[list(half)] += 1
    np.testing.assert_array_equal(state.still["seen"], seen)


@pytest.mark.parametrize("running", [stage(), renewing(), stage(until=lambda info, given: info["loss"] < -5)])
def test_an_epoch_in_pieces_reads_what_it_reads_at_once(running):
    one = carry_of(running, given())
    many = carry_of(running, given(), pieces=lambda steps: [(index, index + 1) for index in range(steps)])
    jax.tree.map(np.testing.assert_array_equal, one, many)


def test_several_sources_are_read_side_by_side():
    def loss(_key, moving, still, batch, _given):
        assert set(batch) == {"labelled", "unlabelled"}
        value = moving * (jnp.sum(batch["labelled"].image) + 1000 * jnp.sum(batch["unlabelled"].image))
        return value, (still, {"loss": value})

    def order(key, epoch, given, still):
        return {"labelled": jnp.array([[0, 1], [2, 3]]), "unlabelled": jnp.array([[4, 5, 6], [7, 8, 9]])}

    running = train.descend(
        lambda given: {"labelled": given.clean, "unlabelled": given.clean},
        epochs=1,
        batch=2,
        begin=lambda key, given, weights: (jnp.float32(0), {}),
        loss=loss,
        rule=train.sgd(momentum=None, decay=None),
        leave=lambda key, state, given: Trained(None, {"moving": state.moving}),
        order=order,
    )
    known = given()._replace(augment=lambda key, image: image)
    state, _ = carry_of(running, known)
    np.testing.assert_allclose(state.moving, -0.1 * (6 + 1000 * 39), rtol=1e-6)


def test_parts_have_optimizers_of_their_own_and_zeros_leave_an_idle_one_alone():
    rule = train.each({"one": optax.sgd(1.0), "other": train.idle(optax.sgd(1.0, momentum=0.5))})
    params = {"one": jnp.ones(2), "other": jnp.ones(2)}
    state = rule.init(params)
    moved, state = rule.update({"one": jnp.ones(2), "other": jnp.ones(2)}, state, params)
    still, after = rule.update({"one": jnp.ones(2), "other": jnp.zeros(2)}, state, params)
    assert (moved["other"] == -1).all() and (still["other"] == 0).all() and (still["one"] == -1).all()
    jax.tree.map(np.testing.assert_array_equal, after["other"], state["other"])


def test_one_of_loss_and_gradient_is_given():
    with pytest.raises(TypeError, match="one of loss and gradient"):
        stage(loss=None)
