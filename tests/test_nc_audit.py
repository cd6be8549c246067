"""Neural Cleanse as an audit: a class that one pixel leads to is flagged, and what the figures say of norms."""

import jax.numpy as jnp
import numpy as np
import pytest

from bdjax.audits import AUDITS
from bdjax.cards import lookup
from bdjax.errors import InvalidInput
from bdjax.types import Given, Net, Trained

NORMS = (55.0, 60.0, 48.0, 52.0, 63.0, 12.0, 58.0, 50.0, 61.0, 57.0)


def measured(norms, text="nc") -> dict:
    spec = lookup(text, AUDITS, "audit")
    audit = AUDITS["nc"].make(Net(None, None, ()), (4, 4, 1), len(norms), **spec.static)
    found = audit.measure(None, None, Trained(None, {"norm": jnp.asarray(norms, jnp.float32)}), Given({}, None))
    return {name: np.asarray(value) for name, value in found.items()}


@pytest.mark.parametrize("name", ["nc", "mm_bd", "ban"])
def test_two_classes_are_refused(name):
    """Of two figures none stands out."""
    static = lookup(name, AUDITS, "audit").static
    with pytest.raises(InvalidInput, match=f"audit {name} .* give data with 3 or more classes"):
        AUDITS[name].make(None, (8, 8, 3), 2, **static)


@pytest.mark.parametrize(("text", "median", "deviation"), [("nc", 56, 4.5), ("nc:preset=benchmark", 55, 5)])
def test_a_small_norm_is_flagged_and_named(text, median, deviation):
    """The median is 56, between 55 and 57, or the lower one; the deviations' is between 4 and 5, or 5 of two."""
    found = measured(NORMS, text)
    assert found["detected"] == 1 and found["class"] == 5
    assert found["flagged"].tolist() == [0, 0, 0, 0, 0, 1, 0, 0, 0, 0]
    np.testing.assert_allclose(found["largest"], (median - 12) / (1.4826 * deviation), rtol=1e-5)


def test_a_large_norm_is_no_backdoor():
    found = measured([*NORMS[:5], 200.0, *NORMS[6:]])
    assert found["detected"] == 0 and found["flagged"].sum() == 0


def test_norms_all_alike_are_no_backdoor():
    found = measured([30.0] * 10)
    assert found["detected"] == 0 and np.isfinite(found["index"]).all()
