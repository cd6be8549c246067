"""Which strength is chosen: the strongest within two points on held-out rows, or as the benchmark reads them."""

import jax.numpy as jnp
import numpy as np
import pytest

from bdjax.defenses.thresholds import strongest
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


def chosen(choose: str, victim, right, moved, allowed: float = 0.02) -> tuple[float, float]:
    table = jnp.asarray(right, float), jnp.asarray(moved, float)

    def prune(index):
        return weights(*(column[index] for column in table))

    given = Given(
        {"allowed": jnp.asarray(allowed)},
        None,
        valid=source(0),
        victim=weights(*victim),
        target=jnp.zeros_like,
        queries=source(1000),
        test=source(0),
    )
    found = strongest(net(), given, jnp.arange(len(right)), prune, choose).params
    return float(found["right"]), float(found["moved"])


@pytest.mark.parametrize(
    ("right", "allowed", "expected"),
    [
        ([90, 89, 88, 60], 0.025, 88),  # the strongest that loses two points of 90
        ([90, 70, 89, 60], 0.025, 89),  # a milder one that loses more does not stop the search
        ([90, 89, 88, 60], 0.5, 60),
        ([80, 70, 60, 50], 0.025, 90),  # none will do: the victim
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
    found = chosen("test", (90, 99), right, moved)
    assert found[1] == expected
    if expected == 99:
        np.testing.assert_array_equal(found, (90, 99))
