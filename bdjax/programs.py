"""The compiled programs of a group, for as many cells at a time as memory holds."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bdjax import memory, stages, sweep
from bdjax.errors import InvalidInput
from bdjax.groups import Group
from bdjax.io.store import Store
from bdjax.progress import Progress
from bdjax.stages import Cell, Shared
from bdjax.types import PyTree
from bdjax.work import Work

LARGEST = 32
"""Cells at a time at the most, so that a kill loses little and figures appear early."""


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

    @property
    def driver(self) -> str:
        """How cells are batched."""
        return self.plan["driver"]

    @property
    def mesh(self) -> sweep.Mesh | None:
        """The devices that cells are spread over, where they are."""
        return sweep.devices_mesh() if self.driver == "shard" else None


def prepare(context: Context, group: Group, cell: Cell, shared: Shared) -> None:
    """Compile a group's programs for as many cells as planned before, else as memory holds, and write that down.

    Raises:
        InvalidInput: not even one cell fits.
    """
    planned = context.plan["groups"].get(group.key)
    size = planned["capacity"] if planned else _usual(context, group)
    held = _compile(context, group, cell, shared, size)
    budget = memory.budget(context.work.study.memory)
    if not planned and held > budget:
        size = _fitting(context, group, cell, shared, size, held, budget)
    group.capacity = size


def _usual(context: Context, group: Group) -> int:
    # A compiled map runs as many cells as there are, so one size serves all groups and they share their draws.
    size = context.usual if context.driver in ("map", "shard") else min(LARGEST, len(group.jobs))
    devices = jax.device_count() if context.driver == "shard" else 1
    return -(-size // devices) * devices


def _fitting(context: Context, group: Group, cell: Cell, shared: Shared, size: int, held: int, budget: int) -> int:
    least = jax.device_count() if context.driver == "shard" else 1
    group.programs.clear()
    one = _compile(context, group, cell, shared, least)
    if one > budget or size == least:
        needed = -(-(one + memory.resident() * (jax.default_backend() == "cpu")) // 10**6)
        raise InvalidInput(
            f"{group.label}: one cell needs {needed} MB in all, more than the memory allowed; "
            "give more --memory, a smaller batch or a narrower model"
        )
    each = max(1, (held - one) // (size - least))
    fits = least + int((budget - one) // each) // least * least
    group.programs.clear()
    _compile(context, group, cell, shared, fits)
    return fits


def _compile(context: Context, group: Group, cell: Cell, shared: Shared, size: int) -> int:
    """Compile a group's programs for `size` cells; the most bytes that one of them holds. Writes plan.json."""

    def widened(leaf):
        leaf = jnp.asarray(leaf)
        return jax.ShapeDtypeStruct((size, *leaf.shape), leaf.dtype)

    def compiled(name: str, states: PyTree, cells: PyTree):
        scalars = [jax.ShapeDtypeStruct((), np.int32)] * (4 if name.startswith("advance") else 1)
        function = cell_function(group, name)
        program = group.programs[name] = sweep.Program(function, context.driver, context.mesh)
        found = program.compile(states, cells, shared, *scalars)
        context.progress.compiled(group.label, program.compile_seconds)
        return found

    cells = compiled("draw", (), jax.tree.map(widened, cell))[1][0]
    cells = cells.replace(previous=first(group, cells))
    group.carries, group.steps = [], []
    for index, procedure in enumerate(group.procedures):
        one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), cells)
        group.steps.append(stages.steps(group.scene, procedure, group.needs, one, shared, group.kind == "audit"))
        carry = compiled(f"begin {index}", (), cells)[1]
        cells = cells.replace(previous=None)
        group.carries.append(compiled(f"advance {index}", carry, cells)[0])
        trained = compiled(f"finish {index}", carry, cells)[1][0]
        cells = cells.replace(previous=trained)
    if group.kind != "train":
        compiled(group.kind, (), cells)
    entry = {
        "label": group.label,
        "capacity": size,
        "bytes": max(program.bytes for program in group.programs.values()),
        "compile_seconds": round(sum(program.compile_seconds for program in group.programs.values()), 2),
    }
    memory.release()
    context.plan = context.store.update_json("plan.json", lambda held: _with_entry(held, group.key, entry))
    return entry["bytes"]


def first(group: Group, cells: Cell) -> PyTree:
    """What the first stage finds before it: the poison, where it is the attacker's own."""
    return cells.poison if group.scene.own else None


def _with_entry(plan: dict, key: str, entry: dict) -> dict:
    return plan | {"groups": plan["groups"] | {key: entry}}


def cell_function(group: Group, name: str) -> Callable:
    """A group's cell functions by name."""
    kind, _, index = name.partition(" ")
    if kind == "draw":
        return lambda state, cell, shared: (state, stages.draw(group.scene, cell, shared))
    if kind == "score":
        return stages.score(group.scene, group.net)
    if kind == "audit":
        return stages.measure(group.scene, group.audit, group.needs, group.net)
    stream_name = f"{group.stream} {index}"
    functions = stages.stage(
        group.scene, group.procedures[int(index)], group.needs, stream_name, audit=group.kind == "audit"
    )
    return getattr(functions, kind)
