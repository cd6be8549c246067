"""Detection as an axis of a study: what is judged, what is kept, and that nothing is done twice."""

import re
import shutil
from dataclasses import replace

import jax
import numpy as np
import pytest
import tiny

import bdjax
from bdjax.attacks import ATTACKS
from bdjax.cards import lookup
from bdjax.cells import functions
from bdjax.cells.functions import Cell, Scene, Shared
from bdjax.engine import chunks, detections
from bdjax.errors import InvalidInput
from bdjax.io.store import results
from bdjax.report.headline import unfinished
from bdjax.selections import SELECTIONS
from bdjax.study.jobs import plan
from bdjax.study.resolve import resolve
from bdjax.types import COVER, POISONED, Data

STRIP = "strip:overlays=3"
DETECTORS = (STRIP, "scale_up")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def kept(data):
    """The results of a study with detectors, and its folder."""
    study = tiny.study(data, detectors=DETECTORS, suspects=40, keep_scores=True)
    return bdjax.run(study, data / "kept"), data / "kept"


def test_results_have_an_axis_of_detectors(kept):
    found, _ = kept
    assert found["auroc"].dims == ("attack", "ratio", "seed", "detector", "on")
    assert found["detector"].values.tolist() == list(DETECTORS) and found["on"].values.tolist() == ["rows", "queries"]
    assert found["roc"].dims == (*found["auroc"].dims, "false_alarms")
    auroc = found["auroc"].sel(ratio=0.1)
    assert np.isfinite(auroc.sel(detector=STRIP)).all() and np.isfinite(auroc.sel(on="queries")).all()
    assert auroc.sel(detector="scale_up", on="rows").isnull().all()
    clean = found.sel(ratio=0.0)
    assert clean["auroc"].isnull().all() and clean["tpr"].isnull().all()
    assert np.isfinite(clean["fpr"].sel(detector=STRIP)).all()
    assert (found["detection_seconds"].sel(detector=STRIP) > 0).all()


def test_scores_and_pictures_are_kept(kept):
    found, folder = kept
    scores = bdjax.load_scores(folder)
    assert len(scores) == 2 * 2 * 3
    for (attack, ratio, seed, detector, on), one in scores.items():
        assert set(one) == {"score", "truth", "flagged"} and one["score"].shape == (40,)
        figures = found.sel(attack=attack, ratio=ratio, seed=seed, detector=detector, on=on)
        alarms = one["flagged"][one["truth"] == 0].mean()
        assert float(figures["fpr"]) == pytest.approx(alarms)
    shown = bdjax.load_suspects(folder)
    assert set(shown) == {
        (tiny.ATTACK, STRIP, "rows"),
        (tiny.ATTACK, STRIP, "queries"),
        (tiny.ATTACK, "scale_up", "queries"),
    }
    for one in shown.values():
        assert one.image.shape == (detections.SHOWN, 16, 16, 3) and one.image.dtype == np.uint8
        assert (np.diff(one.score) <= 0).all()


def test_training_rows_without_poison_are_judged_once_for_all_attacks(data):
    study = tiny.study(data, attacks=(tiny.ATTACK, "blended"), detectors=(STRIP,))
    asked = plan(resolve(study)).detections

    def jobs(ratio, on):
        return len({one["address"] for one in asked if one["ratio"] == ratio and one["on"] == on})

    assert (jobs(0.0, "rows"), jobs(0.0, "queries"), jobs(0.1, "rows"), jobs(0.1, "queries")) == (2, 4, 4, 4)


def test_scores_can_be_asked_for_later(data, tmp_path):
    plain = tiny.study(data, ratios=(0.1,), seeds=(0,), detectors=("scale_up",))
    found = bdjax.run(plain, tmp_path)
    assert not bdjax.load_scores(tmp_path)
    again = bdjax.run(replace(plain, keep_scores=True), tmp_path)
    assert len(bdjax.load_scores(tmp_path)) == 1
    np.testing.assert_array_equal(again["auroc"], found["auroc"])


def test_missing_detections_are_announced_and_other_settings_refused(kept, tmp_path, data):
    _, folder = kept
    shutil.copytree(folder, tmp_path / "copy")
    first, *_ = sorted((tmp_path / "copy" / "results").glob("detect-*.nc"))
    first.unlink()
    left = bdjax.load(tmp_path / "copy")
    assert re.search("Unfinished: .*, [0-9]+ of 12 detections are finished", unfinished(left))
    with pytest.raises(InvalidInput, match="holds a study of suspects 40, not suspects 50; give another --out"):
        bdjax.run(tiny.study(data, detectors=DETECTORS, suspects=50), tmp_path / "copy")


def test_a_second_run_does_nothing_and_one_more_detector_is_all_that_is_added(kept, data):
    found, folder = kept
    before = tiny.files(folder, "models", "results", "scores", "suspects")
    recorder = tiny.Recorder()
    again = bdjax.run(tiny.study(data, detectors=DETECTORS, suspects=40, keep_scores=True), folder, recorder)
    assert again.identical(found) and not recorder.compiled_labels
    assert tiny.files(folder, "models", "results", "scores", "suspects") == before
    more = bdjax.run(tiny.study(data, detectors=("strip:overlays=2",), suspects=40), folder, recorder)
    assert recorder.models == 0 and more["detector"].values.tolist() == [*DETECTORS, "strip:overlays=2"]
    assert {label.partition(":")[0] for label in recorder.compiled_labels} == {"strip"}


@pytest.mark.parametrize("driver", ["vmap", "loop", "shard"])
def test_drivers_agree(kept, data, driver):
    found, _ = kept
    one = bdjax.run(tiny.study(data, detectors=DETECTORS, suspects=40, keep_scores=True, driver=driver))
    for name in results.FIGURES:
        np.testing.assert_allclose(one[name], found[name], atol=1e-6, err_msg=name)


def test_an_attacker_who_controls_training_is_judged_by_the_trigger_that_it_learned(data):
    asked = {"attacks": ("wanet:epochs=1,batch=32",), "detectors": ("scale_up", STRIP), "suspects": 20}
    found = bdjax.run(tiny.study(data, **asked))
    assert np.isfinite(found["auroc"].sel(ratio=0.1, on="queries")).all()
    assert np.isfinite(found["auroc"].sel(ratio=0.1, detector=STRIP)).all()


def test_one_compile_serves_all_ratios_and_seeds(data):
    compiled = []
    for changes in ({"ratios": (0.1,), "seeds": (0,)}, {"ratios": (0.0, 0.05, 0.1), "seeds": (0, 1, 2)}):
        recorder = tiny.Recorder()
        detectors = (STRIP, f"{STRIP},alpha=0.5")[: len(changes["seeds"])]  # a float setting compiles nothing, either
        bdjax.run(tiny.study(data, detectors=detectors, suspects=20, **changes), progress=recorder)
        compiled.append([label for label in recorder.compiled_labels if label.startswith("strip")])
    assert len(compiled[0]) == len(compiled[1]) == 2 * 4  # rows and queries; draw, begin, advance, finish


def test_a_pass_that_is_stopped_goes_on_with_the_same_scores(kept, data, monkeypatch, tmp_path):
    monkeypatch.setattr(chunks, "CALL_SECONDS", 0.0)  # every step is a call of its own

    class Stopped(tiny.Recorder):
        steps = 0

        def stage(self, label, cells):
            self.label = label

        def advanced(self, share, steps):
            if self.label.startswith("strip"):
                self.steps += 1

    recorder, real = Stopped(), chunks._Run._heed

    def heed(self, carry):
        if recorder.steps == 1:
            self.context.told = lambda: 15
        real(self, carry)

    study = tiny.study(data, detectors=(STRIP,), keep_scores=True)
    monkeypatch.setattr(chunks._Run, "_heed", heed)
    with pytest.raises(chunks.Interrupted):
        bdjax.run(study, tmp_path / "stopped", recorder)
    assert list((tmp_path / "stopped" / "checkpoints").iterdir())
    recorder.steps = 10**6
    resumed = bdjax.run(study, tmp_path / "stopped", recorder)
    alone = bdjax.run(study, tmp_path / "alone")
    for name in results.FIGURES:
        np.testing.assert_array_equal(resumed[name], alone[name])
    both = [bdjax.load_scores(tmp_path / folder) for folder in ("stopped", "alone")]
    for place, one in both[0].items():
        np.testing.assert_array_equal(one["score"], both[1][place]["score"])


def drawn(judges: str, suspects: int, count: int = 6, seed: int = 0, attack: str = "badnets"):
    """What is judged of 30 training and 12 test images of three classes, and the roles of all rows."""
    label = np.arange(30, dtype=np.int32) % 3
    shared = Shared(
        *(Data(jax.numpy.zeros((size, 8, 8, 3), np.uint8), jax.numpy.asarray(label[:size])) for size in (30, 12))
    )
    spec = lookup(attack, ATTACKS, "attack")
    made = ATTACKS[spec.name].make(None, (8, 8, 3), 3, **spec.static)
    select = SELECTIONS["random"].make(None, (8, 8, 3), 3)
    scene = Scene(None, 3, 0, False, select, 2, 1, False, np.zeros(30, bool), made, judges=judges, suspects=suspects)
    cell = Cell(np.uint32(seed), np.int32(count), functions.scalars(spec.traced), {})
    return jax.jit(lambda cell, shared: functions.draw(scene, cell, shared)[0])(cell, shared)


@pytest.mark.parametrize("suspects", [0, 12])
def test_rows_are_judged_in_the_order_of_the_training_set(suspects):
    cell = drawn("rows", suspects)
    rows = np.asarray(cell.suspects)
    assert rows.size == (suspects or 30) and (np.diff(rows) > 0).all()
    np.testing.assert_array_equal(cell.truth, np.asarray(cell.poison.role)[rows] == POISONED)
    if suspects:
        assert not np.array_equal(rows, drawn("rows", suspects, seed=1).suspects)


def test_cover_rows_do_not_count():
    cell = drawn("rows", 0, attack="adaptive_blend")
    cover = np.asarray(cell.poison.role) == COVER
    assert cover.any()
    np.testing.assert_array_equal(np.asarray(cell.truth) == -1, cover)


@pytest.mark.parametrize("suspects", [0, 10])
def test_half_of_the_queries_have_the_trigger(suspects):
    cell = drawn("queries", suspects)
    rows, truth = np.asarray(cell.suspects), np.asarray(cell.truth)
    half = suspects // 2 or 12
    assert rows.size == 2 * half and len(set(rows.tolist())) == 2 * half
    triggered = rows >= 12
    assert triggered.sum() == half and not triggered[:half].all()
    np.testing.assert_array_equal(truth[~triggered], 0)
    # Of the target's own class the attack would move nothing: those come last and do not count.
    moved = (rows[triggered] - 12) % 3 != 0
    np.testing.assert_array_equal(truth[triggered], np.where(moved, 1, -1))
    assert moved.sum() == min(half, 8)


def test_without_poison_no_query_counts_as_triggered():
    cell = drawn("queries", 10, count=0)
    assert set(np.asarray(cell.truth).tolist()) == {0, -1}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"detectors": ("nc",)},
            "nc is not among the detectors, but among the defenses and audits; give it with --defenses or --audits",
        ),
        ({"detectors": ("nothing",)}, "no detector 'nothing'; choose from"),
        ({"detectors": ("scale_up",), "suspects": -1}, "suspects -1; give 2 or more, or 0 for all"),
        ({"detectors": ("scale_up",), "suspects": 1}, "suspects 1; give 2 or more"),
        ({"detectors": ("spectral",)}, "spectral: the linear layer reads the image itself"),
        ({"detectors": ("scale_up", "scale_up")}, "detectors: scale_up is given twice"),
        ({"detectors": ("scale_up:largest=1",)}, "scale_up:largest=1 is below smallest=3"),
        ({"detectors": ("spectral:tap=x",), "model": "small_cnn:width=2"}, "spectral: no tap 'x'; the network's taps"),
        ({"keep_scores": 1}, "keep_scores: 1; give true or false"),
    ],
)
def test_what_cannot_be_judged_is_refused_in_one_line(data, changes, message):
    with pytest.raises(InvalidInput, match=re.escape(message)):
        bdjax.run(tiny.study(data, **changes))
