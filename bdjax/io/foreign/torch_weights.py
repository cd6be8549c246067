"""Weights from PyTorch: a `state_dict` as arrays by name, in the layout of this library's networks.

It holds for networks whose modules are named as PyTorch models of the same architecture name theirs, up to dots:
`layer4.1.shortcut.0` here is `layer4_1`, `shortcut_0`. Those of preact_resnet18 are He, Zhang, Ren, Sun, "Identity
Mappings in Deep Residual Networks", ECCV 2016, https://arxiv.org/abs/1603.05027; those of resnet18 the same authors'
"Deep Residual Learning for Image Recognition", CVPR 2016, https://arxiv.org/abs/1512.03385.

PyTorch keeps convolutions as (out, in, height, width) and linear layers as (out, in); here they are (height, width, in,
out) and (in, out). The network normalises its own images, with the mean and std that it was made with.
"""

import re
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from bdjax.errors import InvalidInput
from bdjax.types import Net, Weights, real

LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
AXES = {2: (1, 0), 4: (2, 3, 1, 0)}
"""Axes of a kernel here, counted in PyTorch, by its number of axes."""


def from_torch(state: Mapping[str, np.ndarray], net: Net) -> Weights:
    """The weights of `net` from a PyTorch state_dict whose tensors were turned into numpy arrays.

    Raises:
        InvalidInput: a tensor that the network needs is missing, of another shape or not of floating-point numbers, or
            one is not the network's.
    """
    state = {name.removeprefix("module."): value for name, value in state.items()}
    wanted = jax.eval_shape(net.init, jax.random.key(0))
    used = set()

    def take(path, leaf):
        name = _torch_name(tuple(entry.key for entry in path[1:]))
        used.add(name)
        if name not in state:
            raise InvalidInput(
                f"the state_dict has no {name!r}; the network needs it; give the weights of this network"
            )
        value, axes = np.asarray(state[name]), AXES.get(leaf.ndim, (0,))
        shape = tuple(leaf.shape[axes.index(axis)] for axis in range(leaf.ndim))
        if value.shape != shape:
            raise InvalidInput(
                f"{name!r} has shape {value.shape}; the network's is {shape}; make the network with the same settings"
            )
        if not np.issubdtype(value.dtype, np.floating):
            raise InvalidInput(f"{name!r} is {value.dtype}; give floating-point weights")
        return jnp.asarray(value.transpose(axes), real())

    weights = jax.tree_util.tree_map_with_path(take, wanted)
    for name in state:
        if name not in used and not name.endswith("num_batches_tracked"):
            raise InvalidInput(f"the state_dict has {name!r}; the network does not; give the weights of this network")
    return weights


def _torch_name(path: tuple[str, ...]) -> str:
    """PyTorch's name of the array at `path` in params or batch_stats."""
    *modules, leaf = path
    return ".".join([*(re.sub(r"_(\d+)$", r".\1", module) for module in modules), LEAVES[leaf]])
