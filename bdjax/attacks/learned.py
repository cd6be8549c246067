"""Training of an attacker's own networks on images alone, before anything is poisoned."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import optax
from flax import struct

from bdjax.keys import stream
from bdjax.types import Array, Key, PyTree, real

CHUNK = 100
"""Steps in one run of the program; between runs a user can interrupt."""

HELD, MOST = 0.1, 512
"""The share of images, and at most how many, that are kept back to measure what was learned."""

TOGETHER = 64
"""Images that go through the trained networks at once."""


@struct.dataclass
class Learner:
    """What training carries from step to step."""

    params: PyTree
    optimizer: PyTree
    memory: PyTree  # whatever else one step leaves to the next


def parted(key: Key, size: int) -> tuple[Array, Array]:
    """Rows to learn from and rows to measure on, int32, of `size` rows; a single row is both."""
    rows = jax.random.permutation(key, jnp.arange(size, dtype=jnp.int32))
    held = min(max(1, round(HELD * size)), MOST)
    return rows[held:] if size > 1 else rows, rows[:held]


def learned(
    key: Key,
    begun: tuple[PyTree, PyTree],
    gradient: Callable[..., tuple[PyTree, PyTree]],
    optimizer: Callable[..., optax.GradientTransformation],
    image: Array,
    settings: PyTree,
    steps: int,
    batch: int,
) -> tuple[PyTree, PyTree]:
    """Parameters and memory after `steps` steps over random batches of images, many steps to a program.

    Args:
        key: of the training.
        begun: parameters and memory at the start.
        gradient: (key, params, memory, images, settings, step) -> (gradients, memory); images float
            (batch, height, width, channels) in [0, 1], step int32 ().
        optimizer: (settings, step) -> the rule.
        image: uint8 (n, height, width, channels).
        settings: arrays, so that no value recompiles.
        steps, batch: how many, and rows in each, drawn with replacement.
    """

    def begin(params: PyTree, memory: PyTree, settings: PyTree) -> Learner:
        return Learner(params, optimizer(settings, jnp.int32(0)).init(params), memory)

    @partial(jax.jit, donate_argnums=0)
    def advance(learner: Learner, key: Key, start: Array, stop: Array, image: Array, settings: PyTree) -> Learner:
        def body(step: Array, learner: Learner) -> Learner:
            now = jax.random.fold_in(key, step)
            rows = jax.random.randint(stream(now, "rows"), (batch,), 0, len(image))
            pixels = image[rows].astype(real()) / 255
            gradients, memory = gradient(stream(now, "step"), learner.params, learner.memory, pixels, settings, step)
            updates, kept = optimizer(settings, step).update(gradients, learner.optimizer, learner.params)
            return Learner(optax.apply_updates(learner.params, updates), kept, memory)

        return jax.lax.fori_loop(start, stop, body, learner)

    learner = jax.jit(begin)(*begun, settings)
    for start in range(0, steps, CHUNK):
        learner = advance(learner, key, jnp.int32(start), jnp.int32(min(start + CHUNK, steps)), image, settings)
    return learner.params, learner.memory


def converted(image: Array, change: Callable[[Array], Array]) -> Array:
    """`change` of every image, uint8 to uint8 (n, height, width, channels), some at a time.

    change: float (height, width, channels) in [0, 1] -> the same.
    """

    def one(pixels: Array) -> Array:
        return jnp.round(255 * change(pixels.astype(real()) / 255)).astype(jnp.uint8)

    return jax.lax.map(one, image, batch_size=min(TOGETHER, len(image)))


def averaged(function: Callable[..., PyTree], *rows: Array) -> PyTree:
    """The mean over rows, some at a time, of the numbers that `function` gives of a row of each array."""
    found = jax.lax.map(lambda row: function(*row), rows, batch_size=min(TOGETHER, len(rows[0])))
    return jax.tree.map(jnp.mean, found)


def psnr(image: Array, other: Array) -> Array:
    """Peak signal-to-noise ratio in dB, (b,), of images (b, height, width, channels) in [0, 1]; at most 100."""
    return -10 * jnp.log10(jnp.maximum(jnp.mean((image - other) ** 2, (1, 2, 3)), 1e-10))
