"""Nested dicts of arrays as safetensors files: arrays only, no code, sizes checked by the format's own reader."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bdjax.errors import Damaged, InvalidInput
from bdjax.io.checksums import checksum
from bdjax.io.files import NO_FILE, system_error, unreadable, write_atomically
from bdjax.types import PyTree, Trained, Weights

OWN = "bdjax"
"""The only name in a file's metadata, for the format writes several in any order: JSON of `text` and `checksum`.

The text is JSON again: `about`, further texts, and `layout`, what arrays alone do not tell: empty dicts, random keys.
"""


def save_tree(path: Path, tree: PyTree, metadata: Mapping[str, str] | None = None) -> None:
    """Write `tree` to a safetensors file, whole or not at all.

    Args:
        path: of the file.
        tree: nested dicts and dataclasses of arrays, numbers or typed random keys; names are texts without "/".
        metadata: further texts to keep in the file.

    Raises:
        TypeError: the tree holds something else, such as a tuple, which would come back as another type.
    """
    from safetensors.numpy import save

    arrays: dict[str, np.ndarray] = {}
    layout: dict[str, Any] = {"empty": [], "keys": {}}
    _flatten(tree, "", arrays, layout)
    text = json.dumps({"about": dict(metadata or {}), "layout": layout}, sort_keys=True)
    own = json.dumps({"text": text, "checksum": checksum(arrays, text)})
    write_atomically(path, lambda temporary: temporary.write_bytes(save(arrays, {OWN: own})))


def _flatten(tree: PyTree, name: str, arrays: dict[str, np.ndarray], layout: dict[str, Any]) -> None:
    if dataclasses.is_dataclass(tree):
        tree = {field.name: getattr(tree, field.name) for field in dataclasses.fields(tree)}
    if isinstance(tree, Mapping):
        for key, child in tree.items():
            if not isinstance(key, str) or "/" in key or not key:
                raise TypeError(f"tree: the name {key!r} below {name!r}; names are texts without '/'")
            _flatten(child, f"{name}/{key}" if name else key, arrays, layout)
        if not tree:
            layout["empty"].append(name)
        return
    if isinstance(tree, jax.Array) and jax.dtypes.issubdtype(tree.dtype, jax.dtypes.prng_key):
        layout["keys"][name] = str(jax.random.key_impl(tree))
        tree = jax.random.key_data(tree)
    if not name or not isinstance(tree, (jax.Array, np.ndarray, np.generic, bool, int, float)):
        raise TypeError(f"tree: {name!r} is a {type(tree).__name__}; only dicts and dataclasses of arrays can be kept")
    # A copy in C order: safetensors writes the bytes of a transposed view as they lie.
    arrays[name] = np.array(tree, order="C")


def load_tree(path: Path, foreign: bool = True) -> tuple[dict[str, PyTree], dict[str, str]]:
    """What `save_tree` wrote: nested dicts (dataclasses come back as dicts) of numpy arrays, and the metadata.

    A safetensors file of another program is read as what it is: its arrays and its own metadata; not where `foreign`
    is false.

    Raises:
        InvalidInput: no such file.
        Damaged: it is not whole, its checksum is another, or it may not be foreign and is.
        Unreadable: it is there, and reading it failed.
    """
    from safetensors import SafetensorError, safe_open

    if Path(path).exists() and not Path(path).is_file():  # a pipe would hold up safetensors for ever
        raise Damaged(f"{str(path)!r}: no regular file; remove it and make it again")
    try:
        # Not mapped into memory, where an I/O error would kill the process.
        with safe_open(path, framework="numpy", backend="pread") as file:
            metadata = dict(file.metadata() or {})
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is not iterable
        if OWN not in metadata and not foreign:
            raise ValueError("another program's, without a checksum")
        metadata, layout = _about(metadata, arrays)
        for name, kind in layout["keys"].items():
            arrays[name] = jax.random.wrap_key_data(arrays[name], impl=kind)
        return _nest(arrays, layout["empty"]), metadata
    except FileNotFoundError as error:
        raise InvalidInput(f"{str(path)!r}: no such file; give the path of a .safetensors file") from error
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        number = system_error(error)
        if number not in (0, *NO_FILE):
            raise unreadable(path, number) from error
        reason = " ".join(str(error).split())[:160]
        raise Damaged(f"{str(path)!r}: not a whole safetensors file ({reason}); remove it and make it again") from error


def _about(metadata: dict[str, str], arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, str], dict[str, Any]]:
    """The further texts of a file and its layout."""
    if OWN not in metadata:
        return metadata, {"empty": [], "keys": {}}
    own = json.loads(metadata[OWN])
    if own["checksum"] != checksum(arrays, own["text"]):
        raise ValueError("its checksum is another")
    said = json.loads(own["text"])
    return said["about"], said["layout"]


def _nest(arrays: Mapping[str, Any], empty: list[str]) -> dict[str, PyTree]:
    tree: dict[str, PyTree] = {}
    for name, value in [*arrays.items(), *((name, {}) for name in empty if name)]:
        *parents, last = name.split("/")
        place = tree
        for parent in parents:
            place = place.setdefault(parent, {})
        if not isinstance(place, dict) or last in place:
            raise ValueError(f"two contents for {name!r}")
        place[last] = value
    return tree


def save_named(path: Path, tree: PyTree, metadata: Mapping[str, str] | None = None) -> None:
    """Write a file of a study, which knows its own name: `load_named` notices where it stands in another's place."""
    save_tree(path, tree, dict(metadata or {}) | {"address": path.stem})


def load_named(path: Path) -> tuple[dict[str, PyTree], dict[str, str]]:
    """What `save_named` wrote.

    Raises:
        InvalidInput: no such file.
        Damaged: it is not whole, another program's, or was written under another name.
    """
    tree, metadata = load_tree(path, foreign=False)
    name = metadata.pop("address", None)
    if name != path.stem:
        raise Damaged(f"{str(path)!r}: written as {name or 'no file of a study'}; remove it and make it again")
    return tree, metadata


def check_arrays(path: Path, tree: Mapping[str, Any], expected: Mapping[str, tuple[type, int]]) -> None:
    """Check that a file's arrays are of the types and numbers of dimensions that are expected, and equally many.

    Raises:
        Damaged: one is missing or different.
    """
    found = [tree.get(name) for name in expected]
    right = [
        isinstance(value, np.ndarray) and np.issubdtype(value.dtype, kind) and value.ndim == dims
        for value, (kind, dims) in zip(found, expected.values(), strict=True)
    ]
    if not all(right) or len({len(value) for value in found}) > 1:
        held = {name: f"{value.dtype}{list(value.shape)}" for name, value in tree.items() if hasattr(value, "dtype")}
        raise Damaged(f"{str(path)!r}: holds {held}, not {', '.join(expected)}; remove it and make it again")


def save_trained(path: Path, trained: Trained, metadata: Mapping[str, str] | None = None) -> None:
    """Write what a stage left: weights and carry."""
    save_named(path, trained, metadata)


def load_trained(path: Path) -> tuple[Trained, dict[str, str]]:
    """What `save_trained` wrote.

    Raises:
        InvalidInput: no such file.
        Damaged: it is not whole, or holds something else.
    """
    tree, metadata = load_named(path)
    weights = tree.get("weights")
    if set(tree) != {"weights", "carry"} or not isinstance(weights, dict) or set(weights) != {"params", "batch_stats"}:
        raise Damaged(f"{str(path)!r}: holds {sorted(tree)}; a model of bdjax has weights and carry; give another")
    return Trained(Weights(**weights), tree["carry"]), metadata
