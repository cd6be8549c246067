"""Rows that a model is made to doubt: projected gradient ascent of its loss (Madry et al., ICLR 2018)."""

import jax
import jax.numpy as jnp
import numpy as np

from bdjax.attacks.parts.common import truncated
from bdjax.data.images import to_uint8
from bdjax.train import cross_entropy
from bdjax.types import Array, Data, Net, Weights, real


def ascend(loss, image: Array, start: Array, epsilon: Array, step: Array, steps: int) -> Array:
    """Projected ascent of `loss(images)` from `start`, within epsilon of `image` a pixel and within [0, 1]."""

    def body(_, moved: Array) -> Array:
        moved = moved + step * jnp.sign(jax.grad(loss)(moved))
        return jnp.clip(jnp.clip(moved, image - epsilon, image + epsilon), 0, 1)

    return jax.lax.fori_loop(0, steps, body, start)


def perturbed(net: Net, weights: Weights, image: Array, label: Array, epsilon, step, steps: int, storage: str) -> Array:
    """Images uint8 (m, height, width, channels) made hard to classify; the ascent starts at the image."""

    def one(pair):
        image = pair[0].astype(real()) / 255

        def loss(moved: Array) -> Array:
            logits = net.apply(weights, moved[None])[0]
            return cross_entropy(logits, pair[1][None], jnp.ones(1, moved.dtype))

        moved = ascend(loss, image, image, epsilon, step, steps)
        return to_uint8(truncated(moved) if storage == "truncate" else moved)

    return jax.lax.map(one, (image, label), batch_size=128)


def harden(
    net: Net, weights: Weights, data: Data, rows: np.ndarray, epsilon: Array, step: Array, steps: int, storage: str
) -> tuple[Array, Array]:
    """Rows of a split, `perturbed`, and where each row's image is: uint8 (m, height, width, channels), int32 (n,)."""

    def run(weights: Weights, image: Array, label: Array, epsilon: Array, step: Array) -> Array:
        return perturbed(net, weights, image, label, epsilon, step, steps, storage)

    hard = jax.jit(run)(weights, data.image[rows], data.label[rows], epsilon, step)
    return hard, jnp.zeros(data.label.shape, jnp.int32).at[rows].set(jnp.arange(rows.size, dtype=jnp.int32))
