"""A group of cells that fails: the others are done, what went wrong is told and kept, and it can be tried again."""

import contextlib

import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import bdjax
from bdjax import cards, cli, train
from bdjax.defenses import DEFENSES
from bdjax.engine.failures import Failed, needed
from bdjax.engine.progress import Silent
from bdjax.errors import OUT_OF_MEMORY
from bdjax.io.store import results
from bdjax.io.store.examine import examine
from bdjax.report import summary
from bdjax.study.jobs import plan
from bdjax.study.resolve import resolve
from bdjax.types import Stage, Trained

BROKEN = ("none", "broken", "ft:epochs=1,batch=8")


class Told(Silent):
    """Keeps the notes."""

    def __init__(self):
        self.notes = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def study(tmp_path_factory, monkeypatch):
    """A study whose second defense raises what it finds in `errors`, and changes nothing where that is empty."""
    errors = [TypeError("no such\n rows")]
    card = cards.Card("broken", "Broken", "none", 2026, 1, "tuning", needs=("clean", "victim"))

    def make(net, shape, classes):
        def step(key, state, batch, given):
            if errors:
                raise errors[0]
            return state, {}

        stage = Stage(
            source=lambda given: given.clean,
            epochs=1,
            init=lambda key, given, weights: train.start(given, weights),
            order=lambda key, state, epoch, given: jnp.zeros((1, 2), jnp.int32),
            step=step,
            finish=lambda key, state, given: Trained(state),
        )
        return (stage,)

    monkeypatch.setitem(DEFENSES, "broken", cards.Method(card, make))
    monkeypatch.setattr("bdjax.study.resolve.rehearse", lambda work: None)  # which would find it before anything runs
    data = tmp_path_factory.mktemp("data")
    return tiny.study(data, defenses=BROKEN, ratios=(0.0, 0.1), audits=("retuning:epochs=1",)), errors


def test_the_other_groups_are_done_and_the_failed_one_can_be_tried_again(study, tmp_path):
    asked, errors = study
    told = Told()
    with pytest.raises(Failed, match=r"broken.*: TypeError: no such rows; the rest is done") as caught:
        bdjax.run(asked, tmp_path, told)
    assert caught.value.__cause__ is errors[0]
    assert len(told.notes) == 1 and told.notes[0].endswith("TypeError: no such rows")
    found = bdjax.load(tmp_path)
    for name in ("acc", "retuning_asr"):
        np.testing.assert_array_equal(np.isnan(found[name]).all(("attack", "ratio", "seed")), [False, True, False])
    assert f"Failed: {told.notes[0]}." in summary(found)
    (kept,) = (tmp_path / "failures").iterdir()
    assert "in step" in kept.read_text() and "TypeError" in kept.read_text()
    assert [finding.about for finding in examine(tmp_path)] == told.notes
    before = tiny.files(tmp_path, "models", "results")
    errors.clear()
    after = bdjax.run(asked, tmp_path)
    assert not np.isnan(after["acc"]).any() and not list((tmp_path / "failures").iterdir())
    assert results.failures(tmp_path) == [] and before.items() <= tiny.files(tmp_path, "models", "results").items()


def test_a_share_keeps_what_it_says_of_another_share(study, tmp_path):
    asked, errors = study
    for number in 1, 2:
        with contextlib.suppress(Failed):
            bdjax.run(asked, tmp_path, share=(number, 2))
    said = results.failures(tmp_path)
    assert len(said) == 2
    errors.clear()
    bdjax.run(asked, tmp_path, share=(2, 2))
    assert len(results.failures(tmp_path)) == 1
    bdjax.run(asked, tmp_path)
    assert results.failures(tmp_path) == []


def test_an_audit_needs_the_victim_that_it_compares_with(tmp_path_factory):
    """Its defense trains from the start, so no other job of the audit's needs the victim."""
    asked = tiny.study(tmp_path_factory.mktemp("data"), ratios=(0.1,), defenses=("abl",), audits=("connectivity",))
    jobs = plan(resolve(asked)).jobs
    compared = {job.backdoored for job in jobs if job.kind == "audit"}
    assert compared <= {name for job in jobs if job.kind == "audit" for name in needed(job)} and None not in compared


def test_out_of_memory_is_one_groups_own(study, tmp_path):
    asked, errors = study
    errors[:] = [RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes")]
    with pytest.raises(Failed, match=OUT_OF_MEMORY):
        bdjax.run(asked, tmp_path)
    assert not np.isnan(bdjax.load(tmp_path)["acc"].sel(defense="none")).any()


def test_a_full_disk_is_not(study, tmp_path):
    asked, errors = study
    errors[:] = [OSError(28, "No space left on device")]
    with pytest.raises(OSError, match="No space"):
        bdjax.run(asked, tmp_path)


def test_the_command_shows_the_rest_and_ends_with_one_line_and_2(study, tmp_path, capsys, monkeypatch):
    from bdjax.cli import conduct

    asked, _ = study
    assert cli.status(lambda: conduct.conduct(asked, tmp_path)) == 2
    out, err = capsys.readouterr()
    assert (tmp_path / "report.html").exists() and "Failed: " in out
    assert err.splitlines()[-1].startswith("bdjax: broken") and err.count("Traceback") == 0
