"""A study's files that parse but mean something else, or stand in another's place: one line, or made again."""

import copy
import errno
import json
import os
import shutil
import socket
import types

import h5py
import numpy as np
import pytest
import tiny
from safetensors.numpy import save_file

import bdjax
from bdjax import cli
from bdjax.errors import Damaged, InvalidInput, Unreadable
from bdjax.io.checksums import checksum
from bdjax.io.store import documents, pictures, results
from bdjax.io.store.store import Store, address
from bdjax.io.store.trees import load_trained, save_named, save_tree

DETECTOR = "strip:overlays=2"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def whole(data):
    """A study with every kind of file that is kept."""
    study = tiny.study(data, audits=("retuning",), detectors=(DETECTOR,), suspects=20, keep_scores=True)
    bdjax.run(study, data / "whole")
    return study, data / "whole"


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole[1], tmp_path / "out")


def changed(content, path, value):
    """A copy of nested dicts and lists with another value at a path; `None` takes the name away."""
    content = copy.deepcopy(content)
    place = content
    for name in path[:-1]:
        place = place[name]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return content


NESTED = "[" * 100_000
STUDY = {
    "no cells": (["cells"], None),
    "cells that are a number": (["cells"], 5),
    "a cell without its model": (["cells", 0, "model"], None),
    "an address that is a path": (["cells", 0, "score"], "../../../../etc/passwd"),
    "a ratio that is text": (["cells", 0, "ratio"], "0.1"),
    "a ratio that is no number": (["cells", 0, "ratio"], float("nan")),
    "a ratio of two": (["cells", 0, "ratio"], 2),
    "a seed that is a truth value": (["cells", 0, "seed"], True),
    "a seed that is too large": (["cells", 0, "seed"], 2**80),
    "audits in a list": (["cells", 0, "audits"], []),
    "a defense without its version": (["defenses", "none", "version"], None),
    "a cell of another defense": (["cells", 0, "defense"], "ft"),
    "a detection of no cell": (["detections", 0, "seed"], 7),
    "a detection of something else": (["detections", 0, "on"], "columns"),
    "a card without a title": (["cards", "attacks", "badnets", "title"], None),
    "a card with unknown needs": (["cards", "attacks", "badnets", "needs"], ["everything"]),
    "a setting that is a list": (["cards", "attacks", "badnets", "settings", "size"], []),
    "no config": (["attributes", "config"], None),
    "a config that is no JSON": (["attributes", "config"], NESTED),
    "a config without a recipe": (["attributes", "config"], "{}"),
}


@pytest.mark.parametrize("name", STUDY)
def test_a_study_that_means_something_else(folder, capsys, name):
    path = folder / "study.json"
    documents.write_json(path, changed(documents.read_study(path), *STUDY[name]))
    for command in ("report", "doctor"):
        assert cli.main([command, str(folder)]) == 2
        err = capsys.readouterr().err
        assert err.startswith(f"bdjax: {path}: damaged or another program's (") and err.count("\n") == 1


GROUP = {"label": "x", "asked": 1, "memory": "", "capacity": 1, "bytes": 1, "compile_seconds": 0.1}
PLAN = {
    "a driver that is none": (["driver"], "mapp"),
    "a driver that is a number": (["driver"], 5),
    "held that is a number": (["held"], 5),
    "a group that is a number": (["groups", "x"], 5),
    "a group without bytes": (["groups", "x"], changed(GROUP, ["bytes"], None)),
    "a group of no cells": (["groups", "x"], GROUP | {"capacity": 0}),
    "a group of half a cell": (["groups", "x"], GROUP | {"capacity": 0.5}),
}


@pytest.mark.parametrize("name", PLAN)
def test_a_plan_that_means_something_else(whole, folder, name):
    path = folder / "plan.json"
    documents.write_json(path, changed(documents.read_plan(path), *PLAN[name]))
    with pytest.raises(InvalidInput, match=r"plan\.json"):
        bdjax.run(whole[0], folder)


@pytest.mark.parametrize("name", ["study.json", "plan.json"])
def test_a_digit_that_flipped_is_noticed(folder, name):
    path = folder / name
    text = path.read_text()
    place = next(index for index, letter in enumerate(text) if letter.isdigit())
    path.write_text(text[:place] + str((int(text[place]) + 1) % 10) + text[place + 1 :])
    with pytest.raises(InvalidInput, match="its checksum is another"):
        bdjax.load(folder)


def test_json_without_a_checksum_is_refused(tmp_path):
    content = {"begun": 1, "ended": 2.5}
    documents.write_json(tmp_path / "a.json", content)
    assert documents.read_json(tmp_path / "a.json", documents.NOTE) == content
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(InvalidInput, match="its checksum is another"):
        documents.read_json(tmp_path / "a.json", documents.NOTE)
    assert documents.read_json(tmp_path / "b.json") is None


CURVES = [{"loss": [0.1, float("nan")]}]
POSITION = {"stage": 0, "epoch": 1, "step": 2, "seconds": 0.5, "curves": CURVES, "finite": [True, False]}
MARKER = {"jobs": ["0" * 24, "1" * 24], "position": POSITION, "state": "0" * 16, "checksum": "0" * 64}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["jobs"], []),
        (["jobs", 0], "../.."),
        (["state"], "../../models"),
        (["position", "epoch"], -1),
        (["position", "epoch"], 1.5),
        (["position", "curves", 0, "loss"], [0.1]),
        (["position", "curves", 0, "loss"], 0.1),
        (["position", "finite"], [True]),
        (["checksum"], None),
    ],
)
def test_a_marker_that_means_something_else(tmp_path, path, value):
    about = tmp_path / "about.json"
    documents.write_json(about, MARKER)
    assert documents.read_marker(about)["position"]["epoch"] == 1
    documents.write_json(about, changed(MARKER, path, value))
    with pytest.raises(Damaged):
        documents.read_marker(about)


def rewritten(path, change):
    """Put other columns into a shard, with their checksum and that of its bytes."""
    assert len(results.read_shard(path)) == 2
    path.write_bytes(path.read_bytes()[: -len(results._ending(b""))])
    with h5py.File(path, "r+") as file:
        columns = results._columns(file, 2**30)
        other = change(dict(columns))
        for name in columns:
            del file[name]
        for name, value in other.items():
            text = value.dtype.kind == "U"
            file[name] = value.astype(h5py.string_dtype()) if text else value
        file.attrs[results.CHECKSUM] = checksum(other)
    text = path.read_bytes()
    path.write_bytes(text + results._ending(text))


SHARDS = {
    "no status": lambda rows: {name: value for name, value in rows.items() if name != "status"},
    "a status of 7": lambda rows: rows | {"status": rows["status"] + np.int8(7)},
    "a column that is too short": lambda rows: rows | {"seconds": rows["seconds"][:-1]},
    "a column of two dimensions": lambda rows: rows | {"seconds": rows["seconds"][:, None]},
    "a column of truth values": lambda rows: rows | {"seconds": rows["seconds"] > 0},
    "other addresses": lambda rows: rows | {"address": rows["address"][::-1]},
}


@pytest.mark.parametrize("name", SHARDS)
def test_a_shard_that_means_something_else(folder, name):
    path = max(results.shards(folder, "run"), key=lambda path: len(results.read_shard(path)))
    rewritten(path, SHARDS[name])
    with pytest.raises(Damaged, match="a damaged shard") as caught:
        results.read_shard(path)
    assert "checksum" not in str(caught.value)


def test_hdf5_does_not_read_what_is_damaged(folder, monkeypatch):
    """On some damaged files it never ends."""
    path = results.shards(folder, "score")[0]
    whole = path.read_bytes()
    path.write_bytes(whole[:1000] + bytes([whole[1000] ^ 1]) + whole[1001:])
    monkeypatch.setattr(h5py, "File", None)
    with pytest.raises(Damaged, match="its checksum is another"):
        results.read_shard(path)


def same(one, two):
    for name in one.data_vars:
        if "seconds" not in name:
            np.testing.assert_array_equal(one[name], two[name], err_msg=name)


def test_files_in_each_others_place_are_made_again(whole, folder, capsys):
    """Two shards and two models are swapped, a file of another program stands for a third model."""
    run, score = results.shards(folder, "run")[0], results.shards(folder, "score")[0]
    models = sorted((folder / "models").iterdir())
    for one, two in ((run, score), models[:2]):
        held = one.read_bytes()
        one.write_bytes(two.read_bytes())
        two.write_bytes(held)
    save_file({"weights": np.ones(2)}, models[2])
    for path in (run, score):
        with pytest.raises(Damaged, match="its rows are not those of its name"):
            results.read_shard(path)
    with pytest.raises(Damaged, match=f"written as {models[1].stem}"):
        load_trained(models[0])
    with pytest.raises(Damaged, match="another program's"):
        load_trained(models[2])
    same(bdjax.run(whole[0], folder), bdjax.load(whole[1]))
    with Store(folder) as store:
        for path in models:
            if path.exists():
                store.load_model(path.stem)


def test_pictures_and_scores_that_mean_something_else(tmp_path):
    image = np.zeros((2, 4, 4, 3), np.uint8)
    about = {"attack": "badnets", "count": "5", "figures": "{}"}
    path = tmp_path / f"{address('badnets')}.safetensors"
    save_named(path, {"clean": image, "triggered": image}, about)
    assert pictures.read_sample(path)[:2] == ("badnets", 5)
    damages = [({"clean": image, "triggered": image[:1]}, about), ({"clean": image}, about)]
    damages += [({"clean": image, "triggered": image.astype(np.float32)}, about)]
    more = [{"figures": "[]"}, {"figures": NESTED}, {"count": "many"}, {"attack": "blended"}, {"figures": '{"a": "b"}'}]
    damages += [({"clean": image, "triggered": image}, about | change) for change in more]
    for tree, told in damages:
        save_named(path, tree, told)
        with pytest.raises(Damaged):
            pictures.read_sample(path)
    save_named(path, {"image": image, "poisoned": np.zeros(2, bool), "score": np.zeros(1)})
    with pytest.raises(Damaged, match="not image, poisoned, score"):
        pictures.read_suspects(path)
    save_named(path, {"score": np.zeros(2), "truth": np.zeros(2, np.int8), "flagged": np.zeros(2)})
    with pytest.raises(Damaged, match="not score, truth, flagged"):
        results.read_scores(path)
    save_tree(path, {"score": np.zeros(2), "truth": np.zeros(2, np.int8)})  # without its name
    with pytest.raises(Damaged, match="written as no file of a study"):
        results.read_scores(path)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"", b"x" * 5000, b"nobody", b"a\0b"])
def test_claims_and_signs_that_say_nothing_are_void(whole, folder, content):
    claims = folder / "claims"
    for name in ("a.claim", f"{'0' * 24}.claim", "ghost.writer"):
        (claims / name).write_bytes(content)
    with Store(folder) as store:
        assert store.claim(["a"]) == ["a"]
        assert store.writers() == 1
    bdjax.run(whole[0], folder)
    assert [path.name for path in claims.iterdir()] == ["lock"]


@pytest.mark.parametrize("content", [f"{10**30} HOST", "-5 HOST", "1.5 HOST"])
def test_a_sign_with_no_number_of_a_process(tmp_path, content):
    with Store(tmp_path) as store:
        (tmp_path / "claims" / "ghost.writer").write_text(content.replace("HOST", socket.gethostname()))
        assert store.claim(["a"]) == ["a"]


PLUGINS = {
    "return None": "returned a NoneType; let it return a tuple of types.Stage",
    "return (1, 2)": "returned a tuple; let it return a tuple of types.Stage",
    "return 'text'": "returned a str",
    "raise KeyError('x')": "KeyError: 'x'; mend the plugin",
}


@pytest.mark.parametrize("body", [*PLUGINS, "other arguments"])
def test_a_plugin_that_makes_something_else_is_named(tmp_path, monkeypatch, capsys, body):
    monkeypatch.chdir(tmp_path)
    name = f"plugin_{address(body)}"
    arguments = "net" if body == "other arguments" else "net, shape, classes, **static"
    text = body if body in PLUGINS else "return ()"
    (tmp_path / f"{name}.py").write_text(
        "import bdjax\nfrom bdjax.cards import Card, Method\n"
        f"def make({arguments}):\n    {text}\n"
        f"bdjax.DEFENSES[{name!r}] = Method(Card({name!r}, 'Odd', 'none', 2026, 1, 'odd'), make)\n"
    )
    arguments = ["--dataset", tiny.dataset(tmp_path), "--model", "linear", "--ratios", "0", "--seeds", "0"]
    assert cli.main(["run", "--out", "out", "--plugin", name, "--defenses", name, *arguments]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"bdjax: plugin {name!r}: DEFENSES[{name!r}].make") and err.count("\n") == 1
    assert PLUGINS.get(body, "takes 1 positional argument") in err
    del bdjax.DEFENSES[name]


def test_config_is_what_study_json_holds(whole):
    config = json.loads(documents.read_study(whole[1] / "study.json")["attributes"]["config"])
    documents.check(config, documents.CONFIG)


READERS = {
    "study.json": documents.read_study,
    "plan.json": documents.read_plan,
    "results/score-*.nc": results.read_shard,
    "models/*": load_trained,
    "samples/*": pictures.read_sample,
    "scores/*": results.read_scores,
}


def fail_to_open(number):
    """Raises what safetensors raises for an error of the system."""

    def safe_open(*_, **__):
        raise OSError(f"{os.strerror(number)} (os error {number})")

    return safe_open


def fail_to_read(number):
    """Raises what Python raises for an error of the system."""

    def read_bytes(path):
        raise OSError(number, os.strerror(number), str(path))

    return read_bytes


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.EMFILE])
@pytest.mark.parametrize("name", READERS)
def test_what_cannot_be_read_now_is_not_damaged(folder, monkeypatch, name, number):
    path = next(folder.glob(name))
    READERS[name](path)
    monkeypatch.setattr("pathlib.Path.read_bytes", fail_to_read(number))
    monkeypatch.setattr("safetensors.safe_open", fail_to_open(number))
    with pytest.raises(Unreadable, match=os.strerror(number)):
        READERS[name](path)


def test_a_disk_that_fails_for_a_moment_costs_no_model(whole, folder, monkeypatch, capsys):
    for path in folder.glob("results/audit-*.nc"):  # so that models are read again
        path.unlink()
    with monkeypatch.context() as patch:
        patch.setattr("safetensors.safe_open", fail_to_open(errno.EIO))
        patch.setattr(cli, "_command", lambda _: types.SimpleNamespace(run=lambda: bdjax.run(whole[0], folder)))
        assert cli.main(["run"]) == 1
    assert "Input/output error; nothing is lost" in capsys.readouterr().err
    assert not list(folder.glob("**/*.damaged"))
    same(bdjax.run(whole[0], folder), bdjax.load(whole[1]))
    assert tiny.files(folder, "models").keys() == tiny.files(whole[1], "models").keys()


def test_a_claim_that_cannot_be_read_is_not_free(tmp_path, monkeypatch):
    with Store(tmp_path) as one, Store(tmp_path) as two:
        assert two.claim(["a"]) == ["a"]
        with monkeypatch.context() as patch:
            patch.setattr("pathlib.Path.read_bytes", fail_to_read(errno.EIO))
            assert one.claim(["a"]) == [] and one.writers() == 2 and one.owner(["a"]) is None
        assert one.claim(["a"]) == []


def test_doctor_tells_what_it_cannot_read_from_what_is_damaged(folder, monkeypatch, capsys):
    (folder / ".DS_Store").write_text("")
    os.mkfifo(folder / "failures.fifo")
    monkeypatch.setattr("safetensors.safe_open", fail_to_open(errno.EACCES))
    assert cli.main(["doctor", str(folder)]) == 1
    found = capsys.readouterr()
    assert "cannot be read now" in found.err and "damaged: " not in found.out and "left over" not in found.out


def test_a_pipe_among_failures(folder):
    (folder / "failures").mkdir(exist_ok=True)
    os.mkfifo(folder / "failures" / "x.txt")
    assert results.failures(folder) == []
