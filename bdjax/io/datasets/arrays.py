"""Arrays out of `.npz` files that are not trusted: what a file declares is checked before any of it is read."""

import math
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bdjax.errors import InvalidInput
from bdjax.io.files import check_memory


class Declared(NamedTuple):
    """What the header of an array says."""

    shape: tuple[int, ...]
    kind: np.dtype


def declared(path: Path, names: Iterable[str]) -> dict[str, Declared]:
    """The headers of the arrays `names` of an `.npz` file; no array is read.

    Raises:
        InvalidInput: no such file, no `.npz` file, a name that it lacks, an array of Python objects, a header that
            does not fit the file, or more bytes in all than the machine has memory.
    """
    path = Path(path)
    if not path.is_file():
        raise InvalidInput(f"{str(path)!r}: no such file; give the path of an .npz file")
    headers = {}
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename: info for info in archive.infolist()}
            for name in names:
                if f"{name}.npy" not in members:
                    held = ", ".join(sorted(member.removesuffix(".npy") for member in members)) or "nothing"
                    raise InvalidInput(f"{str(path)!r}: no array {name!r}; it holds {held[:200]!r}")
                headers[name] = _header(archive, members[f"{name}.npy"])
    except InvalidInput:
        raise
    except Exception as error:  # a hostile file can make the zip and header parsers raise almost anything
        raise _broken(path, error) from error
    for name, header in headers.items():
        if header.kind.hasobject:
            raise InvalidInput(f"{str(path)!r}: {name} holds Python objects; save plain numbers, without pickle")
    check_memory(sum(math.prod(header.shape) * header.kind.itemsize for header in headers.values()), repr(str(path)))
    return headers


def _header(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Declared:
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        reader = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, _, kind = reader(file)
        if min(shape, default=0) < 0:
            raise ValueError(f"{member.filename} declares the shape {shape}")
        size = math.prod(shape) * kind.itemsize
        if not kind.hasobject and file.tell() + size != member.file_size:
            raise ValueError(f"{member.filename} declares {size} bytes and holds {member.file_size - file.tell()}")
    return Declared(shape, kind)


def read(path: Path, names: Iterable[str]) -> dict[str, np.ndarray]:
    """The arrays `names` of an `.npz` file. Call `declared` first.

    Raises:
        InvalidInput: the file is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: np.ascontiguousarray(stored[name]) for name in names}
    except Exception as error:
        raise _broken(path, error) from error


def _broken(path: Path, error: Exception) -> InvalidInput:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return InvalidInput(f"{str(path)!r}: not a whole .npz file ({reason}); make it again with numpy.savez")
