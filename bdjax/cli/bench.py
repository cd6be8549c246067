"""`bdjax bench`: milliseconds a training step a cell, against the number of cells, for each driver."""

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bdjax.errors import InvalidInput


@dataclass(frozen=True)
class Bench:
    """Time the compiled training step for several numbers of cells, drivers in turn, medians of several rounds."""

    model: str = "small_cnn"
    """A network, e.g. preact_resnet18:width=16."""
    dataset: str = "digits"
    """As in bdjax run."""
    cells: tuple[int, ...] = (1, 8)
    """Numbers of cells."""
    drivers: tuple[str, ...] = ("map", "vmap")
    """vmap, map, loop, shard."""
    recipe: str = ""
    """Settings of the training, e.g. batch=128."""
    steps: int = 4
    """Steps a call."""
    rounds: int = 5
    """Timed calls each, taken in turn so that a drifting machine hits all alike."""
    out: Path | None = None
    """Where to write the figures as JSON."""

    def run(self) -> None:
        """See the class."""
        from bdjax.cli.conduct import keep_compiled
        from bdjax.study import Study
        from bdjax.work import resolve

        self._check()
        keep_compiled()
        work = resolve(Study(dataset=self.dataset, model=self.model, recipe=self.recipe))
        rows = self._rows({(how, cells): _case(work, how, cells) for how in self.drivers for cells in self.cells})
        head = _head(work)
        _show(head, rows)
        if self.out:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            self.out.write_text(json.dumps(head | {"steps": self.steps, "rounds": self.rounds, "rows": rows}, indent=1))

    def _check(self) -> None:
        from bdjax.sweep import DRIVERS

        for name in ("cells", "drivers"):
            if not getattr(self, name):
                raise InvalidInput(f"no {name}; give at least one")
        for how in self.drivers:
            if how not in DRIVERS:
                raise InvalidInput(f"driver {how!r}; choose from {', '.join(DRIVERS)}")
        for name, value in (("steps", self.steps), ("rounds", self.rounds), *(("cells", n) for n in self.cells)):
            if value < 1:
                raise InvalidInput(f"{name} {value}; give at least 1")

    def _rows(self, cases: dict[tuple[str, int], Callable[[int], None]]) -> list[dict[str, Any]]:
        """Milliseconds a step a cell of each case; the first round is not counted."""
        times = {case: [] for case in cases}
        for _ in range(self.rounds + 1):
            for case, call in cases.items():
                begun = time.perf_counter()
                call(self.steps)
                times[case].append(1e3 * (time.perf_counter() - begun) / self.steps / case[1])
        return [
            {"driver": how, "cells": cells, "median": statistics.median(found[1:]), "all": found[1:]}
            for (how, cells), found in times.items()
        ]


def _head(work) -> dict[str, Any]:
    """What was measured, where and when."""
    import jax

    return {
        "model": work.study.model,
        "dataset": work.dataset.name,
        "batch": work.recipe.spec.static["batch"],
        "device": str(jax.devices()[0].device_kind),
        "jax": jax.__version__,
        "date": datetime.now(UTC).date().isoformat(),
    }


def _show(head: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    print(", ".join(f"{name} {value}" for name, value in head.items()))
    print(f"{'driver':8}{'cells':>6}{'ms a step a cell':>20}{'against the first':>20}")
    for row in rows:
        first = next(one["median"] for one in rows if one["driver"] == row["driver"])
        low, high = min(row["all"]), max(row["all"])
        measured = f"{row['median']:.2f} [{low:.2f}, {high:.2f}]"
        print(f"{row['driver']:8}{row['cells']:6}{measured:>20}{row['median'] / first:20.2f}")


def _case(work, how: str, count: int):
    """A call that makes a number of steps of plain training of `count` cells, its program compiled."""
    import jax
    import jax.numpy as jnp

    from bdjax import drivers
    from bdjax.stages import Shared

    shared = Shared(*(jax.tree.map(jnp.asarray, split) for split in (work.dataset.train, work.dataset.test)))
    state, advance, _ = drivers.prepared(work, shared, how, count)

    def call(steps: int) -> None:
        state[0], sums = advance(state[0], 0, 0, steps)
        jax.block_until_ready(sums)

    return call
