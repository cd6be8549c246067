"""Weights of a network out of a file, whatever has written it: PyTorch, safetensors, a study of this library."""

from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from bdjax.errors import InvalidInput
from bdjax.io.foreign import torch_weights
from bdjax.io.foreign.torch_files import load_state_dict
from bdjax.io.store.trees import load_tree
from bdjax.types import Net, PyTree, Weights, real

PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.")
"""What DataParallel, torch.compile and training frameworks put before every name of a state_dict."""


def count_classes(found: Mapping[str, PyTree], make: Callable[[int], Net]) -> int:
    """How many classes the model in a file has; found: of `read_weights`; make: the network for a number of classes.

    Raises:
        InvalidInput: the file lacks the layer that gives logits.
    """
    if "params" not in found:
        return torch_weights.count_classes(found, make)
    shapes = [dict(_leaves(jax.eval_shape(make(count).init, jax.random.key(0)))) for count in (2, 3)]
    held = dict(_leaves(Weights(found["params"], found["batch_stats"])))
    for path, leaf in shapes[0].items():
        if leaf.shape != shapes[1][path].shape and path in held and np.ndim(held[path]):
            return int(np.shape(held[path])[-1])
    raise InvalidInput("the file lacks the layer that gives logits; give the weights of this network")


def load_weights(path: Path, net: Net) -> Weights:
    """The weights of `net` in a file.

    Args:
        path: a PyTorch file with a state_dict (see `torch_files`), or a `.safetensors` file with PyTorch's names or
            with this library's own, such as those in the folder `models` of a study.
        net: the network that they are of.

    Raises:
        InvalidInput: no such file, it is damaged, or its weights are another network's.
    """
    try:
        return as_weights(read_weights(path), net)
    except InvalidInput as error:
        known = str(error).startswith(repr(str(path)))
        raise error if known else InvalidInput(f"{str(path)!r}: {error}") from error


def as_weights(found: Mapping[str, PyTree], net: Net) -> Weights:
    """What `read_weights` found as the weights of `net`.

    Raises:
        InvalidInput: they are another network's.
    """
    return _own(found, net) if "params" in found else torch_weights.from_torch(found, net)


def read_weights(path: Path) -> dict[str, PyTree]:
    """What a file holds: a flat state_dict, or `params` and `batch_stats` as this library keeps them.

    Raises:
        InvalidInput: no such file, or it is damaged.
    """
    if Path(path).is_dir():
        raise InvalidInput(f"{str(path)!r}: a folder; give the file with the weights in it")
    if Path(path).suffix != ".safetensors":
        return without_prefix(load_state_dict(Path(path)))
    tree, _ = load_tree(Path(path))
    found = tree.get("weights", tree)
    if not isinstance(found, dict) or not found:
        raise InvalidInput(f"{str(path)!r}: holds no weights; give a file with a model")
    own = isinstance(found.get("params"), dict)
    if own:
        return {"params": found["params"], "batch_stats": found.get("batch_stats", {})}
    return without_prefix(found)


def without_prefix(found: Mapping[str, PyTree]) -> dict[str, PyTree]:
    """A state_dict without what training tools put before all of its names."""
    names = list(found)
    while prefix := next((one for one in PREFIXES if all(name.startswith(one) for name in names)), ""):
        names = [name.removeprefix(prefix) for name in names]
    return dict(zip(names, found.values(), strict=True))


def _own(found: Mapping[str, PyTree], net: Net) -> Weights:
    """Weights under this library's own names, found to be the network's."""
    wanted = jax.eval_shape(net.init, jax.random.key(0))
    held = Weights(found["params"], found["batch_stats"])
    names = [{jax.tree_util.keystr(path) for path, _ in _leaves(tree)} for tree in (wanted, held)]
    if names[0] != names[1]:
        other = min(names[0] ^ names[1])
        raise InvalidInput(f"{other} is only in {'the network' if other in names[0] else 'the file'}; give its network")
    for (path, leaf), (_, array) in zip(_leaves(wanted), _leaves(held), strict=True):
        if array.shape != leaf.shape or not np.issubdtype(array.dtype, np.floating):
            given = f"{jax.tree_util.keystr(path)} is {array.dtype}{list(array.shape)}"
            raise InvalidInput(f"{given}; the network's is of shape {list(leaf.shape)}; make it with the same settings")
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, real()), held)


def _leaves(tree: PyTree) -> list:
    return sorted(jax.tree_util.tree_leaves_with_path(tree), key=lambda one: jax.tree_util.keystr(one[0]))
