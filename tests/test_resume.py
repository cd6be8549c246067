"""Killed, stopped, crowded or out of space, a study goes on and ends with the numbers of one that was left alone."""

import contextlib
import ctypes
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import chex
import numpy as np
import pytest
import tiny

import bdjax
from bdjax import cli
from bdjax.engine import chunks
from bdjax.engine import run as engine
from bdjax.errors import InvalidInput
from bdjax.io.store import results, store
from bdjax.io.store.checkpoints import Checkpoint, sweep_up
from bdjax.io.store.store import Store
from bdjax.io.store.trees import load_trained, save_named
from bdjax.study.jobs import plan, share_of
from bdjax.study.resolve import resolve

STUDY = {"recipe": "epochs=12,batch=32,learning_rate=0.05", "defenses": ["none", "ft:epochs=20,batch=8"]}
STEPS = (2 * 2 * 12 * 5) + (4 * 20 * 5)
"""Of two groups of two victims and one of four defended models: 180 rows by 32 without the rest, 36 rows by 8."""


class Steps(tiny.Recorder):
    """Also counts steps."""

    def __init__(self):
        super().__init__()
        self.steps = 0

    def advanced(self, share: float, steps: int) -> None:
        self.steps += steps


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def alone(data):
    """The results of the study as nobody disturbs it, and its folder."""
    steps = Steps()
    found = bdjax.run(tiny.study(data, **STUDY), data / "alone", steps)
    assert (steps.models, steps.steps) == (8, STEPS)
    return found, data / "alone"


def same(one, two) -> None:
    """All results and all models to the bit."""
    for name in ("acc", "asr", "ra", "der", "overlap", "status"):
        np.testing.assert_array_equal(one[0][name], two[0][name], err_msg=name)
    models = [{path.name: load_trained(path)[0] for path in (folder / "models").iterdir()} for _, folder in (one, two)]
    chex.assert_trees_all_equal(*models)
    curves = [bdjax.load_curves(folder) for _, folder in (one, two)]
    np.testing.assert_array_equal(curves[0]["loss"], curves[1]["loss"])


@contextlib.contextmanager
def child(data: Path, out: Path, **options):
    """A process that runs the study."""
    asked = {"data": str(data), "out": str(out), "study": STUDY} | options
    places = (Path(__file__).parent, Path(bdjax.__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, places))}
    command = [sys.executable, str(Path(__file__).with_name("child.py")), json.dumps(asked)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def wait_for(process, wanted, seconds: float = 120.0) -> None:
    """Until `wanted()` or the process ends, which it must not."""
    until = time.monotonic() + seconds
    while not wanted():
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.005)


def positions(out: Path) -> list[dict]:
    found = []
    for path in out.glob("checkpoints/*/*/about.json"):
        with contextlib.suppress(FileNotFoundError):
            found.append(json.loads(path.read_text())["position"])
    return found


def finished(out: Path) -> dict:
    """Models, and those shards all of whose rows are done."""
    files = tiny.files(out, "models", "results")
    models = {Path(name).stem for name in files if name.startswith("models/")}
    unfinished = [path for path in results.shards(out, "run") if not set(results.read_shard(path)) <= models]
    return {name: held for name, held in files.items() if out / name not in unfinished and "/." not in name}


def test_killed_in_the_middle_of_training(alone, data, tmp_path):
    out = tmp_path / "out"

    def deep():  # in the second group, and not yet near its end
        return len(list(out.glob("models/*"))) == 2 and any(2 <= held["epoch"] <= 9 for held in positions(out))

    with child(data, out, checkpoint=0.0) as process:
        wait_for(process, deep)
        os.kill(process.pid, signal.SIGKILL)
    assert list(out.glob("claims/*.claim"))  # nobody gave them back
    (position,) = positions(out)
    before, steps = finished(out), Steps()
    found = bdjax.run(tiny.study(data, **STUDY), out, steps)
    assert before.items() <= finished(out).items()
    same((found, out), alone)
    done = position["epoch"] * 5 + position["step"]
    assert steps.models == 6 and steps.steps == STEPS - 2 * 12 * 5 - 2 * done
    assert not list(out.glob("checkpoints/*")) and [path.name for path in out.glob("claims/*")] == ["lock"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop(alone, data, tmp_path, number):
    out = tmp_path / "out"
    with child(data, out) as process:  # which makes no checkpoint of its own accord
        assert [process.stdout.readline().strip() for _ in range(9)] == ["advanced"] * 9
        assert not positions(out)
        process.send_signal(number)
        lines = process.stdout.read().split()
        assert process.wait(60) == 128 + number
    (position,) = positions(out)
    done = position["epoch"] * 5 + position["step"]
    assert done == 4 + 8 + lines.count("advanced") < 12 * 5  # the first call makes four steps
    assert not list(out.glob("claims/*.claim")) and not list(out.glob("claims/*.writer"))
    steps = Steps()
    same((bdjax.run(tiny.study(data, **STUDY), out, steps), out), alone)
    assert steps.steps == STEPS - 2 * done


ABL = "abl:isolation_epochs=2,epochs=2,unlearning_epochs=2,batch=64,one_in=10"


@pytest.mark.parametrize(
    ("driver", "defense", "at", "left"),
    [
        ("vmap", "ft:epochs=3,batch=8", (0, 1, 2), 3 + 5),
        ("shard", ABL, (1, 1, 2), 1 + 2),  # of three stages; 162 rows of the second by 64, the 18 isolated ones twice
    ],
)
def test_every_driver_resumes_in_any_stage(data, tmp_path, monkeypatch, driver, defense, at, left):
    study, steps = tiny.study(data, defenses=("none", defense), ratios=(0.1,), driver=driver), Steps()
    straight = bdjax.run(study, tmp_path / "straight")
    monkeypatch.setattr(chunks, "CALL_SECONDS", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(chunks, "CHECKPOINT_SECONDS", 0.0)
        save = Checkpoint.save

        def killed(self, state, jobs, held):
            save(self, state, jobs, held)
            if list((tmp_path / "out" / "models").iterdir()) and (held["stage"], held["epoch"], held["step"]) == at:
                raise SystemExit

        patch.setattr(Checkpoint, "save", killed)
        with pytest.raises(SystemExit):
            bdjax.run(study, tmp_path / "out")
    same((bdjax.run(study, tmp_path / "out", steps), tmp_path / "out"), (straight, tmp_path / "straight"))
    assert steps.steps == 2 * left


def test_two_writers_in_one_folder(alone, data, tmp_path):
    out = tmp_path / "out"
    with child(data, out, cells=1) as one, child(data, out, cells=1) as two:
        outputs = [process.communicate(timeout=300)[0] for process in (one, two)]
        assert (one.returncode, two.returncode) == (0, 0)
    rows = Counter(name for path in results.shards(out, "run") for name in results.read_shard(path))
    assert len(rows) == 8 and set(rows.values()) == {1}
    assert sum(output.count("trained") for output in outputs) == 8
    scores = Counter(name for path in results.shards(out, "score") for name in results.read_shard(path))
    assert len(scores) == 8 and set(scores.values()) == {1}
    same((bdjax.load(out), out), alone)
    assert not list(out.glob("claims/*.claim")) and not list(out.glob("claims/*.writer"))


def test_a_checkpoint_that_no_chunk_wants_any_more_is_removed(data, tmp_path):
    out = tmp_path / "out"
    with child(data, out, checkpoint=0.0) as process:
        wait_for(process, lambda: positions(out))
        os.kill(process.pid, signal.SIGKILL)
    bdjax.run(tiny.study(data, **STUDY | {"seeds": (0, 1, 2), "defenses": ("none",)}), out)
    assert not list(out.glob("checkpoints/*"))


def test_what_dead_writers_have_left_of_checkpoints_is_removed(data, tmp_path):
    """The state of one killed in its first save has no marker; a living writer's is its own."""
    out = tmp_path / "out"
    with Store(out) as living:
        for writer in ("dead", living.writer):
            (out / "checkpoints" / "chunk" / writer / "state").mkdir(parents=True)
        bdjax.run(tiny.study(data, defenses=("none",), ratios=(0.0,), seeds=(0,)), out)
        assert [path.name for path in out.glob("checkpoints/*/*")] == [living.writer]
    bdjax.run(tiny.study(data, defenses=("none",), ratios=(0.0,), seeds=(0,)), out)
    assert not list(out.glob("checkpoints/*"))


def test_checkpoints_that_are_still_needed_are_kept(tmp_path):
    """Those of a dead writer whose jobs are not done, those of a living one, and those that cannot be read now."""
    position = {"stage": 0, "epoch": 0, "step": 1, "seconds": 0.0, "curves": [], "finite": []}
    jobs = {"done": "0" * 24, "half": "1" * 24, "living": "0" * 24, "unread": "0" * 24}
    for writer, job in jobs.items():
        Checkpoint(tmp_path / "chunk", writer).save({"a": np.ones(3, np.float32)}, [job], position)
    marker = tmp_path / "chunk" / "unread" / "about.json"
    marker.unlink()
    marker.mkdir()
    (tmp_path / "chunk" / "dead" / "state").mkdir(parents=True)
    sweep_up(tmp_path, {"0" * 24}.__contains__, {"living"}.__contains__)
    assert {path.name for path in tmp_path.glob("*/*")} >= {"half", "living"}
    assert not (tmp_path / "chunk" / "done").exists() and not (tmp_path / "chunk" / "dead").exists()


def test_a_share_leaves_the_checkpoints_of_others(data, tmp_path):
    """Those of jobs that it does not have, of a process that was killed."""
    out, study = tmp_path / "out", tiny.study(data, defenses=("none",))
    jobs = plan(resolve(study)).jobs
    own = {job.address for job in share_of(jobs, 1, 2)}
    other = next(job.address for job in jobs if job.address not in own and job.kind == "train")
    position = {"stage": 0, "epoch": 0, "step": 1, "seconds": 0.0, "curves": [], "finite": []}
    Checkpoint(out / "checkpoints" / "chunk", "dead").save({"a": np.ones(3, np.float32)}, [other], position)
    bdjax.run(study, out, share=(1, 2))
    assert len(positions(out)) == 1
    bdjax.run(study, out, share=(2, 2))
    assert not positions(out)


def test_a_chunk_leaves_the_checkpoint_of_its_successor(tmp_path):
    one, two = (Checkpoint(tmp_path / "chunk", writer) for writer in ("one", "two"))
    position = {"stage": 0, "epoch": 0, "step": 1, "seconds": 0.0, "curves": [], "finite": []}
    for checkpoint in (one, two):
        checkpoint.save({"a": np.ones(3, np.float32)}, ["0" * 24], position)
    one.remove()
    position, state = two.load(lambda _: {"a": np.zeros(3, np.float32)})
    assert position["step"] == 1 and state["a"].tolist() == [1, 1, 1]
    two.remove()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "error", [FileNotFoundError(errno.ENOENT, "No such file", "commit_success.txt"), ValueError("Error reading")]
)
def test_who_wakes_up_in_a_save_that_was_swept_up_goes_on(data, tmp_path, monkeypatch, error):
    """A writer that was stopped while it saved, until another one did its chunk and swept up after it."""
    study, out, save, lost = tiny.study(data, ratios=(0.1,), seeds=(0,)), tmp_path / "out", Checkpoint.save, []

    def swept(self, state, jobs, position):
        if lost:
            return save(self, state, jobs, position)
        lost.append(jobs)
        for job in jobs:
            (out / "claims" / f"{job}.claim").unlink()
        raise error

    monkeypatch.setattr(chunks, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(Checkpoint, "save", swept)
    assert np.all(bdjax.run(study, out).status == 0) and lost


@pytest.mark.parametrize("kind", ["score", "audit", "detect"])
def test_who_lost_a_claim_publishes_nothing(data, tmp_path, monkeypatch, kind):
    """Another writer takes over while figures are computed: this one writes none of them."""
    fields = {"audits": ("retuning",), "detectors": ("strip:overlays=2",), "suspects": 20}
    study, out = tiny.study(data, ratios=(0.1,), seeds=(0,), **fields), tmp_path / "out"
    chunk, written = chunks.run, []

    def lost(_store, names):
        raise store.ClaimLost(names)

    def run(context, group, jobs):
        if group.kind != kind or written:
            chunk(context, group, jobs)
            return
        before = tiny.files(out, "results", "samples", "scores", "suspects")
        with monkeypatch.context() as patch, contextlib.suppress(store.ClaimLost):
            patch.setattr(Store, "check_claims", lost)
            chunk(context, group, jobs)
        written.append(tiny.files(out, "results", "samples", "scores", "suspects") != before)
        raise store.ClaimLost(jobs)

    monkeypatch.setattr(chunks, "run", run)
    found = bdjax.run(study, out)
    assert written == [False]
    assert (found["status"] == 0).all() and np.isfinite(found["retuning_asr"]).all()


def test_a_signal_in_the_last_moment_is_not_forgotten(data, tmp_path, monkeypatch):
    from bdjax.cells import memory

    peak = memory.peak
    monkeypatch.setattr(memory, "peak", lambda: (os.kill(os.getpid(), signal.SIGTERM), peak())[1])
    study = tiny.study(data, defenses=("none",), ratios=(0.0,), seeds=(0,))
    assert cli.status(lambda: bdjax.run(study, tmp_path / "out")) == 128 + signal.SIGTERM


def test_a_plan_that_was_removed_meanwhile(data, tmp_path, monkeypatch):
    out, run = tmp_path / "out", chunks.run

    def removing(*asked):
        (out / "plan.json").unlink(missing_ok=True)
        run(*asked)

    monkeypatch.setattr(chunks, "run", removing)
    bdjax.run(tiny.study(data, defenses=("none", "ft:epochs=1,batch=8"), seeds=(0,)), out)
    assert (out / "plan.json").exists()


def test_a_signal_is_answered_while_another_holds_the_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "LOCK_PATIENCE", 0.05)
    with Store(tmp_path) as one, Store(tmp_path) as two:

        def heed():
            raise KeyboardInterrupt

        with one._locked():
            two.heed = heed
            with pytest.raises(KeyboardInterrupt):
                two.claim(["a"])


@pytest.mark.parametrize(
    ("number", "error"), [(errno.EIO, OSError), (errno.EMFILE, OSError), (errno.EROFS, InvalidInput)]
)
def test_what_fails_at_the_start_says_whether_to_try_again(tmp_path, monkeypatch, number, error):
    def mkdir(self, *_, **__):
        raise OSError(number, os.strerror(number), str(self))

    monkeypatch.setattr("pathlib.Path.mkdir", mkdir)
    with pytest.raises(error, match=os.strerror(number)), Store(tmp_path):
        pass


def dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.parametrize(
    ("process", "host", "age", "taken"),
    [
        ("self", "here", 0, False),
        ("dead", "here", 0, True),
        ("self", "here", 2 * store.SILENCE, True),
        ("self", "elsewhere", 0, False),
        ("dead", "elsewhere", 0, False),  # a number of a process there says nothing here
        ("dead", "elsewhere", 2 * store.SILENCE, True),
        ("nonsense", "here", 0, True),
    ],
)
def test_claims_of_the_dead_and_the_silent_are_void(tmp_path, process, host, age, taken):
    with Store(tmp_path) as mine, Store(tmp_path) as other:
        assert other.claim(["a", "b"]) == ["a", "b"]
        number = {"self": os.getpid(), "dead": dead_process(), "nonsense": ""}[process]
        sign = tmp_path / "claims" / f"{other.writer}.writer"
        sign.write_text(f"{number} {store.socket.gethostname() if host == 'here' else host}")
        os.utime(sign, (time.time() - age,) * 2)
        assert mine.claim(["a", "b", "c"]) == (["a", "b", "c"] if taken else ["c"])
        other.release(["a", "b"])  # what was taken over is not given back
        assert mine.claim(["a"]) == ["a"]
        assert other.claim(["a"]) == []


def test_a_folder_that_cannot_be_written_is_said(data, tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    for out in (file, file / "below", Path("/proc/none"), tmp_path / ("long" * 100)):
        with pytest.raises(InvalidInput, match="give a folder that can be written"):
            bdjax.run(tiny.study(data), out)


def test_a_full_disk_loses_nothing_that_is_finished(alone, data, tmp_path, monkeypatch):
    """Every sixth write of a whole file finds no space; a study on two devices begins again until it is through."""
    out, writes, failures = tmp_path / "out", [], 0
    replace = os.replace

    def full(source, target):
        writes.append(target)
        if len(writes) % 6 == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        replace(source, target)

    monkeypatch.setattr("bdjax.io.files.os.replace", full)
    for _ in range(40):
        before = finished(out)
        try:
            found = bdjax.run(tiny.study(data, **STUDY, driver="shard"), out)
            break
        except OSError as error:
            assert error.errno == errno.ENOSPC
            failures += 1
        finally:
            assert before.items() <= finished(out).items()
    assert failures >= 3
    for name in ("acc", "asr", "ra", "der", "overlap", "status"):
        np.testing.assert_array_equal(found[name], alone[0][name])
    assert not [path for path in out.rglob(".*")]


def test_a_checkpoint_that_is_too_large_is_an_error_of_the_file_system(tmp_path):
    """tensorstore says so in a ValueError; a limit on the size of files stands for errors of any kind."""
    code = """
import resource, sys
import numpy as np
from bdjax.io.store.checkpoints import Checkpoint, sweep_up
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
state = {"a": np.random.default_rng(0).random(10_000)}
try:
    Checkpoint(__import__("pathlib").Path(sys.argv[1]), "writer").save(state, ["0" * 24], {})
except OSError as error:
    print(error.errno, error.filename.startswith(sys.argv[1]))
"""
    found = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert found.stdout.split() == [str(errno.EFBIG), "True"], found.stderr[-300:]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 100 kB, where this user may make one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"tmpfs", str(folder).encode(), b"tmpfs", 0, b"size=100k") != 0:
        pytest.skip(f"no file system can be mounted here: {os.strerror(ctypes.get_errno())}")
    yield folder
    libc.umount2(str(folder).encode(), 2)


def test_a_disk_that_is_really_full(alone, data, small_disk, tmp_path):
    out = small_disk / "out"
    with pytest.raises(Exception, match="No space left"):
        bdjax.run(tiny.study(data, **STUDY, driver="shard"), out)
    kept = tiny.files(out, "models", "results")
    moved = Path(shutil.copytree(out, tmp_path / "larger"))
    assert {name: held[0] for name, held in tiny.files(moved, "models", "results").items()} == {
        name: held[0] for name, held in kept.items()
    }
    same((bdjax.run(tiny.study(data, **STUDY, driver="shard"), moved), moved), alone)


def test_temporary_files_of_the_dead_are_swept_up(tmp_path):
    with Store(tmp_path) as living:
        del living
        names = {"dead": dead_process(), "mine": os.getpid(), "young": dead_process()}
        paths = {who: tmp_path / "models" / f".abc.{number}-0123abcd.safetensors" for who, number in names.items()}
        paths["young"] = tmp_path / f".plan.{names['young']}-0123abcd.json"
        paths["dead sign"] = tmp_path / "claims" / "elsewhere-1-0123abcd.new"
        for who, path in paths.items():
            path.write_text("half")
            age = 0 if who == "young" else 2 * store.SILENCE
            os.utime(path, (time.time() - age,) * 2)
        with Store(tmp_path):
            assert {who for who, path in paths.items() if path.exists()} == {"mine", "young"}


def test_whoever_waits_for_the_lock_says_so(tmp_path, monkeypatch, caplog):
    """A writer that is stopped while it holds the lock holds up all others."""
    monkeypatch.setattr(store, "SILENCE", 0.05)
    with Store(tmp_path) as mine, open(tmp_path / "claims" / "lock") as held:
        store.fcntl.flock(held, store.fcntl.LOCK_EX)
        threading.Timer(0.5, store.fcntl.flock, (held, store.fcntl.LOCK_UN)).start()
        assert mine.claim(["a"]) == ["a"]
    assert f"{tmp_path}: another process holds its lock; if that one is stopped" in caplog.text


def test_a_sign_from_the_future_holds_nothing(tmp_path):
    """Of a host whose clock was a day ahead."""
    with Store(tmp_path) as mine, Store(tmp_path) as other:
        assert other.claim(["a"]) == ["a"]
        sign = tmp_path / "claims" / f"{other.writer}.writer"
        sign.write_text(f"{dead_process()} elsewhere")
        os.utime(sign, (time.time() + 86400,) * 2)
        assert mine.owner(["a"]) is None and mine.claim(["a"]) == ["a"]


def test_whoever_waits_says_for_whom(alone, data, tmp_path, monkeypatch):
    """Another host's writer holds all claims, gives signs of life for a while, and then is silent."""
    monkeypatch.setattr(engine, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(engine, "WAITING", 2)
    study = tiny.study(data, seeds=(0,), ratios=(0.1,))
    recorder, told = Steps(), []
    with Store(tmp_path) as other:
        names = [job.address for job in plan(resolve(study)).jobs]
        other.claim(names)

        def note(text):
            told.append(text)
            other.release(names)

        recorder.note = note
        bdjax.run(study, tmp_path, recorder)
        (text,) = told
        assert re.fullmatch(f"2 results are missing; waiting for {other.writer}, last seen [0-9] s ago", text)


def test_other_threads_than_the_folder_was_begun_with_are_said(data, tmp_path, monkeypatch):
    """XLA splits long sums among its threads, so bits depend on their number; nothing is said where it is the same."""
    study, recorder, told = tiny.study(data, seeds=(0,), ratios=(0.1,)), Steps(), []
    recorder.note = told.append
    monkeypatch.setenv("NPROC", "8")
    for count in "8", "8", "16":
        monkeypatch.setenv("NPROC", count)
        bdjax.run(study, tmp_path, recorder)
    (text,) = told
    assert "begun with 8 CPU threads and goes on with 16" in text and "NPROC=8" in text


def test_doctor_looks_through_a_folder(data, tmp_path, capsys):
    out = tmp_path / "out"
    bdjax.run(tiny.study(data, **STUDY), out)
    assert cli.main(["doctor", str(out)]) == 0 and "nothing is damaged" in capsys.readouterr().out
    model, shard = sorted(out.glob("models/*"))[0], sorted(out.glob("results/run-*"))[0]
    text = model.read_bytes()
    model.write_bytes(text[:-1] + bytes([text[-1] ^ 1]))
    shard.write_bytes(shard.read_bytes()[:-10])
    (out / ".plan.1-0123abcd.json").write_text("half")
    assert cli.main(["doctor", str(out)]) == 2
    found = capsys.readouterr()
    assert found.err == f"bdjax: {out}: 2 damaged; remove them there and run the study again\n"
    for line in (f"damaged: {shard}: ", f"damaged: {model}: ", f"left over: {out / '.plan.1-0123abcd.json'}: "):
        assert sum(one.startswith(line) for one in found.out.splitlines()) == 1
    bdjax.run(tiny.study(data, **STUDY), out)
    assert cli.main(["doctor", str(out)]) == 0


def test_doctor_finds_damaged_checkpoints_and_what_nobody_asks_for(data, tmp_path, capsys):
    out = tmp_path / "out"
    with child(data, out, checkpoint=0.0) as process:
        wait_for(process, lambda: positions(out))
        os.kill(process.pid, signal.SIGKILL)
    assert cli.main(["doctor", str(out)]) == 0
    (marker,) = out.glob("checkpoints/*/*/about.json")
    state = max((path for path in marker.parent.glob("*/**/*") if path.is_file()), key=lambda path: path.stat().st_size)
    text = state.read_bytes()
    state.write_bytes(text[: len(text) // 2])
    note, sample = out / "times" / "1.json", out / "samples" / f"{'0' * 24}.safetensors"
    note.parent.mkdir(exist_ok=True)
    note.write_text("{}")
    save_named(sample, {"a": np.ones(1)})
    capsys.readouterr()
    assert cli.main(["doctor", str(out)]) == 2
    found = capsys.readouterr().out.splitlines()
    for start in (f"damaged: {marker.parent}: ", f"damaged: {note}: ", f"orphaned: {sample}: "):
        assert sum(line.startswith(start) for line in found) == 1, found


def test_shares_of_the_work_come_to_the_same_table(alone, data, tmp_path):
    """Three tasks of a scheduler, the second of them twice."""
    recorder = Steps()
    for number in (2, 3, 2, 1):
        found = bdjax.run(tiny.study(data, **STUDY), tmp_path, recorder, share=(number, 3))
    same((found, tmp_path), alone)
    assert recorder.models == 8  # each trained once
    with pytest.raises(InvalidInput, match="share 4/3; give one of 1/3 to 3/3"):
        bdjax.run(tiny.study(data, **STUDY), tmp_path, share=(4, 3))
