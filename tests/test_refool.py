"""Refool: the optics by hand, what a row and a query get, the pictures that are drawn and a user's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdjax.attacks import ATTACKS
from bdjax.attacks.parts.reflections import blurring, doubled, enlarging, hill, unfocused
from bdjax.attacks.parts.scenes import scenes
from bdjax.attacks.refool import Reflection, drawn, reflected
from bdjax.cards import lookup
from bdjax.errors import InvalidInput
from bdjax.keys import root
from bdjax.types import POISONED

SEED = np.array([0, 1], np.uint32)
LABEL = jnp.arange(20) % 10


def build(settings: str = "", shape=(16, 16, 3)):
    spec = lookup(f"refool:{settings}" if settings else "refool", ATTACKS, "attack")
    attack = ATTACKS["refool"].make(None, shape, 10, **spec.static)
    return attack, spec.traced, attack.prepare(root(0), None, None, spec.traced)


def poisoned(attack, traced, count: int = 2):
    return attack.init(root(0), (), traced, LABEL, -jnp.arange(20.0), jnp.int32(count))


def one(**changes) -> Reflection:
    shift = jnp.array([0.0, 0.0])
    return Reflection(0.0, 0.0, 0.4, shift, 0.3, 2.0, 1.1)._replace(**changes)


def test_in_focus_light_is_added_and_not_levels():
    image, picture = jnp.full((16, 16, 1), 0.5), jnp.full((16, 16, 1), 0.8)
    result = reflected(image, picture, one(kind=0.6, shift=jnp.array([3.0, 5.0])), 0.5, 0.5)
    # 0.4 * 0.5**2.2 + 0.6 * 0.8**2.2 = 0.087055 + 0.367235 of light
    np.testing.assert_allclose(result, 0.454290 ** (1 / 2.2), rtol=1e-5)


def test_a_ghost_is_the_picture_twice_and_enlarged():
    dot = jnp.zeros((20, 20, 1)).at[12, 9, 0].set(1.0)
    # Pixels 4 to 19 and 0 to 15, 16 each way, become 20.
    ghost = doubled(dot, jnp.array([4.0, 4.0]), 0.3)[:, :, 0]
    down, across = enlarging(20, 4.0, 4.0)[:, 12], enlarging(20, 4.0, 4.0)[:, 9]
    down2, across2 = enlarging(20, 4.0, 0.0)[:, 12], enlarging(20, 4.0, 0.0)[:, 9]
    np.testing.assert_allclose(ghost, 0.3 * np.outer(down, across) + 0.7 * np.outer(down2, across2), atol=1e-6)
    assert np.unravel_index(np.argmax(ghost), ghost.shape) == (15, 11)  # of the stronger one, (12.5, 9.5) 20 / 16 - 0.5


def test_enlarging_is_bilinear_between_pixel_centres():
    matrix = enlarging(4, 2.0, 1.0)  # pixels 1 and 2 become four: centres at -0.25, 0.25, 0.75, 1.25 of two
    np.testing.assert_allclose(matrix, [[0, 1, 0, 0], [0, 0.75, 0.25, 0], [0, 0.25, 0.75, 0], [0, 0, 1, 0]], atol=1e-6)
    np.testing.assert_array_equal(enlarging(5, 0.0, 0.0), np.eye(5))


def test_blur_is_cut_at_twice_sigma_and_mirrored():
    matrix = np.asarray(blurring(32, 1.2))
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-6)
    np.testing.assert_array_equal(np.flatnonzero(matrix[16]), np.arange(13, 20))  # ceil(2.4) = 3 to each side
    np.testing.assert_allclose(matrix[16, 18] / matrix[16, 16], np.exp(-((2 / 1.2) ** 2) / 2), rtol=1e-5)
    np.testing.assert_allclose(matrix[1, 1], matrix[16, 16] + matrix[16, 18], rtol=1e-5)  # 1 again, beyond the border
    np.testing.assert_allclose(matrix[0, 0], matrix[16, 16], rtol=1e-6)  # the border itself is not doubled


def test_out_of_focus_what_is_too_bright_together_is_taken_off():
    dark, bright = jnp.full((16, 16, 1), 0.3), jnp.full((16, 16, 1), 0.9)
    np.testing.assert_allclose(unfocused(dark, dark, 2.0, 1.1), 0.3, rtol=1e-5)
    np.testing.assert_allclose(unfocused(bright, dark, 2.0, 1.1), 0.9 - 0.2 * 1.1, rtol=1e-4)


def test_out_of_focus_is_strongest_in_the_centre():
    np.testing.assert_allclose(hill(32).max(), 1)
    np.testing.assert_allclose(hill(33)[16], 1)
    np.testing.assert_allclose(hill(32)[0], np.exp(-((3 / 1) ** 2) / 4), rtol=0.02)  # at 3 deviations


def test_each_kind_has_its_share_and_numbers_their_ranges():
    trigger = {"least": jnp.array(0.55), "most": jnp.array(0.95)}
    draw = jax.vmap(lambda key: drawn(key, trigger, jnp.float32))(jax.random.split(root(3), 2000))
    np.testing.assert_allclose(jnp.mean(draw.kind < 0.25), 0.25, atol=4 * np.sqrt(0.19 / 2000))
    np.testing.assert_array_equal(np.unique(draw.shift), np.arange(3, 9))
    assert draw.stays.min() >= 0.55 and draw.stays.max() <= 0.95 and np.ptp(draw.stays) > 0.39
    assert draw.sigma.min() >= 1 and draw.sigma.max() <= 5
    share = np.minimum(draw.share, 1 - draw.share)
    assert share.min() >= 0.15 and share.max() <= 0.5 and abs(np.mean(draw.share > 0.5) - 0.5) < 0.05


def test_rows_and_queries_have_reflections_of_their_own():
    attack, traced, assets = build()
    trigger = poisoned(attack, traced).trigger
    image = jnp.full((16, 16, 3), 0.4)
    first, again, other = (attack.stamp(assets, trigger, image, jnp.int32(row)) for row in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first, attack.query(assets, trigger, image, jnp.int32(1)))


def test_rows_of_the_target_keep_their_label_and_others_are_left_alone():
    attack, traced, _ = build("target=3")
    result = poisoned(attack, traced)
    np.testing.assert_array_equal(result.role == POISONED, LABEL == 3)
    np.testing.assert_array_equal(result.label, LABEL)


def test_the_benchmark_gives_rows_the_target_and_stores_whole_levels():
    attack, traced, assets = build("preset=benchmark", (32, 32, 3))
    result = poisoned(attack, traced)
    np.testing.assert_array_equal(result.role == POISONED, np.arange(20) < 2)
    assert (result.label[:2] == 0).all()
    stamped = attack.stamp(assets, result.trigger, jnp.full((32, 32, 3), 0.5), jnp.int32(0)) * 255
    np.testing.assert_allclose(stamped, jnp.round(stamped), atol=1e-4)
    # 0.4 of the light always stays: 255 * (0.4 * 0.5**2.2)**(1 / 2.2) = 84.07
    assert stamped.min() >= 84


@pytest.mark.parametrize(("settings", "goal"), [("labels=dirty,goal=all_to_all", [1, 2, 0]), ("target=2", [2, 2, 2])])
def test_goals(settings, goal):
    spec = lookup(f"refool:{settings}", ATTACKS, "attack")
    attack = ATTACKS["refool"].make(None, (16, 16, 1), 3, **spec.static)
    np.testing.assert_array_equal(attack.goal(jnp.arange(3)), goal)


def test_scenes_are_as_bright_and_varied_as_photographs():
    made = scenes(SEED, 40, 32, 32, "natural") / 255
    assert 0.3 < made.mean() < 0.5
    assert 0.14 < made.std((1, 2)).mean() < 0.24  # CIFAR-10 has 0.2
    assert len({picture.tobytes() for picture in made}) == 40


def test_dim_scenes_have_the_light_of_released_reflections():
    made = scenes(SEED, 40, 32, 32, "dim") / 255
    assert 0.1 < made.mean() < 0.3  # theirs 0.21
    assert 0.06 < made.std((1, 2)).mean() < 0.11  # theirs 0.085


def test_scenes_come_from_their_seed():
    np.testing.assert_array_equal(scenes(SEED, 2, 16, 24, "dim"), scenes(SEED, 2, 16, 24, "dim"))
    assert (scenes(SEED, 1, 16, 16, "natural") != scenes(SEED + 1, 1, 16, 16, "natural")).any()


def test_a_users_folder_takes_the_place_of_scenes(tmp_path):
    from PIL import Image

    for number, level in enumerate((40, 200)):
        Image.new("RGB", (50, 30), (level, level, 0)).save(tmp_path / f"{number}.png")
    _, _, assets = build(f"folder={tmp_path}")
    assert assets["pictures"].shape == (2, 16, 16, 3)
    np.testing.assert_array_equal(np.unique(assets["pictures"][..., 0]), [40, 200])


def test_what_cannot_be_is_refused(tmp_path):
    with pytest.raises(InvalidInput, match="goal=all_to_all,sources=any with labels=clean"):
        build("goal=all_to_all")
    with pytest.raises(InvalidInput, match="goal=all_to_one,sources=3 with labels=clean"):
        build("sources=3")
    with pytest.raises(InvalidInput, match="0 files; give a folder of 1 to"):
        build(f"folder={tmp_path}")
