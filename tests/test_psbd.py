"""PSBD: dropout that no batch changes, the loss of confidence by hand, and which rate is taken."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from detecting import CLASSES, SHAPE, build, by_hand, images, network, source

from bdjax import train
from bdjax.detection.psbd import choose, drop, places, shift
from bdjax.errors import InvalidInput
from bdjax.keys import root, stream
from bdjax.types import Given, Layer, Net, Weights


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def summing() -> Net:
    """A network whose one residual sum is the image's mean color, which is its logits times ten."""

    def apply(weights, image, train=False, weight=None, edit={}):  # noqa: B006, as Net says
        found = edit.get("add", lambda x: x)(jnp.mean(image, (1, 2)))
        return 10 * found, {}, {"add": found}

    return Net(lambda key: Weights({}, {}), apply, (Layer("add", "add", (), "add"),))


def test_dropout_keeps_the_mean_and_depends_on_the_row_alone():
    rows, ones = jnp.arange(5), jnp.ones((5, 40, 40))
    found = drop(root(0), rows, 0.75, ones)
    assert set(np.unique(found)) == {0, 4}
    assert abs(np.mean(found == 0) - 0.75) < 4 * np.sqrt(0.75 * 0.25 / found.size)
    np.testing.assert_array_equal(found[3:], drop(root(0), rows[3:], 0.75, ones[3:]))
    np.testing.assert_array_equal(drop(root(0), rows, 0.0, ones), ones)


def test_a_higher_rate_drops_more_of_the_same():
    ones = jnp.ones((2, 100))
    low, high = (drop(root(0), jnp.arange(2), rate, ones) == 0 for rate in (0.2, 0.6))
    assert (high | ~low).all() and high.sum() > low.sum()


def test_loss_of_confidence_by_hand():
    """The mean over two passes of softmax under the masks that `drop` makes, by NumPy."""
    net, image = summing(), images(6)
    mean = image.mean((1, 2))
    label = mean.argmax(1)

    def share(logits):
        found = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        return found[np.arange(6), label], found.argmax(1) != label

    passes = [
        share(
            10
            * np.asarray(
                drop(stream(jax.random.fold_in(root(1), number), "add"), jnp.arange(6), 0.5, jnp.asarray(mean))
            )
        )
        for number in range(2)
    ]
    lost, moved = shift(net, None, root(1), jnp.asarray(image), jnp.arange(6), 0.5, 2)
    np.testing.assert_allclose(lost, share(10 * mean)[0] - np.mean([one for one, _ in passes], 0), rtol=1e-10)
    np.testing.assert_allclose(moved, np.mean([one for _, one in passes], 0))
    assert 0 < np.mean(moved) < 1


@pytest.mark.parametrize(
    ("clean", "suspect", "moved", "taken"),
    [
        ([0.1, 0.85, 0.9, 1.0], [0.0, 0.8, 0.7, 0.95], 0.8, 2),
        ([0.1, 0.85, 0.9, 1.0], [0.0, 0.8, 0.7, 0.95], 0.95, 3),
        ([0.3, 0.2, 0.5], [0.0, 0.1, 0.3], 0.8, 0),  # none moves enough: among all
        ([0.9, 0.1, 0.9], [0.8, 0.0, 0.5], 0.8, 2),  # not consecutive
    ],
)
def test_the_rate_is_that_of_the_largest_difference_among_those_that_move_enough(clean, suspect, moved, taken):
    assert choose(jnp.array(clean), jnp.array(suspect), moved) == taken


def test_dropout_follows_residual_sums_or_else_rectifiers():
    small = network()
    deep = tiny.network("preact_resnet18", SHAPE, CLASSES, (0.4,) * 3, (0.3,) * 3, width=1)
    assert places(small) == ["relu1", "relu2", "relu3"]
    assert places(deep) == [f"layer{stage}_{block}.add" for stage in (1, 2, 3, 4) for block in (0, 1)]
    with pytest.raises(InvalidInput, match="choose a network"):
        build("psbd", by_hand(lambda image: image[:, 0, 0]), SHAPE, CLASSES)


def test_rows_that_lose_less_than_a_quarter_of_clean_ones_are_flagged():
    made, settings = build("psbd", summing(), SHAPE, CLASSES)
    clean, score = -jnp.array([0.1, 0.2, 0.3, 0.4, 0.5]), -jnp.array([0.19, 0.2, 0.21, -0.3])
    flagged = made.threshold((), score, clean, Given(settings, None))
    np.testing.assert_array_equal(flagged, [True, False, False, True])


def test_counts_of_both_sets_become_shares():
    """Of 10 training and 4 clean rows: shares 0.1, 0.5, 0.9 and 0.25, 1, 1, so the second rate is taken."""
    made, settings = build("psbd:rates=3", summing(), SHAPE, CLASSES)
    moved = jnp.array([[1.0, 1.0], [5.0, 4.0], [9.0, 4.0]])
    given = Given(settings, None, suspects=source(images(10)), clean=source(images(4)), carry={"moved": moved})
    assert made.fit(root(0), summing(), None, given)["rate"] == 0.5


def test_one_pass_counts_what_moves_in_both_sets():
    """At most as much as there are rows; the stage's counts are those of `shift` over all of them."""
    net, judged, clean = summing(), images(30), images(20, 1)
    made, settings = build("psbd:rates=2", net, SHAPE, CLASSES)
    given = Given(
        settings, lambda key, image: image, suspects=source(judged), clean=source(clean), victim=net.init(root(0))
    )
    found = train.fit(root(0), made.stages[0], lambda _: given, ()).carry["moved"]
    key = stream(stream(root(0), "init"), "measure")
    both = jnp.asarray(np.concatenate([judged, clean]))
    for place, rate in enumerate((1 / 3, 2 / 3)):
        moved = shift(net, None, key, both, jnp.arange(50), rate, 3)[1]
        np.testing.assert_allclose(found[place], [moved[:30].sum(), moved[30:].sum()])
