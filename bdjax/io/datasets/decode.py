"""One image file to pixels, by Pillow alone: another decoder might read the same file a little differently."""

from pathlib import Path

import numpy as np

from bdjax.data.images import FORMATS
from bdjax.errors import InvalidInput

VERSION = "pillow-1"
"""Raised when the same file would give other pixels, so that caches are made anew."""

GREY, COLOUR = frozenset({"1", "L", "LA"}), frozenset({"P", "PA", "RGB", "RGBA", "RGBX"})
ORIENTATION = 0x0112


def image(path: Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """The pixels of a file, uint8 (height, width, 1) where it is grey, else (height, width, 3).

    Args:
        path: a file in one of FORMATS, whatever its ending.
        size: the height and width that it must have; None takes any.

    Raises:
        InvalidInput: the file is damaged, of another size, too large for Pillow's limit, transparent, animated, of more
            than 8 bits a channel, or neither grey nor RGB.
    """
    from PIL import Image

    try:
        with Image.open(path, formats=FORMATS) as opened:
            return _pixels(opened, path, size)
    except InvalidInput:
        raise
    except Exception as error:  # decoders answer a damaged file with almost any exception
        reason = " ".join(str(error).split()).replace(repr(str(path)), "it")[:160]
        raise InvalidInput(f"{str(path)!r}: not a readable image ({reason}); replace or remove it") from error


def _pixels(opened, path: Path, size: tuple[int, int] | None) -> np.ndarray:
    from PIL import ImageOps

    where = repr(str(path))
    # Before decoding: a rotated image has the right number of pixels even where its sides are swapped.
    if size and opened.width * opened.height != size[0] * size[1]:
        raise _size(where, (opened.height, opened.width), size)
    if _deep(opened):
        raise InvalidInput(f"{where}: more than 8 bits a channel; convert it to 8")
    if opened.mode not in GREY | COLOUR:
        raise InvalidInput(f"{where}: colours of the mode {opened.mode}; convert it to grey or RGB")
    if getattr(opened, "is_animated", False) and opened.format != "MPO":
        raise InvalidInput(f"{where}: an animation; save one frame of it")
    if opened.has_transparency_data and opened.convert("RGBA").getchannel("A").getextrema()[0] < 255:
        raise InvalidInput(f"{where}: transparent pixels; put it on a background first")
    flat = opened.convert("L" if opened.mode in GREY else "RGB")
    pixels = np.asarray(ImageOps.exif_transpose(flat) if opened.getexif().get(ORIENTATION, 1) != 1 else flat)
    if size and pixels.shape[:2] != size:
        raise _size(where, pixels.shape[:2], size)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _deep(opened) -> bool:
    """Whether a channel has more than 8 bits, also where Pillow would quietly drop the lower ones."""
    if opened.mode[0] in "IF":
        return True
    codec = opened.tile[0] if opened.format in ("PNG", "PPM") else None
    if opened.format == "PNG":
        return "16" in codec.args
    return opened.format == "PPM" and codec.codec_name == "ppm" and codec.args[-1] > 255


def _size(where: str, given: tuple[int, ...], wanted: tuple[int, int]) -> InvalidInput:
    first = f"the first image has {wanted[1]}x{wanted[0]}"
    return InvalidInput(f"{where}: {given[1]}x{given[0]} pixels, {first}; resize all images to one size")
