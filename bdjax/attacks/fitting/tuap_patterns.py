"""The patterns of TUAP (tuap.py), fitted to a clean model: a patch, or a perturbation of all pixels."""

import jax
import jax.numpy as jnp
import numpy as np

from bdjax.attacks.fitting.universal import Fit, fit_universal
from bdjax.errors import InvalidInput
from bdjax.keys import stream
from bdjax.train import cross_entropy
from bdjax.types import Array, Data, Key, Net, Weights, real

MARGIN = 1e-4
"""Pixels, in the l2 norm, by which BackdoorBox lengthens every step of DeepFool."""


def fitted_perturbation(
    key: Key, net: Net, weights: Weights, image: Array, judges: Array, target: int, settings, passes: int, steps: int
) -> Fit:
    """A universal perturbation of images (m, height, width, channels), within `strength`; judges are other images."""
    strength = settings["strength"]

    def join(pattern: Array, change: Array) -> Array:
        return jnp.clip(pattern + change, -strength, strength)

    # One step less: BackdoorBox has no use for an image that takes as many as allowed.
    counts = {"passes": passes, "steps": steps - 1, "margin": MARGIN}
    return fit_universal(key, net, weights, image, judges, target, settings, join, **counts)


def pasted(image: Array, patch: Array) -> Array:
    """The image with the patch in its bottom right corner."""
    return image.at[-patch.shape[0] :, -patch.shape[1] :].set(patch)


def fitted_patch(
    key: Key, net: Net, weights: Weights, image: Array, start: Array, target: int, step: Array, steps: int
) -> Array:
    """A patch like `start` under which images uint8 (m, height, width, channels) are taken for the target."""

    def body(number: Array, patch: Array) -> Array:
        row = jax.random.randint(jax.random.fold_in(key, number), (), 0, len(image))
        one = image[row].astype(start.dtype) / 255

        def loss(patch: Array) -> Array:
            logits = net.apply(weights, pasted(one, patch)[None])[0]
            return cross_entropy(logits, jnp.full(1, target), jnp.ones(1, start.dtype))

        return jnp.clip(patch - step * jnp.sign(jax.grad(loss)(patch)), 0, 1)

    return jax.lax.fori_loop(0, steps, body, start)


def patch(key: Key, net: Net, weights: Weights, data: Data, settings, target: int, size: int, steps: int) -> Array:
    """The patch (size, size, channels), grey at first, fitted to the training images of other classes."""
    others = data.image[np.flatnonzero(np.asarray(data.label) != target)]
    start = jnp.full((size, size, others.shape[3]), 0.5, real())

    def run(weights: Weights, others: Array, step: Array) -> Array:
        return fitted_patch(key, net, weights, others, start, target, step, steps)

    return jax.jit(run)(weights, others, settings["fit_step"])


def perturbation(
    key: Key, net: Net, weights: Weights, data: Data, settings, target: int, images: int, judges: int, **counts
) -> Array:
    """The perturbation (height, width, channels), fitted to random training images; others tell when to stop.

    Raises:
        InvalidInput: no image could be made the target.
    """
    order = jax.random.permutation(stream(key, "images"), data.label.size)

    def run(weights: Weights, image: Array, other: Array, settings) -> Fit:
        pixels = (image.astype(real()) / 255, other.astype(real()) / 255)
        return fitted_perturbation(stream(key, "order"), net, weights, *pixels, target, settings, **counts)

    found = jax.jit(run)(weights, data.image[order[:images]], data.image[order[-judges:]], settings).pattern
    if not float(jnp.max(jnp.abs(found))) > 0:
        raise InvalidInput(
            f"tuap: in {counts['steps']} steps no image came to be taken for class {target}; raise steps, images or "
            "surrogate_epochs, or choose pattern=patch"
        )
    return found
