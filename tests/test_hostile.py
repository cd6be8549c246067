"""Files and surroundings that are not what they should be: one line, status 2, and nothing is touched."""

import errno
import os
import stat
import threading
from pathlib import Path

import pytest
import tiny

import bdjax
from bdjax import cli, paths
from bdjax.cards import Card
from bdjax.defenses import DEFENSES
from bdjax.errors import InvalidInput
from bdjax.io.files import read_regular
from bdjax.io.store import store
from bdjax.io.store.documents import read_json
from bdjax.io.store.store import Store


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """Runs the command in an empty folder and gives the one line that it refuses with."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        assert cli.main(list(arguments)) == 2
        err = capsys.readouterr().err
        assert err.startswith("bdjax: ") and err.count("\n") == 1, err
        return err

    return run


def test_what_is_no_regular_file_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(InvalidInput, match="no regular file"):
            read_regular(path, 100)
    (tmp_path / "large").write_bytes(b"1" * 101)
    with pytest.raises(InvalidInput, match="101 bytes; give a file of at most 100"):
        read_regular(tmp_path / "large", 100)
    assert read_regular(tmp_path / "large", 101) == b"1" * 101


def test_a_pipe_as_toml_or_picture_ends_at_once(refused, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    timer = threading.Timer(60, lambda: os.open(tmp_path / "pipe", os.O_RDWR))  # or a failure would hang for ever
    timer.start()
    assert "no regular file" in refused("run", str(tmp_path / "pipe"), "--out", "out")
    assert "no regular file" in refused("run", "--out", "out", "--attacks", f"blended:picture={tmp_path / 'pipe'}")
    timer.cancel()


@pytest.mark.parametrize("text", ["a = " + "[" * 5000 + "]" * 5000, "a = " + "1" * 5000])
def test_toml_that_python_cannot_hold(refused, tmp_path, text):
    (tmp_path / "study.toml").write_text(text)
    assert "mend it there" in refused("run", "study.toml", "--out", "out")


def test_memory_of_too_many_digits(refused):
    assert "give a size such as" in refused("run", "--out", "out", "--memory", "1" + "0" * 400 + "GB")


def test_json_that_is_nested_too_deep(tmp_path):
    (tmp_path / "study.json").write_text("[" * 100_000)
    with pytest.raises(InvalidInput, match="damaged or another program"):
        read_json(tmp_path / "study.json")


@pytest.mark.parametrize(
    "arguments", [["run", "--out", ""], ["run", "--out="], ["report", ""], ["run", "", "--out", "x"]]
)
def test_an_empty_path_is_not_the_working_folder(refused, tmp_path, arguments):
    assert "an empty path" in refused(*arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("how", ["open to others", "a link"])
def test_a_cache_that_others_may_write_to_is_refused(tmp_path, monkeypatch, how):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert stat.S_IMODE(paths.home().stat().st_mode) == 0o700
    if how == "a link":
        (tmp_path / "bdjax").rename(tmp_path / "other")
        (tmp_path / "bdjax").symlink_to(tmp_path / "other")
    else:
        (tmp_path / "bdjax").chmod(0o777)
    with pytest.raises(InvalidInput, match="make it yours alone"):
        paths.home()


def test_no_home_is_said(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def lost():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(paths.Path, "home", lost)
    with pytest.raises(InvalidInput, match="no home folder for a cache; set XDG_CACHE_HOME"):
        paths.home()


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(store.fcntl, "flock", none)
    with pytest.raises(InvalidInput, match="its file system has no locks"):
        bdjax.run(tiny.study(tmp_path), tmp_path / "out")


def test_claims_and_locks_do_not_follow_links(tmp_path):
    """In a folder that somebody else may write to, a link would empty a file of one's own."""
    mine = tmp_path / "mine"
    mine.write_text("precious")
    with Store(tmp_path / "out") as opened:
        (tmp_path / "out" / "claims" / "a.claim").symlink_to(mine)
        assert opened.claim(["a"]) == ["a"]
        assert mine.read_text() == "precious"
    (tmp_path / "out" / "claims" / "lock").unlink()
    (tmp_path / "out" / "claims" / "lock").symlink_to(mine)
    with pytest.raises(InvalidInput, match="give a folder that can be written"), Store(tmp_path / "out"):
        pass
    assert mine.read_text() == "precious"


ODD = {
    "lambda: None": "is of type function",
    "None": "is of type NoneType",
    "bdjax.cards.Method(None, None)": "has a card of type NoneType",
    "bdjax.DEFENSES['ft']._replace(make=5)": "has a make of type int",
}


@pytest.mark.parametrize("entry", ODD)
def test_a_plugin_that_registers_something_else_is_named(refused, tmp_path, entry):
    name = f"wrong_plugin_{list(ODD).index(entry)}"
    (tmp_path / f"{name}.py").write_text(f"import bdjax\nimport bdjax.cards\nbdjax.DEFENSES['odd'] = {entry}\n")
    line = refused("list", "defenses", "--plugin", name)
    assert f"plugin '{name}': DEFENSES['odd'] {ODD[entry]}; register a cards.Method" in line
    assert "odd" not in DEFENSES and all(isinstance(one.card, Card) for one in DEFENSES.values())
