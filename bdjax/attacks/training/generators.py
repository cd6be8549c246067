"""Networks that generate triggers from images, and how different such triggers are.

Nguyen, Tran, Input-Aware Dynamic Backdoor Attack, NeurIPS 2020, https://arxiv.org/abs/2010.08138, section 3, with the
constants of the authors' released code.
"""

from typing import NamedTuple

import jax.numpy as jnp

from bdjax.types import Array, Net, PyTree, Weights

EPSILON = 1e-7


class Generators(NamedTuple):
    """Both generators: networks whose maps are squashed into patterns and masks; a trigger holds their weights."""

    pattern: Net
    mask: Net
    squashing: str

    def squashed(self, maps: Array) -> Array:
        """Maps of any range in (0, 1)."""
        return _half(jnp.tanh(maps) if self.squashing == "twice" else maps)

    def masks(self, maps: Array) -> Array:
        """The same, driven towards 0 and 1."""
        return _half(20 * self.squashed(maps) - 10)

    def pattern_of(self, trigger: PyTree, image: Array) -> Array:
        """What replaces images (b, height, width, channels), in (0, 1)."""
        return self.squashed(self.pattern.apply(Weights(**trigger["pattern"]), image)[0])

    def mask_of(self, trigger: PyTree, image: Array) -> Array:
        """How much of it does, (b, height, width, 1)."""
        return self.masks(self.mask.apply(Weights(**trigger["mask"]), image)[0])


def held(weights: Weights) -> dict[str, PyTree]:
    """Weights as a trigger holds them; `Weights(**...)` is the way back."""
    return {"params": weights.params, "batch_stats": weights.batch_stats}


def _half(maps: Array) -> Array:
    return jnp.tanh(maps) / (2 + EPSILON) + 0.5


def distance(one: Array, other: Array) -> Array:
    """The root mean square of differences (b, height, width, channels) of each row; its gradient at 0 is 0."""
    square = jnp.mean((one - other) ** 2, (1, 2, 3))
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)


def diversity_loss(images: Array, triggers: Array, weight: Array) -> Array:
    """How much further apart images are than their triggers, in the mean over rows of weight 1; 0 if there are none."""
    return jnp.sum(weight * images / (triggers + EPSILON)) / jnp.maximum(jnp.sum(weight), 1)
