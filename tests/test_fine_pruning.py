"""Facts of fine-pruning: the order of pruning, where it stops, and that what was pruned stays so."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdjax import metrics, train
from bdjax.cards import lookup
from bdjax.data import sources
from bdjax.defenses.fine_pruning import FINE_PRUNING, accuracies, activity, last, masks, without
from bdjax.errors import InvalidInput
from bdjax.models import MODELS
from bdjax.models.parts import heads
from bdjax.types import Batch, Data, Given, Layer, Net, Source, Trained, Weights

METHODS = {"fine_pruning": FINE_PRUNING}
LAYERS = (Layer("pool", "pool", (), "pool"), Layer("linear", "linear", ("linear",), "linear"))


def readout(kernel) -> tuple[Net, Weights]:
    """A network whose features are the pixels of an image (1, features, 1), less 1."""

    def apply(weights, image, train=False, weight=None):
        pool = image[:, 0, :, 0] - 1
        head = weights.params["linear"]
        logits = pool @ head["kernel"] + head["bias"][None]
        return logits, weights.batch_stats, {"pool": pool, "linear": logits}

    kernel = jnp.asarray(kernel, float)
    head = {"kernel": kernel, "bias": jnp.zeros(kernel.shape[1])}
    return Net(None, apply, LAYERS), Weights({"linear": head}, {})


def source(values, label) -> Source:
    """Rows of these features."""
    image = 1 + jnp.asarray(values, float)[:, None, :, None]
    label = jnp.asarray(label, jnp.int32)

    def read(row):
        return Batch(image[row], label[row], row, (row >= 0).astype(float))

    return Source(len(label), read)


def test_features_are_what_the_head_reads():
    for name in ("small_cnn", "preact_resnet18", "resnet18"):
        net = MODELS[name].make((8, 8, 3), 3, (0.5,) * 3, (0.25,) * 3, width=1)
        assert heads.reads(net, "fine_pruning") == "pool"
    with pytest.raises(InvalidInput, match="fine_pruning"):
        heads.reads(Net(None, None, LAYERS[1:]), "fine_pruning")


def test_activity_by_hand():
    """Features (-3, 1, 2) and (-1, 1, -2): sizes 2, 1, 2 on average, signed means -2, 1, 0."""
    net, weights = readout(np.zeros((3, 2)))
    given = Given({}, lambda key, image: 2 * image - 1, clean=source([[-3, 1, 2], [-1, 1, -2]], [0, 1]))
    key = jax.random.key(0)
    np.testing.assert_allclose(activity(key, net, weights, given, False, False), [2, 1, 2], atol=1e-6)
    np.testing.assert_allclose(activity(key, net, weights, given, True, False), [-2, 1, 0], atol=1e-6)
    np.testing.assert_allclose(activity(key, net, weights, given, True, True), [-4, 2, 0], atol=1e-6)


def test_masks_follow_the_order():
    found = masks(jnp.array([2, 0, 3, 1]), jnp.array([0, 1, 3]))
    np.testing.assert_array_equal(found, [[1, 1, 1, 1], [1, 1, 0, 1], [0, 1, 0, 0]])


@pytest.mark.parametrize(
    ("good", "undone", "kept"),
    [
        ([1, 1, 0, 1], 1, 2),  # stops at the first that is not good, though a later one is
        ([1, 1, 1, 1], 3, 3),
        ([1, 0, 0, 0], 0, 1),
        ([0, 0, 0, 0], 0, 0),
    ],
)
def test_where_it_stops(good, undone, kept):
    good = jnp.asarray(good, bool)
    assert int(last(good, True)) == undone
    assert int(last(good, False)) == kept


def test_accuracies_in_one_pass_are_those_of_each_pruned_network():
    with jax.enable_x64(True):
        net = MODELS["small_cnn"].make((8, 8, 3), 3, (0.5,) * 3, (0.25,) * 3, width=2)
        image = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 3), np.uint8)
        rows = sources.split(Data(jnp.asarray(image), jnp.arange(30, dtype=jnp.int32) % 3))
        weights = net.init(jax.random.key(1))
        weights.params["linear"]["bias"] -= net.apply(weights, rows.read(jnp.arange(30)).image)[0].mean(0)
        keep = masks(jnp.arange(8), jnp.arange(8))
        found = accuracies(net, weights, rows, keep)
        alone = jax.lax.map(lambda each: metrics.accuracy(net, without(net, weights, each), rows), keep)
        np.testing.assert_allclose(found, alone, atol=1e-12)
        assert len(set(np.asarray(found).tolist())) > 2


EYE = np.eye(3)[:, :2] + np.array([[0, 0], [0, 0], [0, 1]])
"""Features 0 and 2 speak for class 0 and 1; feature 1 for class 1 as well."""


def pruned(kernel, clean, valid, text, **changes):
    """The head's kernel after the pruning stage; `valid` and `test` are the same rows."""
    net, weights = readout(kernel)
    spec = lookup(text, METHODS, "defense")
    stage = FINE_PRUNING.make(net, (1, 3, 1), 2, **spec.static)[0]

    def given(weights):
        rows = source(*valid)
        return Given(spec.traced, lambda key, image: image, clean=source(*clean), valid=rows, test=rows, victim=weights)

    left = train.fit(jax.random.key(0), stage, given, weights)
    found = np.asarray(left.weights.params["linear"]["kernel"])
    np.testing.assert_array_equal(left.carry["keep"], (found != 0).any(1))
    return found


def test_dormant_channels_go_until_accuracy_falls():
    """Sizes 5, 0.1, 3: channel 1 goes first, at no cost; without channel 2 class 1 is lost, so it stays."""
    clean = ([[5, 0.1, 3]], [0])
    valid = ([[5, 1, 0], [0, 1, 5], [0, 0, 5], [5, 0, 0]], [0, 1, 1, 0])
    found = pruned(EYE, clean, valid, "fine_pruning")
    np.testing.assert_array_equal(found, EYE * np.array([[1], [0], [1]]))
    # All but one channel at the most: with a whole class to lose, channel 2 goes as well.
    found = pruned(EYE, clean, valid, "fine_pruning:allowed=0.5")
    np.testing.assert_array_equal(found, EYE * np.array([[1], [0], [0]]))


def test_large_negative_activations_are_not_dormant():
    """Sizes 5, 4, 3, signed means 5, -4, 3: channel 2 goes first, signed channel 1."""
    clean, valid = ([[5, -4, 3]], [0]), ([[1, 0, 0]], [0])
    by_size = pruned(EYE, clean, valid, "fine_pruning:allowed=0")
    signed = pruned(EYE, clean, valid, "fine_pruning:allowed=0,signed=true")
    np.testing.assert_array_equal(by_size, signed)  # both go on to the last channel but one
    costly = ([[1, 0, 0], [0, 5, 0], [0, 5, 1]], [0, 1, 1])
    np.testing.assert_array_equal(pruned(EYE, clean, costly, "fine_pruning")[:, 1] != 0, [False, True, False])
    np.testing.assert_array_equal(
        pruned(EYE, clean, costly, "fine_pruning:signed=true")[:, 1] != 0, [False, True, True]
    )


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("parts=5", 4),  # two at a time: 2 and 4 are free, 6 is not
        ("parts=5,rollback=false", 6),
        ("parts=5,rollback=false,spare_last=true", 7),  # 1, 3, 5 and 7 of them
        ("parts=5,spare_last=true", 5),
        ("parts=0", 5),
        ("parts=3", 4),  # four at a time, a third of ten rounded up
        ("parts=100", 5),
    ],
)
def test_parts_and_quirks(text, cut):
    """Ten channels that grow more active; the sixth is the first that accuracy needs."""
    kernel = np.zeros((10, 2))
    kernel[5:, 1] = 1
    clean = ([np.arange(1, 11)], [0])
    row = np.zeros(10)
    row[5] = 1
    found = pruned(kernel + 1e-3, clean, ([row], [1]), f"fine_pruning:{text}")
    np.testing.assert_array_equal(found[:, 0] != 0, np.arange(10) >= cut)


def test_benchmark_reads_the_test_set():
    card = FINE_PRUNING.card
    paper, benchmark = (lookup(f"fine_pruning:preset={name}", METHODS, "defense") for name in ("paper", "benchmark"))
    assert set(card.needs_of(paper.static)) == {"clean", "victim", "valid"}
    assert set(card.needs_of(benchmark.static)) == {"clean", "victim", "test"}


def tuned(text):
    net = MODELS["small_cnn"].make((8, 8, 3), 3, (0.5,) * 3, (0.25,) * 3, width=2)
    image = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), np.uint8)
    data = Data(jnp.asarray(image), jnp.arange(12, dtype=jnp.int32) % 3)
    victim = net.init(jax.random.key(1))
    keep = jnp.asarray([0.0, 1, 1, 0, 1, 1, 1, 1])
    spec = lookup(text, METHODS, "defense")
    stage = FINE_PRUNING.make(net, (8, 8, 3), 3, **spec.static)[1]

    def given(operands):
        return Given(spec.traced, lambda key, image: image, clean=sources.split(operands[0]), victim=operands[1])

    left = Trained(without(net, victim, keep), {"keep": keep})
    return train.fit(jax.random.key(2), stage, given, (data, victim), left).weights, victim


def test_what_was_pruned_stays_pruned_and_all_else_is_tuned():
    weights, victim = tuned("fine_pruning:epochs=3,batch=4,learning_rate=0.1")
    kernel = weights.params["linear"]["kernel"]
    np.testing.assert_array_equal(kernel[jnp.array([0, 3])], 0)
    moved = jax.tree.map(lambda new, old: np.abs(new - old), weights, victim)
    moved.params["linear"]["kernel"] = moved.params["linear"]["kernel"][jnp.array([1, 2, 4, 5, 6, 7])]
    moved.params["conv3"]["kernel"] = moved.params["conv3"]["kernel"][..., jnp.array([1, 2, 4, 5, 6, 7])]
    assert min(float(leaf.max()) for leaf in jax.tree.leaves(moved)) > 1e-6


def test_a_pruned_channel_is_out_of_the_network():
    """No gradient reaches the filters of a pruned channel: without weight decay they do not move."""
    weights, victim = tuned("fine_pruning:epochs=2,batch=4,learning_rate=0.1,weight_decay=0")
    gap = np.abs(weights.params["conv3"]["kernel"] - victim.params["conv3"]["kernel"]).max((0, 1, 2))
    np.testing.assert_array_equal(gap[[0, 3]], 0)
    assert gap[[1, 2, 4, 5, 6, 7]].min() > 0
