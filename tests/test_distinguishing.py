"""The split of rows by sensitivity: both bounds, what they take, views drawn again, and the loss made of the split."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdjax import train
from bdjax.cards import lookup
from bdjax.data import sources
from bdjax.defenses import DEFENSES
from bdjax.defenses.parts.distinguishing import balance, bounds
from bdjax.errors import InvalidInput
from bdjax.keys import root
from bdjax.models import MODELS
from bdjax.types import Batch, Data, Given, Layer, Net, Weights

SHAPE, CLASSES, ROWS = (8, 8, 3), 3, 40


def test_bounds_by_hand():
    """Of 1 to 10 a share of .2 goes to the third smallest, s[2], and one of .1 from the largest on, s[9]."""
    score = jnp.array([3.0, 10, 1, 7, 5, 2, 9, 4, 8, 6])
    low, high = bounds(score, jnp.float32(0.2), jnp.float32(0.1))
    assert (float(low), float(high)) == (3, 10)


def test_no_share_takes_no_poisoned_row_and_the_lowest_score_alone_for_clean():
    low, high = bounds(jnp.array([2.0, 1, 3]), jnp.float32(0), jnp.float32(0))
    assert float(low) == 1 and np.isinf(high)


def test_loss_of_clean_rows_less_that_of_poisoned_ones_by_hand():
    """Logits (0, 0): ln 2. Logits (ln 3, 0): label 0 has ln(4/3), label 1 ln 4. The uncertain row counts for nothing.

    Clean: (ln 2 + ln 4) / 2; poisoned: ln(4/3); the padded row is of neither though the last row is poisoned.
    """
    logits = jnp.array([[0.0, 0], [np.log(3), 0], [np.log(3), 0], [9, 0], [9, 0]])
    label, row = jnp.array([0, 1, 0, 1, 1]), jnp.array([0, 1, 4, 2, -1])
    rows = Batch(jnp.zeros((5, 1, 1, 1)), label, row, jnp.array([1.0, 1, 1, 1, 0]))
    carry = {"clean": jnp.array([1, 1, 0, 0, 0], bool), "poisoned": jnp.array([0, 0, 0, 0, 1], bool)}
    given = Given({}, None, carry=carry)
    clean, poisoned = 1.5 * np.log(2), np.log(4 / 3)
    np.testing.assert_allclose(balance(logits, rows, given), clean - poisoned, rtol=1e-6)
    np.testing.assert_allclose(balance(logits, rows, given, 0.1), clean - 0.1 * poisoned, rtol=1e-6)
    none = Given({}, None, carry=carry | {"poisoned": jnp.zeros(5, bool)})
    np.testing.assert_allclose(balance(logits, rows, none), clean, rtol=1e-6)


def run(text):
    """What the split leaves, and the settings; a network of 2 channels, 40 rows of noise."""
    net = MODELS["small_cnn"].make(SHAPE, CLASSES, (0.5,) * 3, (0.25,) * 3, width=2)
    spec = lookup(f"d_br:split_epochs=1,split_tuning_epochs=1,split_batch=20,{text}", DEFENSES, "defense")
    draw = np.random.default_rng(0)
    label = jnp.asarray(draw.integers(0, CLASSES, ROWS), jnp.int32)
    data = Data(jnp.asarray(draw.integers(0, 256, (ROWS, *SHAPE)), jnp.uint8), label)

    def given(data):
        return Given(spec.traced, None, train=sources.split(data), suspects=sources.split(data))

    left = None
    for number, stage in enumerate(DEFENSES["d_br"].make(net, SHAPE, CLASSES, **spec.static)[:-1]):
        left = train.fit(root(number), stage, given, data, left)
    return jax.tree.map(np.asarray, left.carry)


def test_rows_are_split_by_their_own_scores():
    """A share of .2 of 40 rows takes s[8], and so 9 rows; one of .1 from s[36] on, and so 4."""
    found = run("clean_share=0.2,poisoned_share=0.1")
    assert (found["clean"].sum(), found["poisoned"].sum()) == (9, 4)
    ordered = np.argsort(found["score"])
    assert set(np.flatnonzero(found["clean"])) == set(ordered[:9])
    assert set(np.flatnonzero(found["poisoned"])) == set(ordered[-4:])


def test_where_views_are_drawn_again_the_bounds_are_of_others():
    """Both draw the first views by the same key; the second one compares scores of other views with their bounds."""
    once, again = (run(f"clean_share=0.5,poisoned_share=0.4,redraw={redraw}") for redraw in ("false", "true"))
    assert not np.allclose(once["score"], again["score"])
    ordered = np.sort(once["score"])
    np.testing.assert_array_equal(again["clean"], again["score"] <= ordered[20])
    np.testing.assert_array_equal(again["poisoned"], again["score"] >= ordered[24])
    assert (once["clean"].sum(), once["poisoned"].sum()) == (21, 16)
    assert (again["clean"].sum(), again["poisoned"].sum()) != (21, 16)


def test_a_network_without_layers_before_its_head_is_refused_by_name():
    layers = (Layer("linear", "linear", ("linear",), "linear"),)
    net = Net(lambda key: Weights({}, {}), lambda *_: None, layers)
    for name in ("d_br", "d_st"):
        spec = lookup(name, DEFENSES, "defense")
        with pytest.raises(InvalidInput, match=f"{name}: the linear layer reads the image"):
            DEFENSES[name].make(net, SHAPE, CLASSES, **spec.static)
