"""Which strength is chosen: the last, the strongest within two points on held-out rows, or by ASR on the test set."""

import jax.numpy as jnp
import numpy as np
import pytest

from bdjax.defenses.parts.thresholds import BENCHMARK, accepted, strongest, towards
from bdjax.types import Batch, Given, Net, Source, Weights

ROWS = 100


def source(first: int) -> Source:
    """Rows whose only pixel is their number plus `first`, all of class 1."""

    def read(row):
        image = (row + first).astype(float).reshape(-1, 1, 1, 1)
        return Batch(image, jnp.ones(row.shape, jnp.int32), row, (row >= 0).astype(float))

    return Source(ROWS, read)


def net() -> Net:
    """Class 1 for a clean pixel below `right`, class 0 for a triggered one (from 1000 on) below 1000 + `moved`."""

    def apply(weights, image, **_):
        pixel, triggered = image[:, 0, 0, 0] % 1000, image[:, 0, 0, 0] >= 1000
        one = jnp.where(triggered, pixel >= weights.params["moved"], pixel < weights.params["right"])
        return jnp.stack([1 - one, one], axis=1).astype(float), {}, {}

    return Net(None, apply, ())


def weights(right: float, moved: float) -> Weights:
    return Weights({"right": jnp.asarray(right, float), "moved": jnp.asarray(moved, float)}, {})


def chosen(choose: str, victim, right, moved, allowed: float = 0.02, relative: bool = False) -> tuple[float, float]:
    table = jnp.asarray(right, float), jnp.asarray(moved, float)

    def prune(index):
        return weights(*(column[index] for column in table))

    given = Given(
        {"allowed": jnp.asarray(allowed)},
        None,
        valid=source(0) if choose == "valid" else None,
        victim=weights(*victim),
        target=jnp.zeros_like,
        queries=source(1000) if choose == "test" else None,
        test=source(0) if choose == "test" else None,
    )
    found = strongest(net(), given, jnp.arange(len(right)), prune, choose, relative).params
    return float(found["right"]), float(found["moved"])


def test_as_it_is_set():
    """The last, whatever it costs, and without any rows."""
    assert chosen("fixed", (90, 99), [90, 50, 10], [99, 50, 20]) == (10, 20)


@pytest.mark.parametrize(
    ("right", "allowed", "expected"),
    [
        ([90, 89, 88, 60], 0.02, 88),  # the strongest that loses two points of 90, and not more
        ([90, 89, 87, 60], 0.02, 89),
        ([90, 70, 89, 60], 0.02, 89),  # a milder one that loses more does not stop the search
        ([90, 89, 88, 95], 0.02, 95),
        ([90, 89, 88, 60], 0.5, 60),
        ([80, 70, 60, 50], 0.02, 90),  # none will do: the victim
    ],
)
def test_on_held_out_rows(right, allowed, expected):
    assert chosen("valid", (90, 99), right, [99] * 4, allowed)[0] == expected


@pytest.mark.parametrize(
    ("right", "moved", "expected"),
    [
        ([90, 85, 82, 80], [99, 50, 20, 0], 20),  # the last loses more than a tenth of the accuracy
        ([90, 85, 82, 80], [99, 10, 20, 0], 10),
        ([90, 85, 82, 80], [99, 99, 99, 0], 99),  # none below the victim's ASR: the victim
    ],
)
def test_as_the_benchmark_reads_the_test_set(right, moved, expected):
    found = chosen("test", (90, 99), right, moved, BENCHMARK["allowed"], BENCHMARK["relative"])
    assert found[1] == expected
    if expected == 99:
        np.testing.assert_array_equal(found, (90, 99))


def test_first_of_equals_on_the_test_set():
    assert chosen("test", (90, 99), [88, 87, 86], [20, 10, 10], 0.1, True) == (87, 10)


def test_accepted_changes():
    after = jnp.array([0.70, 0.73, 0.88, 0.97, 1.0])
    np.testing.assert_array_equal(accepted(False, 0.9, after, 0.02), [False, False, True, True, True])
    # A tenth of 0.9 is 0.09: as the benchmark has it, in both directions.
    np.testing.assert_array_equal(accepted(True, 0.9, after, 0.1), [False, False, True, True, False])


def test_strengths_end_as_set():
    np.testing.assert_allclose(towards(0.0, jnp.array(0.9), 4), [0, 0.3, 0.6, 0.9], atol=1e-7)
    np.testing.assert_allclose(towards(10.0, jnp.array(4.0), 3), [10, 7, 4], rtol=1e-7)
    assert towards(0.0, jnp.array(0.2), 7)[-1] == jnp.array(0.2)
