"""A user's own pictures: how a file becomes pixels, what is refused, and what tells results apart."""

import numpy as np
import pytest
from PIL import Image

from bdjax.attacks import ATTACKS
from bdjax.attacks.parts.pictures import identified, read_picture, read_pictures
from bdjax.cards import lookup
from bdjax.errors import InvalidInput


def levels(path, shape) -> np.ndarray:
    return np.round(read_picture(str(path), shape) * 255)


def spec(text: str):
    return identified(lookup(text, ATTACKS, "attack"), ATTACKS[text.partition(":")[0]].card)


def test_a_picture_of_the_right_size_keeps_its_pixels(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(levels(tmp_path / "a.png", (5, 7, 3)), pixels)


def test_a_larger_picture_is_averaged_down(tmp_path):
    checks = np.kron(np.indices((8, 8)).sum(0) % 2 * 200, np.ones((4, 4))).astype(np.uint8)
    Image.fromarray(checks).save(tmp_path / "a.png")
    assert set(np.unique(levels(tmp_path / "a.png", (1, 1, 3)))) <= {99, 100, 101}


def test_grey_is_the_mean_of_the_channels_and_grey_files_become_colour(tmp_path):
    Image.new("RGB", (4, 4), (10, 20, 60)).save(tmp_path / "colour.png")
    Image.new("L", (4, 4), 77).save(tmp_path / "grey.png")
    assert (levels(tmp_path / "colour.png", (4, 4, 1)) == 30).all()
    assert (levels(tmp_path / "grey.png", (4, 4, 3)) == 77).all()


def test_white_shows_where_a_picture_is_transparent(tmp_path):
    Image.new("RGBA", (4, 4), (0, 100, 0, 51)).save(tmp_path / "a.png")
    assert (levels(tmp_path / "a.png", (4, 4, 3)) == [204, 224, 204]).all()


def test_rotation_that_a_camera_notes_is_carried_out(tmp_path):
    pixels = np.zeros((4, 8, 3), np.uint8)
    pixels[:, :4] = 250
    rotated = Image.Exif()
    rotated[0x0112] = 6  # shown a quarter turn clockwise: what is left comes to the top
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=rotated, quality=100)
    shown = levels(tmp_path / "a.jpg", (8, 4, 1))
    assert (shown[:3] > 240).all() and (shown[5:] < 10).all()


def test_a_folder_is_read_in_order_of_names_without_hidden_files(tmp_path):
    for name, level in (("b.png", 2), ("a.png", 1), ("c.png", 3)):
        Image.new("L", (4, 4), level).save(tmp_path / name)
    (tmp_path / ".thumbs").write_text("no image")
    found = read_pictures(str(tmp_path), (4, 4, 1))
    np.testing.assert_array_equal(np.round(found[:, 0, 0, 0] * 255), [1, 2, 3])


def test_what_is_no_picture_is_refused_in_one_line(tmp_path):
    (tmp_path / "a.png").write_text("no image")
    Image.new("L", (4, 4)).save(tmp_path / "b.gif")
    Image.new("I;16", (4, 4), 500).save(tmp_path / "deep.png")
    reasons = {"a.png": "damaged", "b.gif": "no image", "deep.png": "no image of 8 bits", "none": "No such", "": "Is a"}
    for name, reason in reasons.items():
        with pytest.raises(InvalidInput, match=f"{reason}.*; give an image file, PNG, JPEG") as caught:
            read_picture(str(tmp_path / name), (4, 4, 3))
        assert "\n" not in str(caught.value)
    with pytest.raises(InvalidInput, match="No such file or directory; give a folder"):
        read_pictures(str(tmp_path / "none"), (4, 4, 3))


def test_results_depend_on_what_a_file_holds_and_not_on_where_it_is(tmp_path):
    for name, level in (("a.png", 1), ("same.png", 1), ("other.png", 2)):
        Image.new("L", (4, 4), level).save(tmp_path / name)
    first, same, other = (spec(f"blended:picture={tmp_path}/{name}.png").identity() for name in ("a", "same", "other"))
    assert first == same != other
    before = spec(f"refool:folder={tmp_path}").identity()
    Image.new("L", (4, 4), 9).save(tmp_path / "d.png")
    assert spec(f"refool:folder={tmp_path}").identity() != before


def test_without_a_picture_a_method_is_what_it_was_before_it_could_have_one():
    assert "picture" not in spec("blended:alpha=0.1").identity()
