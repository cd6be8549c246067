"""Many cells from one cell function: lifting it over stacked cells, compiling once, and knowing what it needs.

A cell function is `fn(state, cell, shared, *args) -> (state, out)`, pure and for one cell. `state` is carried and
donated, `cell` is read, `shared` is the same for all. The lifted function takes the first two stacked and the number of
cells that are really there; the stack is filled up to its capacity with copies, whose results mean nothing.
"""

import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from bdjax.types import Array, PyTree

DRIVERS = ("vmap", "map", "loop", "shard")


def batched(fn: Callable, how: str, mesh: Mesh | None = None) -> Callable:
    """Lift a cell function: (states, cells, shared, count, *args) -> (states, outs).

    Args:
        fn: the cell function.
        how: `vmap`; `map`, one cell after the other in a compiled loop of traced length, which gives the same bits in
            any batch; `loop`, the same unrolled; `shard`, cells over the devices of `mesh`, mapped on each.
        mesh: for `shard`: one axis named "cell".
    """
    if how == "vmap":
        return lambda states, cells, shared, count, *args: jax.vmap(lambda s, c: fn(s, c, shared, *args))(states, cells)
    if how == "map":
        return partial(_mapped, fn)
    if how == "loop":
        return partial(_unrolled, fn)
    if how == "shard":
        return partial(_sharded, fn, mesh)
    raise ValueError(f"driver {how!r}: choose from {', '.join(DRIVERS)}")


def _take(tree: PyTree, index) -> PyTree:
    return jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, index, keepdims=False), tree)


def _put(tree: PyTree, part: PyTree, index) -> PyTree:
    return jax.tree.map(lambda leaf, new: jax.lax.dynamic_update_index_in_dim(leaf, new, index, 0), tree, part)


def _empty(fn: Callable, states: PyTree, cells: PyTree, shared: PyTree, args: tuple) -> PyTree:
    shapes = jax.eval_shape(lambda s, c: fn(_take(s, 0), _take(c, 0), shared, *args)[1], states, cells)
    capacity = jax.tree.leaves((states, cells))[0].shape[0]

    def empty(leaf):
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.split(jax.random.key(0, impl="threefry2x32"), (capacity, *leaf.shape))
        return jnp.zeros((capacity, *leaf.shape), leaf.dtype)

    return jax.tree.map(empty, shapes)


def _mapped(fn: Callable, states: PyTree, cells: PyTree, shared: PyTree, count: Array, *args):
    def body(index: Array, carry):
        states, outs = carry
        state, out = fn(_take(states, index), _take(cells, index), shared, *args)
        return _put(states, state, index), _put(outs, out, index)

    return jax.lax.fori_loop(0, count, body, (states, _empty(fn, states, cells, shared, args)))


def _unrolled(fn: Callable, states: PyTree, cells: PyTree, shared: PyTree, count: Array, *args):
    outs = _empty(fn, states, cells, shared, args)
    for index in range(jax.tree.leaves((states, cells))[0].shape[0]):
        held, kept = _take(states, index), _take(outs, index)
        run = partial(fn, held, _take(cells, index), shared, *args)
        state, out = jax.lax.cond(index < count, run, lambda held=held, kept=kept: (held, kept))
        states, outs = _put(states, state, index), _put(outs, out, index)
    return states, outs


def _sharded(fn: Callable, mesh: Mesh, states: PyTree, cells: PyTree, shared: PyTree, count: Array, *args):
    cell, same = PartitionSpec("cell"), PartitionSpec()
    each = jax.tree.leaves((states, cells))[0].shape[0] // mesh.size
    counts = jnp.clip(count - each * jnp.arange(mesh.size), 0, each)

    def local(states, cells, shared, counts, *args):
        return _mapped(fn, states, cells, shared, counts[0], *args)

    specs = (cell, cell, same, cell, *[same] * len(args))
    lifted = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=cell, check_vma=False)
    return lifted(states, cells, shared, counts, *args)


def mesh(how: str, cells: int) -> Mesh | None:
    """What a driver spreads cells over: this process's devices, no more than cells, in one axis named "cell".

    None for the drivers that use one device. Devices of other processes are left out: cells never talk, so processes
    share a study by its folder and wait for nobody.
    """
    if how != "shard":
        return None
    return Mesh(np.array(jax.local_devices()[:cells]), ("cell",), axis_types=(AxisType.Auto,))


def devices(mesh: Mesh | None) -> int:
    """How many devices cells are spread over."""
    return mesh.size if mesh else 1


def threads() -> int:
    """How many threads XLA's programs share on a CPU, 0 elsewhere.

    It splits sums over many rows among them, so the last bits of a result depend on their number: that of the cores
    this process may use, or NPROC where the environment has it, or of the devices where those are more.
    """
    if jax.default_backend() != "cpu":
        return 0
    return max(int(os.environ.get("NPROC") or len(os.sched_getaffinity(0))), jax.local_device_count())


def whole(cells: int, mesh: Mesh | None) -> int:
    """At least so many cells, the same number on every device."""
    return -(-cells // devices(mesh)) * devices(mesh)


def everywhere(tree: PyTree, mesh: Mesh | None) -> PyTree:
    """A copy on every device of the mesh, so that no call has to make one; the tree itself where there is no mesh."""
    return tree if mesh is None else jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


class Program:
    """A lifted cell function, compiled ahead of time for the first arguments it sees, which all others must match."""

    def __init__(self, fn: Callable, how: str, mesh: Mesh | None = None):
        self._fn, self._how, self.mesh = fn, how, mesh
        self._compiled = None
        self.compile_seconds = 0.0

    def compile(self, *arguments: Any) -> PyTree:
        """Compile for arguments, or their shapes, like these; the shapes of what it then gives."""
        begun = time.perf_counter()
        traced = jax.jit(batched(self._fn, self._how, self.mesh), donate_argnums=0).trace(*arguments)
        self._compiled = traced.lower().compile()
        self._fn = None  # and with it what tracing it has cached
        self.compile_seconds = time.perf_counter() - begun
        return traced.out_info

    def __call__(self, states: PyTree, cells: PyTree, shared: PyTree, count: int, *args: int):
        """Run for `count` cells; further arguments are int32 scalars."""
        arguments = (states, cells, shared, np.int32(count), *(np.int32(value) for value in args))
        if self._compiled is None:
            self.compile(*arguments)
        if self._how == "shard":
            arguments = jax.device_put(arguments, self._compiled.input_shardings[0])
        return self._compiled(*arguments)

    @property
    def bytes(self) -> int:
        """What the compiled program holds at its peak: arguments, results and temporaries, aliased ones once."""
        found = self._compiled.memory_analysis()
        return (
            found.argument_size_in_bytes
            + found.output_size_in_bytes
            + found.temp_size_in_bytes
            - found.alias_size_in_bytes
        )


def stack(cells: list[PyTree], capacity: int) -> PyTree:
    """Cells in one tree with a leading axis, filled up to `capacity` with copies of the last."""
    filled = cells + [cells[-1]] * (capacity - len(cells))
    return jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(leaf) for leaf in leaves]), *filled)


def pick(stacked: PyTree, index: int) -> PyTree:
    """One cell of a stack."""
    return jax.tree.map(lambda leaf: leaf[index], stacked)
