"""Which driver batches cells best on this machine, and which form of convolution serves it: measured once, remembered.

What is measured is plain training of a few cells; a device, a version of JAX, a model, a shape of images and a recipe
have their own entry in the user's cache.
"""

import os
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from bdjax.cells import functions, lift, memory
from bdjax.cells.functions import Cell, Shared
from bdjax.io.store.documents import COUNT, NUMBER, read_cache, write_json
from bdjax.io.store.store import address
from bdjax.keys import number
from bdjax.models.parts import convolution
from bdjax.paths import home
from bdjax.study.work import Work

CELLS, STEPS = 4, 4
"""Cells of the measurement, and the steps of each of its calls after the first, which makes one."""

LONG = 1.0
"""Seconds of a first call that are enough to know: on such steps, what only a first call does weighs nothing."""

REMEMBERED = "drivers.json"
"""In the user's cache: what was measured."""

MARGIN = 0.1
"""The share of the time that another candidate must save to be taken before the first; less may be chance, and the same
candidate gives the same bits on another day."""


MEASURED = {str: {"seconds": {str: NUMBER}, "device": str, "shape": [COUNT], "model": {"name": str}}}
"""What the cache holds, as `documents.check` expects it."""


def candidates() -> tuple[tuple[str, str], ...]:
    """Drivers and forms of convolution that are worth measuring here, the usual ones first; several devices share."""
    cpu = jax.default_backend() == "cpu"
    if jax.local_device_count() > 1:
        return tuple(("shard", form) for form in (("suited", "mapped", "patches") if cpu else ("grouped", "patches")))
    if cpu:
        return ("map", "suited"), ("map", "mapped"), ("map", "patches"), ("vmap", "suited")
    return ("map", "grouped"), ("vmap", "unrolled"), ("vmap", "grouped"), ("vmap", "patches")


def choose(work: Work, shared: Shared, heed: Callable[[], None] = lambda: None) -> tuple[str, str]:
    """The study's driver and form of convolution.

    Under `auto` that is the `best` of `candidates`; a driver that is asked for has the usual form.

    Args:
        work, shared: of the study.
        heed: called before every candidate is measured; raises where the study was told to stop.
    """
    if work.study.driver != "auto":
        return work.study.driver, convolution.usual()
    seconds = measured(work, shared, heed)
    return tuple(best(seconds).split()) if seconds else candidates()[0]


def best(seconds: dict[str, float]) -> str:
    """The fastest of what was measured, or the first where none saves MARGIN."""
    first, fastest = next(iter(seconds)), min(seconds, key=seconds.get)
    return fastest if seconds[fastest] < (1 - MARGIN) * seconds[first] else first


def remembered() -> dict[str, dict[str, Any]]:
    """What was measured on this machine: each entry as MEASURED says; nothing where the file is damaged."""
    return read_cache(home() / REMEMBERED, MEASURED)


def _what(work: Work) -> dict[str, Any]:
    """What the times of plain training depend on."""
    return {
        "device": jax.local_devices()[0].device_kind,
        "jax": jax.__version__,
        "cores": os.cpu_count(),
        "devices": jax.local_device_count(),
        "model": work.model.identity(),
        "shape": work.dataset.shape,
        "recipe": dict(work.recipe.spec.static),
        "candidates": candidates(),
    }


def measured(work: Work, shared: Shared, heed: Callable[[], None] = lambda: None) -> dict[str, float]:
    """Seconds a step a cell by "driver form", for every candidate, from memory where it was measured before.

    What does not fit the memory that the study may take is left out.
    """
    known, what = remembered(), _what(work)
    name = address(what)
    if name in known and known[name]["seconds"].keys() <= {" ".join(one) for one in candidates()}:
        return known[name]["seconds"]
    found = {}
    for how, form in candidates():
        heed()
        found[f"{how} {form}"] = _seconds(work, shared, how, form)
    if all(found.values()):
        known[name] = what | {"seconds": found}
        write_json(home() / REMEMBERED, known)
    return {how: seconds for how, seconds in found.items() if seconds}


def seconds_of_a_row(work: Work, shared: Shared, how: str, form: str) -> float:
    """What plain training takes for a row of a batch of one cell; 0 where it does not fit the memory allowed."""
    known = remembered().get(address(_what(work)), {"seconds": {}})["seconds"].get(f"{how} {form}")
    return (known or _seconds(work, shared, how, form) or 0.0) / work.recipe.spec.static["batch"]


def prepared(work: Work, shared: Shared, how: str, count: int):
    """`count` cells of plain training at their start: a list that holds their state, the lifted step, and its program.

    The step takes and gives the state: (state, epoch, start, stop) -> (state, sums of infos).
    """
    recipe = work.recipe
    first = functions.stage(work.scene, recipe.stages[0], recipe.needs)
    settings = functions.scalars(recipe.spec.traced)
    mesh = lift.mesh(how, count)
    cells = [Cell(np.uint32(seed), np.int32(0), {}, settings) for seed in range(count)]
    cells = lift.stack(cells, lift.whole(count, mesh))
    draw = lift.Program(lambda state, cell, shared: (state, functions.draw(work.scene, cell, shared)[0]), how, mesh)
    cells = draw((), cells, shared, count)[1]
    streams = number("measure")
    carry = lift.Program(first.begin, how, mesh)((), cells, shared, count, streams)[1]
    program = lift.Program(first.advance, how, mesh)
    program.compile(carry, cells, shared, *[np.int32(0)] * 5)
    return [carry], lambda carry, *steps: program(carry, cells, shared, count, streams, *steps), program


def _seconds(work: Work, shared: Shared, how: str, form: str) -> float | None:
    with convolution.using(form):
        state, advance, program = prepared(work, shared, how, CELLS)
    if program.bytes > memory.budget(work.study.memory, lift.devices(program.mesh)):
        return None

    def seconds(start: int, stop: int) -> float:
        begun = time.perf_counter()
        state[0], sums = advance(state[0], 0, start, stop)
        jax.block_until_ready(sums)
        return (time.perf_counter() - begun) / (stop - start) / CELLS

    first = seconds(0, 1)
    if first * CELLS > LONG:
        return first
    return min(seconds(start, start + STEPS) for start in (1, 1 + STEPS))
