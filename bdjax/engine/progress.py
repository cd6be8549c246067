"""What a running study tells: a line that moves on a terminal or in a notebook, a line a minute in a log."""

import contextlib
import sys
import time
from typing import Protocol

from bdjax.errors import InvalidInput


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

    def expect(self, seconds: float, guessed: bool) -> None:
        """What is left will take about so long; guessed: parts of it were never measured on this machine."""

    def stopping(self) -> None:
        """A signal came; the study stops after the program that runs, or that is being compiled."""

    def end(self) -> None:
        """The study ends or is interrupted."""


class Silent(Progress):
    """Tells nobody."""


STOPPING = "stopping after this program; press again to stop now"


class _Standing(Silent):
    """Remembers what was told: how far a study is, how fast it goes, and how long what is left will take."""

    def __init__(self):
        self._models = self._done = self._cells = 0
        self._compile, self._share, self._label, self._figures = 0.0, 0.0, "starting", ""
        self._steps, self._since, self._speed = 0, time.perf_counter(), 0.0
        self._end, self._guessed = 0.0, False  # when it is expected to be done

    def begin(self, models: int, done: int) -> None:
        """See Progress."""
        self._models, self._done = models, done
        self._changed()

    def stage(self, label: str, cells: int) -> None:
        """See Progress."""
        self._label, self._cells, self._share = label, cells, 0.0
        self._steps, self._since = 0, time.perf_counter()
        self._changed()

    def compiled(self, label: str, seconds: float) -> None:
        """See Progress."""
        self._compile += seconds
        self._steps, self._since = 0, time.perf_counter()
        self._changed()

    def advanced(self, share: float, steps: int) -> None:
        """See Progress."""
        self._share, self._steps = share, self._steps + steps
        self._speed = self._steps / max(time.perf_counter() - self._since, 1e-9)
        self._changed()

    def trained(self, models: int) -> None:
        """See Progress."""
        self._done, self._share = self._done + models, 0.0
        self._changed()

    def scored(self, label: str, acc: float, asr: float) -> None:
        """See Progress."""
        self._figures = f"{label}: ACC {acc:.3f} ASR {asr:.3f}"
        self._changed()

    def expect(self, seconds: float, guessed: bool) -> None:
        """See Progress."""
        self._end, self._guessed = time.perf_counter() + seconds, guessed
        self._changed()

    def _changed(self) -> None:
        """Something was told."""

    def parts(self) -> dict[str, str]:
        """What there is to say, by what it is about; "" where there is nothing yet."""
        running = f"{self._label} ({self._cells} cells) {100 * self._share:.0f}%" if self._cells else self._label
        left = self._end - time.perf_counter()
        return {
            "models": f"{self._done}/{self._models} models",
            "running": running,
            "speed": f"{self._speed:.3g} steps/s" if self._steps else "",
            "figures": self._figures,
            "compiling": f"compiled {self._compile:.0f} s" if self._compile else "",
            "left": f"{'roughly' if self._guessed else 'about'} {duration(max(left, 1.0))} left" if self._end else "",
        }

    def line(self) -> str:
        """All of it in one line."""
        return "; ".join(filter(None, self.parts().values()))


def duration(seconds: float) -> str:
    """Whole seconds, minutes or hours, as precise as a guess can be: 40 s, 12 min, 3 h 20 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


class Terminal(_Standing):
    """One moving line on stderr, with a bar."""

    COLUMNS = ("models", "running", "speed", "figures", "compiling", "left")

    def __init__(self):
        super().__init__()
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars

        texts = [TextColumn(f"{{task.fields[{name}]}}", markup=False) for name in self.COLUMNS]
        self._bars = Bars(BarColumn(24), *texts, TimeElapsedColumn(), console=Console(stderr=True))
        self._task = None

    def begin(self, models: int, done: int) -> None:
        """See Progress."""
        self._task = self._bars.add_task("", total=models, completed=done, **dict.fromkeys(self.COLUMNS, ""))
        self._bars.start()
        super().begin(models, done)

    def _changed(self) -> None:
        if self._task is not None:
            completed = self._done + self._share * self._cells
            self._bars.update(self._task, completed=completed, **self.parts())

    def note(self, text: str) -> None:
        """See Progress."""
        self._bars.console.print(f"bdjax: {text}", markup=False, highlight=False)

    def stopping(self) -> None:
        """See Progress."""
        self.note(STOPPING)

    def end(self) -> None:
        """See Progress."""
        self._bars.stop()


class Lines(_Standing):
    """A line of its own on stderr, once in so many seconds: for logs of jobs on clusters."""

    def __init__(self, every: float = 60.0, first: float = 20.0):
        super().__init__()
        self._every, self._next = every, time.perf_counter() + min(every, first)

    def _changed(self) -> None:
        if time.perf_counter() >= self._next:
            print(f"bdjax: {self.line()}", file=sys.stderr, flush=True)
            self._next = time.perf_counter() + self._every

    def note(self, text: str) -> None:
        """See Progress."""
        print(f"bdjax: {text}", file=sys.stderr, flush=True)


class Notebook(_Standing):
    """One line below the cell of a notebook, which changes in place."""

    EVERY = 0.5

    def __init__(self):
        super().__init__()
        self._shown = None  # until there is something to say: a study that is refused leaves no line
        self._begun, self._next = time.perf_counter(), 0.0

    def _changed(self) -> None:
        if time.perf_counter() >= self._next:
            self._show(self.line())
            self._next = time.perf_counter() + self.EVERY

    def _show(self, text: str) -> None:
        from IPython.display import display

        if self._shown is None:
            self._shown = display({"text/plain": text}, raw=True, display_id=True)
        else:
            self._shown.update({"text/plain": text}, raw=True)

    def note(self, text: str) -> None:
        """See Progress."""
        print(f"bdjax: {text}", file=sys.stderr)

    def stopping(self) -> None:
        """See Progress."""
        self.note(STOPPING.replace("press", "interrupt"))

    def end(self) -> None:
        """See Progress."""
        if self._shown is not None:
            self._show(f"{self._done}/{self._models} models, {duration(time.perf_counter() - self._begun)}")


def of(asked: Progress | bool | None) -> Progress:
    """Who is told: None, whoever looks on, in a terminal or a notebook; True, a log where there is neither; or nobody.

    Raises:
        InvalidInput: it is something else.
    """
    if asked is False:
        return Silent()
    if asked is None or asked is True:
        return _shown() or (Lines() if asked else Silent())
    told = [name for name in vars(Progress) if not name.startswith("_")]
    lacks = [name for name in told if not callable(getattr(asked, name, None))]
    if lacks or isinstance(asked, type):
        why = f"lacks {lacks[0]}" if lacks else "is a class"
        raise InvalidInput(f"progress: {asked!r} {why}; give None, True, False or a bdjax.engine.progress.Progress")
    return asked


def _shown() -> Progress | None:
    """Where a person looks on, what shows progress there."""
    with contextlib.suppress(ImportError, AttributeError):
        if "IPython" in sys.modules and hasattr(sys.modules["IPython"].get_ipython(), "kernel"):
            return Notebook()
    return Terminal() if sys.stderr.isatty() else None
