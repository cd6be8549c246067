"""What a run says before it begins: what is there, what is missing, how long it takes; and nothing is written."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

import bdjax
from bdjax import cli
from bdjax.cli.conduct import outline
from bdjax.engine.preview import preview
from bdjax.errors import InvalidInput

FIELDS = {
    "attacks": (tiny.ATTACK, "wanet:batch=32,epochs=2"),
    "defenses": ("none", "ft:epochs=2,batch=8", "abl:isolation_epochs=1,epochs=2,unlearning_epochs=1,batch=64"),
    "audits": ("retuning",),
    "detectors": ("strip:overlays=2",),
    "suspects": 20,
    "model": "small_cnn:width=2",
}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of the user."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()


def test_rows_are_counted_and_nothing_is_written(tmp_path, cache):
    seen = preview(tiny.study(tmp_path, **FIELDS), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    parts = {part.group.label.partition(":")[0]: part for part in seen.left}
    assert (seen.finished, seen.driver, seen.planned) == (0, "map", 0) and seen.models == 24
    assert all(
        part.missing == len(part.group.jobs) and part.guessed for part in seen.left if part.group.kind != "score"
    )
    row = parts["ft"].cell / (2 * 40)  # of two epochs over 36 rows by 8, the last batch filled
    assert parts["victims clean"].cell == pytest.approx(row * tiny.EPOCHS * 160)  # 180 rows by 32 without the rest
    assert parts["victims badnets"].cell == parts["victims clean"].cell < parts["abl"].cell
    assert parts["victims wanet"].cell > 0


def test_what_is_there_is_not_missing(tmp_path, cache):
    one, two = tiny.study(tmp_path, seeds=(0,)), tiny.study(tmp_path, seeds=(0, 1))
    bdjax.run(one, tmp_path / "out")
    before = tiny.files(tmp_path / "out", ".")
    seen = preview(two, tmp_path / "out")
    assert tiny.files(tmp_path / "out", ".") == before
    assert (seen.models, seen.finished) == (4, 2) and seen.planned > 0
    assert [part.missing for part in seen.left] == [1, 1, 2] and not any(part.guessed for part in seen.left)
    assert all(part.cell > 0 for part in seen.left)
    share = preview(two, tmp_path / "out", (1, 2)), preview(two, tmp_path / "out", (2, 2))
    assert sum(one.models for one in share) >= 4
    assert min(preview(two, tmp_path / "out", (part, 99)).models for part in (1, 2, 3, 4, 5)) == 0


def test_what_a_run_refuses_is_refused(tmp_path, cache):
    out = tmp_path / "out"
    bdjax.run(tiny.study(tmp_path, seeds=(0,), detectors=("strip:overlays=2",), suspects=20), out)
    for changes, words in (
        ({"driver": "vmap"}, "driver vmap; .* says map"),
        ({"recipe": "epochs=1"}, "holds a study of recipe"),
        ({"model": "small_cnn:width=2"}, "holds a study of"),
    ):
        with pytest.raises(InvalidInput, match=words):
            preview(tiny.study(tmp_path, seeds=(0,), **changes), out)
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match="no folder"):
        preview(tiny.study(tmp_path), tmp_path / "file")
    kept = tiny.study(tmp_path, seeds=(0,), detectors=("strip:overlays=2",), suspects=20, keep_scores=True)
    assert sum(part.missing for part in preview(kept, out).left) == 4  # two kinds at two ratios


def test_the_command_prints_it(tmp_path, cache, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = f"--dataset {tiny.dataset(tmp_path)} --model linear --ratios 0 0.1 --seeds 0:2 --clean-ratio 0.2"
    assert cli.main(["run", *options.split(), "--defenses", "none", "ft", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("runs/study: 0 of 8 models are there; driver ")
    for words in ("victims clean", "counted", "In all roughly", "Memory: known once programs are compiled"):
        assert words in out
    assert not (tmp_path / "runs").exists()


def test_what_an_attack_prepares_has_a_line(tmp_path, cache):
    out, asked = tmp_path / "out", tiny.study(tmp_path, attacks=(tiny.ATTACK, "refool"), ratios=(0.1,), seeds=(0,))
    seen = preview(asked, out)
    assert seen.prepares == {"refool": False}
    lines = outline(seen, out)
    assert "prepare refool 1 1" in [" ".join(line.split()) for line in lines]
    assert "Not counted, for only a run tells: what it takes to prepare refool." in lines
    (address,) = {part.group.assets for part in seen.left if part.group.assets}
    (out / "assets").mkdir(parents=True)
    (out / "assets" / f"{address}.safetensors").write_bytes(b"")
    there = preview(asked, out)
    assert there.prepares == {"refool": True}
    assert not any("to prepare" in line for line in outline(there, out))


@pytest.mark.slow
@pytest.mark.parametrize(("given", "kept"), [({}, True), ({"JAX_ENABLE_COMPILATION_CACHE": "0"}, False)])
def test_python_keeps_compiled_programs_between_processes(tmp_path, given, kept):
    """Even where something was compiled before the first study."""
    code = (
        "import jax, sys; sys.path.insert(0, sys.argv[1]); jax.jit(lambda x: x + 1)(1)\n"
        "import bdjax, pathlib, tiny\n"
        "print(bdjax.run(tiny.study(pathlib.Path(sys.argv[2]), model='small_cnn:width=2')).attrs['compile_seconds'])\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_"))} | given
    environment["XDG_CACHE_HOME"] = str(tmp_path)
    command = [sys.executable, "-c", code, str(Path(__file__).parent), str(tmp_path)]
    first, second = (
        float(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
        for _ in range(2)
    )
    programs = list((tmp_path / "bdjax").glob("compiled/*"))
    assert bool(programs) == kept
    assert second < 0.8 * first or not kept
