"""What every comparison needs: one network in both libraries, a batch, and a measure of difference."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import torch

import bdjax
from bdjax.bench import torch_networks
from bdjax.io.foreign.torch_weights import from_torch
from bdjax.types import Net, Weights

TOLERANCE = 1e-4
CLASSES = 10


class Comparison(NamedTuple):
    """A method beside its authors' code."""

    repository: str  # owner/name
    revision: str  # commit
    compare: Callable[[Path], dict[str, float]]  # folder with that code -> relative differences by name
    departures: tuple[str, ...] = ()


class Pair(NamedTuple):
    """One network in both libraries, float64, the same weights."""

    net: Net
    weights: Weights
    module: torch.nn.Module


def pair(name: str = "preact_resnet18", width: int = 4, size: int = 32, seed: int = 0) -> Pair:
    """A random network without normalisation of its images: ours takes [0, 1], as theirs then does.

    Args:
        name: preact_resnet18 or resnet18.
        width: channels of its first stage.
        size: pixels a side.
        seed: of its weights.
    """
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(seed)
    module = torch_networks.network(name, width, CLASSES)
    with torch.no_grad():  # statistics and scales away from 0 and 1, so that a mix-up shows
        for key, value in module.state_dict().items():
            if value.ndim == 1 and key.rsplit(".", 1)[-1] in ("weight", "running_var"):
                value.uniform_(0.5, 1.5)
            elif value.ndim == 1:
                value.normal_(0.0, 0.1)
    model = bdjax.MODELS[name]
    static = {key: setting.default for key, setting in model.card.settings.items()} | {"width": width}
    net = model.make((size, size, 3), CLASSES, (0.0,) * 3, (1.0,) * 3, **static)
    return Pair(net, weights(net, module), module)


def weights(net: Net, module: torch.nn.Module) -> Weights:
    """The weights of a PyTorch module as ours."""
    return from_torch({name: value.detach().numpy().copy() for name, value in module.state_dict().items()}, net)


def batch(count: int = 8, size: int = 32, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Images float64 (count, size, size, 3) in [0, 1] and labels int32 (count,)."""
    draw = np.random.RandomState(seed)
    return draw.uniform(size=(count, size, size, 3)), draw.randint(CLASSES, size=count).astype(np.int32)


def to_torch(image: np.ndarray) -> torch.Tensor:
    """Images (b, height, width, channels) as PyTorch wants them, (b, channels, height, width)."""
    return torch.tensor(np.asarray(image).transpose(0, 3, 1, 2).copy())


def relative(ours, theirs) -> float:
    """norm(ours - theirs) / norm(theirs) over all leaves of two trees alike."""
    pairs = list(zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True))
    difference = sum(float(np.sum((np.asarray(a) - np.asarray(b)) ** 2)) for a, b in pairs)
    return float(np.sqrt(difference / sum(float(np.sum(np.asarray(b) ** 2)) for _, b in pairs)))


def module(folder: Path, path: str):
    """One file of the authors' code as a module; the folder itself is importable from then on."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    spec = importlib.util.spec_from_file_location(Path(path).stem, folder / path)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded
