"""Adaptive-Blend: the pieces that a row gets, the whole picture in tests, and which rows cover."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdjax.attacks import ATTACKS
from bdjax.cards import lookup
from bdjax.data.images import to_uint8
from bdjax.errors import InvalidInput
from bdjax.keys import root
from bdjax.types import COVER, POISONED


def build(settings: str = "", shape=(32, 32, 3)):
    spec = lookup(f"adaptive_blend:{settings}", ATTACKS, "attack")
    return ATTACKS["adaptive_blend"].make(None, shape, 10, **spec.static), spec.traced


def poison(settings: str = "", count: int = 3):
    attack, traced = build(settings)
    label = jnp.arange(20) % 10
    return attack, label, attack.init(root(0), (), traced, label, -jnp.arange(20.0), jnp.int32(count))


def pieces(settings: str, row: int) -> np.ndarray:
    """Which of the pieces of 8x8 pixels differ from grey, bool (4, 4, 8, 8)."""
    attack, _, result = poison(settings)
    grey = jnp.full((32, 32, 3), 0.4)
    changed = np.asarray(attack.stamp((), result.trigger, grey, jnp.int32(row)) != grey).any(-1)
    return changed.reshape(4, 8, 4, 8).transpose(0, 2, 1, 3)


def test_a_training_row_gets_eight_whole_pieces_of_sixteen():
    shown = pieces("", 5)
    assert (shown.any((2, 3)) == shown.all((2, 3))).all()
    assert shown.all((2, 3)).sum() == 8


def test_pieces_are_drawn_for_each_row_and_again_the_same():
    assert (pieces("", 5) == pieces("", 5)).all()
    assert len({pieces("", row).all((2, 3)).tobytes() for row in range(6)}) == 6


def test_every_piece_is_shown_as_often():
    attack, _, result = poison("alpha=1")
    rows = jnp.arange(800)
    stamped = jax.vmap(attack.stamp, (None, None, None, 0))((), result.trigger, jnp.full((32, 32, 3), 0.4), rows)
    share = np.asarray((stamped != 0.4).any(-1)).mean(0)[4::8, 4::8]
    np.testing.assert_allclose(share, 0.5, atol=4 * np.sqrt(0.25 / 800))


def test_test_images_get_the_whole_picture_and_more_of_it():
    attack, _, result = poison("alpha=0.1,test_alpha=0.3,shown=16")
    image = jnp.full((32, 32, 3), 0.4)
    weak, strong = attack.stamp((), result.trigger, image, 0), attack.query((), result.trigger, image, 0)
    np.testing.assert_allclose(strong - image, 3 * (weak - image), atol=1e-6)


def test_rows_are_stored_at_the_nearest_level_and_halves_go_up():
    attack, _, result = poison("shown=16,alpha=0.5,storage=round")
    other, _, _ = poison("shown=16,alpha=0.5")
    image = jnp.asarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3)) / 255, float)
    stored, exact = (one.stamp((), result.trigger, image, 0) * 255 for one in (attack, other))
    np.testing.assert_array_equal(to_uint8(stored / 255), np.floor(np.asarray(exact) + 0.5 + 1e-4))
    assert (jnp.abs(exact % 1 - 0.5) < 1e-3).any()


@pytest.mark.parametrize(("settings", "covers"), [("", 3), ("cover_ratio=2", 6), ("cover_ratio=0", 0)])
def test_cover_rows_follow_the_poisoned_and_keep_their_label(settings, covers):
    _, label, result = poison(settings)
    np.testing.assert_array_equal(np.flatnonzero(result.role == POISONED), [0, 1, 2])
    np.testing.assert_array_equal(np.flatnonzero(result.role == COVER), np.arange(3, 3 + covers))
    np.testing.assert_array_equal(result.label, label.at[:3].set(0))


def test_a_users_picture_takes_the_place_of_the_drawn_one(tmp_path):
    from PIL import Image

    Image.new("RGB", (40, 20), (255, 128, 0)).save(tmp_path / "mine.png")
    attack, _, result = poison(f"picture={tmp_path}/mine.png,test_alpha=1")
    query = attack.query((), result.trigger, jnp.zeros((32, 32, 3)), 0)
    np.testing.assert_allclose(query, np.broadcast_to([1, 128 / 255, 0], (32, 32, 3)), rtol=1e-6)


def test_impossible_pieces_are_refused():
    with pytest.raises(InvalidInput, match="shown 17 of 16 pieces; choose at most 16"):
        build("shown=17")
    with pytest.raises(InvalidInput, match="40 pieces along 32x32 pixels"):
        build("pieces=40")
