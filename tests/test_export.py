"""`bdjax export` and `bdjax.load_model`: models and poisoned sets out of a study, and back again."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import chex
import jax
import numpy as np
import pytest
import tiny
from PIL import Image
from test_docs import blocks

import bdjax
from bdjax import cli
from bdjax.errors import InvalidInput
from bdjax.io.datasets import load
from bdjax.io.datasets.poisoned_sets import load_set
from bdjax.io.foreign import model_folder, records
from bdjax.io.foreign.weights import load_weights
from bdjax.io.store.documents import read_json
from bdjax.io.store.store import Store
from bdjax.study.resolve import resolve

NPD = "npd:epochs=1"
NAMES = "bands0/small_cnn", "badnets-size=6-"
"""How the names of models begin, and the part of the attack up to the hash that its colon costs."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def study(data):
    asked = tiny.study(data, model="small_cnn", ratios=(0.0, 0.1), defenses=("none", NPD))
    bdjax.run(asked, data / "studies" / "demo", progress=False)
    return asked


@pytest.fixture
def folder(data, study, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return data / "studies" / "demo"


def weights_of(folder, **where):
    """As they lie in the study's own files."""
    cells = read_json(folder / "study.json")["cells"]
    (cell,) = [cell for cell in cells if all(cell[name] == value for name, value in where.items())]
    return Store(folder).load_model(cell["model"]).weights


def exported(capsys, folder, *options, to="to") -> list[str]:
    assert cli.main(["export", str(folder), "--to", to, *options]) == 0, capsys.readouterr().err
    return capsys.readouterr().out.splitlines()


def refusal(capsys, *arguments) -> str:
    assert cli.main(["export", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("bdjax: ") and err.count("\n") == 1, err
    return err


def test_load_model_gives_the_network_and_the_bits_of_a_cell(folder, study):
    work = resolve(study)
    image = np.asarray(work.dataset.test.image[:5] / 255, np.float32)
    for defense in ("none", NPD):
        net, weights = bdjax.load_model(folder, attack=tiny.ATTACK, ratio=0.1, seed=1, defense=defense)
        own = weights_of(folder, ratio=0.1, seed=1, defense=defense)
        chex.assert_trees_all_equal(weights, own)
        np.testing.assert_array_equal(net.apply(weights, image)[0], work.net_of(defense).apply(own, image)[0])
    assert net.plain is not None


def test_the_only_attack_need_not_be_named(folder):
    _, weights = bdjax.load_model(folder, ratio=0.1, seed=0)
    chex.assert_trees_all_equal(weights, weights_of(folder, ratio=0.1, seed=0, defense="none"))


def test_a_model_by_its_name_below_a_folder_of_studies(folder, capsys):
    exported(capsys, folder, "--ratio", "0.1", "--seed", "1", "--defense", "none")
    (written,) = [path.parent.relative_to("to") for path in _configs("to")]
    assert str(written).startswith(f"{NAMES[0]}/{NAMES[1]}") and written.parts[3:] == ("0.1", "none", "1")
    own = weights_of(folder, ratio=0.1, seed=1, defense="none")
    for place in (folder.parent / written, folder / written, f"to/{written}"):
        chex.assert_trees_all_equal(bdjax.load_model(place)[1], own)
    with pytest.raises(
        InvalidInput, match=r"no study and no model folder; a model of a study in .* is called dataset/"
    ):
        bdjax.load_model(folder.parent / written.parent / "9")


def _configs(to):
    return sorted(Path(to).glob("**/config.json"))


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ({}, "several models; give ratio=, one of 0, 0.1"),
        ({"ratio": 0.1}, "several models; give seed=, one of 0, 1"),
        ({"attack": "blended"}, "no attack blended; choose from badnets:size=6"),
        ({"ratio": 0.2, "seed": 0}, "no ratio 0.2; choose from 0, 0.1"),
        ({"ratio": 0.1, "seed": 9}, "no seed 9; choose from 0, 1"),
        ({"ratio": 0.1, "seed": 0, "defense": "ft"}, "no defense ft; choose from none, npd:epochs=1"),
    ],
)
def test_a_model_that_is_not_there_or_not_alone(folder, where, words):
    with pytest.raises(InvalidInput, match=words):
        bdjax.load_model(folder, **where)


def test_a_missing_model_is_named(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    for path in (tmp_path / "copy" / "models").iterdir():
        path.unlink()
    with pytest.raises(InvalidInput, match="lacks the model of none at seed 0; run the study again"):
        bdjax.load_model(tmp_path / "copy", ratio=0.1, seed=0)
    with pytest.raises(InvalidInput, match=r"no study\.json there"):
        bdjax.load_model(tmp_path)


def test_every_model_of_a_study_comes_back_bit_for_bit(folder, capsys, data):
    assert exported(capsys, folder) == ["8 models in to"]
    results = bdjax.load(folder)
    configs = _configs("to")
    assert len(configs) == 8
    for path in configs:
        _, weights, config = model_folder.read(path.parent)
        cell = config["cell"]
        chex.assert_trees_all_equal(weights, weights_of(folder, **cell))
        assert config["figures"]["n"] == 1 and config["figures"]["acc"] == float(results.acc.sel(cell))
        assert config["dataset"] == {"name": "bands0", "digest": load(tiny.dataset(data)).digest}
        assert (config["names"], config.get("defense")) == (
            ("bdjax", NPD) if cell["defense"] == NPD else ("torch", None)
        )
    assert exported(capsys, folder, "--seed", "0", "--ratio", "0.1", to="again") == ["2 models in again"]


def arrays_of(folder, seed):
    """The poisoned set of a seed, worked out from the square that the attack stamps and from the study's own rows."""
    found = load_set(next(folder.glob(f"**/0.1/none/{seed}/set.npz")))
    clean = tiny.arrays()
    white = clean["train_image"].copy()
    white[:, -6:, -6:] = 255
    query = clean["test_image"].copy()
    query[:, -6:, -6:] = 255
    return found, white, query, clean


def test_a_poisoned_set_as_npz(folder, capsys, tmp_path, data):
    lines = exported(capsys, folder, "--poison", "npz", "--ratio", "0.1")
    assert lines[-1] == "4 models in to" and len(lines) == 3
    for seed in (0, 1):
        found, white, query, clean = arrays_of(tmp_path / "to", seed)
        assert found.row.size == 18 and found.goal.tolist() == [0, 0, 0] and (found.label == 0).all()
        np.testing.assert_array_equal(found.image, white[found.row])
        moved = clean["test_label"] != 0
        np.testing.assert_array_equal(found.query_image[moved], query[moved])
        np.testing.assert_array_equal(found.query_image[~moved], clean["test_image"][~moved])
        kept = np.setdiff1d(np.arange(180), found.row)
        np.testing.assert_array_equal(found.splits.train_image[kept], clean["train_image"][kept])
    assert not np.array_equal(arrays_of(tmp_path / "to", 0)[0].row, found.row)


def test_a_set_that_was_exported_runs_as_an_attack_with_the_same_figures(folder, capsys, data, tmp_path):
    exported(capsys, folder, "--poison", "npz", "--ratio", "0.1", "--seed", "0")
    path = next((tmp_path / "to").glob("**/set.npz"))
    study = tiny.study(data, model="small_cnn", attacks=(f"set:{path}",), ratios=(0.1,), seeds=(0,))
    found, before = bdjax.run(study, progress=False), bdjax.load(folder).sel(ratio=0.1, seed=0, defense="none")
    assert float(found.acc.squeeze()) == pytest.approx(float(before.acc.squeeze()), abs=0.02)
    assert float(found.asr.squeeze()) == pytest.approx(float(before.asr.squeeze()), abs=0.05)


def test_a_poisoned_set_as_class_folders(folder, capsys, tmp_path):
    exported(capsys, folder, "--poison", "png", "--ratio", "0.1", "--seed", "0")
    exported(capsys, folder, "--poison", "npz", "--ratio", "0.1", "--seed", "0")
    found, _, query, clean = arrays_of(tmp_path / "to", 0)
    (written,) = (tmp_path / "to").glob("**/poisoned")
    seen = clean["train_label"].copy()
    seen[found.row] = found.label
    files = list((written / "train").glob("*/*.png"))
    assert len(files) == 180
    for path in files:
        row = int(path.stem)
        assert int(path.parent.name) == seen[row]
        np.testing.assert_array_equal(np.asarray(Image.open(path)), found.splits.train_image[row])
    triggered = list((written / "triggered").glob("*/*.png"))
    assert {int(path.stem) for path in triggered} == set(np.flatnonzero(clean["test_label"] != 0))
    for path in triggered:
        assert int(path.parent.name) == clean["test_label"][int(path.stem)]
        np.testing.assert_array_equal(np.asarray(Image.open(path)), query[int(path.stem)])
    lines = (written / "poisoned_rows.csv").read_text().splitlines()
    assert lines[1:] == [f"{row},{clean['train_label'][row]},0" for row in found.row]
    assert load(str(written)).count == 3


def test_a_record_is_imported_with_the_bits_of_the_npz(folder, capsys, tmp_path, monkeypatch, data):
    pytest.importorskip("torch")
    monkeypatch.setitem(records.NETWORKS, "small", "small_cnn")
    exported(capsys, folder, "--poison", "npz", "--ratio", "0.1", "--seed", "1")
    line, _ = exported(capsys, folder, "--poison", "record", "--ratio", "0.1", "--seed", "1")
    path, _, note = line.partition(": ")
    assert note.startswith("BackdoorBench's loader knows no data set bands0, only cifar10")
    assert path.startswith("to/record/bands0_small_cnn_badnets-size=6-") and path.endswith("_0.1_none_1")
    assert cli.main(["import", path, "--out", "back", "--dataset", tiny.dataset(data)]) == 0
    with np.load("back/set.npz") as back, np.load(next((tmp_path / "to").glob("**/set.npz"))) as npz:
        assert set(back) == set(npz)
        for name in npz:
            np.testing.assert_array_equal(back[name], npz[name], err_msg=name)
    net, weights = bdjax.load_model(folder, ratio=0.1, seed=1)
    chex.assert_trees_all_equal(load_weights(tmp_path / "back" / "victim.safetensors", net), weights)
    assert "--model small_cnn" in capsys.readouterr().out


def test_a_network_that_the_benchmark_lacks_is_no_record(folder, capsys):
    line = refusal(capsys, str(folder), "--to", "to", "--ratio", "0.1", "--seed", "0", "--poison", "record")
    assert "small_cnn: BackdoorBench has no such network; it has preact_resnet18" in line


REFUSED = {
    "attack blended": "no attack blended; choose from badnets:size=6",
    "ratio 0.7": "no ratio 0.7; choose from 0, 0.1",
    "seed 7": "no seed 7; choose from 0, 1",
    "defense nad": "no defense nad; choose from none, npd:epochs=1",
    "ratio 0 --poison npz": "no cell that is asked for has poison",
}


@pytest.mark.parametrize("options", REFUSED)
def test_what_is_not_there_is_refused(folder, capsys, options):
    name, *more = options.split()
    assert REFUSED[options] in refusal(capsys, str(folder), "--to", "to", f"--{name}", *more)
    assert not Path("to").exists()


def test_places_that_cannot_be_used_are_refused(folder, capsys, tmp_path):
    assert "no study.json there" in refusal(capsys, str(tmp_path), "--to", "to")
    (tmp_path / "file").write_text("")
    assert "no folder; give one" in refusal(capsys, str(folder), "--to", "file")


def test_unfinished_models_are_counted(folder, capsys, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    where = read_json(folder / "study.json")["cells"]
    gone = next(cell for cell in where if cell["ratio"] == 0.1 and cell["defense"] == NPD)
    (tmp_path / "copy" / "models" / f"{gone['model']}.safetensors").unlink()
    assert exported(capsys, tmp_path / "copy") == ["7 models in to; 1 not trained yet"]


def test_a_changed_dataset_is_refused(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "own"
    place.mkdir()
    asked = tiny.study(place, ratios=(0.1,), seeds=(0,), recipe="epochs=1")
    bdjax.run(asked, tmp_path / "out", progress=False)
    np.savez(place / "bands0.npz", **tiny.arrays(5))
    with pytest.raises(InvalidInput, match="made with other data or another network"):
        bdjax.load_model(tmp_path / "out", ratio=0.1, seed=0)
    assert json.loads(read_json(tmp_path / "out" / "study.json")["attributes"]["config"])["model"] == "linear"
    assert jax.tree.leaves(weights_of(tmp_path / "out", seed=0))


@pytest.mark.slow
@pytest.mark.usefixtures("usual_driver")
def test_the_page_about_import_and_export_runs(tmp_path, monkeypatch):
    """Its command, then its Python in the same folder."""
    monkeypatch.chdir(tmp_path)
    page = Path(__file__).parent.parent / "docs" / "import_export.md"
    bash, python = blocks(page.read_text())
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    command = ["bash", "-euo", "pipefail", "-c", bash.code]
    done = subprocess.run(command, env=os.environ | {"PATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    held = {}
    exec(compile(python.code, str(page), "exec"), held)
    chex.assert_trees_all_equal(held["weights"], held["bits"])
