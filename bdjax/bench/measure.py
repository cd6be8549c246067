"""Times training steps in turn, so that a drifting machine hits all alike, and says what they cost."""

import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from importlib import util
from typing import Any, NamedTuple

import jax

from bdjax.bench import ceiling, profile
from bdjax.cells import memory
from bdjax.engine import drivers
from bdjax.errors import InvalidInput
from bdjax.keys import root
from bdjax.models.parts import convolution
from bdjax.study import Study
from bdjax.study.resolve import resolve
from bdjax.study.work import Work


class Case(NamedTuple):
    """One thing that is timed."""

    model: str
    side: str  # a driver and a form of convolution; `PyTorch plain`, `PyTorch tuned`
    cells: int
    batch: int
    call: Callable[[int], None]  # makes so many steps of every cell
    compile_seconds: float
    bytes: int | None  # that the step holds at its peak


def measure(
    models: tuple[str, ...],
    dataset: str,
    how: tuple[str, ...],
    forms: tuple[str, ...],
    cells: tuple[int, ...],
    recipe: str,
    steps: int,
    rounds: int,
    pytorch: tuple[str, ...] = ("plain", "tuned"),
    profiled: bool = False,
) -> dict[str, Any]:
    """Time the compiled training step.

    Args:
        models: networks, as in a study.
        dataset: as in a study.
        how: drivers.
        forms: of convolution, for all drivers alike; () for the usual one.
        cells: numbers of cells.
        recipe: settings of the training.
        steps: a call.
        rounds: timed calls of each case, in turn; one more, the first, is not counted.
        pytorch: which loops of `bench.pytorch` are timed too, where it is installed.
        profiled: whether each of our cases makes one more call under the profiler.

    Returns:
        What was measured, where and when; `rows`, one a case: milliseconds a step a cell (median, low, high), images a
        second over all cells, share of the measured ceiling of matrix products in the same type, seconds of compiling,
        bytes, and the median over that of the first number of cells of the same driver and form, and where asked for
        `profile`, see `profile.kernels`; `held`, the most bytes held so far; and `needs`, one a model: what a step of
        one cell asks of an accelerator, and what the fastest known here would make of it.

    Raises:
        InvalidInput: as a study of these would.
    """
    rows, needs, head = [], [], {}
    for model in models:
        work = resolve(Study(dataset=dataset, model=model, recipe=recipe))
        _check_memory(work, max(cells, default=1))
        head = head or _head(work)
        sides = [(driver, form) for driver in how for form in forms or (convolution.usual(),)]
        cases = [_ours(work, *side, count) for side in sides for count in cells]
        cases += _theirs(work, pytorch)
        peak = ceiling.operations(work.model.static.get("precision", "float"))
        asked = ceiling.kernels(work.net, work.dataset.shape, work.recipe.spec.static["batch"])
        rows += _rows(cases, sum(kernel.operations for kernel in asked), peak, steps, rounds)
        if profiled:
            for row, case in zip(rows[-len(cases) :], cases, strict=True):
                row["profile"] = profile.kernels(partial(case.call, steps))
        needs.append(_needs(work, asked, ceiling.H200))
    return head | {"steps": steps, "rounds": rounds, "rows": rows, "needs": needs, "held": memory.peak()}


def _check_memory(work: Work, cells: int) -> None:
    weights = jax.eval_shape(work.net.init, root(0))
    held = cells * sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(weights))
    if held > memory.budget():
        given = f"{cells} cells of {work.model.text} hold {held // 10**6} MB with their weights alone"
        raise InvalidInput(f"{given}, more than there is; give fewer --cells")


def _head(work: Work) -> dict[str, Any]:
    device = jax.local_devices()[0]
    versions = {"jax": jax.__version__}
    if util.find_spec("torch"):
        import torch

        versions["torch"] = torch.__version__
    return {
        "dataset": work.dataset.name,
        "image": list(work.dataset.shape),
        "batch": work.recipe.spec.static["batch"],
        "device": str(device.device_kind),
        "devices": jax.local_device_count(),
        "memory": memory.budget(),
        **versions,
        "date": datetime.now(UTC).date().isoformat(),
    }


def _ours(work: Work, how: str, form: str, count: int) -> Case:
    shared = work.shared()
    with convolution.using(form):
        state, advance, program = drivers.prepared(work, shared, how, count)

    def call(steps: int) -> None:
        state[0], sums = advance(state[0], 0, 0, steps)
        jax.block_until_ready(sums)

    batch = work.recipe.spec.static["batch"]
    return Case(work.study.model, f"{how} {form}", count, batch, call, program.compile_seconds, program.bytes)


def _theirs(work: Work, names: tuple[str, ...]) -> list[Case]:
    """The same network and recipe in PyTorch, where it is installed and has the network."""
    if not names or not util.find_spec("torch"):
        return []
    from bdjax.bench import pytorch

    return [Case(work.study.model, f"PyTorch {name}", 1, *rest) for name, *rest in pytorch.cases(work, names)]


def _needs(work: Work, asked: list[ceiling.Kernel], machine: ceiling.Machine) -> dict[str, Any]:
    rate = work.recipe.spec.static["batch"] / ceiling.seconds(asked, machine)
    return {
        "model": work.study.model,
        "operations": sum(kernel.operations for kernel in asked),
        "bytes": sum(kernel.bytes for kernel in asked),
        "machine": machine.name,
        "images_per_second": rate,
        "victims_an_hour": 3600 * rate / work.recipe.stages[0].epochs / work.dataset.train.label.size,
    }


def _rows(cases: list[Case], operations: int, peak: float, steps: int, rounds: int) -> list[dict[str, Any]]:
    times: list[list[float]] = [[] for _ in cases]
    for _ in range(rounds + 1):
        for found, case in zip(times, cases, strict=True):
            begun = time.perf_counter()
            case.call(steps)
            found.append(1e3 * (time.perf_counter() - begun) / steps / case.cells)
    first: dict[str, float] = {}
    rows = []
    for case, found in zip(cases, times, strict=True):
        median = statistics.median(found[1:])
        rate = 1e3 * case.batch / median
        rows.append(
            {
                "model": case.model,
                "side": case.side,
                "cells": case.cells,
                "median": median,
                "low": min(found[1:]),
                "high": max(found[1:]),
                "against_first": median / first.setdefault(case.side, median),
                "images_per_second": rate,
                "share": rate * operations / case.batch / peak,
                "compile_seconds": case.compile_seconds,
                "bytes": case.bytes,
            }
        )
    return rows
