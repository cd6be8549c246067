"""Records of BackdoorBench: an attack's folder with `attack_result.pt` and its poisoned images as PNG files.

Wu et al., "BackdoorBench: A Comprehensive Benchmark of Backdoor Learning", NeurIPS 2022 Datasets and Benchmarks Track.

    attack_result.pt                   the victim's state_dict, and which rows are poisoned
    bd_train_dataset/CLASS/ROW.png     the poisoned training images, by true class
    bd_test_dataset/CLASS/ROW.png      the test images with the trigger
    defense/METHOD/defense_result.pt   the state_dict that a defense left

Rows are those of the clean data set in the benchmark's own order.
"""

import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from bdjax.errors import InvalidInput
from bdjax.io.datasets import decode
from bdjax.io.foreign import torch_files

RESULT, DEFENSES = "attack_result.pt", "defense"
TRAIN, TEST, CROSS = "bd_train_dataset", "bd_test_dataset", "cross_test_dataset"
KEYS = ("model_name", "num_classes", "model", "data_path", "img_size", "clean_data", "bd_train", "bd_test")

NETWORKS = {
    "preactresnet18": "preact_resnet18",
    "resnet34": "resnet34",
    "resnet50": "resnet50",
    "vgg19": "vgg19",
    "vgg19_bn": "vgg19_bn",
    "densenet161": "densenet161",
}
"""The benchmark's name of a network -> this library's, at its usual settings."""

NORMALIZATIONS = {
    **{name: name for name in ("cifar10", "cifar100", "tiny", "imagenet")},
    **{"gtsrb": "none", "celeba": "none", "mnist": "half"},
}
"""The benchmark's name of a data set -> what its networks subtract and divide by, a name for `normalization`."""

ADVICE = "give a record that keeps its images as PNG files, with nothing but tensors, arrays and plain values in it"


class Changed(NamedTuple):
    """The images of a split that differ from the clean ones, m of them, rows rising."""

    row: np.ndarray  # int64 (m,)
    shown: np.ndarray  # int64 (m,): the label that goes with the image
    true: np.ndarray  # int64 (m,)
    image: tuple[Path, ...]  # their files


class Record(NamedTuple):
    """A record, checked against itself; its images are not read yet."""

    network: str  # by the benchmark's name
    dataset: str
    classes: int
    size: tuple[int, int, int]  # height, width, channels
    state: dict[str, np.ndarray]
    train: Changed | None  # None where the attack poisons batch by batch, so that there is no poisoned set
    rows: int  # training rows in all; 0 where there is no poisoned set
    test: Changed  # the triggered images that are evaluated
    tests: int  # test rows in all
    crossed: bool  # whether the attack trains on noise rows too, which keep their label


def is_one(path: Path) -> bool:
    """Whether a path is a record's folder or the result in it."""
    return path.name == RESULT or (path / RESULT).exists()


def read(path: Path) -> Record:
    """The record in a folder, given by the folder or by the result in it.

    Raises:
        InvalidInput: torch is not installed, something is missing or damaged, needs other code to be read, leads out of
            the folder, or does not go together.
    """
    folder = path.parent if path.name == RESULT else path
    where, held = repr(str(folder / RESULT)), torch_files.load(folder / RESULT, ADVICE)
    if not isinstance(held, Mapping) or not set(KEYS) <= set(held):
        raise InvalidInput(f"{where}: no result of an attack; it must hold {', '.join(KEYS)}")
    state = torch_files.state_dict(held, where)
    try:
        size = tuple(int(side) for side in held["img_size"])
        if len(size) != 3 or not all(0 < side < 2**14 for side in size) or not 2 <= int(held["num_classes"]) < 2**16:
            raise ValueError("img_size or num_classes")
        rows, train = _changed(folder, TRAIN, held["bd_train"]) if held["bd_train"] is not None else (0, None)
        tests, test = _changed(folder, TEST, held["bd_test"])
    except InvalidInput:
        raise
    except Exception as error:  # of a hostile file any value can be anything
        raise InvalidInput(f"{where}: damaged or another tool's ({' '.join(str(error).split())[:80]})") from error
    network, dataset = (_printable(held[name]) for name in ("model_name", "clean_data"))
    crossed = (folder / CROSS).is_dir()
    return Record(network, dataset, int(held["num_classes"]), size, state, train, rows, test, tests, crossed)


def _printable(value: Any) -> str:
    return "".join(letter for letter in str(value)[:40] if letter.isprintable())


def _changed(folder: Path, name: str, held: Mapping[str, Any]) -> tuple[int, Changed]:
    """How many rows a split has, and those of them that are changed and used."""
    images = held["bd_data_container"]["data_dict"]
    marked, used = np.asarray(held["poison_indicator"]), np.asarray(held["original_index_array"])
    if marked.ndim != 1 or used.ndim != 1 or used.dtype.kind != "i" or not np.isin(marked, (0, 1)).all():
        raise ValueError(f"{name}: poison_indicator or original_index_array")
    if used.size and not 0 <= used.min() <= used.max() < marked.size:
        raise ValueError(f"{name}: rows from {used.min()} to {used.max()} of {marked.size}")
    used = np.unique(used)
    found = {int(row): entry for row, entry in images.items()}
    rows, shown, true, files = used[marked[used] == 1], [], [], []
    for row in rows.tolist():
        if row not in found:
            raise ValueError(f"{name}: no image of row {row}")
        entry = found[row]
        if not isinstance(entry, Mapping):
            raise InvalidInput(f"{folder}: {name} has its images in {RESULT}, pickled; {ADVICE}")
        labels = [int(label) for label in entry["other_info"]]
        shown.append(labels[0])
        true.append(labels[1])
        files.append(_inside(folder, name, entry["path"]))
    return marked.size, Changed(rows.astype(np.int64), np.array(shown, int), np.array(true, int), tuple(files))


def _inside(folder: Path, name: str, path: str) -> Path:
    """Where an image lies in the record's folder as it is here, whatever folder the benchmark ran in.

    Raises:
        InvalidInput: the path has no place there, or what is there is a link out of it.
    """
    parts = PurePosixPath(str(path)).parts
    if name not in parts or ".." in parts:
        raise InvalidInput(f"{folder}: the path {str(path)[:80]!r} is not in {name}; give the record as it was written")
    last = len(parts) - 1 - parts[::-1].index(name)
    file = folder.joinpath(*parts[last:])
    if not Path(os.path.realpath(file)).is_relative_to(os.path.realpath(folder)):
        raise InvalidInput(f"{str(file)!r} leads out of the record; copy what it leads to")
    if not file.is_file():
        raise InvalidInput(f"{str(file)!r}: no such file; give the record with its images")
    return file


def images(changed: Changed, size: tuple[int, int, int]) -> np.ndarray:
    """The images, uint8 (m, height, width, channels), read from their files.

    Raises:
        InvalidInput: a file is damaged or of another size.
    """
    found = np.zeros((changed.row.size, *size), np.uint8)
    for place, path in enumerate(changed.image):
        image = decode.image(path, size[:2])
        if image.shape[-1] > size[-1]:
            raise InvalidInput(f"{str(path)!r}: a colour image; the record's are of {size[-1]} channel")
        found[place] = image
    return found


def defended(path: Path) -> dict[str, Path]:
    """The results of defenses in a record's folder, by the defense's name."""
    folder = path.parent if path.name == RESULT else path
    found = sorted((folder / DEFENSES).glob("*/defense_result.pt"))
    home = os.path.realpath(folder)
    return {file.parent.name: file for file in found if Path(os.path.realpath(file)).is_relative_to(home)}


class Content(NamedTuple):
    """What `write` puts into a record."""

    network: str  # by the benchmark's name
    dataset: str
    classes: int
    state: Mapping[str, np.ndarray]
    rows: int  # training rows in all
    tests: int  # test rows in all
    train: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # row, label shown, true label, image uint8
    test: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def write(root: Path, name: str, content: Content) -> Path:
    """Write a record to root/record/name, as the benchmark finds it where `root` is its own folder.

    It takes the first `record` in the whole path for that folder.

    Raises:
        InvalidInput: torch is not installed.
    """
    folder = root / "record" / name
    size = content.train[3].shape[1:]
    sets = {
        "bd_train": _written(folder, name, TRAIN, content.train, content.rows, np.arange(content.rows)),
        "bd_test": _written(folder, name, TEST, content.test, content.tests, content.test[0].astype(np.int64)),
    }
    plain = {"model_name": content.network, "num_classes": content.classes, "clean_data": content.dataset}
    plain |= {"data_path": f"./data/{content.dataset}", "img_size": size}
    torch_files.save(folder / RESULT, plain | {"model": dict(content.state)} | sets)
    return folder


def _written(folder: Path, record: str, name: str, changed, count: int, used: np.ndarray) -> dict[str, Any]:
    """The images of a split as files, and what the result says of them."""
    from PIL import Image

    entries, marked = {}, np.zeros(count)
    for row, shown, true, image in zip(*changed, strict=True):
        place = f"{name}/{int(true)}/{int(row)}.png"
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(folder / place)
        # Whole numbers of Python as keys: those of numpy would need more code to be unpickled.
        entries[int(row)] = {"path": f"./record/{record}/{place}", "other_info": [int(shown), int(true)]}
        marked[row] = 1
    place = f"./record/{record}/{name}"
    return {
        "bd_data_container": {"save_folder_path": place, "data_dict": entries, "save_file_format": ".png"},
        "getitem_all": True,
        "getitem_all_switch": False,
        "original_index_array": torch_files.Kept(used),
        "poison_indicator": torch_files.Kept(marked),
        "save_folder_path": place,
    }
