"""Where in an image a network looks: Grad-CAM.

Selvaraju, Cogswell, Das, Vedantam, Parikh, Batra, Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
Localization, ICCV 2017, arXiv:1610.02391, equations 1 and 2; scaling and enlarging as the package grad-cam does it.
"""

import jax
import jax.numpy as jnp

from bdjax.errors import InvalidInput
from bdjax.types import Array, Net, Weights


def last_map(net: Net) -> str:
    """The tap that global pooling reads, the output of the last block.

    Raises:
        InvalidInput: the network has no pooling, or none after a layer.
    """
    kinds = [layer.kind for layer in net.layers]
    place = kinds.index("pool") if "pool" in kinds else 0
    if not place:
        raise InvalidInput("the network has no pooling after a layer, so no last map; choose another network")
    return net.layers[place - 1].tap


def heat(net: Net, weights: Weights, image: Array, tap: str) -> Array:
    """How much each pixel counts for the prediction, float (b, height, width) in [0, 1]."""

    def top(change: Array):
        logits, _, taps = net.apply(weights, image, edit={tap: lambda found: found + change})
        return jnp.sum(jnp.max(logits, axis=1)), taps[tap]

    shape = jax.eval_shape(lambda: net.apply(weights, image)[2][tap])
    slope, found = jax.grad(top, has_aux=True)(jnp.zeros(shape.shape, shape.dtype))
    share = jnp.mean(slope, (1, 2), keepdims=True)  # equation 1
    seen = _scaled(jax.nn.relu(jnp.sum(share * found, axis=-1)))  # equation 2
    return _scaled(jax.image.resize(seen, image.shape[:3], "linear", antialias=False))


def _scaled(heat: Array) -> Array:
    heat = heat - jnp.min(heat, (1, 2), keepdims=True)
    return heat / (1e-7 + jnp.max(heat, (1, 2), keepdims=True))
