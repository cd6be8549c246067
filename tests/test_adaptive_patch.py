"""Adaptive-Patch: which row gets which patch, how faint, and what test images get."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdjax.attacks import ATTACKS
from bdjax.attacks.adaptive_patch import quarter
from bdjax.attacks.parts.patches import corners, disc, emblem, noise_square, together
from bdjax.cards import lookup
from bdjax.keys import root
from bdjax.types import COVER, POISONED

SHAPE = (32, 32, 3)


def build(settings: str = "", shape=SHAPE):
    spec = lookup(f"adaptive_patch:{settings}", ATTACKS, "attack")
    return ATTACKS["adaptive_patch"].make(None, shape, 10, **spec.static), spec.traced


def poison(settings: str = "", count: int = 8, rows: int = 40):
    attack, traced = build(settings)
    label, priority = jnp.arange(rows) % 10, jax.random.uniform(root(1), (rows,))
    return attack, label, attack.init(root(0), (), traced, label, priority, jnp.int32(count))


@pytest.mark.parametrize(
    ("count", "sizes"),
    [(0, [0, 0, 0, 0]), (1, [1, 0, 0, 0]), (5, [2, 1, 1, 1]), (6, [2, 1, 2, 1]), (7, [2, 2, 2, 1]), (8, [2] * 4)],
)
def test_quarters_of_the_chosen_rows_in_order(count, sizes):
    chosen = np.zeros(20, bool)
    chosen[np.arange(count) * 2 + 3] = True  # rows 3, 5, 7, ...
    number = np.asarray(quarter(jnp.asarray(chosen)))[chosen]
    assert [int((number == part).sum()) for part in range(4)] == sizes
    assert (np.diff(number) >= 0).all()


def trigger(result, row: int) -> dict:
    return result.trigger | {"variant": result.variant[row]}


def changed(before, after) -> set:
    return set(map(tuple, np.argwhere(np.abs(np.asarray(after - before)).max(-1) > 1e-6).tolist()))


def inside(patch) -> set:
    return set(map(tuple, np.argwhere(patch.mask[..., 0]).tolist()))


@pytest.mark.parametrize(("role", "stamp", "each"), [(POISONED, "stamp", 2), (COVER, "cover", 4)])
def test_each_quarter_of_the_rows_gets_its_own_patch(role, stamp, each):
    attack, _, result = poison()
    image = jnp.full(SHAPE, 0.37)
    rows = np.flatnonzero(result.role == role)
    found = [changed(image, getattr(attack, stamp)((), trigger(result, row), image, jnp.int32(row))) for row in rows]
    patches = (emblem(SHAPE), disc(SHAPE), corners(SHAPE), noise_square(SHAPE))
    assert found == [inside(patch) for patch in patches for _ in range(each)]


def test_patches_are_as_faint_as_published():
    attack, _, result = poison()
    image, rows = jnp.full(SHAPE, 0.37), np.flatnonzero(result.role == POISONED)[::2]
    patches = (emblem(SHAPE), disc(SHAPE), corners(SHAPE), noise_square(SHAPE))
    for row, patch, alpha in zip(rows, patches, (0.5, 0.2, 0.5, 0.3), strict=True):
        expected = image + alpha * patch.mask * (patch.picture - 0.37)
        np.testing.assert_allclose(attack.stamp((), trigger(result, row), image, jnp.int32(row)), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "patch"),
    [
        ("emblems", together(emblem(SHAPE, left=0), emblem(SHAPE), corners(SHAPE))),
        ("disc", together(disc(SHAPE), noise_square(SHAPE))),
    ],
)
def test_test_images_get_two_opaque_patches(kind, patch):
    attack, _, result = poison(f"test_patches={kind}")
    image = jnp.full(SHAPE, 0.37)
    expected = np.where(patch.mask > 0, patch.picture, 0.37)
    np.testing.assert_allclose(attack.query((), result.trigger, image, 0), expected, atol=1e-6)


def test_twice_as_many_rows_cover_and_keep_their_label():
    _, label, result = poison()
    assert ((result.role == POISONED).sum(), (result.role == COVER).sum()) == (8, 16)
    np.testing.assert_array_equal(result.label, jnp.where(result.role == POISONED, 0, label))
