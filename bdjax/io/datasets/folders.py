"""A dataset of class folders: `train/<class>/*` and `test/<class>/*`.

Rules. Classes are the folders' names and rows their files', both sorted. Names that begin with a dot are passed over;
anything else that is no image in a class folder is an error, so that nothing is left out unseen. Images are read by
Pillow. All grey: one channel; otherwise grey and palette images become RGB. Rotation that EXIF notes is carried out.
An alpha channel is dropped where it is opaque. Transparent, animated and CMYK images, more than 8 bits a channel,
images of another size than the first, and links out of the dataset's folder are errors. Nothing is resized.
"""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bdjax.errors import InvalidInput
from bdjax.io.datasets import decode
from bdjax.io.datasets.splits import Splits, check
from bdjax.io.files import check_memory

FORM = "a dataset is train/<class>/* and test/<class>/*"
ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".webp")


class Listing(NamedTuple):
    """What lies in a dataset's folder."""

    classes: tuple[str, ...]
    files: dict[str, list[tuple[str, int]]]  # split -> (path from the root, class), in row order
    stamps: list[tuple[str, int, int]]  # (path from the root, bytes, nanoseconds of change) of every file


def listing(root: Path) -> Listing:
    """The classes and files under `root`, with no file opened.

    Raises:
        InvalidInput: a split or a class is missing or empty, there are fewer than two classes, something is not an
            image in a class folder, or a link leads outside `root`.
    """
    names = {split: [entry.name for entry in entries(root, split, folders=True)] for split in ("train", "test")}
    where = repr(str(root))
    for split, other in (("train", "test"), ("test", "train")):
        if lacking := sorted(set(names[other]) - set(names[split])):
            raise InvalidInput(f"{where}: class {lacking[0]!r} is in {other} but not in {split}; both need every class")
    classes = tuple(names["train"])
    if len(classes) < 2:
        raise InvalidInput(f"{where}: {len(classes)} class folder(s) in train; a classifier needs at least 2")
    files, stamps = {}, []
    for split in ("train", "test"):
        files[split] = []
        for label, name in enumerate(classes):
            found = entries(root, f"{split}/{name}", folders=False)
            if not found:
                raise InvalidInput(
                    f"{where}: class {name!r} has no image in {split}; every class needs one in train and in test"
                )
            for entry in found:
                path, state = f"{split}/{name}/{entry.name}", entry.stat()
                files[split].append((path, label))
                stamps.append((path, state.st_size, state.st_mtime_ns))
    return Listing(classes, files, stamps)


def entries(root: Path, folder: str, folders: bool, form: str = FORM) -> list[os.DirEntry]:
    """What a folder holds, sorted, dot names left out: only class folders, or only images.

    form: how the folder should look, for the error.

    Raises:
        InvalidInput: it cannot be read, something else is in it, or a link leads outside `root`.
    """
    home = Path(os.path.realpath(root))
    try:
        _check_inside(root / folder, home)
        with os.scandir(root / folder) as scan:
            found = sorted((entry for entry in scan if not entry.name.startswith(".")), key=lambda entry: entry.name)
        for entry in found:
            _check(entry, home, folders)
    except OSError as error:
        reason = f"{str(root / folder)!r}: {error.strerror}"
        raise InvalidInput(f"{reason}; {form}") from error
    return found


def _check(entry: os.DirEntry, home: Path, folders: bool) -> None:
    where = repr(entry.path)
    if entry.is_symlink():
        _check_inside(Path(entry.path), home)
    if folders and not entry.is_dir():
        raise InvalidInput(f"{where} is in no class folder; put images in that of their class, move other files away")
    if not folders and not (entry.is_file() and entry.name.lower().endswith(ENDINGS)):
        raise InvalidInput(f"{where} is no {', '.join(ending[1:] for ending in ENDINGS)} file; move it away")
    if not entry.name.isprintable():  # also names that are no valid UTF-8
        raise InvalidInput(f"{where}: a name with characters that cannot be printed; rename it")


def _check_inside(path: Path, home: Path) -> None:
    if not Path(os.path.realpath(path)).is_relative_to(home):
        raise InvalidInput(f"{str(path)!r} is a link out of the dataset's folder; copy what it leads to")


def read_splits(root: Path, found: Listing) -> Splits:
    """The images that `found` lists, decoded.

    Raises:
        InvalidInput: an image breaks one of the module's rules, or all together are larger than memory.
    """
    first = decode.image(root / found.files["train"][0][0])
    height, width, _ = first.shape
    count = sum(len(files) for files in found.files.values())
    check_memory(count * height * width * 3, repr(str(root)))
    train, test = (read_images(root, found.files[split], height, width) for split in ("train", "test"))
    if train.shape[-1] != test.shape[-1]:
        train, test = (np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:3], 3))) for image in (train, test))
    train_label, test_label = (
        np.array([label for _, label in found.files[split]], np.int32) for split in ("train", "test")
    )
    return check(Splits(found.classes, train, train_label, test, test_label), repr(str(root)))


def read_images(root: Path, files: list[tuple[str, int]], height: int, width: int) -> np.ndarray:
    """uint8 (n, height, width, 1) where every image is grey, else (n, height, width, 3)."""
    images = np.empty((len(files), height, width, 1), np.uint8)
    for row, (path, _) in enumerate(files):
        image = decode.image(root / path, (height, width))
        if image.shape[-1] > images.shape[-1]:
            images = np.repeat(images, 3, axis=-1)
        images[row] = image
    return images
