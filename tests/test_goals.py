"""Goals: whom an attack moves where, whose rows it may poison, and what of it counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdjax.attacks import ATTACKS
from bdjax.cards import lookup
from bdjax.data.poison import counted
from bdjax.errors import InvalidInput
from bdjax.keys import root
from bdjax.types import POISONED

CLASSES = 4
AIMED = ("badnets", "blended", "ftrojan", "refool", "trojannn", "low_frequency", "ssba", "issba", "poison_ink")


def build(name: str, settings: str, preset: str = "paper"):
    spec = lookup(f"{name}:preset={preset},{settings}", ATTACKS, "attack")
    return ATTACKS[name].make(None, (16, 16, 3), CLASSES, **spec.static), spec.traced


@pytest.mark.parametrize(
    ("settings", "goal", "eligible"),
    [
        ("target=1", [1, 1, 1, 1], [1, 1, 1, 1]),
        ("target=1,sources=others", [1, 1, 1, 1], [1, 0, 1, 1]),
        ("target=1,sources=3", [0, 1, 2, 1], [0, 0, 0, 1]),
        ("target=1,sources=3+0", [1, 1, 2, 1], [1, 0, 0, 1]),
        ("goal=all_to_all", [1, 2, 3, 0], [1, 1, 1, 1]),
        ("goal=all_to_all,sources=others", [1, 2, 3, 0], [1, 1, 1, 1]),
        ("goal=all_to_all,sources=3+0", [1, 1, 2, 0], [1, 0, 0, 1]),
    ],
)
def test_goals_class_by_class(settings, goal, eligible):
    attack, _ = build("badnets", settings)
    label = jnp.arange(CLASSES, dtype=jnp.int32)
    np.testing.assert_array_equal(attack.goal(label), goal)
    assert attack.goal(label).dtype == jnp.int32
    np.testing.assert_array_equal(attack.eligible(label), np.array(eligible, bool))
    np.testing.assert_array_equal(counted(label, attack.goal), goal != np.arange(CLASSES))


def test_only_rows_of_the_sources_are_poisoned_and_no_more_than_there_are():
    attack, traced = build("badnets", "target=1,sources=3")
    label = jnp.array([3, 1, 0, 3, 2, 3, 1, 0], jnp.int32)
    poison = jax.jit(lambda count: attack.init(root(0), (), traced, label, jnp.arange(8.0), count))
    # The order of poisoning is that of falling priority: rows 5, 3 and 0 are of class 3.
    for count, rows in ((0, []), (2, [3, 5]), (3, [0, 3, 5]), (8, [0, 3, 5])):
        found = poison(jnp.int32(count))
        np.testing.assert_array_equal(np.flatnonzero(found.role == POISONED), rows)
        np.testing.assert_array_equal(found.label, label.at[jnp.array(rows, int)].set(1))


@pytest.mark.parametrize("name", AIMED)
def test_every_attack_that_poisons_rows_of_other_labels_has_all_goals(name):
    preset = "benchmark" if name == "refool" else "paper"
    label = jnp.arange(CLASSES)
    np.testing.assert_array_equal(build(name, "target=2,sources=1", preset)[0].goal(label), [0, 2, 2, 3])
    np.testing.assert_array_equal(build(name, "goal=all_to_all", preset)[0].goal(label), [1, 2, 3, 0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("sources=4", r"badnets: sources 4; give any, others or classes below 4 joined by \+, not 0"),
        ("sources=0", "sources 0; give any"),
        ("sources=1+0", r"sources 1\+0; give any"),
        ("sources=other", "sources other; give any"),
        ("sources=1+", "give any"),
        ("goal=all_to_all,sources=4", r"sources 4; give any, others or classes below 4 joined by \+$"),
    ],
)
def test_sources_that_cannot_be_are_refused(settings, message):
    with pytest.raises(InvalidInput, match=message):
        build("badnets", settings)
