"""What a running study tells: a line that moves on a terminal, a line a minute where stderr goes to a file."""

import sys
import time
from typing import Protocol


class Progress(Protocol):
    """What the engine tells. All calls come from one thread."""

    def begin(self, models: int, done: int) -> None:
        """A study begins: models in all, and how many are there already."""

    def stage(self, label: str, cells: int) -> None:
        """Work on a chunk of a group begins, or, with 0 cells, on what must be there first."""

    def compiled(self, label: str, seconds: float) -> None:
        """A program was compiled."""

    def advanced(self, share: float, steps: int) -> None:
        """A chunk has come to that share of its steps; `steps`, summed over cells, were made since the last call."""

    def trained(self, models: int) -> None:
        """Models were finished and stored."""

    def scored(self, label: str, acc: float, asr: float) -> None:
        """Models were scored: their mean figures, NaN where none counts."""

    def note(self, text: str) -> None:
        """Something that a person should know, such as for whom this process waits."""

    def end(self) -> None:
        """The study ends or is interrupted."""


class Silent(Progress):
    """Tells nobody."""


class Terminal(Silent):
    """One moving line on stderr: models done, the running group, steps a second, figures so far, time left."""

    def __init__(self):
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        columns = (
            BarColumn(24),
            TextColumn("{task.fields[models]} models"),
            TextColumn("[cyan]{task.description}"),
            TextColumn("{task.fields[speed]}"),
            TextColumn("{task.fields[figures]}"),
            TextColumn("{task.fields[compiling]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self._bars = Bars(*columns, console=Console(stderr=True))
        self._models = self._done = self._cells = 0
        self._compile, self._since = 0.0, time.perf_counter()

    def begin(self, models: int, done: int) -> None:
        """See Progress."""
        self._models, self._done = models, done
        fields = {"models": f"{done}/{models}", "speed": "", "figures": "", "compiling": ""}
        self._task = self._bars.add_task("starting", total=models, completed=done, **fields)
        self._bars.start()

    def stage(self, label: str, cells: int) -> None:
        """See Progress."""
        self._cells, self._since = cells, time.perf_counter()
        self._bars.update(self._task, description=f"{label} ({cells} cells)" if cells else label)

    def compiled(self, label: str, seconds: float) -> None:
        """See Progress."""
        self._compile += seconds
        self._since = time.perf_counter()
        self._bars.update(self._task, compiling=f"compiled {self._compile:.0f} s")

    def advanced(self, share: float, steps: int) -> None:
        """See Progress."""
        now = time.perf_counter()
        speed = steps / max(now - self._since, 1e-9)
        self._since = now
        self._bars.update(self._task, completed=self._done + share * self._cells, speed=f"{speed:.3g} steps/s")

    def trained(self, models: int) -> None:
        """See Progress."""
        self._done += models
        self._bars.update(self._task, completed=self._done, models=f"{self._done}/{self._models}")

    def scored(self, label: str, acc: float, asr: float) -> None:
        """See Progress."""
        self._bars.update(self._task, figures=f"{label}: ACC {acc:.3f} ASR {asr:.3f}")

    def note(self, text: str) -> None:
        """See Progress."""
        self._bars.console.print(f"bdjax: {text}", markup=False, highlight=False)

    def end(self) -> None:
        """See Progress."""
        self._bars.stop()


class Lines(Silent):
    """What `Terminal` shows as a line of its own on stderr, once in so many seconds: for logs of jobs on clusters."""

    def __init__(self, every: float = 60.0):
        self._every, self._told = every, time.perf_counter()
        self._models = self._done = self._cells = self._steps = 0
        self._compile, self._share, self._label = 0.0, 0.0, ""

    def begin(self, models: int, done: int) -> None:
        """See Progress."""
        self._models, self._done = models, done

    def stage(self, label: str, cells: int) -> None:
        """See Progress."""
        self._label, self._cells, self._share = label, cells, 0.0

    def compiled(self, label: str, seconds: float) -> None:
        """See Progress."""
        self._compile += seconds

    def advanced(self, share: float, steps: int) -> None:
        """See Progress."""
        self._share, self._steps = share, self._steps + steps
        self._tell()

    def trained(self, models: int) -> None:
        """See Progress."""
        self._done += models
        self._tell()

    def note(self, text: str) -> None:
        """See Progress."""
        print(f"bdjax: {text}", file=sys.stderr, flush=True)

    def _tell(self) -> None:
        now = time.perf_counter()
        if now - self._told < self._every:
            return
        speed = self._steps / (now - self._told)
        running = f"{self._label} ({self._cells} cells) {100 * self._share:.0f}%"
        done = f"{self._done}/{self._models} models; {running}"
        print(f"bdjax: {done}; {speed:.3g} steps/s; compiled {self._compile:.0f} s", file=sys.stderr, flush=True)
        self._told, self._steps = now, 0


def automatic() -> Progress:
    """A moving line where stderr is a terminal, lines elsewhere."""
    return Terminal() if sys.stderr.isatty() else Lines()
