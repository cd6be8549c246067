"""Data sets, poisoned sets and pictures that are damaged, hostile or something else.

What is refused is refused in one line, within a minute; what is read is what an undamaged file gives. JPEG, BMP, PPM
and WebP have no checksums: a damaged image in them may be read as other pixels, and only has to be an image or refused.
"""

import io
import os
import pickle
import random
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import tiny

from faults import common, files

TRIES = 200  # a kind of file that is damaged; of what is not drawn, all


class Hostile:
    """Unpickling it makes a folder."""

    def __init__(self, path: Path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def run(tally, alone, tries: int, seed: int) -> None:
    """What somebody might give, then damages of what could be read."""
    draw = random.Random(seed)

    def some(cases: dict) -> list:
        return draw.sample(sorted(cases), min(tries, len(cases)))

    for name in some(ARRAYS):
        _arrays(tally, alone, name)
    for name in some(ARCHIVES):
        _archive(tally, alone, name)
    for name in some(FOLDERS):
        _folder(tally, alone, name)
    _unreadable(tally, alone)
    for number in range(tries):
        how = files.HOWS[number % len(files.HOWS)]
        _damaged_archive(tally, alone, how, draw)
        _damaged_image(tally, alone, "png", how, draw)
        _damaged_image(tally, alone, ("jpg", "bmp", "ppm", "webp")[number // 4 % 4], how, draw)
        _damaged_cache(tally, alone, how, draw)


# Arrays in an .npz: names of arrays -> what takes their place, given the right ones; None removes an array.

_IMAGE, _LABEL = (
    ("train_image", "test_image", "query_image"),
    ("train_label", "test_label", "poison_label", "query_label"),
)

ARRAYS: dict[str, tuple[tuple[str, ...], Callable]] = {
    "missing": ((*_IMAGE, *_LABEL, "poison_row"), lambda array: None),
    "floats": ((*_IMAGE, *_LABEL, "poison_row"), lambda array: array / 255.0),
    "NaN": ((*_IMAGE, *_LABEL, "poison_row"), lambda array: np.full(array.shape, np.nan)),
    "complex": ((*_IMAGE, *_LABEL, "poison_row"), lambda array: array.astype(complex)),
    "texts": ((*_IMAGE, *_LABEL, "poison_row"), lambda array: array.astype(str)),
    "times": (_LABEL, lambda array: array.astype("datetime64[s]")),
    "true and false": ((*_IMAGE, *_LABEL, "poison_row"), lambda array: array > 0),
    "records": ((*_IMAGE, *_LABEL), lambda array: np.zeros(array.shape, [("a", "u1"), ("b", "f4")])),
    "one number": ((*_IMAGE, *_LABEL, "poison_row"), lambda array: array.reshape(-1)[0]),
    "none": ((*_IMAGE, *_LABEL, "poison_row"), lambda array: array[:0]),
    "one less": ((*_IMAGE, "train_label", "test_label", "query_label", "poison_label"), lambda array: array[:-1]),
    "flat": (_IMAGE, lambda array: array.reshape(len(array), -1)),
    "two channels": (_IMAGE, lambda array: array[..., :2]),
    "no height": (_IMAGE, lambda array: array[:, :0]),
    "other size": (("test_image", "query_image"), lambda array: array[:, :-1]),
    "five axes": (_IMAGE, lambda array: array[None]),
    "16 bits": (_IMAGE, lambda array: array.astype(np.uint16)),
    "negative": ((*_LABEL, "poison_row"), lambda array: array.astype(np.int64) - 5),
    "huge": ((*_LABEL, "poison_row"), lambda array: array.astype(np.int64) + 2**40),
    "unsigned and huge": ((*_LABEL, "poison_row"), lambda array: array.astype(np.uint64) + np.uint64(2**63)),
    "a class too many": (("train_label", "test_label"), lambda array: np.where(np.arange(array.size) == 1, 7, array)),
    "one class": (("train_label",), np.zeros_like),
    "twice": (("poison_row",), lambda array: np.full_like(array, array[0])),
    "true labels as goals": (("query_label",), lambda array: np.arange(array.size) % tiny.CLASSES),
    "mixed goals": (("query_label",), lambda array: np.arange(array.size) % 2),
}
ARRAYS = {f"{what}: {name}": (name, change) for what, (names, change) in ARRAYS.items() for name in names}


def _arrays(tally, alone, case: str) -> None:
    """An array is something else: the file is neither a data set, if that array is needed there, nor a poisoned set."""
    from bdjax.io import datasets
    from bdjax.io.datasets.poisoned_sets import load_set

    name, change = ARRAYS[case]
    arrays, path = tiny.poisoned_arrays(), alone.fresh() / "set.npz"
    changed = change(arrays.pop(name))
    path.parent.mkdir()
    np.savez(path, **arrays, **({} if changed is None else {name: changed}))
    with tally.trial("arrays of a data set or a poisoned set that cannot be", case, path.parent):
        refused(lambda: load_set(path))
        if name.startswith(("train", "test")):
            refused(lambda: datasets.load(str(path), cache=path.parent))


def refused(read: Callable) -> None:
    """It is refused in one line."""
    from bdjax.errors import InvalidInput

    with common.within(common.ANSWERED):
        try:
            found = read()
        except InvalidInput as error:
            assert str(error) and "\n" not in str(error)
            return
    raise AssertionError(f"read as {str(found)[:100]}")


def _member(content: bytes) -> Callable[[Path], None]:
    """An archive whose first array is these bytes."""

    def make(path: Path) -> None:
        with zipfile.ZipFile(path) as archive:
            held = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, "w") as archive:
            for name, old in held.items():
                archive.writestr(name, content if name == "train_image.npy" else old)

    return make


def _header(text: str, version: bytes = b"\x01\x00") -> bytes:
    header = text.encode() + b"\n"
    length = len(header).to_bytes(2 if version == b"\x01\x00" else 4, "little")
    return b"\x93NUMPY" + version + length + header


def _hostile(path: Path) -> None:
    arrays = tiny.arrays() | {"train_label": np.array([Hostile(path.parent / "made")], object)}
    np.savez(path, **arrays)


def _hostile_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(Hostile(path.parent / "made")))


def _zeros(path: Path) -> None:
    """A small archive of an array that is larger than memory."""
    shape = (40_000_000, 32, 32, 3)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("train_image.npy", "w") as file:
        file.write(_header(str({"descr": "|u1", "fortran_order": False, "shape": shape})))
        file.write(bytes(10**8))


def _doubled(path: Path) -> None:
    with zipfile.ZipFile(path, "a") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        archive.writestr("train_label.npy", b"another")


_DEEP = "{'descr': " + "(" * 3000 + ")" * 3000 + ", 'fortran_order': False, 'shape': (1,)}"

ARCHIVES: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("train_image"),
    "an archive of nothing": lambda path: zipfile.ZipFile(path, "w").close(),
    "one array, .npy": lambda path: np.save(path.open("wb"), np.zeros(3)),
    "Python objects that would run code": _hostile,
    "a pickle that would run code": _hostile_pickle,
    "more zeros than memory": _zeros,
    "a name twice": _doubled,
    "a header nested deep": _member(_header(_DEEP)),
    "a header nested deep, version 2": _member(_header("(" * 60_000, b"\x02\x00")),
    "a header that is no dict": _member(_header("[1, 2]")),
    "a header that is code": _member(_header("__import__('os').mkdir('made')")),
    "a header of version 9": _member(_header("{}", b"\x09\x00")),
    "a shape of texts": _member(_header("{'descr': '|u1', 'fortran_order': False, 'shape': ('a', 3)}")),
    "a shape of true": _member(_header("{'descr': '|u1', 'fortran_order': False, 'shape': (True, 3)}")),
    "a huge shape": _member(_header("{'descr': '|u1', 'fortran_order': False, 'shape': (" + "9" * 300 + ",)}")),
    "a negative shape": _member(_header("{'descr': '|u1', 'fortran_order': False, 'shape': (-1, 3)}")),
    "a type that is none": _member(_header("{'descr': 'nope', 'fortran_order': False, 'shape': (1,)}")),
    "no array": _member(b"\x89PNG"),
    "nothing": _member(b""),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "a device": lambda path: (path.unlink(), path.symlink_to("/dev/zero")),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a link to itself": lambda path: (path.unlink(), path.symlink_to(path.name)),
    "a link to nothing": lambda path: (path.unlink(), path.symlink_to("nothing")),
    "a file that cannot be read": lambda path: (path.unlink(), path.symlink_to("/proc/self/mem")),
}


def _archive(tally, alone, case: str) -> None:
    """As the file of a data set and of a poisoned set."""
    from bdjax.io import datasets
    from bdjax.io.datasets.poisoned_sets import load_set

    path = alone.fresh() / "set.npz"
    path.parent.mkdir()
    np.savez(path, **tiny.poisoned_arrays())
    ARCHIVES[case](path)
    with tally.trial("files that are no .npz, or a hostile one", case, path.parent):
        refused(lambda: load_set(path))
        refused(lambda: datasets.load(str(path), cache=path.parent))
        assert not (path.parent / "made").exists(), "code was run"


# Folders of images: what is done to one of two classes, two training images and one test image each.


def images(root: Path, ending: str = "png") -> Path:
    """Such a folder."""
    from PIL import Image

    draw = np.random.default_rng(0)
    for split, name in (("train", "a"), ("train", "b"), ("test", "a"), ("test", "b")):
        (root / split / name).mkdir(parents=True)
        for number in range(2 if split == "train" else 1):
            image = Image.fromarray(draw.integers(0, 256, (8, 8, 3), np.uint8))
            image.save(root / split / name / f"{number}.{ending}")
    return root


def _empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def _one_class(root: Path) -> None:
    for split in ("train", "test"):
        shutil.rmtree(root / split / "b")


def _saved(mode: str, size: tuple[int, int] = (8, 8), **options) -> Callable[[Path], None]:
    """The first training image is of another kind."""

    def change(root: Path) -> None:
        from PIL import Image

        Image.new(mode, size).save(root / "train" / "a" / "0.png", options.pop("format", "PNG"), **options)

    return change


def _bytes(content: bytes, name: str = "train/b/1.png") -> Callable[[Path], object]:
    return lambda root: (root / name).write_bytes(content)


def _links(target: str, name: str = "train/b/2.png") -> Callable[[Path], None]:
    return lambda root: (root / name).symlink_to(target)


FOLDERS: dict[str, Callable[[Path], object]] = {
    "empty": _empty,
    "no train": lambda root: shutil.rmtree(root / "train"),
    "no test": lambda root: shutil.rmtree(root / "test"),
    "train is a file": lambda root: (shutil.rmtree(root / "train"), (root / "train").write_text("")),
    "one class": _one_class,
    "no class": lambda root: (_empty(root / "train"), _empty(root / "test")),
    "an empty class": lambda root: _empty(root / "train" / "b"),
    "an empty class in test": lambda root: _empty(root / "test" / "b"),
    "a class in train alone": lambda root: (root / "train" / "c").mkdir(),
    "a class in test alone": lambda root: (root / "test" / "c").mkdir(),
    "an image in no class": _bytes(b"", "train/0.png"),
    "a text beside images": _bytes(b"text", "train/a/notes.txt"),
    "a folder beside images": lambda root: (root / "train" / "a" / "x.png").mkdir(),
    "a pipe": lambda root: os.mkfifo(root / "train" / "a" / "x.png"),
    "a name of two lines": _bytes(b"", "train/a/a\nb.png"),
    "a name that is no text": lambda root: open(os.fsencode(root) + b"/train/a/\xff.png", "w").close(),
    "a class whose name is no text": lambda root: os.mkdir(os.fsencode(root) + b"/train/\xff"),
    "a link out of the folder": _links("/etc/passwd"),
    "a link to itself": _links("2.png"),
    "a link to nothing": _links("nothing.png"),
    "a link to a device": _links("/dev/zero"),
    "a class that is a link": _links("/etc", "train/c"),
    "a class that is a link to its parent": _links("..", "train/c"),
    "a split that is a link": lambda root: (shutil.rmtree(root / "test"), (root / "test").symlink_to("/etc")),
    "an empty image": _bytes(b""),
    "a text as an image": _bytes(b"text"),
    "a web page as an image": _bytes(b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
    "a JPEG that breaks off": _bytes(b"\xff\xd8\xff\xe0\x00\x10JFIF", "train/b/2.jpg"),
    "a PNG of its header": _bytes(b"\x89PNG\r\n\x1a\n"),
    "an image of 8 gigapixels": _bytes(b"P6\n90000 90000\n255\n"),
    "an image of no pixels": _bytes(b"P6\n0 0\n255\n"),
    "an image of negative size": _bytes(b"P6\n-8 -8\n255\n"),
    "another size": _saved("RGB", (9, 8)),
    "a larger size": _saved("RGB", (5000, 5000)),
    "transparent": _saved("RGBA"),
    "16 bits": _saved("I;16"),
    "floats": _saved("F", format="TIFF"),
    "CMYK": _saved("CMYK", format="JPEG"),
    "TIFF": _saved("RGB", format="TIFF"),
    "EPS, which runs another program": _saved("RGB", format="EPS"),
}


def _folder(tally, alone, case: str) -> None:
    root = images(alone.fresh())
    FOLDERS[case](root)
    with tally.trial("folders of images that cannot be", case, root):
        _refused_folder(root, alone)


def _refused_folder(root: Path, alone) -> None:
    from bdjax.io import datasets

    refused(lambda: datasets.load(str(root), cache=alone.fresh()))


def _unreadable(tally, alone) -> None:
    """Files that this user may not read; as root, by another user."""
    cases = {"a file": "set.npz", "an image": "images/train/a/0.png", "a class": "images/train/a", "a folder": "images"}
    for what, name in cases.items():
        with tempfile.TemporaryDirectory() as place, tally.trial("what this user may not read", what):
            root = Path(place)
            root.chmod(0o755)
            images(root / "images")
            np.savez(root / "set.npz", **tiny.arrays())
            given = root / name.partition("/")[0]
            (cache := alone.fresh()).mkdir()
            assert digest(given, cache)  # and all that reads it is imported
            shutil.rmtree(cache)
            (root / name).chmod(0)
            try:
                if os.getuid() == 0:
                    os.seteuid(54321)
                refused(partial(digest, given, root))
            finally:
                os.seteuid(os.getuid())


def digest(path: Path, cache: Path) -> str:
    """The hash of the content of a data set."""
    from bdjax.io import datasets

    with common.within(common.ANSWERED):
        return datasets.load(str(path), cache=cache).digest


# Damages.


def same_or_refused(tally, kind: str, what: str, folder: Path, read: Callable, whole: object) -> None:
    """What is read equals what the whole file gives."""
    from bdjax.errors import InvalidInput

    with tally.trial(kind, what, folder):
        try:
            found = read()
        except InvalidInput as error:
            assert "\n" not in str(error)
        else:
            files.same(found, whole)


def _damaged_archive(tally, alone, how: str, draw: random.Random) -> None:
    """A poisoned set, stored and compressed, which has all arrays of a data set."""
    from bdjax.io.datasets.poisoned_sets import load_set

    path, whole = alone.fresh() / "set.npz", io.BytesIO()
    path.parent.mkdir()
    draw.choice((np.savez, np.savez_compressed))(whole, **tiny.poisoned_arrays())
    path.write_bytes(whole.getvalue())
    expected = load_set(path)
    path.write_bytes(files.damaged(whole.getvalue(), how, draw))
    kind = "poisoned sets with a damage: refused in one line or the same values"

    def read():
        with common.within(common.ANSWERED):
            return load_set(path)

    same_or_refused(tally, kind, how, path.parent, read, expected)


def _damaged_image(tally, alone, ending: str, how: str, draw: random.Random) -> None:
    from bdjax.io.datasets import decode

    root = images(alone.fresh(), ending)
    path = root / "train" / "b" / f"1.{ending}"
    expected = decode.image(path)
    path.write_bytes(files.damaged(path.read_bytes(), how, draw))

    def read():
        with common.within(common.ANSWERED):
            found = decode.image(path, (8, 8))
        if ending != "png":
            assert (found.shape[:2], found.dtype) == ((8, 8), np.uint8)
            return expected
        return found

    words = "the same values" if ending == "png" else "an image of that size"
    kind = f"{'PNG' if ending == 'png' else 'JPEG, BMP, PPM and WebP'} with a damage: refused in one line or {words}"
    same_or_refused(tally, kind, f"{ending} {how}", root, read, expected)


def _damaged_cache(tally, alone, how: str, draw: random.Random) -> None:
    """The file in which decoded images are kept: made again from the images."""
    root, cache = images(alone.fresh()), alone.fresh()
    cache.mkdir()
    expected = digest(root, cache)
    (path,) = cache.iterdir()
    path.write_bytes(files.damaged(path.read_bytes(), how, draw))
    with tally.trial("kept decoded images with a damage: the same values", how, root):
        assert digest(root, cache) == expected
    shutil.rmtree(cache)
