"""Users' files in results: by content and name, without the folders that they lie in; found again wherever they are."""

import json
import re
import shutil

import numpy as np
import pytest
import tiny
from PIL import Image

import bdjax
from bdjax.cli.conduct import present
from bdjax.errors import InvalidInput
from bdjax.paths import local, portable
from bdjax.study.jobs import plan
from bdjax.study.resolve import resolve


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alice") / "private folder"
    folder.mkdir()
    Image.new("RGB", (16, 16), (200, 30, 90)).save(folder / "mine.png")
    np.savez(folder / "set.npz", **tiny.poisoned_arrays())
    return folder


def study(home, **changes):
    attacks = (f"blended:picture={home}/mine.png,alpha=0.4", f"set:{home}/set.npz")
    return tiny.study(home, **{"attacks": attacks, "ratios": (f"{attacks[0]}=0.1", 0.1), "seeds": (0,)} | changes)


@pytest.fixture(scope="module")
def done(home):
    found = bdjax.run(study(home), home / "out")
    present([home / "out"], home / "out")
    return found, home / "out"


def test_nothing_in_a_folder_of_results_tells_where_the_users_files_are(done):
    found, folder = done
    blended, poisoned = found["attack"].values
    assert re.fullmatch(r"blended:picture=mine\.png#[0-9a-f]{12},alpha=0\.4", blended)
    assert re.fullmatch(r"set:set\.npz#[0-9a-f]{12}", poisoned)
    config = json.loads(found.attrs["config"])
    assert config["ratios"] == [f"{blended}=0.1", 0.1] and config["dataset"].startswith("bands0.npz#")
    held = [path for path in folder.rglob("*") if path.is_file()]
    assert {"study.json", "plan.json", "results.csv", "results.parquet", "report.html"} <= {path.name for path in held}
    assert not [path for path in held if b"alice" in path.read_bytes() or b"private" in path.read_bytes()]


def test_the_same_files_elsewhere_find_their_results(done, home, tmp_path):
    """The user's folder and the study's are moved."""
    moved = shutil.copytree(home, tmp_path / "bob")
    recorder = tiny.Recorder()
    again = bdjax.run(study(moved), moved / "out", recorder)
    assert recorder.models == 0 and not recorder.compiled_labels
    np.testing.assert_array_equal(again["acc"], done[0]["acc"])


def test_names_without_folders_are_found_in_the_working_folder_or_where_they_lay(done, home, monkeypatch):
    monkeypatch.chdir(home)
    asked = study(home)
    config = json.loads(done[0].attrs["config"])
    known = {job.address for job in plan(resolve(asked)).jobs}
    again = bdjax.Study(**config)
    assert {job.address for job in plan(resolve(again)).jobs} == known
    monkeypatch.chdir(home.parent)
    assert {job.address for job in plan(resolve(again)).jobs} == known  # the cache remembers where they lie
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "other"))
    with pytest.raises(InvalidInput, match="bands0"):
        resolve(again)


def test_one_file_by_two_paths_is_one_attack(home, tmp_path):
    shutil.copy(home / "mine.png", tmp_path / "mine.png")
    attacks = tuple(f"blended:picture={folder}/mine.png" for folder in (home, tmp_path))
    with pytest.raises(InvalidInput, match="is given twice"):
        resolve(study(home, attacks=attacks, ratios=(0.1,)))


def test_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    digest = "0123456789abcdef"
    assert (
        portable("a/b/c.png", digest)
        == portable("~/c.png", digest)
        == portable("c.png/", digest)
        == "c.png#0123456789ab"
    )
    assert portable("..", "f" * 64) == f"{tmp_path.parent.name}#ffffffffffff"
    assert local("c.png#0123456789ab") == "c.png" and local("c#1.png") == "c#1.png"
    (tmp_path / "c.png#0123456789ab").write_text("")
    assert local("c.png#0123456789ab") == "c.png#0123456789ab"
