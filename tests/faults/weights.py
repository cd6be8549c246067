"""Weights of users' own: PyTorch files and safetensors files that are damaged, hostile or another network's.

What is refused is refused in one line, within a minute, and no code in a file is run. What is read has the names,
shapes and types that the network asks for; where the format has checksums, as PyTorch's archives and bdjax's own files
do, a damaged file is refused or has the same values.
"""

import io
import json
import os
import pickle
import random
import struct
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from faults import common, data, files

TRIES = 200  # of every kind of damage; of what is not drawn, all

SHAPES = {"conv.weight": (4, 3, 3, 3), "linear.weight": (3, 4), "linear.bias": (3,)}


def run(tally, alone, tries: int, seed: int) -> None:
    """What somebody might give, then damages of what could be read."""
    try:
        import torch
    except ImportError:
        tally.tell("torch is not installed: no PyTorch file is tried")
        torch = None
    draw = random.Random(seed)
    warnings.simplefilter("ignore")  # torch's, of what is old or odd

    def some(cases: dict) -> list:
        return draw.sample(sorted(cases), min(tries, len(cases)))

    for name in some(STATES) if torch else []:
        _state(tally, alone, name)
    for name in some(TORCH_FILES) if torch else []:
        _torch_file(tally, alone, name)
    for name in some(NETWORKS):
        _network(tally, alone, name)
    for name in some(TENSORS):
        _tensors(tally, alone, name)
    for number in range(tries):
        how = files.HOWS[number % len(files.HOWS)]
        if torch:
            _damaged_torch(tally, alone, how, draw, archive=True)
            _damaged_torch(tally, alone, how, draw, archive=False)
        _damaged_tensors(tally, alone, how, draw)


def state() -> dict[str, np.ndarray]:
    """Arrays by PyTorch's names."""
    draw = np.random.default_rng(0)
    return {name: draw.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}


def _tensors_of(torch) -> dict:
    return {name: torch.from_numpy(value) for name, value in state().items()}


# PyTorch files that hold something else than a state dict: what is saved, given torch and the right tensors.

STATES: dict[str, Callable] = {
    "nothing": lambda torch, held: {},
    "None": lambda torch, held: None,
    "a number": lambda torch, held: 5,
    "a tensor": lambda torch, held: held["linear.bias"],
    "a list": lambda torch, held: list(held.values()),
    "texts": lambda torch, held: held | {"conv.weight": "text"},
    "numbers": lambda torch, held: held | {"conv.weight": 1.0},
    "a dict more": lambda torch, held: {"a": {"b": held}},
    "an optimizer beside it": lambda torch, held: held | {"optimizer": {"lr": 0.1}},
    "nested 5,000 deep": lambda torch, held: _nested(5000),
    "sparse": lambda torch, held: held | {"linear.weight": held["linear.weight"].to_sparse()},
    "compressed rows": lambda torch, held: held | {"linear.weight": held["linear.weight"].to_sparse_csr()},
    "quantized": lambda torch, held: (
        held | {"linear.weight": torch.quantize_per_tensor(held["linear.weight"], 0.1, 0, torch.qint8)}
    ),
    "on no device": lambda torch, held: {name: value.to("meta") for name, value in held.items()},
    "complex of 16 bits": lambda torch, held: held | {"linear.bias": held["linear.bias"].to(torch.complex32)},
    "complex": lambda torch, held: held | {"linear.bias": held["linear.bias"].to(torch.complex64)},
    "conjugate": lambda torch, held: held | {"linear.bias": held["linear.bias"].to(torch.complex64).conj()},
    "8-bit floats": lambda torch, held: held | {"linear.bias": held["linear.bias"].to(torch.float8_e5m2)},
    "true and false": lambda torch, held: held | {"linear.bias": held["linear.bias"] > 0},
    "whole numbers": lambda torch, held: held | {"linear.bias": held["linear.bias"].to(torch.int64)},
    "two names for one": lambda torch, held: held | {"module.linear.bias": held["linear.bias"] + 1},
    "names that are numbers": lambda torch, held: dict(enumerate(held.values())),
    "a whole module": lambda torch, held: torch.nn.Linear(4, 3),
    "a module in a dict": lambda torch, held: {"model": torch.nn.Linear(4, 3)},
}


def _nested(depth: int) -> dict:
    found: dict = {}
    for _ in range(depth):
        found = {"model": found}
    return found


def _state(tally, alone, case: str) -> None:
    import torch

    path = alone.fresh() / "weights.pt"
    path.parent.mkdir()
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(100_000)  # to write what is nested deep
    try:
        torch.save(STATES[case](torch, _tensors_of(torch)), path)
    finally:
        sys.setrecursionlimit(limit)
    with tally.trial("PyTorch files that hold no weights of this network", case, path.parent):
        data.refused(lambda: loaded(path))


def loaded(path: Path) -> dict[str, np.ndarray]:
    """A PyTorch file's arrays, put into a network, and taken out of it in PyTorch's layout."""
    from bdjax.io.foreign.torch_files import load_state_dict

    return _through(load_state_dict(path))


def _through(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    import jax.numpy as jnp

    from bdjax.io.foreign.torch_weights import from_torch
    from bdjax.types import Net, Weights

    def init(key):
        conv, linear = jnp.zeros((3, 3, 3, 4)), {"kernel": jnp.zeros((4, 3)), "bias": jnp.zeros(3)}
        return Weights({"conv": {"kernel": conv}, "linear": linear}, {})

    params = from_torch(found, Net(init, None, ())).params
    conv, linear = np.asarray(params["conv"]["kernel"]), params["linear"]
    return {
        "conv.weight": conv.transpose(3, 2, 0, 1),
        "linear.weight": np.asarray(linear["kernel"]).T,
        "linear.bias": np.asarray(linear["bias"]),
    }


def _pickled(path: Path) -> None:
    path.write_bytes(pickle.dumps(data.Hostile(path.parent / "made")))


def _hostile(path: Path) -> None:
    import torch

    torch.save({"model": _tensors_of(torch) | {"more": data.Hostile(path.parent / "made")}}, path)


def _old_hostile(path: Path) -> None:
    import torch

    torch.save({"model": data.Hostile(path.parent / "made")}, path, _use_new_zipfile_serialization=False)


def _script(path: Path) -> None:
    import torch

    torch.jit.save(torch.jit.script(torch.nn.Linear(4, 3)), str(path))


TORCH_FILES: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: None,
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("weights"),
    "zeros": lambda path: path.write_bytes(bytes(10_000)),
    "a folder": lambda path: path.mkdir(),
    "a pipe": lambda path: os.mkfifo(path),
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a file that cannot be read": lambda path: path.symlink_to("/proc/self/mem"),
    "an .npz": lambda path: np.savez(path.open("wb"), **state()),
    "a safetensors file": lambda path: _save(path, state()),
    "a program of torch.jit": _script,
    "a pickle that would run code": _pickled,
    "weights and what would run code": _hostile,
    "the old format with what would run code": _old_hostile,
    "a pickle of 10**9 marks": lambda path: path.write_bytes(b"\x80\x02" + b"(" * 10**6),
    "a pickle nested deep": lambda path: path.write_bytes(b"\x80\x02" + b"]" * 10**5 + b"a" * (10**5 - 1) + b"."),
    "a pickle of a huge text": lambda path: path.write_bytes(b"\x80\x04\x8d" + (2**62).to_bytes(8, "little") + b"."),
}


def _torch_file(tally, alone, case: str) -> None:
    path = alone.fresh() / "weights.pt"
    path.parent.mkdir()
    TORCH_FILES[case](path)
    with tally.trial("PyTorch files that are none, or hostile ones", case, path.parent):
        data.refused(lambda: loaded(path))
        assert not (path.parent / "made").exists(), "code was run"


# Arrays that are not the network's: what takes the place of those.

NETWORKS: dict[str, Callable[[dict], dict]] = {
    **{f"no {name}": lambda held, name=name: {key: held[key] for key in held if key != name} for name in SHAPES},
    **{f"flat {name}": lambda held, name=name: held | {name: held[name].reshape(-1)} for name in SHAPES if "w" in name},
    **{f"turned {name}": lambda held, name=name: held | {name: held[name].T} for name in SHAPES if "w" in name},
    **{f"one more axis of {name}": lambda held, name=name: held | {name: held[name][None]} for name in SHAPES},
    **{f"one row less of {name}": lambda held, name=name: held | {name: held[name][1:]} for name in SHAPES},
    **{f"{name} of complex numbers": lambda held, name=name: held | {name: held[name] + 1j} for name in SHAPES},
    **{f"{name} of texts": lambda held, name=name: held | {name: held[name].astype(str)} for name in SHAPES},
    **{f"{name} of objects": lambda held, name=name: held | {name: held[name].astype(object)} for name in SHAPES},
    **{f"{name} of true and false": lambda held, name=name: held | {name: held[name] > 0} for name in SHAPES},
    "an array more": lambda held: held | {"fc.weight": held["linear.weight"]},
    "other names": lambda held: {f"net.{name}": value for name, value in held.items()},
    "nothing": lambda held: {},
}


def _network(tally, alone, case: str) -> None:
    with tally.trial("arrays that are not those of the network", case):
        data.refused(lambda: _through(NETWORKS[case](state())))


# Safetensors files.


def _save(path: Path, arrays: dict[str, np.ndarray], metadata: dict[str, str] | None = None) -> None:
    from safetensors.numpy import save

    path.write_bytes(save(arrays, metadata))


def _head(text: str | bytes, rest: bytes = b"", length: int | None = None) -> Callable[[Path], object]:
    content = text.encode() if isinstance(text, str) else text
    size = struct.pack("<Q", len(content) if length is None else length)
    return lambda path: path.write_bytes(size + content + rest)


def _one(**changes) -> str:
    return json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes})


def _own(text: str) -> Callable[[Path], None]:
    """A file that says that it is bdjax's, with a checksum that fits."""

    def make(path: Path) -> None:
        from bdjax.io.checksums import checksum

        arrays = {"a": np.ones(2, np.float32)}
        _save(path, arrays, {"bdjax": json.dumps({"text": text, "checksum": checksum(arrays, text)})})

    return make


TENSORS: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: None,
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("weights of mine"),
    "zeros": lambda path: path.write_bytes(bytes(1000)),
    "a folder": lambda path: path.mkdir(),
    "a pipe": lambda path: os.mkfifo(path),
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a header longer than the file": _head("{}", length=10**6),
    "a header of 2**63 bytes": _head("{}", length=2**63),
    "a header that is no JSON": _head("{nope}"),
    "a header that is a list": _head("[]"),
    "a header nested deep": _head('{"a":' * 50_000),
    "a header that is no text": _head(b"\xff\xfe\xff"),
    "more bytes than arrays": _head(_one(), bytes(9)),
    "fewer bytes than arrays": _head(_one(), bytes(7)),
    "an array outside the file": _head(_one(data_offsets=[0, 10**9]), bytes(8)),
    "an array that ends before it begins": _head(_one(data_offsets=[8, 0]), bytes(8)),
    "a shape that does not fit": _head(_one(shape=[3]), bytes(8)),
    "a huge shape": _head(_one(shape=[2**40, 2**40]), bytes(8)),
    "a negative shape": _head(_one(shape=[-2]), bytes(8)),
    "an unknown type": _head(_one(dtype="F7"), bytes(8)),
    "a type that numpy lacks": _head(_one(dtype="F8_E5M2", shape=[8]), bytes(8)),
    "names in one another": lambda path: _save(path, {"a": np.ones(2), "a/b": np.ones(2)}),
    "own, without text": lambda path: _save(path, {"a": np.ones(2)}, {"bdjax": "{}"}),
    "own, no JSON": lambda path: _save(path, {"a": np.ones(2)}, {"bdjax": "no"}),
    "own, nested deep": lambda path: _save(path, {"a": np.ones(2)}, {"bdjax": "[" * 100_000}),
    "own, text nested deep": _own("[" * 100_000),
    "own, text that is a list": _own("[]"),
    "own, a layout of texts": _own('{"about": {}, "layout": "text"}'),
    "own, keys of what is none": _own('{"about": {}, "layout": {"empty": [], "keys": {"b": "threefry2x32"}}}'),
    "own, keys of another kind": _own('{"about": {}, "layout": {"empty": [], "keys": {"a": "nope"}}}'),
    "own, an empty dict in an array": _own('{"about": {}, "layout": {"empty": ["a/b"], "keys": {}}}'),
    "own, a number as name": _own('{"about": {}, "layout": {"empty": [3], "keys": {}}}'),
}


def _tensors(tally, alone, case: str) -> None:
    from bdjax.io.store.trees import load_tree

    path = alone.fresh() / "weights.safetensors"
    path.parent.mkdir()
    TENSORS[case](path)
    with tally.trial("safetensors files that are none, or hostile ones", case, path.parent):
        data.refused(lambda: load_tree(path))


# Damages.


def _damaged_torch(tally, alone, how: str, draw: random.Random, archive: bool) -> None:
    """Of the archives that torch writes today, and of its old files, which have no checksums."""
    import torch

    path, whole = alone.fresh() / "weights.pt", io.BytesIO()
    path.parent.mkdir()
    torch.save(_tensors_of(torch), whole, _use_new_zipfile_serialization=archive)
    path.write_bytes(files.damaged(whole.getvalue(), how, draw))

    def read():
        with common.within(common.ANSWERED):
            found = loaded(path)
        if archive:
            return found
        assert {name: value.shape for name, value in found.items()} == SHAPES
        return state()

    kind = "PyTorch archives with a damage: refused in one line or the same values"
    if not archive:
        kind = "PyTorch's old files with a damage: refused in one line or arrays of the network"
    data.same_or_refused(tally, kind, how, path.parent, read, state())


def _damaged_tensors(tally, alone, how: str, draw: random.Random) -> None:
    """Of bdjax's own files, and of other programs', which have no checksums."""
    from bdjax.io.store.trees import load_tree, save_tree

    own = alone.fresh() / "weights.safetensors"
    own.parent.mkdir()
    save_tree(own, state(), {"seed": "0"})
    expected = load_tree(own)
    own.write_bytes(files.damaged(own.read_bytes(), how, draw))
    kind = "bdjax's safetensors files with a damage: refused in one line or the same values"
    data.same_or_refused(tally, kind, how, own.parent, lambda: load_tree(own), expected)

    other = alone.fresh() / "weights.safetensors"
    other.parent.mkdir()
    _save(other, state())
    other.write_bytes(files.damaged(other.read_bytes(), how, draw))

    def read():
        found = load_tree(other)[0]
        assert all(isinstance(value, np.ndarray | dict) for value in found.values())
        return state()

    kind = "other programs' safetensors files with a damage: refused in one line or arrays"
    data.same_or_refused(tally, kind, how, other.parent, read, state())
