"""What the machine could do: floating-point operations a second of a large matrix product, and what a model needs."""

import math
import statistics
import time

import jax
import jax.numpy as jnp

from bdjax.types import Net, real


def measured(precision: str, rounds: int = 5) -> float:
    """Operations a second of a square matrix product, the median of `rounds`; precision as in `layers.PRECISION`."""
    kind = jnp.bfloat16 if precision == "bfloat16" else real()
    size = 1024 if jax.default_backend() == "cpu" else 8192
    matrix = jnp.ones((size, size), kind)
    product = jax.jit(lambda a: a @ a).lower(matrix).compile()
    times = []
    for _ in range(rounds + 1):
        begun = time.perf_counter()
        jax.block_until_ready(product(matrix))
        times.append(time.perf_counter() - begun)
    return 2 * size**3 / statistics.median(times[1:])


def operations(net: Net, shape: tuple[int, int, int]) -> int:
    """Operations of one image's pass through the products of a network: convolutions and linear layers, forward.

    A training step needs three times as many, for there are two gradients of the same size.
    """
    weights = jax.eval_shape(net.init, jax.random.key(0))
    taps = jax.eval_shape(net.apply, weights, jax.ShapeDtypeStruct((1, *shape), real()))[2]
    total = 0
    for layer in net.layers:
        if layer.kind in ("conv", "linear"):
            place = weights.params
            for name in layer.path:
                place = place[name]
            places = math.prod(taps[layer.tap].shape[1:-1])
            total += 2 * places * place["kernel"].size
    return total
