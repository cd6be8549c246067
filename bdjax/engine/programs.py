"""The compiled programs of a group, for as many cells at a time as memory holds."""

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bdjax.cells import functions, lift, memory
from bdjax.cells.functions import Cell, Shared
from bdjax.engine.forecast import Times
from bdjax.engine.progress import Progress
from bdjax.engine.signals import Interrupted
from bdjax.errors import InvalidInput
from bdjax.io.store.documents import read_plan
from bdjax.io.store.store import Store
from bdjax.study.groups import Group
from bdjax.study.work import Work
from bdjax.types import PyTree

LARGEST = 32
"""Cells at a time at the most, so that a kill loses little and figures appear early."""

UNROLLED = 8
"""The same where every cell has convolutions of its own, written out, for then programs grow with the cells."""

SCALARS = {"begin": 2, "advance": 5, "finish": 2}
"""How many a stage's programs take: the count of cells, the number of the random streams; epoch, start, stop."""

PARTS = {
    "begin": ("source", "init", "order", "step"),
    "advance": ("source", "order", "step", "renew"),
    "finish": ("finish",),
}
"""Of a stage, what each of its programs is made of."""


@dataclass
class Context:
    """What all chunks of a running study share."""

    work: Work
    store: Store
    progress: Progress
    plan: dict[str, Any]  # plan.json as this process knows it
    shared: Shared
    told: Callable[[], int]  # the signal that came, 0 where none has
    usual: int  # cells at a time, unless memory says otherwise
    assets: dict[str, PyTree] = field(default_factory=dict)
    times: Times = field(default_factory=Times)
    expect: Callable[[Group, float], None] = lambda group, done: None  # so many cells of a group's chunk are done

    @property
    def driver(self) -> str:
        """How cells are batched."""
        return self.plan["driver"]

    @property
    def mesh(self) -> lift.Mesh | None:
        """The devices that cells are spread over, where they are."""
        return lift.mesh(self.driver, self.usual)


def prepare(context: Context, group: Group, cell: Cell, shared: Shared) -> None:
    """Compile a group's programs for as many cells as planned before, else as memory holds, and write that down.

    Raises:
        InvalidInput: not even one cell fits.
    """
    context.progress.stage(f"compile {group.label}", 0)
    begun = time.perf_counter()
    _fit(context, group, cell, shared)
    context.times.note(group, compile=time.perf_counter() - begun)


def _fit(context: Context, group: Group, cell: Cell, shared: Shared) -> None:
    asked, memory_asked = _usual(context, group), context.work.study.memory
    planned = context.plan["groups"].get(group.key)
    if _answers(planned, asked, memory_asked):
        group.capacity = lift.whole(planned["capacity"], context.mesh)
        _compile(context, group, cell, shared, group.capacity)
        return
    size, held = asked, _compile(context, group, cell, shared, asked)
    budget = memory.budget(memory_asked, lift.devices(context.mesh))
    if held > budget:
        size, held = _fitting(context, group, cell, shared, asked, held, budget)
    entry = {
        "label": group.label,
        "asked": asked,
        "memory": memory_asked,
        "capacity": size,
        "bytes": held,
        "compile_seconds": round(sum(program.compile_seconds for program in set(group.programs.values())), 2),
    }

    def change(plan: dict | None) -> dict:
        plan = plan or context.plan  # somebody has removed the file
        if _answers(plan["groups"].get(group.key), asked, memory_asked):  # another writer was first
            return plan
        return plan | {"groups": plan["groups"] | {group.key: entry}}

    context.plan = context.store.update_json("plan.json", read_plan, change)
    group.capacity = lift.whole(context.plan["groups"][group.key]["capacity"], context.mesh)
    if group.capacity != size:
        _compile(context, group, cell, shared, group.capacity)


def _answers(planned: dict[str, Any] | None, asked: int, memory_asked: str) -> bool:
    """Whether what was planned was planned for as many cells and under the same bound of memory."""
    return planned is not None and planned["asked"] >= asked and planned["memory"] == memory_asked


def _usual(context: Context, group: Group) -> int:
    # A compiled map runs as many cells as there are, so one size serves all groups at no cost.
    most = UNROLLED if context.plan["convolution"] == "unrolled" else LARGEST
    cells = context.usual if context.driver in ("map", "shard") else min(most, len(group.jobs))
    return lift.whole(cells, context.mesh)


def _fitting(
    context: Context, group: Group, cell: Cell, shared: Shared, size: int, held: int, budget: int
) -> tuple[int, int]:
    """The most cells that fit, compiled, and the bytes that they hold."""
    least = lift.devices(context.mesh)
    one = _compile(context, group, cell, shared, least)
    if one > budget or size == least:
        needed = -(-(one + memory.resident() * (jax.default_backend() == "cpu")) // 10**6)
        raise InvalidInput(
            f"{group.label}: one cell needs {needed} MB in all, more than the memory allowed; "
            "give more --memory, a smaller batch or a narrower model"
        )
    each = max(1, (held - one) // (size - least))
    fits = least + int((budget - one) // each) // least * least
    return (fits, one) if fits == least else (fits, _compile(context, group, cell, shared, fits))


def _compile(context: Context, group: Group, cell: Cell, shared: Shared, size: int) -> int:
    """Compile a group's programs for `size` cells, equal ones once; the most bytes that one of them holds."""
    group.programs.clear()
    known: dict[Any, tuple[lift.Program, PyTree]] = {}

    def widened(leaf):
        leaf = jnp.asarray(leaf)
        return jax.ShapeDtypeStruct((size, *leaf.shape), leaf.dtype)

    def compiled(name: str, states: PyTree, cells: PyTree):
        if context.told():  # a compilation cannot be cut short, but the next one need not begin
            raise Interrupted(context.told())
        same = _identity(group, name, (states, cells))
        if same not in known:
            program = lift.Program(cell_function(group, name), context.driver, context.mesh)
            scalars = [jax.ShapeDtypeStruct((), np.int32)] * SCALARS.get(name.partition(" ")[0], 1)
            known[same] = program, program.compile(states, cells, shared, *scalars)
            context.progress.compiled(group.label, program.compile_seconds)
        group.programs[name], found = known[same]
        return found

    cells = compiled("draw", (), jax.tree.map(widened, cell))[1][0]
    if group.stages:
        cells = cells.replace(left=functions.left_before(group.scene, cells))
    group.checkpoints, group.steps = [], []
    for index, running in enumerate(group.stages):
        one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), cells)
        group.steps.append(functions.steps(group.scene, running, group.needs, one, shared))
        carry = compiled(f"begin {index}", (), cells)[1]
        cells = functions.begun(running, cells)
        group.checkpoints.append((compiled(f"advance {index}", carry, cells)[0], cells.left))
        trained = compiled(f"finish {index}", carry, cells)[1][0]
        cells = cells.replace(left=trained)
    if group.kind in ("score", "audit"):
        compiled(group.kind, (), cells)
    memory.release()
    return max(program.bytes for program in group.programs.values())


def _identity(group: Group, name: str, arguments: PyTree) -> Hashable:
    """Programs of a group that are the same have the same identity, and others do not."""
    kind, _, index = name.partition(" ")
    parts = [getattr(group.stages[int(index)], part) for part in PARTS[kind]] if index else [name]
    leaves, structure = jax.tree.flatten(arguments)
    return kind, *parts, structure, *((leaf.shape, leaf.dtype) for leaf in leaves)


def cell_function(group: Group, name: str) -> Callable:
    """A group's cell functions by name."""
    kind, _, index = name.partition(" ")
    if kind == "draw":
        return lambda state, cell, shared: (state, functions.draw(group.scene, cell, shared))
    if kind == "score":
        return functions.score(group.scene, group.net)
    if kind == "audit":
        return functions.measure(group.scene, group.audit, group.needs, group.net)
    return getattr(functions.stage(group.scene, group.stages[int(index)], group.needs), kind)
