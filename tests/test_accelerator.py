"""What measures an accelerator, tried on a CPU in little: it ends in time, loses one measurement at most, goes on."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments import accelerator, accelerator_parts

TINY = accelerator_parts.SIZES["tiny"]


def start(out, *more, parts=("machine", "switches"), budget=300):
    command = [sys.executable, "-m", "experiments.accelerator", "--out", str(out), "--size", "tiny"]
    command += ["--budget", str(budget), "--parts", *parts, *more]
    quiet = {"JAX_PLATFORMS": "cpu", "PYTHONWARNINGS": "ignore"}
    return subprocess.Popen(command, env=os.environ | quiet, stdout=subprocess.PIPE, text=True, start_new_session=True)


def finished(out, *more, **named):
    process = start(out, *more, **named)
    told, _ = process.communicate(timeout=400)
    assert process.returncode == 0, told
    return told


def lines(out):
    path = out / "results.jsonl"
    return path.read_text().splitlines() if path.exists() else []


def test_a_line_that_was_cut_short_is_measured_again(tmp_path):
    (tmp_path / "results.jsonl").write_text(
        json.dumps({"part": "machine", "name": "ceilings", "found": {}, "seconds": 1}) + '\n{"part": "swit'
    )
    assert accelerator.missing("machine", TINY, tmp_path) == []
    names = [one.name for one in accelerator.missing("switches", TINY, tmp_path)]
    assert names == [" ".join(environment) for environment in accelerator_parts.SWITCHES]


def test_what_went_wrong_is_measured_again(tmp_path):
    wrong = {"part": "machine", "name": "ceilings", "error": "RuntimeError: no", "seconds": 1}
    (tmp_path / "results.jsonl").write_text(json.dumps(wrong) + "\n")
    assert [one.name for one in accelerator.missing("machine", TINY, tmp_path)] == ["ceilings"]


def test_parts_without_images_measure_nothing(tmp_path):
    for part, count in (("speed", 0), ("victims", 0), ("numbers", 1)):
        assert len(accelerator_parts.PARTS[part](TINY, tmp_path)) == count
    assert set(accelerator_parts.SHARES) == set(accelerator_parts.PARTS)


@pytest.mark.slow
def test_the_tiny_run_measures_and_trains(tmp_path):
    rng, data = np.random.default_rng(0), {}
    for split, count in (("train", 200), ("test", 40)):
        data[f"{split}_label"] = np.arange(count, dtype=np.int32) % 10
        data[f"{split}_image"] = rng.integers(0, 256, (count, 32, 32, 3), np.uint8)
    np.savez(tmp_path / "images.npz", **data)
    told = finished(tmp_path / "out", "--data", str(tmp_path / "images.npz"), parts=("machine", "speed"))
    found = accelerator.read(tmp_path / "out" / "results.jsonl")
    assert list(found) == ["machine ceilings", "speed 1 seeds", "speed 2 seeds"]
    assert found["machine ceilings"]["found"]["bandwidth"] > 0
    assert [len(found[f"speed {count} seeds"]["found"]["rows"]) for count in (1, 2)] == [2, 4]
    assert "blended 0.1 none" in told and "TFLOP/s" in told
    before = lines(tmp_path / "out")
    finished(tmp_path / "out", "--data", str(tmp_path / "images.npz"), parts=("machine", "speed"))
    assert lines(tmp_path / "out") == before


@pytest.mark.slow
def test_a_part_that_takes_too_long_is_cut_short_and_done_later(tmp_path):
    told = finished(tmp_path, parts=("switches",), budget=accelerator.SPARE + accelerator.GRACE + 10)
    some = lines(tmp_path)
    assert "cut short" in told and len(some) < len(accelerator_parts.SWITCHES)
    finished(tmp_path, parts=("switches",))
    assert lines(tmp_path)[: len(some)] == some and len(lines(tmp_path)) == len(accelerator_parts.SWITCHES)


@pytest.mark.slow
def test_killed_from_outside_it_loses_the_measurement_in_progress_alone(tmp_path):
    process = start(tmp_path, parts=("switches",))
    for told in process.stdout:
        if told.startswith("switches"):
            break
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    some = lines(tmp_path)
    assert len(some) >= 1
    finished(tmp_path, parts=("switches",))
    assert lines(tmp_path)[: len(some)] == some and Path(tmp_path / "random.npz").exists()
