"""MixMatch by hand: rows over and over, guesses, mixtures, interleaving, both losses and the weight that rises."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdjax import train
from bdjax.keys import root
from bdjax.train import semi_supervised
from bdjax.types import Batch, Given, Net, Source, Trained, Weights


def test_rows_come_over_and_over_in_passes_without_the_last_incomplete_batch():
    """Seven rows, batches of three: passes of two batches, each of six different rows, in orders of their own."""
    mask = jnp.array([1, 1, 0, 1, 1, 0, 1, 1, 1, 0], bool)
    rows = np.asarray(train.cycled(jax.random.key(0), mask, 3, 41))
    assert rows.shape == (41, 3) and mask[rows].all()
    passes = rows[:40].reshape(20, 6)
    assert all(len({*one}) == 6 for one in passes.tolist())
    assert len({tuple(one) for one in passes.tolist()}) > 15
    assert {*rows.ravel().tolist()} == {*np.flatnonzero(mask).tolist()}


@pytest.mark.parametrize("count", [0, 2])
def test_fewer_rows_than_a_batch_are_padded(count):
    rows = np.asarray(train.cycled(jax.random.key(0), jnp.arange(6) < count, 4, 3))
    assert [sorted(one) for one in rows.tolist()] == 3 * [[-1] * (4 - count) + list(range(count))]


def test_lowest_is_rounded_down():
    np.testing.assert_array_equal(semi_supervised.lowest(jnp.array([3.0, 1, 2, 5, 4]), 0.59), [0, 1, 1, 0, 0])


def test_symmetric_cross_entropy_by_hand():
    """p = (1/2, 1/4, 1/4), label 0: CE = log 2, reverse -(1/4 + 1/4) log 1e-4."""
    logits = jnp.log(jnp.array([[0.5, 0.25, 0.25]]))
    found = train.symmetric_cross_entropy(logits, jnp.array([0]), 0.1, 2.0)
    np.testing.assert_allclose(found, [0.1 * np.log(2) - 2 * 0.5 * np.log(1e-4)], rtol=1e-6)


def pixel_net():
    """Logits are the logarithms of the pixels of a channel each; statistics count passes in training mode."""

    def apply(weights, image, train=False, weight=None, edit=None):
        logits = weights.params * jnp.log(image[:, 0, 0])
        return logits, weights.batch_stats + train, {}

    return Net(lambda key: Weights(jnp.float32(1), jnp.int32(0)), apply, ())


def batch(pixels, label=None, weight=None):
    count = len(pixels)
    label = jnp.zeros(count, jnp.int32) if label is None else jnp.asarray(label)
    weight = jnp.ones(count) if weight is None else jnp.asarray(weight)
    return Batch(jnp.asarray(pixels)[:, None, None], label, jnp.arange(count), weight)


def test_guesses_are_the_mean_of_two_views_sharpened():
    """Probabilities (.9, .1) and (.5, .5): mean (.7, .3), squared and normalized .49 / .58; two passes."""
    weights = Weights(jnp.float32(1), jnp.int32(0))
    views = batch([[0.9, 0.1]]), batch([[0.5, 0.5]])
    found, passes = semi_supervised.guess(pixel_net(), weights, views, 0.5)
    np.testing.assert_allclose(found, [[0.49 / 0.58, 0.09 / 0.58]], rtol=1e-5)
    assert passes == 2


def test_interleaving_by_hand_and_undone():
    """Pieces of 1, 1 and 2: the second piece of a changes places with that of b, the third with that of c."""
    parts = [jnp.array([*f"{name}{name}{name}{name}".encode()]) for name in "abc"]
    found = semi_supervised.interleaved(parts)
    assert ["".join(map(chr, one.tolist())) for one in found] == ["abcc", "babb", "ccaa"]
    jax.tree.map(np.testing.assert_array_equal, semi_supervised.interleaved(found), parts)


def test_nobody_is_mixed_with_padding():
    weight = jnp.array([1.0, 0, 1, 1, 0, 1])
    real = np.flatnonzero(weight)
    orders = [np.asarray(train.drawn_partners(jax.random.key(seed), weight)) for seed in range(10)]
    assert all({*one[real].tolist()} == {*real.tolist()} for one in orders)
    assert len({tuple(one[real]) for one in orders}) > 3


def test_a_mixture_keeps_at_least_half():
    shares = jax.vmap(lambda key: semi_supervised.drawn_share(key, 0.75))(jax.random.split(jax.random.key(0), 200))
    assert float(shares.min()) >= 0.5 and float(shares.min()) < 0.55 and float(shares.max()) > 0.99


def test_losses_of_a_mixture_by_hand():
    """One row of each kind, share 3/4, each mixed with the next; images (a, 1 - a), so probabilities are the pixels.

    Labeled: image 3/4 (.8, .2) + 1/4 (.4, .6) = (.7, .3), target 3/4 (1, 0) + 1/4 (.6, .4) = (.9, .1).
    First view: 3/4 (.4, .6) + 1/4 (.2, .8) = (.35, .65), target (.6, .4), off by .25. Second view:
    3/4 (.2, .8) + 1/4 (.8, .2) = (.35, .65), target 3/4 (.6, .4) + 1/4 (1, 0) = (.7, .3), off by .35. Three passes.
    """
    rows = {"labeled": batch([[0.8, 0.2]]), "first": batch([[0.4, 0.6]]), "second": batch([[0.2, 0.8]])}
    weights = Weights(jnp.float32(1), jnp.int32(0))
    found = semi_supervised.mixed(pixel_net(), weights, rows, jnp.array([[0.6, 0.4]]), 0.75, jnp.array([1, 2, 0]))
    np.testing.assert_allclose(found[0], -0.9 * np.log(0.7) - 0.1 * np.log(0.3), rtol=1e-5)
    np.testing.assert_allclose(found[1], (0.25**2 + 0.35**2) / 2, rtol=1e-5)
    assert found[2] == 3


def test_the_second_loss_rises_with_epochs_and_splits_are_asked_for_by_epoch():
    """Two steps an epoch, one epoch before, ramp 4: weights 1/4, 1.5/4; then 2/4, 2.5/4 in the second epoch."""
    source = Source(
        8, lambda row: batch(jnp.tile(jnp.array([0.8, 0.2]), (len(row), 1))).replace(row=row, weight=(row >= 0) * 1.0)
    )
    settings = {"sharpening": 0.5, "mix": 0.75, "unlabeled_weight": 8.0, "ramp": 4.0, "learning_rate": 0.0}
    given = Given(settings, lambda key, image, border: image, train=source)

    def begin(_key, _given, weights):
        return weights.params, weights.batch_stats

    stage = semi_supervised.mixmatch(
        pixel_net(),
        lambda given: given.train,
        split=lambda _key, _weights, epoch, _given: jnp.arange(8) < 2 + epoch,
        begin=begin,
        rule=train.adam(),
        leave=lambda _key, state, _given: Trained(Weights(state.moving, state.still["batch_stats"]), state.still),
        classes=2,
        epochs=2,
        steps=2,
        batch=2,
        border="black",
        before=1,
    )
    state = train.begin(stage, root(0), given, pixel_net().init(root(0)))
    for epoch, labeled in enumerate((3, 4)):
        names = "loss", "labeled_loss", "unlabeled_loss"
        before = dict.fromkeys(names, 0.0)
        for step in range(2):
            state = train.advance(stage, root(0), state, given, epoch, step, step + 1)
            value, known, apart = (float(state[1][name] - before[name]) for name in names)
            assert apart > 0.01
            np.testing.assert_allclose(value - known, 8 * (1 + epoch + step / 2) / 4 * apart, rtol=1e-4)
            before = state[1]
        assert int(state[0].still["labeled"].sum()) == labeled
    assert int(state[0].still["batch_stats"]) == 4 * 5
