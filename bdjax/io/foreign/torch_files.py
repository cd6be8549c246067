"""PyTorch files, read without trust and written: arrays are numpy's. The only module that imports torch for files."""

import importlib.util
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bdjax.errors import InvalidInput
from bdjax.io.files import check_memory, write_atomically
from bdjax.types import PyTree

WRAPPERS = ("model", "state_dict", "net", "model_state_dict", "weights", "model_ema", "ema")
"""Names under which training scripts keep the state dict in a larger one, in the order in which they are tried."""


def load_state_dict(path: Path) -> dict[str, np.ndarray]:
    """The state dict in a PyTorch file, or under one of WRAPPERS in it, without DataParallel's prefix `module.`.

    The file is not trusted: only tensors, plain Python values and numpy arrays are unpickled. Archives, which torch
    writes since version 1.6, have checksums; older files have none.

    Raises:
        InvalidInput: torch is not installed, no such file, it is damaged, needs other code to be read, or holds no
            state dict.
    """
    return state_dict(load(path), repr(str(path)))


def state_dict(found: Any, where: str) -> dict[str, np.ndarray]:
    """The same of what `load` has read; where: its file, for the error."""
    for name in WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            found = found[name]
            break
    if not isinstance(found, Mapping) or not found or not all(map(is_tensor, found.values())):
        held = f"; it has {', '.join(map(str, found))[:80]}" if isinstance(found, Mapping) and found else ""
        raise InvalidInput(f"{where}: holds no state dict{held}; save one with torch.save(model.state_dict(), PATH)")
    arrays = {str(name).removeprefix("module."): array(value, where) for name, value in found.items()}
    if len(arrays) < len(found):
        raise InvalidInput(f"{where}: has names with and without module. before them; save the state_dict() of one")
    return arrays


def load(path: Path, advice: str = "save its state_dict()") -> Any:
    """What a PyTorch file holds; it is not trusted: only tensors, plain Python values and numpy arrays are unpickled.

    advice: what to do where it holds something else, for the error.

    Raises:
        InvalidInput: torch is not installed, no such file, it is damaged, or needs other code to be read.
    """
    where = repr(str(path))
    torch = _torch(f"{where}: reading it")
    if not Path(path).is_file():
        raise InvalidInput(f"{where}: no such file; give the path of a PyTorch file")
    try:
        _check_sums(path)
        with torch.serialization.safe_globals(_safe()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a hostile pickle can raise almost anything
        code = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it asks for {code[1]}" if code else type(error).__name__
        raise InvalidInput(f"{where}: not a file that torch can read safely ({reason}); {advice}") from error


def save(path: Path, content: PyTree) -> None:
    """Write nested dicts of plain values, with their numpy arrays as tensors, to a PyTorch file.

    Arrays that are to stay numpy's stand in a `Kept`.

    Raises:
        InvalidInput: torch is not installed.
    """
    torch = _torch(f"{str(path)!r}: writing it")

    def convert(value):
        if isinstance(value, dict):
            return {name: convert(each) for name, each in value.items()}
        if isinstance(value, Kept):
            return value.array
        return torch.from_numpy(value.copy()) if isinstance(value, np.ndarray) else value

    write_atomically(path, lambda temporary: torch.save(convert(content), temporary))


class Kept(NamedTuple):
    """A numpy array that `save` writes as what it is."""

    array: np.ndarray


def is_available() -> bool:
    """Whether torch is installed."""
    return importlib.util.find_spec("torch") is not None


def _torch(what: str):
    try:
        import torch
    except ImportError as error:
        raise InvalidInput(f"{what} needs torch, which is not installed; pip install 'bdjax[torch]'") from error
    return torch


def _check_sums(path: Path) -> None:
    """Compare the checksums of an archive's members: torch itself reads them as they are."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():
                raise zipfile.BadZipFile(damaged)


def _safe() -> list:
    """What of numpy the exports of attack benchmarks hold beside the weights."""
    from numpy._core.multiarray import _reconstruct, scalar

    kinds = (np.uint8, np.int8, np.int16, np.int32, np.int64, np.float16, np.float32, np.float64, np.bool_)
    old = [(function, f"numpy.core.multiarray.{function.__name__}") for function in (_reconstruct, scalar)]
    return [np.ndarray, np.dtype, _reconstruct, scalar, *old, *(type(np.dtype(kind)) for kind in kinds)]


def is_tensor(value: Any) -> bool:
    """Whether it is a tensor that numpy can hold."""
    import torch

    kinds = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.uint8, torch.bool)
    kinds += (torch.int8, torch.int16, torch.int32, torch.int64)
    whole = isinstance(value, torch.Tensor) and value.layout == torch.strided and not value.is_meta
    return whole and value.dtype in kinds


def array(tensor, where: str) -> np.ndarray:
    """A tensor on the CPU as numpy's; bfloat16, which numpy lacks, as float32. where: of its file, for the error.

    Raises:
        InvalidInput: it is larger than this machine's memory.
    """
    import torch

    check_memory(tensor.numel() * max(4, tensor.element_size()), where)  # strides of 0 make a large one of a few bytes
    tensor = tensor.detach().resolve_neg()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
