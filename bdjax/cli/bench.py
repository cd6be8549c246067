"""`bdjax bench`: milliseconds a training step a cell, by driver and number of cells, beside PyTorch."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bdjax.errors import InvalidInput


@dataclass(frozen=True)
class Bench:
    """Time the compiled training step for several numbers of cells, drivers in turn, medians of several rounds.

    Where PyTorch is installed the same network and recipe run in it, in the same rounds.
    """

    models: tuple[str, ...] = ("small_cnn",)
    """Networks, e.g. preact_resnet18:width=16."""
    dataset: str = "digits"
    """As in bdjax run."""
    cells: tuple[int, ...] = (1, 8)
    """Numbers of cells."""
    drivers: tuple[str, ...] = ("map", "vmap")
    """vmap, map, loop, shard."""
    convolutions: tuple[str, ...] = ()
    """Forms of convolution: grouped, mapped, unrolled, patches, suited; without any, the usual one of this machine."""
    recipe: str = ""
    """Settings of the training, e.g. batch=128."""
    steps: int = 4
    """Steps a call."""
    rounds: int = 5
    """Timed calls each, taken in turn so that a drifting machine hits all alike."""
    out: Path | None = None
    """Where to write the figures as JSON, and beside it the drawing as SVG."""

    def run(self) -> None:
        """See the class."""
        from bdjax import bench
        from bdjax.cli.conduct import use_cores
        from bdjax.engine import compiled

        self._check()
        if "shard" in self.drivers:
            use_cores()
        compiled.keep()
        what = self.models, self.dataset, self.drivers, self.convolutions, self.cells, self.recipe
        found = bench.measure(*what, self.steps, self.rounds)
        _show(found)
        if self.out:
            _write(self.out, found)

    def _check(self) -> None:
        from bdjax.cards import LARGEST
        from bdjax.cells.lift import DRIVERS
        from bdjax.models.parts.convolution import FORMS

        for name in ("models", "cells", "drivers"):
            if not getattr(self, name):
                raise InvalidInput(f"no {name}; give at least one")
        for how in self.drivers:
            if how not in DRIVERS:
                raise InvalidInput(f"driver {how!r}; choose from {', '.join(DRIVERS)}")
        for form in self.convolutions:
            if form not in FORMS:
                raise InvalidInput(f"convolution {form!r}; choose from {', '.join(FORMS)}")
        for name, value in (("steps", self.steps), ("rounds", self.rounds), *(("cells", n) for n in self.cells)):
            if not 1 <= value <= LARGEST:
                raise InvalidInput(f"{name} {value}; give at least 1 and at most {LARGEST}")


def _write(path: Path, found: dict[str, Any]) -> None:
    from bdjax.bench.figure import drawn

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1))
    drawn(found).savefig(path.with_suffix(".svg"), metadata={"Date": None})


def _show(found: dict[str, Any]) -> None:
    from bdjax.report.wording import size

    head = {name: value for name, value in found.items() if name not in ("rows", "needs", "memory", "image", "held")}
    print(", ".join(f"{name} {value}" for name, value in head.items()))
    needs, model = iter(found["needs"]), None
    for row in found["rows"]:
        if row["model"] != model:
            model = row["model"]
            print(f"\n{model}: {_needed(next(needs))}")
            names = ("cells", "ms a step a cell", "against first", "images/s", "of peak", "compile s", "memory")
            print(f"{'':16}" + "".join(f"{name:>{width}}" for name, width in zip(names, WIDTHS, strict=True)))
        shown = (
            str(row["cells"]),
            f"{row['median']:.2f} [{row['low']:.2f}, {row['high']:.2f}]",
            f"{row['against_first']:.2f}",
            f"{row['images_per_second']:.0f}",
            f"{100 * row['share']:.1f}%",
            f"{row['compile_seconds']:.1f}",
            "–" if row["bytes"] is None else size(row["bytes"]),
        )
        print(f"{row['side']:16}" + "".join(f"{text:>{width}}" for text, width in zip(shown, WIDTHS, strict=True)))


def _needed(needs: dict[str, Any]) -> str:
    from bdjax.report.wording import size

    asked = f"{needs['operations'] / 1e9:.3g} GFLOP and {size(needs['bytes'])} a step in bfloat16"
    rate, hourly = (float(f"{needs[name]:.3g}") for name in ("images_per_second", "victims_an_hour"))
    return f"{asked}, so one {needs['machine']} makes at most {rate:,.0f} images/s, {hourly:,.0f} models an hour"


WIDTHS = (6, 26, 14, 10, 9, 11, 10)
