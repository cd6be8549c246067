"""What a study tells in a log, on a terminal and in a notebook, and how long it says that the rest takes."""

import os
import pty
import re
import signal
import subprocess
import sys
import types

import pytest
import tiny

import bdjax
from bdjax.engine import drivers, forecast, progress, signals
from bdjax.engine.progress import Lines
from bdjax.errors import InvalidInput
from bdjax.io.store import documents


def test_lines_say_how_far_a_study_is(capsys):
    lines = Lines(every=0.0)
    lines.begin(8, 2)
    lines.stage("badnets", 4)
    lines.compiled("advance", 3.4)
    lines.expect(150.0, False)
    lines.advanced(0.25, 100)
    lines.trained(4)
    found = capsys.readouterr().err.splitlines()
    assert found[0] == "bdjax: 2/8 models; starting"
    pattern = r"bdjax: 2/8 models; badnets \(4 cells\) 25%; \S+ steps/s; compiled 3 s; about 2 min left"
    assert re.fullmatch(pattern, found[-2]) and found[-1].startswith("bdjax: 6/8 models; badnets (4 cells) 0%")


def test_lines_are_not_told_more_often_than_asked(capsys):
    lines = Lines(every=1e6, first=1e6)
    lines.begin(8, 2)
    lines.advanced(0.5, 100)
    lines.trained(4)
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.4, "0 s"), (89, "89 s"), (95, "2 min"), (3599, "1 h 0 min"), (12000, "3 h 20 min")]
)
def test_duration(seconds, said):
    assert progress.duration(seconds) == said


def test_who_is_told(monkeypatch):
    own = tiny.Recorder()
    assert progress.of(own) is own
    assert type(progress.of(False)) is type(progress.of(None)) is progress.Silent  # nobody looks on
    assert type(progress.of(True)) is Lines
    monkeypatch.setattr(sys, "stderr", types.SimpleNamespace(isatty=lambda: True, write=None, flush=None))
    assert type(progress.of(None)) is progress.Terminal
    for other in ("yes", progress.Silent, types.SimpleNamespace(begin=print, stage=print, end=print)):
        with pytest.raises(InvalidInput, match="give None, True, False or"):
            progress.of(other)


def test_a_notebook_shows_one_line_that_changes(monkeypatch):
    shown = []
    handle = types.SimpleNamespace(update=lambda data, raw: shown.append(data["text/plain"]))
    display = types.ModuleType("IPython.display")
    display.display = lambda data, raw, display_id: shown.append(data["text/plain"]) or handle
    shell = types.SimpleNamespace(get_ipython=lambda: types.SimpleNamespace(kernel=1))
    monkeypatch.setitem(sys.modules, "IPython", shell)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    told = progress.of(None)
    assert isinstance(told, progress.Notebook)
    told.end()
    assert shown == []  # a study that is refused leaves no line
    told.EVERY = 0.0
    told.begin(4, 0)
    told.stage("badnets", 2)
    told.advanced(0.5, 10)
    told.trained(2)
    told.end()
    assert shown[0] == "0/4 models; starting" and "badnets (2 cells) 50%" in shown[2] and shown[-1] == "2/4 models, 0 s"


def test_a_terminal_shows_it_all():
    code = (
        "from bdjax.engine import progress\n"
        "told = progress.of(None)\n"
        "told.begin(4, 0); told.stage('badnets', 2); told.expect(200, True); told.advanced(0.5, 10); told.stopping()\n"
        "told.end()\n"
    )
    ours, theirs = pty.openpty()
    environment = os.environ | {"COLUMNS": "160", "TERM": "xterm"}
    subprocess.run([sys.executable, "-c", code], stderr=theirs, env=environment, check=True)
    os.close(theirs)
    text = os.read(ours, 10**5).decode()
    for words in ("0/4 models", "badnets (2 cells) 50%", "roughly 3 min left", "press again to stop now"):
        assert words in text


def test_a_signal_is_acknowledged_at_once():
    said = []
    with signals.noted(lambda: said.append("stopping")) as told:
        os.kill(os.getpid(), signal.SIGTERM)
        assert (said, told) == (["stopping"], [signal.SIGTERM])


class Watcher(tiny.Recorder):
    """Keeps what it is told of the time that is left."""

    def __init__(self):
        super().__init__()
        self.expected = []

    def expect(self, seconds, guessed):
        self.expected.append((seconds, guessed))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of the user."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()


def test_what_groups_took_is_remembered(tmp_path, cache, monkeypatch):
    """A first study guesses; a second of other seeds knows, and expects less and less."""
    from bdjax.engine import run as engine

    monkeypatch.setattr(engine, "EXPECT_SECONDS", 0.0)
    first, second = Watcher(), Watcher()
    fields = {"defenses": ("none", "ft:epochs=2,batch=8"), "recipe": "epochs=4,batch=32"}
    bdjax.run(tiny.study(tmp_path, **fields), tmp_path / "one", first)
    assert first.expected[0][1]
    found = bdjax.run(tiny.study(tmp_path, **fields | {"seeds": (5, 6, 7)}), tmp_path / "two", second)
    assert second.expected and not any(guessed for _, guessed in second.expected)
    assert second.expected[-1][0] < second.expected[0][0]
    took = forecast._remembered().values()
    assert len(took) == 4  # clean victims, poisoned ones, ft, and scores
    assert all(one["cell"] > 0 and one["compile"] > 0 for one in took)
    assert found["seconds"].max() < max(one["cell"] for one in took) + 1


def test_what_drivers_took_is_remembered(cache):
    entry = {"seconds": {"map suited": 0.5}, "device": "cpu", "shape": [8, 8, 1], "model": {"name": "linear"}}
    documents.write_json(drivers.home() / drivers.REMEMBERED, {"a": entry})
    assert drivers.remembered() == {"a": entry}
    (drivers.home() / drivers.REMEMBERED).write_text("{")
    assert drivers.remembered() == {}


def test_a_damaged_memory_is_forgotten(cache):
    times = forecast.Times("map")
    assert forecast._remembered() == {} and times._known == {}
    (forecast.home() / forecast.FILE).write_text("{")
    assert forecast._remembered() == {}


@pytest.mark.parametrize(
    ("study", "out", "wanted"),
    [
        ({"dataset": "digits"}, None, r"study: \{'dataset': 'digits'\}; give a bdjax.Study"),
        (bdjax.Study, None, "study: <class .*>; give a bdjax.Study"),
        (bdjax.Study(), 3, "out: 3; give the path of a folder, or None"),
        (bdjax.Study(), "", "out: ''; give the path of a folder, or None"),
    ],
)
def test_run_is_told_what_it_was_given_wrongly(study, out, wanted):
    with pytest.raises(InvalidInput, match=wanted):
        bdjax.run(study, out, progress=False)
