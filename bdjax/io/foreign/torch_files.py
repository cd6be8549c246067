"""Weights out of PyTorch files, as numpy arrays. The only module that imports torch, and only to read."""

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from bdjax.errors import InvalidInput
from bdjax.io.files import check_memory

WRAPPERS = ("model", "state_dict", "net", "model_state_dict")
"""Names under which training scripts keep the state dict in a larger one, in the order in which they are tried."""


def load_state_dict(path: Path) -> dict[str, np.ndarray]:
    """The state dict in a PyTorch file, or under one of WRAPPERS in it, without DataParallel's prefix `module.`.

    The file is not trusted: only tensors, plain Python values and numpy arrays are unpickled. Archives, which torch
    writes since version 1.6, have checksums; older files have none.

    Raises:
        InvalidInput: torch is not installed, no such file, it is damaged, needs other code to be read, or holds no
            state dict.
    """
    where = repr(str(path))
    try:
        import torch
    except ImportError as error:
        raise InvalidInput(
            f"{where}: reading it needs torch, which is not installed; pip install 'bdjax[torch]'"
        ) from error
    if not Path(path).is_file():
        raise InvalidInput(f"{where}: no such file; give the path of a PyTorch file")
    try:
        _check_sums(path)
        with torch.serialization.safe_globals(_safe()):
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a hostile pickle can raise almost anything
        code = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it asks for {code[1]}" if code else type(error).__name__
        raise InvalidInput(
            f"{where}: not a file that torch can read safely ({reason}); save its state_dict()"
        ) from error
    for name in WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            found = found[name]
            break
    if not isinstance(found, Mapping) or not found or not all(map(_plain, found.values())):
        raise InvalidInput(f"{where}: holds no state dict; save one with torch.save(model.state_dict(), PATH)")
    arrays = {str(name).removeprefix("module."): _array(value, where) for name, value in found.items()}
    if len(arrays) < len(found):
        raise InvalidInput(f"{where}: has names with and without module. before them; save the state_dict() of one")
    return arrays


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


def _plain(value) -> bool:
    """Whether it is a tensor that numpy can hold."""
    import torch

    kinds = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.uint8, torch.bool)
    kinds += (torch.int8, torch.int16, torch.int32, torch.int64)
    whole = isinstance(value, torch.Tensor) and value.layout == torch.strided and not value.is_meta
    return whole and value.dtype in kinds


def _array(tensor, where: str) -> np.ndarray:
    import torch

    check_memory(tensor.numel() * max(4, tensor.element_size()), where)  # strides of 0 make a large one of a few bytes
    tensor = tensor.detach().resolve_neg()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
