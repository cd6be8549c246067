"""`bdjax import`: what other tools have written, read without trust, and wrong input answered in one line."""

import csv
import json
import os
import shutil

import jax
import numpy as np
import pytest
import tiny
import xarray as xr
from safetensors.numpy import load_file

from bdjax import cli
from bdjax.io.datasets.poisoned_sets import load_set
from bdjax.io.foreign import model_folder, records, torch_files
from bdjax.io.foreign.torch_weights import to_torch
from bdjax.models import MODELS

ROWS = tiny.CLASSES * tiny.EACH


def content(arrays) -> records.Content:
    """A record of a poisoned set."""
    row, true, moved = arrays["poison_row"], arrays["train_label"], np.flatnonzero(arrays["test_label"] != 0)
    query = (moved, arrays["query_label"][moved], arrays["test_label"][moved], arrays["query_image"][moved])
    state = {"conv.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "bn.num_batches_tracked": np.int64(3)[...]}
    train = (row, arrays["poison_label"], true[row], arrays["train_image"][row])
    return records.Content("small", "gtsrb", tiny.CLASSES, state, ROWS, arrays["test_label"].size, train, query)


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A record of the tiny dataset's poisoned set, in a tool's folder; the clean dataset beside it."""
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    tiny.dataset(tmp_path)
    return records.write(tmp_path / "tool", "bad", content(tiny.poisoned_arrays()))


@pytest.fixture
def imported(capsys):
    """Runs the command and gives what it prints."""

    def run(path, *options):
        assert cli.main(["import", str(path), "--out", "out", *options]) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    return run


def changed(folder, change):
    """Change what attack_result.pt holds."""
    import torch

    held = torch.load(folder / "attack_result.pt", weights_only=False)
    change(held)
    torch.save(held, folder / "attack_result.pt")


def expected():
    """The set that a record of the tiny set comes back as: images of the target class have no trigger."""
    arrays = tiny.poisoned_arrays()
    target = arrays["test_label"] == 0
    arrays["query_image"][target] = arrays["test_image"][target]
    return arrays


def check_set(path="out/set.npz", arrays=None):
    with np.load(path) as found:
        assert set(found) == set(arrays or expected())
        for name, value in (arrays or expected()).items():
            np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_a_record_comes_back_bit_for_bit(made, imported, tmp_path):
    out = imported(made, "--dataset", "bands0.npz")
    check_set()
    assert load_set(tmp_path / "out" / "set.npz").goal.tolist() == [0, 0, 0]
    state = load_file("out/victim.safetensors")
    np.testing.assert_array_equal(state["conv.weight"], np.arange(6).reshape(2, 3))
    about = json.loads((tmp_path / "out" / "import.json").read_text())
    assert about["set"] == {
        **{"rows": ROWS, "changed": 18, "poisoned": 18, "noise": 0, "undecided": 0, "ratio": 0.1, "triggered": 40}
    }
    assert "poisoned 18" in out and "no network of bdjax is BackdoorBench's small" in out


def test_a_record_that_was_moved_as_other_tools_write_it(made, imported, tmp_path):
    """numpy's whole numbers as keys, paths of another machine, module. before names, defenses; the file is given."""
    import torch

    def change(held):
        entries = held["bd_train"]["bd_data_container"]["data_dict"]
        for row in list(entries):
            entry = entries.pop(row)
            entry["path"] = f"/home/somebody/record/old/{entry['path'].partition('bad/')[2]}"
            entry["other_info"] = [np.int64(entry["other_info"][0]), entry["other_info"][1]]
            entries[np.int64(row)] = entry
        held["model"] = {f"module.{name}": value for name, value in held["model"].items()}
        held["more"] = "a writer may add keys"

    changed(made, change)
    (made / "defense" / "ft").mkdir(parents=True)
    model = {"model": {"a": torch.ones(2)}, "model_name": "small", "num_classes": 3}
    torch.save(model, made / "defense" / "ft" / "defense_result.pt")
    made = made.rename(tmp_path / "elsewhere")
    imported(made / "attack_result.pt", "--dataset", "bands0.npz")
    check_set()
    assert "conv.weight" in load_file("out/victim.safetensors")
    assert load_file("out/defended/ft.safetensors")["a"].tolist() == [1, 1]


@pytest.mark.parametrize("crossed", [True, False])
def test_noise_rows_are_told_from_poisoned_ones(tmp_path, monkeypatch, imported, crossed):
    """Three rows of class 1 keep their label, and one of the target class, which may be either."""
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    tiny.dataset(tmp_path)
    arrays = tiny.poisoned_arrays()
    clean, label = tiny.arrays(), arrays["train_label"]
    noise = np.r_[np.flatnonzero(label == 1)[-3:], np.flatnonzero(label == 0)[-1:]]
    both = np.r_[arrays["poison_row"], noise]
    image = arrays["train_image"].copy()
    image[noise, :3] = 7
    noisy = arrays | {"poison_row": both, "train_image": image, "poison_label": np.r_[np.zeros(18, int), 1, 1, 1, 0]}
    folder = records.write(tmp_path / "tool", "warped", content(noisy))
    if crossed:
        (folder / "cross_test_dataset").mkdir()
    assert "poisoned 18, noise 3, undecided 1, ratio 0.1" in imported(folder, "--dataset", "bands0.npz")
    check_set()
    assert (clean["train_image"][noise] == np.load("out/set.npz")["train_image"][noise]).all()


def test_poisoned_rows_of_the_target_class_count_where_there_is_no_noise(tmp_path, monkeypatch, imported):
    """BadNets there stamps rows of the target class too."""
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    tiny.dataset(tmp_path)
    arrays = tiny.poisoned_arrays()
    rows = np.r_[np.flatnonzero(arrays["train_label"] == 0)[:2], arrays["poison_row"]]
    arrays["train_image"][rows] = tiny.stamped(arrays["train_image"][rows])
    arrays |= {"poison_row": rows, "poison_label": np.zeros(20, int)}
    out = imported(records.write(tmp_path / "tool", "bad", content(arrays)), "--dataset", "bands0.npz")
    assert "poisoned 20, noise 0, undecided 0" in out


def test_all_changed_rows_of_a_clean_label_attack_are_poisoned(tmp_path, monkeypatch, imported):
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    tiny.dataset(tmp_path)
    arrays = tiny.arrays() | {name: tiny.poisoned_arrays()[name] for name in ("query_image", "query_label")}
    rows = np.flatnonzero(arrays["train_label"] == 0)[:9]
    arrays["train_image"][rows] = tiny.stamped(arrays["train_image"][rows])
    arrays |= {"poison_row": rows, "poison_label": np.zeros(9, int)}
    folder = records.write(tmp_path / "tool", "sig", content(arrays))
    (folder / "cross_test_dataset").mkdir()
    assert "poisoned 9, noise 0, undecided 0, ratio 0.05" in imported(folder, "--dataset", "bands0.npz")


def test_without_the_clean_data_there_are_weights_alone(made, imported, tmp_path):
    assert "weights alone; give --dataset" in imported(made)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["import.json", "victim.safetensors"]


def test_weights_that_fit_a_network_give_the_next_command(tmp_path, monkeypatch, imported):
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    tiny.dataset(tmp_path)
    monkeypatch.setitem(records.NETWORKS, "small", "small_cnn")
    net = MODELS["small_cnn"].make((16, 16, 3), 3, (0.0,) * 3, (1.0,) * 3)
    made = content(tiny.poisoned_arrays())._replace(state=to_torch(net.init(jax.random.key(0)), net))
    out = imported(records.write(tmp_path / "tool", "bad", made), "--dataset", "bands0.npz")
    assert out.splitlines()[-1] == (
        "next: bdjax run --dataset bands0.npz --model small_cnn --normalization none --attacks set:out/set.npz "
        "--victims victim=out/victim.safetensors --defenses none ft sau --out out/study"
    )


def no_set(folder):
    changed(folder, lambda held: held.update(bd_train=None))


def pillow(folder):
    from PIL import Image

    def change(held):
        entries = held["bd_train"]["bd_data_container"]["data_dict"]
        for row in entries:
            entries[row] = (Image.new("RGB", (16, 16)), 0, 1)

    changed(folder, change)


def in_memory(folder):
    def change(held):
        entries = held["bd_train"]["bd_data_container"]["data_dict"]
        for row in entries:
            entries[row] = ([0] * 4, 0, 1)

    changed(folder, change)


def module(folder):
    import torch

    torch.save(torch.nn.Linear(2, 2), folder / "attack_result.pt")


class _Code:
    def __reduce__(self):
        return os.system, ("touch hacked",)


def code(folder):
    import torch

    torch.save({"model": _Code()}, folder / "attack_result.pt")


def to(path):
    """The first poisoned training row's path."""

    def change(held):
        entry = next(iter(held["bd_train"]["bd_data_container"]["data_dict"].values()))
        entry["path"] = path(entry["path"])

    return lambda folder: changed(folder, change)


def of(part, **values):
    return lambda folder: changed(folder, lambda held: held[part].update(values))


def linked(folder):
    path = next((folder / "bd_train_dataset").glob("*/*.png"))
    path.unlink()
    path.symlink_to(__file__)


def shrunk(folder):
    from PIL import Image

    Image.new("RGB", (8, 8)).save(next((folder / "bd_train_dataset").glob("*/*.png")))


def half(folder):
    path = folder / "attack_result.pt"
    path.write_bytes(path.read_bytes()[:1000])


def cut(folder):
    path = next((folder / "bd_test_dataset").glob("*/*.png"))
    path.write_bytes(path.read_bytes()[:60])


def fewer_queries(folder):
    def change(held):
        held["bd_test"]["original_index_array"] = held["bd_test"]["original_index_array"][:-1]

    changed(folder, change)


def other_row(folder):
    def change(held):
        entries = held["bd_train"]["bd_data_container"]["data_dict"]
        entries[10**6] = entries.pop(next(iter(entries)))

    changed(folder, change)


WRONG = {
    "no dataset of that name": (lambda folder: None, "nope", "no dataset 'nope'"),
    "another dataset": (lambda folder: None, "digits", "classes 3, of the data set 10"),
    "rows in another order": (lambda folder: None, "reversed.npz", "training rows are in another order: "),
    "rows in another order within classes": (lambda folder: None, "within.npz", "in another order within classes"),
    "no poisoned set": (no_set, "bands0.npz", "poisons batch by batch"),
    "a set in memory with PIL": (pillow, "bands0.npz", "it asks for PIL.Image.Image); give a record that keeps"),
    "a set in memory": (in_memory, "bands0.npz", "has its images in attack_result.pt, pickled"),
    "a whole pickled module": (module, "bands0.npz", "torch.nn.modules.linear.Linear"),
    "code": (code, "bands0.npz", "system"),
    "half a file": (half, "bands0.npz", "not a file that torch can read safely"),
    "no torch file": (lambda folder: (folder / "attack_result.pt").write_text("{}"), "bands0.npz", "not a file that"),
    "a folder as the file": (
        lambda folder: ((folder / "attack_result.pt").unlink(), (folder / "attack_result.pt").mkdir()),
        "bands0.npz",
        "no such file",
    ),
    "no attack": (lambda folder: changed(folder, lambda held: held.pop("bd_test")), "bands0.npz", "it must hold"),
    "no weights": (lambda folder: changed(folder, lambda held: held.update(model={})), "bands0.npz", "no state dict"),
    "no size": (lambda folder: changed(folder, lambda held: held.update(img_size=(0, 1))), "bands0.npz", "damaged"),
    "no classes": (lambda folder: changed(folder, lambda held: held.update(num_classes="x")), "bands0.npz", "damaged"),
    "no indicator": (of("bd_train", poison_indicator=None), "bands0.npz", "damaged or another tool's (bd_train"),
    "an indicator of 2": (of("bd_train", poison_indicator=np.full(ROWS, 2.0)), "bands0.npz", "poison_indicator"),
    "fewer rows": (of("bd_train", poison_indicator=np.zeros(9)), "bands0.npz", "bd_train_dataset: rows from 0"),
    "rows that are none": (of("bd_test", original_index_array=np.array([-1])), "bands0.npz", "rows from -1 to -1"),
    "an image of no row": (other_row, "bands0.npz", "bd_train_dataset: no image of row"),
    "a path upwards": (to(lambda path: path.replace("bd_train", "../../bd_train")), "bands0.npz", "is not in bd_train"),
    "a path in the folder upwards": (to(lambda path: path + "/../../../x.png"), "bands0.npz", "is not in bd_train"),
    "a path elsewhere": (to(lambda path: "/etc/passwd"), "bands0.npz", "'/etc/passwd' is not in bd_train_dataset"),
    "a path of no image": (to(lambda path: path + ".png"), "bands0.npz", "no such file; give the record with"),
    "a link out": (linked, "bands0.npz", "leads out of the record"),
    "an image of another size": (shrunk, "bands0.npz", "8x8 pixels, the first image has 16x16"),
    "half an image": (cut, "bands0.npz", "not a readable image"),
    "a test image without trigger": (fewer_queries, "bands0.npz", "query_label differs within class"),
    "no images": (lambda folder: shutil.rmtree(folder / "bd_test_dataset"), "bands0.npz", "no such file; give the rec"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_record_gets_one_line(made, tmp_path, capsys, name):
    change, dataset, words = WRONG[name]
    arrays = tiny.arrays()
    np.savez("reversed.npz", **{name: value[::-1] for name, value in arrays.items()})
    order = np.arange(ROWS).reshape(-1, 3)[::-1].reshape(-1)
    np.savez("within.npz", **arrays | {"train_image": arrays["train_image"][order]})
    change(made)
    line = refusal(capsys, str(made), "--dataset", dataset)
    assert words in line and not (tmp_path / "hacked").exists()
    assert not (tmp_path / "out" / "set.npz").exists()


def refusal(capsys, *arguments) -> str:
    assert cli.main(["import", *arguments, "--out", "out"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("bdjax: ") and err.count("\n") == 1, err
    return err


def toolbox(folder, **changes):
    """A set of backdoor-toolbox with 18 poisoned rows and two covers."""
    import torch

    arrays = tiny.poisoned_arrays()
    image, label = arrays["train_image"].copy(), arrays["train_label"].copy()
    cover = np.flatnonzero(label == 0)[:2]
    image[cover] = tiny.stamped(image[cover])
    label[arrays["poison_row"]] = 0
    parts = {
        "imgs": torch.from_numpy(image.transpose(0, 3, 1, 2).astype(np.float32) / 255),
        "labels": torch.from_numpy(label.astype(np.int64)),
        "poison_indices": arrays["poison_row"].tolist(),
        "cover_indices": cover.tolist(),
    } | changes
    folder.mkdir()
    for name, value in parts.items():
        torch.save(value, folder / name)
    return folder, arrays | {"train_image": image, "cover_row": cover}


def test_a_set_of_backdoor_toolbox(tmp_path, monkeypatch, imported):
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    tiny.dataset(tmp_path)
    folder, arrays = toolbox(tmp_path / "badnet_0.100")
    out = imported(folder, "--dataset", "bands0.npz")
    assert "poisoned 18, covers 2, ratio 0.1" in out and "stores no triggered test images" in out
    check_set("out/rows.npz", {name: value for name, value in arrays.items() if not name.startswith("query")})


TOOLBOX = {
    "normalized images": ("imgs", lambda value: value * 4 - 2, "values from -2 to 2; give images in [0, 1]"),
    "an empty tensor": ("imgs", lambda value: value[:0], "none; give images"),
    "no tensor": ("imgs", lambda value: [1, 2], "no tensor of float images"),
    "other images": ("imgs", lambda value: 1 - value, "rows that are not poisoned differ from the data set"),
    "other labels": ("labels", lambda value: value.flip(0), "rows that are not poisoned differ"),
    "labels beyond the classes": ("labels", lambda value: value + 5, "labels from 5 to 7; classes go from 0 to 2"),
    "a row twice": ("poison_indices", lambda value: [1, 1], "a row is there twice"),
    "a row that is none": ("poison_indices", lambda value: [10**9], "are no rows"),
    "texts for rows": ("poison_indices", lambda value: ["a"], "no whole numbers"),
}


@pytest.mark.parametrize("name", TOOLBOX)
def test_a_wrong_set_of_backdoor_toolbox_gets_one_line(tmp_path, monkeypatch, capsys, name):
    torch = pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    tiny.dataset(tmp_path)
    file, change, words = TOOLBOX[name]
    folder, _ = toolbox(tmp_path / "set")
    torch.save(change(torch.load(folder / file)), folder / file)
    assert words in refusal(capsys, str(folder), "--dataset", "bands0.npz")
    assert not (tmp_path / "out").exists()


LEADERBOARD = [
    {"dataset": "cifar10", "backbone": "vgg19_bn", "attack_name": "badnet", "defense_name": "no defense"},
    {"dataset": "cifar10", "backbone": "vgg19_bn", "attack_name": "badnet", "defense_name": "ft"},
    {"dataset": "cifar10", "backbone": "vgg19_bn", "attack_name": "wanet", "defense_name": "ft"},
]
NUMBERS = [("0.9", "0.95", "0.04"), ("-1", "-1", "-1"), ("", "", "")]


def leaderboard(path, **changes):
    rows = [
        {"": "0", **row, "ratio": "0.1", **dict(zip(("test_acc", "test_asr", "test_ra"), numbers, strict=True))}
        for row, numbers in zip(LEADERBOARD, NUMBERS, strict=True)
    ]
    rows[0] |= changes
    with open(path, "w", newline="") as file:
        table = csv.DictWriter(file, rows[1])
        table.writeheader()
        table.writerows([{name: row[name] for name in rows[1]} for row in rows])


def test_the_leaderboard(tmp_path, monkeypatch, imported):
    monkeypatch.chdir(tmp_path)
    leaderboard("results.csv")
    out = imported("results.csv")
    assert "1 of 3 results, 1 sentinels; 1 dataset, 1 backbone, 2 attack, 2 defense, 1 ratio" in out
    with xr.open_dataset("out/leaderboard.nc") as found:
        assert found.defense.values.tolist() == ["ft", "none"] and found.acc.dtype == float
        place = {"dataset": "cifar10", "backbone": "vgg19_bn", "attack": "badnet", "ratio": 0.1}
        measured = found.sel(place | {"defense": "none"})
        assert (float(measured.acc), float(measured.asr), float(measured.ra)) == (0.9, 0.95, 0.04)
        assert int(measured.status) == 0 and int((found.status == -1).sum()) == 3
        assert np.isnan(found.acc.sel(place | {"defense": "ft"})) and "seed" not in found.dims


TABLES = {
    "a figure above 1": ({"test_acc": "91.3"}, "line 2: 0.1, [91.3, 0.95, 0.04]: give fractions"),
    "a figure that is none": ({"test_asr": "high"}, "test_asr is 'high'; give a number"),
    "a ratio above 1": ({"ratio": "10"}, "give fractions"),
    "no ratio": ({"ratio": ""}, "ratio is ''; give a number"),
    "a result twice": ({"defense_name": "ft"}, "is there twice; remove one"),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_wrong_leaderboard_gets_one_line(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    changes, words = TABLES[name]
    leaderboard("results.csv", **changes)
    assert words in refusal(capsys, "results.csv") and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("test_acc,test_asr,test_ra\n1,1,1\n", "no column dataset"),
        ("dataset,backbone,attack,defense,ratio,test_acc,test_asr,test_ra\n", "no row"),
        ("dataset,backbone,attack,defense,ratio,test_acc,test_asr,test_ra\n\xff", "no CSV table"),
        ("dataset,backbone,attack,defense,ratio,test_acc,test_asr,test_ra\na,b\n", "is"),
        ("a,b\n", "neither a record of BackdoorBench"),
    ],
)
def test_a_wrong_table_gets_one_line(tmp_path, monkeypatch, capsys, text, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results.csv").write_bytes(text.encode("latin-1"))
    assert words in refusal(capsys, "results.csv")


def test_paths_that_are_nothing_get_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert "no such file or folder" in refusal(capsys, "missing")
    (tmp_path / "empty").mkdir()
    assert "neither a record of BackdoorBench" in refusal(capsys, "empty")
    os.mkfifo(tmp_path / "pipe")
    assert "neither a record of BackdoorBench" in refusal(capsys, "pipe")
    (tmp_path / "out").write_text("")
    assert "--out out: no folder" in refusal(capsys, "empty")


def test_a_record_without_torch_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "attack_result.pt").write_text("")
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    assert "pip install 'bdjax[torch]'" in refusal(capsys, "attack_result.pt")
    assert torch_files.is_available() in (True, False)


def test_a_model_folder_is_read_whole(tmp_path, monkeypatch, imported, capsys):
    monkeypatch.chdir(tmp_path)
    config = {
        "architecture": "small_cnn:width=4",
        "classes": ["a", "b", "c"],
        "image": {"height": 16, "width": 16, "channels": 3},
        "mean": [0.5, 0.25, 0.1],
        "std": [0.2, 0.2, 0.3],
    }
    net = model_folder.network(config)
    weights = net.init(jax.random.key(4))
    model_folder.write(tmp_path / "model", net, weights, config)
    out = imported("model")
    assert "--model small_cnn:width=4 --normalization 0.5,0.25,0.1/0.2,0.2,0.3 --victims victim=out/victim" in out
    for name, value in to_torch(weights, net).items():
        np.testing.assert_array_equal(load_file("out/victim.safetensors")[name], value)
    (tmp_path / "model" / "config.json").write_text("{}")
    assert "no config of a model folder" in refusal(capsys, "model")
