"""Files written whole or not at all, names for them, and trees of arrays that survive them."""

import errno
import json
import os
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdjax.errors import InvalidInput
from bdjax.io.checksums import checksum
from bdjax.io.files import check_memory, slug, write_atomically
from bdjax.io.foreign.torch_files import load_state_dict
from bdjax.io.store.trees import load_trained, load_tree, save_named, save_trained, save_tree
from bdjax.types import Trained, Weights


def test_a_file_is_written_whole(tmp_path):
    path = tmp_path / "a.npz"
    write_atomically(path, lambda temporary: np.savez(temporary, a=1))
    assert np.load(path)["a"] == 1
    assert os.listdir(tmp_path) == ["a.npz"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failed_write_leaves_what_was_there(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write(temporary):
        assert temporary.parent == tmp_path and temporary.suffix == ".txt" and temporary.name.startswith(".")
        temporary.write_text("ha")
        raise error

    with pytest.raises(error):
        write_atomically(path, write)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]


def test_slugs():
    assert slug("badnets") == "badnets" and slug("ratio=0.05") == "ratio=0.05"
    texts = ["blended:alpha=0.2", "Blended:alpha=0.2", "../../etc/passwd", "..", ".", "", "a/b", "a\0b", "ä", "x" * 500]
    texts += ["x" * 501, "a b", "a\nb", ".hidden", "\udc80"]
    slugs = [slug(text) for text in texts]
    assert len({name.lower() for name in slugs}) == len(texts)
    for name in slugs:
        assert (
            0 < len(name) <= 77 and set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789._=-") and name[0] not in ".-"
        )


def test_more_than_memory_is_refused():
    check_memory(1000, "x")
    with pytest.raises(InvalidInput, match="x: 1,000,000,000 GB"):
        check_memory(10**18, "x")


def tree():
    return {
        "conv": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3).T, "bias": jnp.ones((), jnp.bfloat16)},
        "mask": np.array([True, False]),
        "double": np.float64(1 / 3),
        "none": np.zeros((0, 3), np.int8),
        "empty": {},
        "deep": {"empty": {}},
    }


def test_trees_come_back_as_they_were(tmp_path):
    save_tree(tmp_path / "a.safetensors", tree(), {"note": "ünïcode"})
    loaded, metadata = load_tree(tmp_path / "a.safetensors")
    assert metadata == {"note": "ünïcode"}
    assert jax.tree.structure(loaded) == jax.tree.structure(tree())
    for one, two in zip(jax.tree.leaves(loaded), jax.tree.leaves(tree()), strict=True):
        assert one.dtype == two.dtype and one.shape == two.shape
        np.testing.assert_array_equal(one, two)
    save_tree(tmp_path / "b.safetensors", {})
    assert load_tree(tmp_path / "b.safetensors") == ({}, {})


def test_random_keys_come_back_as_keys(tmp_path):
    keys = jax.random.split(jax.random.key(3, impl="threefry2x32"), 4)
    save_tree(tmp_path / "a.safetensors", {"trigger": {"key": keys}})
    loaded = load_tree(tmp_path / "a.safetensors")[0]["trigger"]["key"]
    assert loaded.dtype == keys.dtype
    np.testing.assert_array_equal(jax.random.key_data(loaded), jax.random.key_data(keys))


@pytest.mark.parametrize(
    "bad", [{"a": (1, 2)}, {"a": None}, {"a/b": np.ones(2)}, {1: np.ones(2)}, np.ones(2), {"a": "x"}]
)
def test_trees_that_would_come_back_changed_are_refused(tmp_path, bad):
    with pytest.raises(TypeError, match="tree: "):
        save_tree(tmp_path / "a.safetensors", bad)
    assert os.listdir(tmp_path) == []


def test_trained(tmp_path):
    trained = Trained(Weights({"dense": {"kernel": np.eye(2)}}, {}), {"trigger": {"mask": np.ones(3)}})
    save_trained(tmp_path / "a.safetensors", trained, {"seed": "0"})
    loaded, metadata = load_trained(tmp_path / "a.safetensors")
    assert metadata == {"seed": "0"}
    assert jax.tree.structure(loaded) == jax.tree.structure(trained)
    assert jax.tree.all(jax.tree.map(np.array_equal, loaded, trained))


def test_damaged_trees(tmp_path):
    path = tmp_path / "a.safetensors"
    save_named(path, tree())
    with pytest.raises(InvalidInput, match="weights and carry"):
        load_trained(path)
    whole = path.read_bytes()
    for damage in (
        whole[:-1],
        whole[:20],
        b"",
        b"text",
        b"\xff" * 100,
        whole.replace(b"checksum", b"checksun"),
        whole[:-1] + bytes([whole[-1] ^ 1]),
    ):
        path.write_bytes(damage)
        with pytest.raises(InvalidInput, match="not a whole safetensors file") as caught:
            load_tree(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(InvalidInput, match="no such file"):
        load_tree(tmp_path / "b.safetensors")


def test_a_pipe_in_the_place_of_a_tree_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.safetensors")
    with pytest.raises(InvalidInput, match="no regular file"):
        load_tree(tmp_path / "a.safetensors")


def test_layouts_that_lie(tmp_path):
    from safetensors.numpy import save_file

    path = tmp_path / "a.safetensors"
    layouts = ["[]", "{", '{"empty": [], "keys": {"b": "threefry2x32"}}', '{"empty": [3], "keys": {}}']
    layouts += ['{"empty": ["a/b"], "keys": {}}', '{"empty": [], "keys": {"a": "threefry2x32"}}']
    for layout in layouts:
        text = json.dumps({"about": {}, "layout": json.loads(layout) if layout != "{" else "{"})
        own = {"text": text, "checksum": checksum({"a": np.ones(2)}, text)}
        save_file({"a": np.ones(2)}, path, {"bdjax": json.dumps(own)})
        with pytest.raises(InvalidInput, match="not a whole safetensors file"):
            load_tree(path)


def test_torch_files_without_torch(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InvalidInput, match=r"bdjax\[torch\]"):
        load_state_dict(tmp_path / "a.pt")


class Hostile:
    """Unpickling it would make a folder."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_torch_files(tmp_path):
    torch = pytest.importorskip("torch")
    state = {"module.fc.weight": torch.eye(2), "module.fc.half": torch.ones(2, dtype=torch.bfloat16)}
    rest = {
        "num_classes": 10,
        "bd_train": {"rows": np.arange(3), "share": np.float64(0.1), "image": np.zeros(2, np.uint8)},
    }
    path = tmp_path / "a.pt"
    for stored in (state, {"model": state, **rest}, {"state_dict": state}):
        torch.save(stored, path)
        loaded = load_state_dict(path)
        assert set(loaded) == {"fc.weight", "fc.half"}
        np.testing.assert_array_equal(loaded["fc.weight"], np.eye(2, dtype=np.float32))
        np.testing.assert_array_equal(loaded["fc.half"], np.ones(2, np.float32))

    for stored in ({"model": Hostile(tmp_path / "made")}, [1], {}, {"model": {"a": torch.eye(2).to_sparse()}}):
        torch.save(stored, path)
        with pytest.raises(InvalidInput, match="state_dict"):
            load_state_dict(path)
    assert not (tmp_path / "made").exists()
    for damage in (b"text", path.read_bytes()[:200]):
        path.write_bytes(damage)
        with pytest.raises(InvalidInput, match="read safely"):
            load_state_dict(path)


def test_torch_files_with_a_damage_that_torch_does_not_see(tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "a.pt"
    torch.save({"fc.weight": torch.arange(100.0)}, path)
    whole = path.read_bytes()
    at = whole.index(np.arange(1.0, 100, dtype=np.float32).tobytes())
    path.write_bytes(whole[:at] + b"1" + whole[at + 1 :])
    assert not torch.equal(torch.load(path, weights_only=True)["fc.weight"], torch.arange(100.0))
    with pytest.raises(InvalidInput, match=r"read safely \(BadZipFile\)"):
        load_state_dict(path)


@pytest.mark.parametrize("kind", ["complex32", "complex64", "float8_e5m2", "meta", "conjugate", "two names"])
def test_tensors_that_are_no_weights(tmp_path, kind):
    torch = pytest.importorskip("torch")
    value = torch.ones(2)
    if kind == "meta":
        value = value.to("meta")
    elif kind == "conjugate":
        value = value.to(torch.complex64).conj()
    elif kind != "two names":
        value = value.to(getattr(torch, kind))
    torch.save({"a": value, "module.a": value} if kind == "two names" else {"a": value}, tmp_path / "a.pt")
    with pytest.raises(InvalidInput, match=r"state.?dict"):
        load_state_dict(tmp_path / "a.pt")


def test_a_write_that_fails_says_where(tmp_path):
    def write(_temporary):
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))  # as `write` raises it

    with pytest.raises(OSError, match="File too large") as caught:
        write_atomically(tmp_path / "a.txt", write)
    assert caught.value.filename == str(tmp_path / "a.txt") and not os.listdir(tmp_path)
