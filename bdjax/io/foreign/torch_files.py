"""Weights out of PyTorch files, as numpy arrays. The only module that imports torch, and only to read."""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from bdjax.errors import InvalidInput

WRAPPERS = ("model", "state_dict", "net", "model_state_dict")
"""Names under which training scripts keep the state dict in a larger one, in the order in which they are tried."""


def load_state_dict(path: Path) -> dict[str, np.ndarray]:
    """The state dict in a PyTorch file, or under one of WRAPPERS in it, without DataParallel's prefix `module.`.

    The file is not trusted: only tensors, plain Python values and numpy arrays are unpickled.

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
    return {str(name).removeprefix("module."): _array(value) for name, value in found.items()}


def _safe() -> list:
    """What of numpy the exports of attack benchmarks hold beside the weights."""
    from numpy._core.multiarray import _reconstruct, scalar

    kinds = (np.uint8, np.int8, np.int16, np.int32, np.int64, np.float16, np.float32, np.float64, np.bool_)
    old = [(function, f"numpy.core.multiarray.{function.__name__}") for function in (_reconstruct, scalar)]
    return [np.ndarray, np.dtype, _reconstruct, scalar, *old, *(type(np.dtype(kind)) for kind in kinds)]


def _plain(value) -> bool:
    """Whether it is a tensor that numpy can hold."""
    import torch

    return isinstance(value, torch.Tensor) and value.layout == torch.strided and not value.is_quantized


def _array(tensor) -> np.ndarray:
    import torch

    tensor = tensor.detach()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
