"""The study that all blocks disturb, what it comes to undisturbed, processes that run it, and counts of trials."""

import contextlib
import functools
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]

STUDY = {
    "ratios": [0.1],
    "seeds": [0, 1],
    "recipe": "epochs=1,batch=90,learning_rate=0.05",
    "defenses": ["none", "ft:epochs=1,batch=18"],
    "audits": ["retuning"],
    "detectors": ["strip:overlays=2"],
    "suspects": 40,
    "keep_scores": True,
}
"""With a user's poisoned set as the attack, so that there are assets, it has every kind of file that bdjax keeps."""

ANSWERED = 60.0
"""Seconds within which a command or a reader must answer."""


def prepare() -> None:
    """Compile fast rather than well, and keep what is compiled, as the tests do; before JAX is used."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ or "XLA_FLAGS" not in os.environ:
        flags = (
            "--xla_force_host_platform_device_count=1",
            "--xla_backend_optimization_level=0",
            "--xla_cpu_use_fusion_emitters=false",
        )
        os.environ["XLA_FLAGS"] = " ".join(flags)
        folder = Path(tempfile.gettempdir()) / f"bdjax-faults-compiled-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")


def study(data: Path, **changes: Any):
    """The study, with some fields changed, on data in that folder, which are written where they are missing."""
    import numpy as np
    import tiny

    path = data / "set.npz"
    if not path.exists():
        np.savez(path, **tiny.poisoned_arrays())
    return tiny.study(data, attacks=(f"set:{path}",), **STUDY | changes)


def run(data: Path, out: Path, **options: Any):
    """Run the study in this process as a child does: every step is a call and has its checkpoint."""
    import bdjax
    from bdjax.cells import memory
    from bdjax.engine import chunks, programs
    from bdjax.engine import run as engine
    from bdjax.io.store import store

    memory.release = lambda: None  # which takes a second here
    programs._compile = remembered(getattr(programs._compile, "__wrapped__", programs._compile))
    chunks.CALL_SECONDS = 0.0
    chunks.CHECKPOINT_SECONDS = options.get("checkpoint", 0.0)
    programs.LARGEST = options.get("cells", 2)
    store.HEARTBEAT, store.SILENCE = options.get("heartbeat", 0.5), options.get("silence", 6.0)
    engine.POLL_SECONDS = 0.2
    asked = study(data, **options.get("study", {}))
    return bdjax.run(asked, out, options.get("progress"), tuple(options.get("share", (1, 1))))


@functools.cache
def remembered(compile_group: Callable) -> Callable:
    """`programs._compile` that compiles what is the same once a process: trials run the same study again and again."""
    known: dict[tuple, tuple] = {}

    @functools.wraps(compile_group)
    def compiled(context, group, cell, shared, size):
        key = group.key, size, context.driver
        if key not in known:
            held = compile_group(context, group, cell, shared, size)
            known[key] = dict(group.programs), group.checkpoints, group.steps, held
        programs, group.checkpoints, group.steps, held = known[key]
        group.programs.update(programs)
        return held

    return compiled


class Alone:
    """The folder of a run that nobody disturbed, of the study with some fields changed."""

    def __init__(self, folder: Path, **changes: Any):
        self.home = folder
        self.data = folder / "data"
        self.data.mkdir(parents=True)
        self.out = folder / "alone"
        self.changes = changes
        self.run(self.out)
        self.expected = contents(self.out)
        self._count = 0

    def fresh(self) -> Path:
        """A path for another run."""
        self._count += 1
        return self.home / f"out{self._count}"

    def run(self, out: Path, **options: Any):
        """Run the study in another folder."""
        return run(self.data, out, study=self.changes, **options)

    def finishes(self, out: Path) -> None:
        """Run what is missing in a folder and compare everything in it."""
        self.run(out)
        self.check(out)

    def check(self, out: Path) -> None:
        """Compare all numbers and arrays in a folder with those of the undisturbed run, bit for bit, and its claims."""
        import jax
        import numpy as np

        found = contents(out)
        assert found.keys() == self.expected.keys(), found.keys() ^ self.expected.keys()
        for name, tree in found.items():
            jax.tree.map(np.testing.assert_array_equal, tree, self.expected[name])
        left = [path.name for path in (out / "claims").iterdir() if path.suffix != ".new"]  # swept up when it is old
        assert left == ["lock"], f"claims are left: {left}"
        assert not [path for path in (out / "checkpoints").rglob("*") if path.is_file()], "checkpoints are left"


def contents(out: Path) -> dict[str, Any]:
    """Everything in a study's folder that may not depend on what happened to it: results, curves, arrays."""
    import bdjax
    from bdjax.io.store.trees import load_tree

    results = bdjax.load(out).drop_vars(("seconds", "detection_seconds"))
    found = {"results": {name: variable.values for name, variable in results.variables.items()}}
    found["curves"] = {name: variable.values for name, variable in bdjax.load_curves(out).items()}
    # Of suspects those that a page shows: a chunk keeps those of one cell, and an interrupted study has other chunks.
    found["suspects"] = {str(place): shown._asdict() for place, shown in bdjax.load_suspects(out).items()}
    for path in sorted(out.glob("*/[!.]*.safetensors")):
        if path.parent.name != "suspects":
            found[f"{path.parent.name}/{path.name}"] = load_tree(path)[0]
    return found


class Tally:
    """Counts trials by what was done; a trial that fails is told at once."""

    def __init__(self, tell: Callable[[str], None]):
        self.tell = tell
        self.counts: dict[str, Counter] = {}

    @contextlib.contextmanager
    def trial(self, kind: str, what: object, out: Path | None = None) -> Iterator[None]:
        """One trial; it passed where nothing is raised. out: a folder that is removed after it."""
        count = self.counts.setdefault(kind, Counter())
        count["tried"] += 1
        try:
            yield
            count["passed"] += 1
        except Exception as error:
            text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            self.tell(f"failed: {kind}, {what}: {text}")
        finally:
            if out is not None:
                shutil.rmtree(out, ignore_errors=True)

    @property
    def tried(self) -> int:
        """Of all trials."""
        return sum(count["tried"] for count in self.counts.values())

    @property
    def passed(self) -> int:
        """Of all trials."""
        return sum(count["passed"] for count in self.counts.values())

    def table(self) -> str:
        """A line a kind of trial."""
        rows = [f"{count['passed']} of {count['tried']}  {kind}" for kind, count in self.counts.items()]
        return "\n".join(rows)


@contextlib.contextmanager
def child(alone: Alone, out: Path, **options: Any) -> Iterator[subprocess.Popen]:
    """A process that runs the study; see `child.py` for the options."""
    asked = {"data": str(alone.data), "out": str(out), "study": alone.changes} | options
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])}
    command = [sys.executable, "-m", "faults.child", json.dumps(asked)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for(process: subprocess.Popen, wanted: Callable[[], Any], seconds: float = 120.0) -> bool:
    """Until `wanted()`, True, or the process ends, False."""
    until = time.monotonic() + seconds
    while not wanted():
        if process.poll() is not None:
            return False
        assert time.monotonic() < until, "it never came so far"
        time.sleep(0.002)
    return True


class Hung(BaseException):
    """No answer within `ANSWERED` seconds; not an `Exception`, or a reader of damaged files would take it for one."""


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """End what takes longer, such as reading from a pipe that nobody writes to, in the main thread."""

    def end(*_):
        raise Hung

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    except Hung:
        raise AssertionError(f"no answer in {seconds:g} s") from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def answer(arguments: list[str], folder: Path) -> tuple[int, str, str]:
    """What the command answers in this process, run in a folder: its status and what is on stdout and stderr."""
    from bdjax import cli

    with contextlib.chdir(folder):
        return heard(lambda: cli.main(arguments))


def heard(ask: Callable[[], int]) -> tuple[int, str, str]:
    """A status, and what was printed on stdout and stderr meanwhile."""
    out, err = io.StringIO(), io.StringIO()
    with within(ANSWERED), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = ask()
        except SystemExit as ended:  # by tyro
            status = ended.code
    return status, out.getvalue(), err.getvalue()


def line(err: str) -> str:
    """The one line that a command leaves on stderr."""
    lines = [text for text in err.splitlines() if text.strip()]
    assert len(lines) == 1 and lines[0].startswith("bdjax: "), f"not one line but {lines[-3:]}"
    return lines[0]
