"""Training of an attacker's own networks on images alone, before anything is poisoned."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from bdjax import train
from bdjax.data.sources import split
from bdjax.keys import stream
from bdjax.types import Array, Data, Given, Key, PyTree, Trained, real

CHUNK = 100
"""Steps in one run of the program; between runs a user can interrupt."""

HELD, MOST = 0.1, 512
"""The share of images, and at most how many, that are kept back to measure what was learned."""

TOGETHER = 64
"""Images that go through the trained networks at once."""


def parted(key: Key, size: int) -> tuple[Array, Array]:
    """Rows to learn from and rows to measure on, int32, of `size` rows; a single row is both."""
    rows = jax.random.permutation(key, jnp.arange(size, dtype=jnp.int32))
    held = min(max(1, round(HELD * size)), MOST)
    return rows[held:] if size > 1 else rows, rows[:held]


def fit_on_images(
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
    size = min(CHUNK, steps)

    def given(operands) -> Given:
        image, settings, begun, key = operands
        data = Data(image, jnp.zeros(len(image), jnp.int32))
        carry = {"begun": begun, "key": jax.random.key_data(key)}
        return Given(settings, augment=None, carry=carry, whole=split(data))

    def now(given: Given, step: Array) -> Key:
        return jax.random.fold_in(jax.random.wrap_key_data(given.carry["key"], impl="threefry2x32"), step)

    def begin(_key, given, _weights):
        params, memory = given.carry["begun"]
        return params, {"memory": memory, "step": jnp.zeros((), jnp.int32)}

    def order(_key, epoch, given, _still):
        def rows(step: Array) -> Array:
            return jax.random.randint(stream(now(given, step), "rows"), (batch,), 0, given.whole.size)

        number = epoch * size + jnp.arange(size, dtype=jnp.int32)
        return jnp.where(number[:, None] < steps, jax.vmap(rows)(number), -1)

    def slope(_key, params, still, rows, given):
        step = still["step"]
        own = stream(now(given, step), "step")
        gradients, memory = gradient(own, params, still["memory"], rows.image, given.settings, step)
        return gradients, {"memory": memory, "step": step + 1}, {}

    stage = train.descend(
        lambda given: given.whole,
        epochs=-(-steps // size),
        batch=batch,
        begin=begin,
        gradient=slope,
        rule=lambda given, clock: optimizer(given.settings, clock.step),
        leave=lambda key, state, given: Trained(None, {"params": state.moving, "memory": state.still["memory"]}),
        order=order,
        full=steps % size == 0,
        augment=False,
    )
    left = train.fit(key, stage, given, (image, settings, begun, key), pieces=True).carry
    return left["params"], left["memory"]


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
