"""Cells spread over devices and processes: the results and the models are those of one process with one device."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny

import bdjax
from bdjax.io.store.trees import load_trained

pytestmark = pytest.mark.slow

STUDY = {"seeds": [0, 1, 2, 3], "defenses": ["none", "ft:epochs=2,batch=16"]}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def alone(data):
    return bdjax.run(tiny.study(data, **STUDY), data / "alone"), data / "alone"


def started(data: Path, out: Path, devices: int, **options):
    """A process with so many virtual devices that runs the study in `out`."""
    flags = [flag for flag in os.environ["XLA_FLAGS"].split() if "device_count" not in flag]
    flags.append(f"--xla_force_host_platform_device_count={devices}")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent), "XLA_FLAGS": " ".join(flags)}
    asked = {"data": str(data), "out": str(out), "study": STUDY | {"driver": "shard"}} | options
    command = [sys.executable, str(Path(__file__).with_name("child.py")), json.dumps(asked)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def trained(process) -> int:
    """How many models a process has trained, once it has ended well."""
    lines = process.communicate(timeout=240)[0].splitlines()
    assert process.returncode == 0 and lines[-1] == "ended"
    return sum(int(line.split()[1]) for line in lines if line.startswith("trained"))


def same(alone, out: Path) -> None:
    """All results and all models to the bit."""
    found, folder = alone
    there = bdjax.load(out)
    for name in ("acc", "asr", "ra", "der", "overlap", "status"):
        np.testing.assert_array_equal(found[name], there[name], err_msg=name)
    models = [{path.name: load_trained(path)[0] for path in (one / "models").iterdir()} for one in (folder, out)]
    jax.tree.map(np.testing.assert_array_equal, *models)


def test_four_devices(alone, data, tmp_path):
    assert trained(started(data, tmp_path, devices=4)) == 16
    same(alone, tmp_path)


def test_one_cell_a_device_by_the_command(tmp_path):
    """Four devices with a cell each, through the command, on digits, where sums are long enough to be split.

    XLA splits them among its threads, which are as many as devices; so `map` has to have as many.
    """
    lines = "attacks = ['badnets']", "ratios = [0.0, 0.1]", "seeds = [0, 1]", "recipe = 'epochs=2,batch=64'"
    (tmp_path / "study.toml").write_text("\n".join(lines))
    for driver, count in ("shard", 4), ("map", 1):
        flags = [flag for flag in os.environ["XLA_FLAGS"].split() if "device_count" not in flag]
        flags.append(f"--xla_force_host_platform_device_count={count}")
        environment = os.environ | {"XLA_FLAGS": " ".join(flags), "NPROC": "4"}
        command = [sys.executable, "-m", "bdjax", "run", "study.toml", "--driver", driver, "--out", driver]
        subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    assert json.loads((tmp_path / "shard" / "plan.json").read_text())["threads"] == 4
    same((bdjax.load(tmp_path / "map"), tmp_path / "map"), tmp_path / "shard")


def cluster(data: Path, out: Path) -> list:
    """Two processes of two devices in a `jax.distributed` cluster, the leader first; each step has a checkpoint."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    return [started(data, out, devices=2, cells=2, checkpoint=0.0, cluster=(port, 2, place)) for place in (0, 1)]


def test_two_processes_of_two_devices_in_a_cluster_share_the_study(alone, data, tmp_path):
    counts = [trained(process) for process in cluster(data, tmp_path)]
    assert sum(counts) == 16
    same(alone, tmp_path)


def test_a_cluster_that_loses_its_leader_ends_and_the_same_study_goes_on(alone, data, tmp_path):
    leader, member = cluster(data, tmp_path)
    while not leader.stdout.readline().startswith("trained"):
        assert leader.poll() is None
    leader.kill()
    member.communicate(timeout=120)
    assert member.returncode == -signal.SIGABRT  # JAX stops it
    assert 0 < trained(started(data, tmp_path, devices=2)) < 16
    same(alone, tmp_path)


def test_the_others_do_what_a_killed_process_leaves(alone, data, tmp_path):
    """One of two processes of two devices each is killed in the middle of its second chunk."""
    other = started(data, tmp_path, devices=2, cells=2)
    assert other.stdout.readline() == "advanced\n"
    other.send_signal(signal.SIGSTOP)  # with its claim, until the one to be killed has come as far
    killed = started(data, tmp_path, devices=2, cells=2, checkpoint=0.0)
    while not (line := killed.stdout.readline()).startswith("trained"):
        assert line == "advanced\n"
    assert [killed.stdout.readline() for _ in range(3)] == ["advanced\n"] * 3
    killed.kill()
    rest = killed.communicate()[0].splitlines()
    assert killed.returncode == -signal.SIGKILL and set(rest) <= {"advanced"}
    assert any(path.read_text().startswith(f"{killed.pid} ") for path in tmp_path.glob("claims/*.writer"))
    assert list(tmp_path.glob("checkpoints/*"))
    other.send_signal(signal.SIGCONT)
    assert trained(other) == 16 - 2
    same(alone, tmp_path)
    assert [path.name for path in (tmp_path / "claims").iterdir()] == ["lock"]
    assert not list(tmp_path.glob("checkpoints/*"))
