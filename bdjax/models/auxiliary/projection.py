"""The head of contrastive learning, which is thrown away afterwards: features -> points on the unit sphere.

Chen, Kornblith, Norouzi, Hinton, A Simple Framework for Contrastive Learning of Visual Representations, ICML 2020,
arXiv:2002.05709, section 4.2: a hidden layer as wide as the features, and a linear one.
"""

import flax.linen as nn
import jax.numpy as jnp

from bdjax.models.parts.layers import BatchNorm, Linear, Pass, Relu
from bdjax.models.parts.network import survey
from bdjax.types import Array, Key, Weights

SIZE = 128


class Projection(nn.Module):
    """Linear, batch normalization where asked for, rectifier, linear."""

    normalized: bool

    @nn.compact
    def __call__(self, x: Array, run: Pass) -> Array:
        """X float (b, features) -> (b, SIZE), each of length 1."""
        x = Linear(x.shape[-1], name="linear1")(x, run)
        x = BatchNorm(name="bn1")(x, run) if self.normalized else x
        x = Linear(SIZE, name="linear2")(Relu(name="relu1")(x, run), run)
        square = jnp.sum(x**2, axis=1, keepdims=True)
        return x / jnp.sqrt(jnp.maximum(square, 1e-24))


def init(key: Key, features: int, normalized: bool = True) -> Weights:
    """New weights for so many features."""
    variables = survey(Projection(normalized), (features,))[0](key)
    return Weights(variables["params"], variables.get("batch_stats", {}))


def project(weights: Weights, feature: Array, weight: Array | None = None, train: bool = True):
    """Features float (b, d) -> (points (b, SIZE), batch_stats), in training mode or not; weight: float (b,), 0 pads."""
    module = Projection("bn1" in weights.params)
    variables = {"params": weights.params, "batch_stats": weights.batch_stats}
    point, changed = module.apply(variables, feature, Pass(train, weight), mutable=["batch_stats"])
    return point, changed.get("batch_stats", {})
