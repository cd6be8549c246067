"""A study from end to end: what it gives, what it does not do twice, what it refuses and what it survives."""

import dataclasses
import io
import json
import shutil
import tempfile
import threading
from pathlib import Path
from types import SimpleNamespace

import chex
import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import xarray as xr

import bdjax
from bdjax import cards, train
from bdjax.cells import memory
from bdjax.cells.functions import Shared
from bdjax.data import poison
from bdjax.defenses import DEFENSES
from bdjax.engine import chunks, drivers, programs
from bdjax.errors import InvalidInput
from bdjax.io.store import checkpoints, results
from bdjax.io.store.checkpoints import Checkpoint
from bdjax.io.store.documents import read_marker, read_plan, write_json
from bdjax.io.store.trees import load_trained
from bdjax.study import resolve
from bdjax.train import recipes
from bdjax.types import Attack, Poison, Stage, Trained, Weights

FT, AUDIT = "ft:epochs=2,batch=8,learning_rate=1", "retuning:epochs=1,poisoned=2"
USUAL = {"defenses": ("none", FT), "audits": (AUDIT,)}
RATES = ("acc", "asr", "ra", "der")
RESULTS = (*RATES, "overlap", "status", "retuning_acc", "retuning_asr", "retuning_ra")


def same(one: xr.Dataset, two: xr.Dataset, names=RESULTS, **where) -> None:
    """The same bits under all names that hold results and not times."""
    for name in names:
        np.testing.assert_array_equal(one[name].sel(**where), two[name].sel(**where), err_msg=name)


@pytest.fixture(scope="module", autouse=True)
def four_at_a_time():
    """At most four cells at a time, so that most studies here compile the same programs and find them compiled."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(programs, "LARGEST", 4)
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def kept(data):
    """A study's folder and its results."""
    recorder = tiny.Recorder()
    results = bdjax.run(tiny.study(data, **USUAL), data / "kept", recorder)
    assert recorder.models == 8
    return data / "kept", results


@pytest.fixture
def folder(kept, tmp_path):
    """A copy of that folder, to be harmed."""
    return Path(shutil.copytree(kept[0], tmp_path / "study"))


def test_results_are_as_documented(kept, data):
    folder, found = kept
    assert dict(found.sizes) == {"attack": 1, "ratio": 2, "seed": 2, "defense": 2}
    assert found["acc"].dims == ("attack", "ratio", "seed", "defense")
    assert found["attack"].values.tolist() == [tiny.ATTACK]
    assert found["defense"].values.tolist() == ["none", FT]
    assert (found["ratio"].dtype, found["seed"].dtype, found["status"].dtype) == (np.float64, np.int64, np.int8)
    for name in ("acc", "asr", "ra", "der", "overlap", "seconds", "retuning_acc"):
        assert found[name].dtype == np.float64 and np.isfinite(found[name]).all()
        assert name == "seconds" or ((found[name] >= 0) & (found[name] <= 1)).all()
    assert (found["status"] == 0).all() and not found["oracle"].any() and (found["version"] == 1).all()
    assert (found["acc"] == 1).all()  # bands are easy, and the patch is learned where it is shown
    assert (found["asr"].sel(ratio=0.1, defense="none") > 0.9).all() and (found["asr"].sel(ratio=0.0) < 0.1).all()
    assert (found["der"].sel(defense="none") == 0.5).all() and (found["overlap"].sel(ratio=0.0) == 0).all()
    assert all(found[name].attrs["long_name"] for name in ("acc", "asr", "ra", "der", "seconds", "status", "attack"))
    assert found["retuning_asr"].attrs["long_name"] == "asr, by the audit retuning"
    assert (found["asr"].attrs["units"], found["seconds"].attrs["units"]) == ("1", "s")
    codes = dict(zip(found["status"].attrs["flag_meanings"].split(), found["status"].attrs["flag_values"], strict=True))
    assert codes == {"ok": 0, "diverged": 1, "not_run": -1, "not_asked_for": -2}
    assert found.attrs["driver"] == "map" and found.attrs["model"] == "linear"
    assert json.loads(found.attrs["config"])["seeds"] == [0, 1]
    assert "jax" in json.loads(found.attrs["versions"]) and len(found.attrs["dataset_digest"]) == 64
    assert found.attrs["compile_seconds"] > 0 and found.attrs["seconds_total"] == pytest.approx(
        float(found["seconds"].sum())
    )
    xr.testing.assert_identical(found, bdjax.load(folder))
    curves = bdjax.load_curves(folder)
    assert curves["loss"].dims == (*found["acc"].dims, "epoch") and curves.sizes["epoch"] == 3
    assert np.isfinite(curves["loss"].sel(defense="none")).all()
    assert np.isnan(curves["loss"].sel(defense=FT).isel(epoch=2)).all()
    assert (curves["loss"].isel(epoch=-1) < curves["loss"].isel(epoch=0)).sel(defense="none").all()
    found.to_netcdf(data / "all.nc", engine="h5netcdf")


def test_shards_are_netcdf(kept):
    for kind, names in {
        "run": {"address", "seconds", "status"},
        "score": {"address", "acc", "asr", "ra", "overlap"},
    }.items():
        for path in results.shards(kept[0], kind):
            with xr.open_dataset(path, engine="h5netcdf") as shard:
                assert set(shard.data_vars) == names and all(shard[name].dims == ("row",) for name in names)
                rows = results.read_shard(path)
                assert shard["address"].values.tolist() == list(rows)
                (other, *_) = names - {"address"}
                np.testing.assert_array_equal(shard[other], [row[other] for row in rows.values()])
    with xr.open_dataset(results.shards(kept[0], "run")[0], engine="h5netcdf", group="curves") as curves:
        assert curves["loss"].dims == ("row", "epoch")


def test_without_a_folder_and_outside_the_main_thread(kept, data, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    found = []
    worker = threading.Thread(target=lambda: found.append(bdjax.run(tiny.study(data, **USUAL))))
    worker.start(), worker.join()
    same(found[0], kept[1])
    assert not list(tmp_path.iterdir())


def test_a_second_run_does_nothing(kept, folder, data):
    before, recorder = tiny.files(folder, "."), tiny.Recorder()
    again = bdjax.run(tiny.study(data, **USUAL), folder, recorder)
    assert not recorder.models and not recorder.compiled_labels
    assert {name: held for name, held in tiny.files(folder, ".").items() if "claims" not in name} == {
        name: held for name, held in before.items() if "claims" not in name
    }
    xr.testing.assert_identical(again, kept[1])


def test_what_is_added_later_is_all_that_is_trained(kept, folder, data):
    before, recorder = tiny.files(folder, "models", "results"), tiny.Recorder()
    more = {"seeds": (0, 1, 5), "audits": (), "defenses": ("none", FT, "ft:epochs=2,batch=8,learning_rate=0.5")}
    found = bdjax.run(tiny.study(data, **USUAL | more), folder, recorder)
    assert recorder.models == 4 + 2 * 2 + 2
    after = tiny.files(folder, "models", "results")
    assert before.items() <= after.items()
    same(found, kept[1], seed=[0, 1], defense=["none", FT])
    same(found, bdjax.run(tiny.study(data, **USUAL | more)), ("acc", "asr", "ra", "der", "overlap", "status"))


def test_cells_of_other_studies_stay_and_holes_are_marked(kept, folder, data):
    found = bdjax.run(tiny.study(data, seeds=(7,), ratios=(0.1,)), folder)
    assert found.sizes["seed"] == 3 and found.sizes["defense"] == 2
    same(found, kept[1], seed=[0, 1])
    hole = found.sel(seed=7, ratio=0.0)
    assert (hole["status"] == -2).all() and all(np.isnan(hole[name]).all() for name in RESULTS if name != "status")
    assert found["status"].sel(seed=7, ratio=0.1).values.ravel().tolist() == [0, -2]
    assert np.isnan(found["retuning_acc"].sel(seed=7)).all()  # this audit was not asked for there


def test_an_audit_with_other_settings_is_another_variable(kept, folder, data):
    found = bdjax.run(tiny.study(data, audits=("retuning:epochs=2,poisoned=2",), defenses=("none",)), folder)
    named = {name for name in found.data_vars if name.startswith("retuning")}
    assert named == {f"retuning:epochs={n},poisoned=2_{name}" for n in (1, 2) for name in ("acc", "asr", "ra")}
    np.testing.assert_array_equal(found[f"{AUDIT}_asr"], kept[1]["retuning_asr"])
    found.to_netcdf(folder / "all.nc", engine="h5netcdf")
    with xr.open_dataset(folder / "all.nc") as stored:
        assert named <= set(stored.data_vars)


@pytest.mark.parametrize("other", ["dataset", "model", "flip"])
def test_another_study_is_refused_in_the_same_folder(folder, data, other):
    change = {"dataset": tiny.dataset(data, 1), "model": "small_cnn:width=2", "flip": True}[other]
    before = tiny.files(folder, ".")
    with pytest.raises(InvalidInput, match=f"holds a study of {other}.* give another --out"):
        bdjax.run(tiny.study(data, **{other: change}), folder)
    assert tiny.files(folder, "models", "results", ".").keys() - before.keys() == set()


@pytest.mark.parametrize(("driver", "defenses"), [("vmap", ("none", FT)), ("shard", ("none",))])
def test_drivers_agree(kept, data, driver, defenses):
    found = bdjax.run(tiny.study(data, ratios=(0.1,), defenses=defenses, driver=driver), data / driver)
    assert found.attrs["driver"] == driver
    held = kept[1].sel(ratio=[0.1], defense=list(defenses))
    for name in found.data_vars.keys() & set(RESULTS):
        np.testing.assert_allclose(found[name], held[name], atol=0.02, err_msg=name)
    loss = bdjax.load_curves(kept[0])["loss"].sel(ratio=[0.1], defense=list(defenses))
    np.testing.assert_allclose(bdjax.load_curves(data / driver)["loss"], loss, rtol=1e-4)


def test_auto_measures_once_and_the_plan_is_kept(data, folder, monkeypatch):
    monkeypatch.setattr("jax.local_device_count", lambda: 1)
    measured = []
    monkeypatch.setattr(
        "bdjax.engine.drivers._seconds", lambda work, shared, *how: measured.append(how) or len(measured)
    )
    for out in ("one", "two", "one"):
        found = bdjax.run(tiny.study(data, driver="auto", seeds=(0,), ratios=(0.0,)), data / f"auto-{out}")
        assert found.attrs["driver"] == "map"
    assert measured == [("map", "suited"), ("map", "mapped"), ("map", "patches"), ("vmap", "suited")]
    for driver in ("auto", "map"):
        bdjax.run(tiny.study(data, **USUAL, driver=driver), folder)
    with pytest.raises(InvalidInput, match=r"driver vmap; .*plan\.json says map"):
        bdjax.run(tiny.study(data, **USUAL, driver="vmap"), folder)


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ((1.0, 0.92, 1.2, 0.95), ("map", "suited")),  # chance, perhaps
        ((1.0, 0.85, 1.2, 0.95), ("map", "mapped")),
        ((1.0, 0.85, 0.7, 0.95), ("map", "patches")),
        ((1.0, 0.85, 1.2, 0.8), ("vmap", "suited")),
        ((None, 1.0, None, 0.92), ("map", "mapped")),  # the first does not fit the memory
        ((None, None, None, None), ("map", "suited")),
    ],
)
def test_the_usual_driver_gives_way_to_a_clearly_faster_one(data, monkeypatch, tmp_path, seconds, chosen):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("jax.local_device_count", lambda: 1)
    found = dict(zip(drivers.candidates(), seconds, strict=True))
    monkeypatch.setattr("bdjax.engine.drivers._seconds", lambda work, shared, *how: found[how])
    asked = resolve.resolve(tiny.study(data, driver="auto"))
    assert drivers.choose(asked, Shared(asked.dataset.train, asked.dataset.test)) == chosen


def test_several_devices_share_and_the_form_is_measured(data, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    asked = resolve.resolve(tiny.study(data, driver="auto"))
    shared = Shared(*(jax.tree.map(jnp.asarray, split) for split in (asked.dataset.train, asked.dataset.test)))
    found = drivers.measured(asked, shared)
    assert set(found) == {"shard suited", "shard mapped", "shard patches"} and min(found.values()) > 0
    monkeypatch.setattr("bdjax.engine.drivers._seconds", None)
    assert drivers.measured(asked, shared) == found and drivers.choose(asked, shared)[0] == "shard"


@pytest.mark.parametrize(("long", "calls"), [(0.0, [(0, 1)]), (60.0, [(0, 1), (1, 5), (5, 9)])])
def test_a_long_step_is_measured_once_and_short_ones_after_the_first(monkeypatch, long, calls):
    made = []
    advance = lambda state, epoch, *steps: (state, made.append(steps) or ())  # noqa: E731
    monkeypatch.setattr("bdjax.engine.drivers.LONG", long)
    monkeypatch.setattr(
        "bdjax.engine.drivers.prepared", lambda *asked: ([()], advance, SimpleNamespace(bytes=0, mesh=None))
    )
    asked = SimpleNamespace(study=SimpleNamespace(memory="1TB"))
    assert drivers._seconds(asked, None, "map", "suited") > 0 and made == calls


def test_one_cell_takes_one_of_two_devices(data, tmp_path):
    bdjax.run(tiny.study(data, seeds=(0,), ratios=(0.0,), driver="shard"), tmp_path)
    assert [entry["capacity"] for entry in plan(tmp_path).values()] == [1, 1]


def test_planned_sizes_are_used_again_and_replanned_for_more(folder, data, monkeypatch):
    path = folder / "plan.json"
    held = read_plan(path)
    (victims,) = [key for key, group in held["groups"].items() if group["label"] == "victims clean"]
    held["groups"][victims]["capacity"] = 1
    write_json(path, held)
    shutil.rmtree(folder / "models"), shutil.rmtree(folder / "results")
    bdjax.run(tiny.study(data), folder)
    assert len(list((folder / "results").glob("run-*"))) == 2 + 1  # clean victims one by one, poisoned ones together
    monkeypatch.setattr(programs, "LARGEST", 32)
    bdjax.run(tiny.study(data, seeds=range(5), ratios=(0.0,)), folder)
    assert (plan(folder)[victims]["asked"], plan(folder)[victims]["capacity"]) == (5, 5)


def test_convolutions_that_are_written_out_take_fewer_cells_at_a_time(monkeypatch):
    monkeypatch.setattr(programs, "LARGEST", 32)
    for form, how, cells in (("unrolled", "vmap", programs.UNROLLED), ("grouped", "vmap", 20), ("unrolled", "map", 32)):
        context = SimpleNamespace(plan={"convolution": form}, driver=how, mesh=None, usual=32)
        assert programs._usual(context, SimpleNamespace(jobs=[None] * 20)) == cells


def test_one_compile_serves_a_group(data):
    recorder = tiny.Recorder()
    study = tiny.study(
        data,
        attacks=("blended", "blended:alpha=0.4"),
        ratios=(0.05, 0.1),
        defenses=("none", FT, "ft:epochs=2,batch=8,learning_rate=0.1"),
    )
    bdjax.run(study, progress=recorder)
    counted = {label: recorder.compiled_labels.count(label) for label in recorder.compiled_labels}
    assert counted == {"victims blended": 4, FT: 4, "score blended": 2}


def test_more_cells_than_fit_go_in_chunks(kept, data, monkeypatch):
    recorder = tiny.Recorder()
    study = tiny.study(data, driver="vmap", ratios=(0.1,))
    bdjax.run(study, data / "wide")
    (victims,) = [key for key, group in plan(data / "wide").items() if group["label"].startswith("victims")]
    needed = plan(data / "wide")[victims]["bytes"]
    budgets = iter([needed - 1])
    monkeypatch.setattr("bdjax.engine.programs.memory", SimpleNamespace(**vars(memory)))
    monkeypatch.setattr("bdjax.engine.programs.memory.budget", lambda text, devices: next(budgets, 10**12))
    found = bdjax.run(study, data / "narrow", recorder)
    entry = plan(data / "narrow")[victims]
    assert (entry["asked"], entry["capacity"]) == (2, 1) and needed / 4 < entry["bytes"] < needed
    assert recorder.compiled_labels.count(entry["label"]) == 2 * 4  # once for two cells, once for the one that fits
    assert len(list((data / "narrow").glob("results/run-*"))) == 2
    np.testing.assert_allclose(
        found["asr"].sel(defense="none"), kept[1]["asr"].sel(ratio=[0.1], defense=["none"])[..., 0], atol=0.02
    )


def test_the_first_of_two_writers_plans_a_group(data, tmp_path, monkeypatch):
    sizes, compiled = [], programs._compile

    def beaten(context, group, cell, shared, size):
        """Another writer decides while this one compiles."""
        entry = {"label": "", "asked": size, "memory": "", "capacity": 1, "bytes": 1, "compile_seconds": 0.0}
        context.store.update_json(
            "plan.json", read_plan, lambda held: held | {"groups": held["groups"] | {group.key: entry}}
        )
        sizes.append(size)
        return compiled(context, group, cell, shared, size)

    monkeypatch.setattr(programs, "_compile", beaten)
    found = bdjax.run(tiny.study(data, ratios=(0.0,)), tmp_path / "out")
    assert sizes == [2, 1, 2, 1] and (found["acc"] == 1).all()  # victims and their scores
    assert {entry["capacity"] for entry in plan(tmp_path / "out").values()} == {1}


def plan(folder: Path) -> dict:
    return json.loads((folder / "plan.json").read_text())["groups"]


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def first(folder: Path, pattern: str) -> Path:
    return sorted(folder.glob(pattern))[0]


HARMS = {
    "truncated": lambda text: text[: len(text) // 2],
    "emptied": lambda text: b"",
    "replaced": lambda text: b"[1, 2]",
    "flipped": lambda text: flip(text, len(text) - 20),
}


def flip(text: bytes, place: int) -> bytes:
    """One bit of a file is another."""
    return text[:place] + bytes([text[place] ^ 1]) + text[place + 1 :]


@pytest.mark.parametrize("name", ["study.json", "plan.json"])
@pytest.mark.parametrize("how", ["truncated", "emptied", "replaced"])
def test_a_damaged_index_is_named(kept, folder, data, name, how):
    path = folder / name
    text = path.read_bytes()
    path.write_bytes(HARMS[how](text))
    for act in (bdjax.load, lambda where: bdjax.run(tiny.study(data, **USUAL), where)):
        with pytest.raises(InvalidInput, match=path.name):
            act(folder)
    path.write_bytes(text)


@pytest.mark.parametrize("kind", ["run", "score", "audit"])
@pytest.mark.parametrize("how", HARMS)
def test_a_damaged_shard_is_named_set_aside_and_made_again(kept, folder, data, kind, how, caplog):
    path = first(folder, f"results/{kind}-*.nc")
    whole = path.read_bytes()
    harmed = HARMS[how](whole) if how != "flipped" else flipped_column(whole)
    path.write_bytes(harmed)
    with pytest.raises(InvalidInput, match=path.name):
        bdjax.load(folder)
    same(bdjax.run(tiny.study(data, **USUAL), folder), kept[1])
    assert f"{path}: damaged" in caplog.text
    (aside,) = path.parent.glob("*.damaged")
    assert aside.read_bytes() == harmed
    aside.unlink()


def flipped_column(whole: bytes) -> bytes:
    """A shard with one bit of one of its numbers flipped."""
    content = io.BytesIO(whole)
    with h5py.File(content, "r+") as file:
        columns = [column for column in file.values() if isinstance(column, h5py.Dataset) and not column.is_scale]
        column = next(column for column in columns if column.dtype == np.float64)
        values = column[()]
        values.view(np.uint8)[0] ^= 1
        column[...] = values
    return content.getvalue()


@pytest.mark.parametrize("how", HARMS)
def test_a_damaged_model_is_set_aside_and_made_again_when_it_is_needed(kept, folder, data, how, caplog):
    cells = json.loads((folder / "study.json").read_text())["cells"]
    victims = {cell["model"] for cell in cells if cell["defense"] == "none"}
    paths = [folder / "models" / f"{name}.safetensors" for name in victims]
    before = {path: load_trained(path)[0] for path in paths}
    for path in paths:
        path.write_bytes(HARMS[how](path.read_bytes()))
    found = bdjax.run(tiny.study(data, defenses=("none", f"ft:epochs={len(how)}")), folder)
    assert np.isfinite(found["asr"].sel(ratio=0.1)).all()
    assert all(f"{path}: damaged" in caplog.text for path in paths)
    for path, trained in before.items():
        jax.tree.map(np.testing.assert_array_equal, load_trained(path)[0], trained)


@pytest.mark.parametrize("harmed", ["about.json", "jobs", "state", "bit"])
def test_a_damaged_checkpoint_is_set_aside_and_the_chunk_begins_again(data, tmp_path, monkeypatch, harmed, caplog):
    straight = bdjax.run(tiny.study(data), tmp_path / "straight")
    monkeypatch.setattr(chunks, "CHECKPOINT_SECONDS", 0.0)

    def stop(self):
        raise KeyboardInterrupt("killed")

    monkeypatch.setattr(chunks._Run, "run", lambda self: original(self) and stop(self))
    original = ORIGINAL_RUN
    with pytest.raises(KeyboardInterrupt, match="killed"):
        bdjax.run(tiny.study(data), tmp_path / "out")
    monkeypatch.setattr(chunks._Run, "run", original)
    kept = first(tmp_path, "out/checkpoints/*/*/about.json").parent
    about = read_marker(kept / "about.json")
    files = [path for path in kept.glob(f"{about['state']}/**/*") if path.is_file()]
    if harmed == "state":
        for path in files:
            damage(path)
    elif harmed == "bit":
        largest = max(files, key=lambda path: path.stat().st_size)
        text = largest.read_bytes()
        largest.write_bytes(flip(text, len(text) // 2))
    elif harmed == "jobs":
        write_json(kept / "about.json", about | {"jobs": []})
    else:
        damage(kept / harmed)
    same(bdjax.run(tiny.study(data), tmp_path / "out"), straight, RATES)
    assert f"{kept}: damaged" in caplog.text


ORIGINAL_RUN = chunks._Run.run


def test_a_cell_that_diverges_is_marked_and_leaves_the_others_alone(data):
    defenses = ("none", FT, "ft:epochs=2,batch=8,learning_rate=1e30")
    study = {"ratios": (0.1,), "driver": "vmap"}  # under which all cells are one program's
    found = bdjax.run(tiny.study(data, **study, defenses=defenses, audits=(AUDIT,)), data / "diverging")
    worse, others = found.sel(defense=defenses[2]), found.sel(defense=list(defenses[:2]))
    assert (worse["status"] == 1).all() and (others["status"] == 0).all()
    for name in ("acc", "asr", "ra", "der", "retuning_acc", "retuning_asr"):
        assert np.isnan(worse[name]).all() and np.isfinite(others[name]).all()
    fine = (*defenses[:2], "ft:epochs=2,batch=8,learning_rate=0.02")
    same(
        bdjax.run(tiny.study(data, **study, defenses=fine), data / "fine"),
        found,
        ("acc", "asr", "ra"),
        defense=list(defenses[:2]),
    )
    one, two = weights(data / "diverging", FT), weights(data / "fine", FT)
    for place, held in one.items():
        np.testing.assert_array_equal(held["linear"]["kernel"], two[place]["linear"]["kernel"])
    assert all(np.isnan(held["linear"]["kernel"]).any() for held in weights(data / "diverging", defenses[2]).values())


def test_a_stage_that_diverges_is_told_of_though_the_next_begins_anew(data, monkeypatch):
    """The second stage hands the victim back, which is finite; what it stands for is a defense that broke."""
    card, make = DEFENSES["ft"]

    def two(net, shape, classes, **static):
        (stage,) = make(net, shape, classes, **static)
        return stage, stage._replace(epochs=0, init=lambda key, given, _: stage.init(key, given, given.victim))

    monkeypatch.setitem(DEFENSES, "two", cards.Method(dataclasses.replace(card, name="two"), two))
    texts = ("none", "two:epochs=1,batch=8,learning_rate=1e30", "two:epochs=1,batch=8,learning_rate=0.01")
    found = bdjax.run(tiny.study(data, ratios=(0.1,), defenses=texts), progress=False)
    assert found["status"].sel(defense=list(texts)).squeeze().values.tolist() == [[0, 1, 0]] * 2


def weights(folder: Path, defense: str) -> dict[tuple, dict]:
    from bdjax.io.store.trees import load_trained

    cells = json.loads((folder / "study.json").read_text())["cells"]
    return {
        (cell["ratio"], cell["seed"]): load_trained(folder / "models" / f"{cell['model']}.safetensors")[
            0
        ].weights.params
        for cell in cells
        if cell["defense"] == defense
    }


def test_ft_sam_of_radius_zero_is_ft(folder, data):
    sam = FT.replace("ft:", "ft_sam:rho=0,")
    found = bdjax.run(tiny.study(data, defenses=("none", FT, sam)), folder)
    for name in ("acc", "asr", "ra"):
        np.testing.assert_array_equal(found[name].sel(defense=FT), found[name].sel(defense=sam))
    one, two, before = (weights(folder, defense) for defense in (FT, sam, "none"))
    for place, held in one.items():
        np.testing.assert_allclose(held["linear"]["kernel"], two[place]["linear"]["kernel"], atol=1e-6)
        assert np.abs(held["linear"]["kernel"] - before[place]["linear"]["kernel"]).max() > 1e-4


def test_ratios_seeds_and_float_settings_trace_nothing_again(data, monkeypatch):
    small = {"ratios": (0.0, 0.1), "seeds": (0,), "attacks": ("blended",), "defenses": ("none", FT)}
    more = {"ratios": (0.0, 0.05, 0.1), "seeds": (0, 1, 2), "attacks": ("blended", "blended:alpha=0.5")}
    traced = []
    advance = train.advance
    monkeypatch.setattr(train, "advance", lambda *asked: traced.append(1) or advance(*asked))
    bdjax.run(tiny.study(data, **small))
    assert traced
    monkeypatch.setattr(train, "advance", chex.assert_max_traces(advance, n=len(traced)))
    bdjax.run(tiny.study(data, **small | more | {"defenses": ("none", FT, f"{FT},momentum=0.5")}))


def clean_copy(net, shape, classes):
    """A defense without a single step that hands on the clean model."""
    return (
        Stage(
            source=lambda given: given.clean,
            epochs=0,
            init=lambda key, given, weights: {},
            order=lambda key, state, epoch, given: jnp.zeros((1, 2), jnp.int32),
            step=lambda key, state, batch, given: (state, {"loss": jnp.zeros(())}),
            finish=lambda key, state, given: Trained(given.clean_model),
        ),
    )


def test_the_clean_model_is_the_victim_of_the_same_seed_without_poison(data, monkeypatch):
    card = cards.Card("clean_copy", "Clean copy", "none", 2026, 1, "oracle", needs=("clean", "clean_model"))
    monkeypatch.setitem(DEFENSES, "clean_copy", cards.Method(card, clean_copy))
    found = bdjax.run(tiny.study(data, defenses=("none", "clean_copy"), ratios=(0.0, 0.1)), data / "oracle")
    assert found["oracle"].values.tolist() == [False, True]
    victims, copies = weights(data / "oracle", "none"), weights(data / "oracle", "clean_copy")
    for (ratio, seed), held in copies.items():
        np.testing.assert_array_equal(held["linear"]["kernel"], victims[0.0, seed]["linear"]["kernel"])
        assert (ratio == 0) == np.array_equal(held["linear"]["kernel"], victims[ratio, seed]["linear"]["kernel"])


def draws(net, shape, classes, alike):
    """A defense of three stages of one step that changes nothing and tells what it drew."""

    def stage() -> Stage:
        return Stage(
            source=lambda given: given.clean,
            epochs=1,
            init=lambda key, given, weights: train.start(given, weights),
            order=lambda key, state, epoch, given: jnp.zeros((1, 2), jnp.int32),
            step=lambda key, state, batch, given: (state, {"drawn": jax.random.uniform(key)}),
            finish=lambda key, state, given: Trained(state),
        )

    return (stage(),) * 3 if alike else (stage(), stage(), stage())


def test_equal_stages_share_their_programs_and_nothing_that_they_draw(folder, data, monkeypatch):
    settings = {"alike": cards.Setting(True, "whether the stages are one and the same")}
    card = cards.Card("draws", "Draws", "none", 2026, 1, "tuning", needs=("clean", "victim"), settings=settings)
    monkeypatch.setitem(DEFENSES, "draws", cards.Method(card, draws))
    found = []
    for text in ("draws", "draws:alike=false"):
        recorder = tiny.Recorder()
        bdjax.run(tiny.study(data, defenses=(text,), ratios=(0.1,)), folder, recorder)
        drawn = bdjax.load_curves(folder)["drawn"].sel(defense=text, ratio=0.1).values.reshape(2, 3)
        found.append((sum(label.startswith("draws") for label in recorder.compiled_labels), drawn))
    # Drawing the cells; three stages of three programs, of which two of one beginning are left where they are alike.
    assert [count for count, _ in found] == [1 + 3 + 1, 1 + 3 * 3]
    np.testing.assert_array_equal(found[0][1], found[1][1])
    assert np.unique(found[0][1]).size == 6


def learned(net, shape, classes, epochs, batch):
    """An attack that finds its trigger, here the level of a square, only while it trains the victim."""
    victim = train.supervised(net, lambda given: given.train, epochs=epochs, batch=batch, fresh=True)
    goal = poison.all_to_one(0)

    def init(key, assets, settings, label, priority, count):
        role = poison.roles(priority, label != 0, count)
        return Poison(role, poison.relabel(role, label, goal), {"level": jnp.zeros(())})

    def begin(key, given, weights):
        assert weights is None and set(given.carry) == {"trigger", "count", "role"}
        return victim.init(key, given, None)

    def finish(key, state, given):
        return Trained(Weights(state.moving, state.still["batch_stats"]), {"level": jnp.ones(())})

    def stamp(assets, trigger, image, row):
        return image.at[:6, :6].set(1.0)

    def query(assets, trigger, image, row):
        return jnp.where(trigger["level"] > 0, stamp(assets, trigger, image, row), image)

    stages = (victim._replace(init=begin, finish=finish),)
    return Attack(init, stamp, query, goal, lambda label: label != 0, train=stages)


def test_an_attacker_who_controls_training(data, monkeypatch):
    settings = {name: recipes.RECIPE[name] for name in ("epochs", "batch", "learning_rate", "momentum")}
    card = cards.Card("learned", "Learned", "none", 2026, 1, "dirty-label", stage="training", settings=settings)
    monkeypatch.setitem(bdjax.ATTACKS, "learned", cards.Method(card, learned))
    study = tiny.study(data, attacks=("learned",), defenses=("none", FT), audits=(AUDIT,))
    found = bdjax.run(study, data / "learned")
    assert (found["status"] == 0).all() and (found["asr"].sel(ratio=0.0) < 0.1).all()
    assert (found["asr"].sel(ratio=0.1, defense="none") > 0.9).all()  # by the trigger that training left
    assert (found["retuning_asr"].sel(ratio=0.1, defense="none") > 0.9).all()
    curves = bdjax.load_curves(data / "learned")["loss"].sel(defense="none")
    assert curves.sizes["epoch"] == 3 and np.isfinite(curves).all()  # the study's recipe, where the text is silent


@pytest.mark.parametrize("driver", ["map", "shard"])
def test_too_little_memory_is_said_before_anything_is_trained(data, tmp_path, monkeypatch, driver):
    with pytest.raises(InvalidInput, match="give more --memory"):
        bdjax.run(tiny.study(data, memory="20MB"), tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr("bdjax.engine.programs.memory", SimpleNamespace(**vars(memory)))
        patch.setattr("bdjax.engine.programs.memory.budget", lambda text, devices: 1000)
        with pytest.raises(InvalidInput, match=r"victims clean: one cell needs \d+ MB in all.*give more --memory"):
            bdjax.run(tiny.study(data, driver=driver), tmp_path / "out")
    assert not tiny.files(tmp_path / "out", "models", "results")
    assert not plan(tmp_path / "out")


def test_a_study_is_told_apart_from_no_study(tmp_path):
    with pytest.raises(InvalidInput, match=r"no study\.json"):
        bdjax.load(tmp_path)


def test_checkpoints_keep_types_and_shapes(tmp_path):
    state = {
        "keys": jax.random.split(jax.random.key(1), 3),
        "nothing": {},
        "pair": (jnp.zeros((3, 0)), [jnp.arange(3, dtype=jnp.int8)]),
        "flag": jnp.asarray([True, False, True]),
    }
    checkpoint = Checkpoint(tmp_path / "one", "writer")
    like = jax.eval_shape(lambda: state | {"step": jnp.zeros(3, int)})
    assert checkpoint.load(lambda position: like) is None
    for step in range(3):
        checkpoint.save(state | {"step": jnp.full(3, step)}, ["a" * 24], AT | {"step": step})
        position, found = checkpoint.load(lambda position: like)
        assert position["step"] == step and found["step"].tolist() == [step] * 3
    assert jax.tree.structure(found) == jax.tree.structure(state | {"step": 0})
    np.testing.assert_array_equal(jax.random.key_data(found["keys"]), jax.random.key_data(state["keys"]))
    assert found["pair"][0].shape == (3, 0) and found["pair"][1][0].dtype == jnp.int8
    assert found["flag"].tolist() == [True, False, True]


def test_a_kill_in_the_middle_of_a_checkpoint_leaves_the_one_before(tmp_path, monkeypatch):
    checkpoint = Checkpoint(tmp_path / "one", "writer")
    for step in range(2):
        checkpoint.save({"step": jnp.full(3, step)}, ["a" * 24], AT | {"step": step})

    def killed(*_):
        raise SystemExit

    for where in ("bdjax.io.store.checkpoints.write_json", "bdjax.io.store.checkpoints._checkpointer"):
        with monkeypatch.context() as patch:
            patch.setattr(where, killed)
            with pytest.raises(SystemExit):
                checkpoint.save({"step": jnp.full(3, 9)}, ["a" * 24], AT | {"step": 9})
        position, found = Checkpoint(tmp_path / "one", "other").load(lambda position: {"step": jnp.zeros(3, int)})
        assert position["step"] == 1 and found["step"].tolist() == [1, 1, 1]


AT = {"stage": 0, "epoch": 0, "step": 0, "seconds": 0.0, "curves": [], "finite": []}


def test_a_writer_that_wakes_up_changes_nothing_of_its_successors_checkpoint(tmp_path, monkeypatch):
    """Stopped between its state and its marker, it goes on after another writer has come further."""
    like = {"step": jnp.zeros(3, int)}
    first, second = (Checkpoint(tmp_path / "one", name) for name in ("first", "second"))
    write = checkpoints.write_json

    def stopped(path, content):
        monkeypatch.setattr(checkpoints, "write_json", write)
        second.save({"step": jnp.full(3, 200)}, ["a" * 24], AT | {"step": 200})
        write(path, content)

    monkeypatch.setattr(checkpoints, "write_json", stopped)
    first.save({"step": jnp.full(3, 10)}, ["a" * 24], AT | {"step": 10})
    for reader in (first, second, Checkpoint(tmp_path / "one", "third")):
        position, found = reader.load(lambda position: like)
        assert position["step"] == 200 and found["step"].tolist() == [200] * 3


def test_a_chunk_that_was_taken_over_is_given_up(data, tmp_path, monkeypatch):
    """Between two calls of its program another writer takes the claims and then gives them back undone."""
    straight = bdjax.run(tiny.study(data, ratios=(0.1,)), tmp_path / "straight")
    monkeypatch.setattr(chunks, "CHECKPOINT_SECONDS", 0.0)
    heed, taken = chunks._Run._heed, []

    def interrupted(self, carry):
        if not taken:
            taken.extend(self.names)
            for path in (tmp_path / "out" / "claims").glob("*.claim"):
                path.write_text("another")  # which is dead by the next round
        return heed(self, carry)

    monkeypatch.setattr(chunks._Run, "_heed", interrupted)
    same(bdjax.run(tiny.study(data, ratios=(0.1,)), tmp_path / "out"), straight, RATES)
    assert taken


def test_a_writer_takes_its_share_of_what_is_missing(data, tmp_path, monkeypatch):
    sizes, run = [], chunks.run
    monkeypatch.setattr(chunks, "run", lambda *about: sizes.append(len(about[2])) or run(*about))
    monkeypatch.setattr("bdjax.io.store.store.Store.writers", lambda store: 2)
    bdjax.run(tiny.study(data, seeds=range(5), ratios=(0.0,), recipe="epochs=1,batch=32"), tmp_path)
    assert sizes == [3, 1, 1] * 2  # victims, and their scores
