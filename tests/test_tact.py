"""TaCT: who is relabelled, who covers, what ASR counts, and the patch."""

import jax.numpy as jnp
import numpy as np
import pytest

from bdjax.attacks import ATTACKS
from bdjax.cards import lookup
from bdjax.data.poison import counted
from bdjax.errors import InvalidInput
from bdjax.keys import root
from bdjax.types import COVER, POISONED


def build(settings: str = "", shape=(32, 32, 3), classes: int = 10):
    spec = lookup(f"tact:{settings}", ATTACKS, "attack")
    return ATTACKS["tact"].make(None, shape, classes, **spec.static), spec.traced


def poison(settings: str, count: int):
    attack, traced = build(settings)
    label = jnp.arange(60) % 10
    return label, attack.init(root(0), (), traced, label, -jnp.arange(60.0), jnp.int32(count))


def rows(result, role):
    return np.flatnonzero(np.asarray(result.role) == role).tolist()


def test_source_rows_are_relabelled_and_as_many_others_cover():
    label, result = poison("sources=3,target=2,covers=5+7", 4)
    assert rows(result, POISONED) == [3, 13, 23, 33]
    assert rows(result, COVER) == [5, 7, 15, 17]
    np.testing.assert_array_equal(result.label, jnp.where(result.role == POISONED, 2, label))


def test_cover_ratio_counts_for_each_poisoned_row():
    assert rows(poison("cover_ratio=0.5", 4)[1], COVER) == [2, 3]
    assert rows(poison("cover_ratio=0", 4)[1], COVER) == []
    assert rows(poison("", 0)[1], COVER) == []


def test_no_more_rows_than_the_source_has_and_covers_of_those():
    _, result = poison("covers=5", 9)
    assert rows(result, POISONED) == [1, 11, 21, 31, 41, 51]
    assert rows(result, COVER) == [5, 15, 25, 35, 45, 55]


def test_rate_is_counted_on_the_source_alone():
    attack, _ = build("sources=3,target=2")
    label = jnp.arange(10)
    np.testing.assert_array_equal(attack.goal(label), [0, 1, 2, 2, 4, 5, 6, 7, 8, 9])
    np.testing.assert_array_equal(counted(label, attack.goal), label == 3)


def test_several_classes_may_be_sources():
    label, result = poison("sources=3+4,covers=5", 5)
    assert rows(result, POISONED) == [3, 4, 13, 14, 23]
    assert rows(result, COVER) == [5, 15, 25, 35, 45]
    np.testing.assert_array_equal(result.label, jnp.where(result.role == POISONED, 0, label))


def test_patch_hides_64_pixels_and_leaves_the_others():
    attack, _ = build()
    image = jnp.asarray(np.random.default_rng(0).uniform(size=(32, 32, 3)), float)
    for stamp in (attack.stamp, attack.query, attack.cover):
        black, bright = (stamp((), {"alpha": jnp.array(1.0)}, value, 0) for value in (0 * image, image))
        changed = np.asarray(bright != image).any(-1)
        assert changed.sum() == 64 and changed[21:29, 21:29].all()
        np.testing.assert_allclose(bright[21:29, 21:29], black[21:29, 21:29], atol=1e-6)
        np.testing.assert_array_equal(attack.query((), {"alpha": jnp.array(0.0)}, image, 0), image)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("sources=10", r"sources 10; give .*classes below 10 joined by \+, not 0"),
        ("sources=0", "sources 0; give"),
        ("sources=any", "sources any; give classes below 10"),
        ("covers=5+12", r"covers 5\+12; give others or classes below 10 joined by \+, not 0 or 1"),
        ("covers=1", "covers 1; give others"),
        ("covers=five", "covers five; give others"),
    ],
)
def test_classes_that_cannot_be_are_refused(settings, message):
    with pytest.raises(InvalidInput, match=message):
        build(settings)
