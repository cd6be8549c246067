"""What defenses with a trigger of their own share: where it is, and the network that stamps images at inference."""

import jax.numpy as jnp
import numpy as np

from bdjax.types import Net


def mask(trigger: str, size: int, height: int, width: int) -> np.ndarray:
    """Where the defensive trigger is, bool (height, width, 1)."""
    row, column = np.arange(height)[:, None], np.arange(width)[None]
    depth = np.minimum(np.minimum(row, height - 1 - row), np.minimum(column, width - 1 - column))
    sides, ends = (column % (width - 1)) == 0, (row % (height - 1)) == 0
    found = {
        "block": (row < size) & (column < size),
        "border": depth < size,
        "dashes": sides & (row % 2 == 0) | ends & (column % 2 == 0),
    }
    return found[trigger][:, :, None]


def guarded(net: Net, stamp, shift: int) -> Net:
    """The network behind the defensive trigger: it stamps every image and scores class i by the logit of class h(i)."""

    def apply(weights, image, *args, **kwargs):
        logits, batch_stats, taps = net.apply(weights, stamp(image), *args, **kwargs)
        return jnp.roll(logits, -shift, axis=1), batch_stats, taps

    return net._replace(apply=apply)
