"""What a machine could do: operations a second of a large matrix product, and what a training step asks of it.

A step's time is predicted as by Williams, Waterman, Patterson, "Roofline: an insightful visual performance model for
multicore architectures", Communications of the ACM, 2009, https://doi.org/10.1145/1498765.1498785, one product or pass
over an activation after the other: each takes its operations at the machine's peak or its bytes at the memory's rate,
whichever takes longer.
"""

import math
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import jaxprs_in_params

from bdjax.models.parts import convolution
from bdjax.types import Array, Net, real


class Machine(NamedTuple):
    """An accelerator in bfloat16."""

    name: str
    operations: float  # a second, of a large matrix product
    bytes: float  # a second, from and to its memory


H200 = Machine("H200", 790e12, 4.3e12)
"""The most that matrix products and copies were seen to reach; docs/benchmarks/accelerator.md has a slower one."""

PASSES = {"norm": 8, "add": 6}
"""How often an activation crosses the memory for a layer of a kind, both ways; rectifiers are fused with what is
beside them. Normalisation reads its input twice and writes once; its gradient reads input and cotangent twice and
writes once. A sum reads two and writes one, and so does that of two gradients."""

UPDATE = 5 * 4
"""Bytes a parameter: float32 gradient, weight and momentum are read, the two latter written."""


def operations(precision: str, rounds: int = 5) -> float:
    """Operations a second of a square matrix product, the median of `rounds`; precision as in `layers.PRECISION`.

    The matrix is random: a GPU takes less power, and so less time, for zeros and ones.
    """
    kind = jnp.bfloat16 if precision == "bfloat16" else real()
    size = 1024 if jax.default_backend() == "cpu" else 8192
    matrix = jax.random.normal(jax.random.key(0), (size, size), kind)
    return 2 * size**3 / _seconds(lambda a: a @ a, matrix, rounds)


def bandwidth(rounds: int = 5) -> float:
    """Bytes a second, read and written, of adding one to a large array, the median of `rounds`."""
    size = 2**24 if jax.default_backend() == "cpu" else 2**30
    array = jax.random.normal(jax.random.key(0), (size,), jnp.float32)
    return 2 * array.nbytes / _seconds(lambda a: a + 1, array, rounds)


def _seconds(function: Callable[[Array], Array], array: Array, rounds: int) -> float:
    compiled, times = jax.jit(function).lower(array).compile(), []
    for _ in range(rounds + 1):
        begun = time.perf_counter()
        jax.block_until_ready(compiled(array))
        times.append(time.perf_counter() - begun)
    return statistics.median(times[1:])


class Kernel(NamedTuple):
    """What one product, or one layer that is not fused with a product, asks of the machine in a step."""

    operations: int
    bytes: int


def kernels(net: Net, shape: tuple[int, int, int], batch: int) -> list[Kernel]:
    """A training step of one model in bfloat16 with float32 weights, from its layers.

    Every convolution and linear layer is three products of the same size, forward and two gradients; the image's own
    gradient, which no step takes, is counted.
    """
    weights = jax.eval_shape(net.init, jax.random.key(0))
    image = jax.ShapeDtypeStruct((batch, *shape), real())
    with convolution.using("grouped"):
        traced, out = jax.make_jaxpr(net.apply, return_shape=True)(weights, image)
    layers = [Kernel(0, 2 * PASSES.get(layer.kind, 0) * out[2][layer.tap].size) for layer in net.layers]
    update = Kernel(0, UPDATE * sum(leaf.size for leaf in jax.tree.leaves(weights.params)))
    return [*3 * _products(traced.jaxpr), *layers, update]


def _products(jaxpr) -> list[Kernel]:
    """The convolutions and matrix products of a traced program, nested ones included."""
    found = []
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("conv_general_dilated", "dot_general"):
            found.append(_product(equation))
        for inner in jaxprs_in_params(equation.params):
            found += _products(inner)
    return found


def _product(equation) -> Kernel:
    first, second = (variable.aval.shape for variable in equation.invars)
    (out,) = (variable.aval.shape for variable in equation.outvars)
    if equation.primitive.name == "dot_general":
        inner = math.prod(first[axis] for axis in equation.params["dimension_numbers"][0][0])
    else:
        inner = math.prod(second[axis] for axis in equation.params["dimension_numbers"].rhs_spec[1:])
    return Kernel(2 * math.prod(out) * inner, 2 * sum(map(math.prod, (first, second, out))))


def seconds(asked: list[Kernel], machine: Machine) -> float:
    """The least time that a step takes on a machine, kernels one after the other."""
    return sum(max(one.operations / machine.operations, one.bytes / machine.bytes) for one in asked)
