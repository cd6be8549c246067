"""Weights from PyTorch and to it: a `state_dict` as arrays by name, in the layout of this library's networks.

It holds for networks whose modules are named as PyTorch models of the same architecture name theirs, up to dots:
`layer4.1.shortcut.0` here is `layer4_1`, `shortcut_0`. Those of preact_resnet18 are He, Zhang, Ren, Sun, "Identity
Mappings in Deep Residual Networks", ECCV 2016, https://arxiv.org/abs/1603.05027; those of resnet18 the same authors'
"Deep Residual Learning for Image Recognition", CVPR 2016, https://arxiv.org/abs/1512.03385.

PyTorch keeps convolutions as (out, in, height, width) and linear layers as (out, in); here they are (height, width, in,
out) and (in, out). The network normalises its own images, with the mean and std that it was made with.

torchvision names the modules of its networks otherwise: see `torchvision_names`. Either names are read.
"""

import re
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from bdjax.errors import InvalidInput
from bdjax.types import Array, Net, Weights, real

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
    names, used = _names_in(state, net), set()

    def take(path, leaf):
        name = _torch_name(path, names)
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


def to_torch(weights: Weights, net: Net, like: Mapping[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
    """A PyTorch state_dict of the weights of `net`, as numpy arrays.

    like: the state_dict that the weights were read from, whose names it gets; None for torchvision's names where it
    has such a network. `num_batches_tracked`, which nothing here counts, is that of `like`, or 0.
    """
    names, state = torchvision_names(net) if like is None else _names_in(like, net), {}

    def put(path, leaf: Array) -> None:
        name = _torch_name(path, names)
        # In C order: safetensors would write the bytes of a transposed view as they lie.
        state[name] = np.ascontiguousarray(np.asarray(leaf).transpose(np.argsort(AXES.get(leaf.ndim, (0,)))))
        if name.endswith("running_var"):
            counter = name.replace("running_var", "num_batches_tracked")
            if like is None or counter in like:
                state[counter] = np.zeros((), np.int64) if like is None else np.asarray(like[counter])

    jax.tree_util.tree_map_with_path(put, weights)
    return state


def count_classes(state: Mapping[str, np.ndarray], make: Callable[[int], Net]) -> int:
    """How many classes the network has that a state_dict belongs to; make: the network for a number of classes.

    Raises:
        InvalidInput: the state_dict lacks the layer that gives logits.
    """
    nets = make(2), make(3)
    shapes = [dict(jax.tree_util.tree_leaves_with_path(jax.eval_shape(net.init, jax.random.key(0)))) for net in nets]
    names = _names_in(state, nets[0])
    named = [_torch_name(path, names) for path, leaf in shapes[0].items() if leaf.shape != shapes[1][path].shape]
    for name in named:
        if name in state and np.ndim(state[name]):
            return int(np.shape(state[name])[0])
    raise InvalidInput(f"the state_dict has no {named[0]!r}; the network needs it; give the weights of this network")


def _names_in(state: Mapping[str, np.ndarray], net: Net) -> dict[str, str]:
    """`torchvision_names` of a network where a state_dict has those, nothing where it has PyTorch's own."""
    other, modules = torchvision_names(net), {name.rpartition(".")[0] for name in state}
    return other if "linear" not in modules and other.get("linear") in modules else {}


def in_order(state: Mapping[str, np.ndarray], net: Net) -> dict[str, np.ndarray]:
    """What `to_torch` gives, in the order in which PyTorch registers it: some programs match weights by position."""
    names = torchvision_names(net)
    modules = [names.get(module, module) for module in (_dotted(layer.path) for layer in net.layers if layer.path)]
    order = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")

    def place(name: str) -> tuple[float, int, int]:
        module, _, leaf = name.rpartition(".")
        block, side, _ = re.sub(r"\.(shortcut|downsample)\.", "/side/", module).partition("/side/")
        # A block's shortcut is registered after the rest of it, wherever it is applied.
        last = max(index for index, each in enumerate(modules) if not side or each.startswith(f"{block}."))
        return (last + 0.5 if side else modules.index(module)), modules.index(module), order.index(leaf)

    return {name: state[name] for name in sorted(state, key=place)}


def torchvision_names(net: Net) -> dict[str, str]:
    """PyTorch's own name of a module of the network -> torchvision's; empty for networks that torchvision lacks.

    A residual network has `downsample` for `shortcut` and `fc` for `linear`. All else is under `features`, numbered
    in sequence in a VGG network, which counts rectifiers and poolings, and the linear layers under `classifier`.
    """
    names = {_dotted(layer.path) for layer in net.layers if layer.path}
    if {"conv1", "bn1", "layer1.0.conv1"} <= names:
        return {name: re.sub(r"^linear$", "fc", name.replace("shortcut", "downsample")) for name in names}
    if "denseblock1.1.conv1" in names:
        inner = {name: re.sub(r"^(denseblock\d+)\.(\d+)", r"\1.denselayer\2", name) for name in names}
        return {name: f"features.{inner[name]}" for name in names} | {"linear": "classifier"}
    if {"layer1.0.conv", "hidden1"} <= names:
        return _in_sequence(net)
    return {}


def _in_sequence(net: Net) -> dict[str, str]:
    """Those of a VGG network."""
    names, place, stage = {}, -1, "layer1"
    for layer in net.layers:
        block, _, own = layer.name.partition(".")
        if own:
            place += 1 + (block.partition("_")[0] != stage)  # a pooling lies between two stages
            stage = block.partition("_")[0]
            names[_dotted(tuple(layer.name.split(".")))] = f"features.{place}"
    return names | {"hidden1": "classifier.0", "hidden2": "classifier.3", "linear": "classifier.6"}


def _dotted(modules: tuple[str, ...]) -> str:
    return ".".join(re.sub(r"_(\d+)$", r".\1", module) for module in modules)


def _torch_name(path, names: Mapping[str, str]) -> str:
    """PyTorch's name of the leaf of `Weights` at a path of JAX's, its module renamed."""
    *modules, leaf = (entry.key for entry in path[1:])
    module = _dotted(tuple(modules))
    return f"{names.get(module, module)}.{LEAVES[leaf]}"
