"""A user's own pictures: files that an attack blends in instead of what it draws itself.

A setting that `picture_setting` made holds a path. The pictures are read when the attack is made, before anything is
trained, and `identified` puts their content in the path's place, so that results depend on what a file holds.
"""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from bdjax.cards import Card, Setting, Spec, split
from bdjax.data.images import FORMATS
from bdjax.errors import InvalidInput
from bdjax.paths import local, portable

UNIT = "path"
MOST = 10_000
"""Files that a folder of pictures may hold."""


def picture_setting(what: str) -> Setting:
    """A setting for a card: the path of `what`, empty for what is drawn here."""
    return Setting("", f"{what} to use instead of what is drawn here; empty for the latter", unit=UNIT)


def read_picture(path: str, shape: tuple[int, int, int]) -> np.ndarray:
    """The image file at `path`, resized to `shape` (height, width, channels): float64 in [0, 1], in whole levels.

    Resized bilinearly over all pixels that one of the result covers; grey where there are not three channels. White
    shows where it is transparent; of an animation it is the first frame.

    Raises:
        InvalidInput: there is no such file, or it is no image that can be read.
    """
    from PIL import Image

    height, width, channels = shape
    try:
        with Image.open(local(path), formats=FORMATS) as opened:
            pixels = np.asarray(_flat(opened).resize((width, height), Image.Resampling.BILINEAR)) / 255
    except Exception as error:  # decoders answer a damaged file with almost any exception
        reason = getattr(error, "strerror", None) or "damaged, or no image of 8 bits a channel"
        raise InvalidInput(f"{path!r}: {reason}; give an image file, {', '.join(FORMATS)}") from error
    return pixels if channels == 3 else np.round(pixels.mean(axis=2, keepdims=True) * 255) / 255


def read_pictures(folder: str, shape: tuple[int, int, int]) -> np.ndarray:
    """All image files in `folder` as `read_picture` gives them, in order of their names: float64 (n, *shape).

    Raises:
        InvalidInput: it is no folder, holds no or too many files, or one of them is no image.
    """
    return np.stack([read_picture(str(path), shape) for path in _files(folder)])


def identified(spec: Spec, card: Card) -> Spec:
    """The spec with the content of files in the place of their paths, and its text without their folders.

    For identities and results; `spec` itself builds the attack.

    A setting that names no file is left out, so that a card may get one without a change to what is stored.

    Raises:
        InvalidInput: a file is gone.
    """
    paths = {name for name, setting in card.settings.items() if setting.unit == UNIT}
    content = {name: _digest(spec.static[name]) for name in paths if spec.static[name]}
    others = {name: value for name, value in spec.static.items() if name not in paths}
    shown = {name: portable(spec.static[name], digest) for name, digest in content.items()}
    given = split(spec.text)[1] | shown
    text = f"{spec.name}:{','.join(f'{name}={value}' for name, value in given.items())}" if shown else spec.text
    return replace(spec, text=text, static=others | content)


def _flat(opened):
    """An open image upright and in RGB, on white."""
    from PIL import Image, ImageOps

    if opened.mode[0] in "IF":
        raise ValueError(opened.mode)
    upright = ImageOps.exif_transpose(opened).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright).convert("RGB")


def _files(folder: str) -> list[Path]:
    try:
        entries = sorted(path for path in Path(local(folder)).iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise InvalidInput(f"{folder!r}: {error.strerror}; give a folder of image files") from error
    if not 0 < len(entries) <= MOST:
        raise InvalidInput(f"{folder!r}: {len(entries)} files; give a folder of 1 to {MOST} image files")
    return entries


def _digest(path: str) -> str:
    files = _files(path) if Path(local(path)).is_dir() else [Path(local(path))]
    for file in files:
        if file.exists() and not file.is_file():  # a pipe or a device would never end
            raise InvalidInput(f"{str(file)!r}: no regular file; give one")
    try:
        contents = [hashlib.sha256(file.read_bytes()).digest() for file in files]
    except OSError as error:
        raise InvalidInput(f"{path!r}: {error.strerror}; give files that can be read") from error
    return hashlib.sha256(b"".join(contents)).hexdigest()
