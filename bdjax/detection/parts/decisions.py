"""How scores become decisions."""

import jax.numpy as jnp

from bdjax.types import Array


def above_clean(score: Array, clean: Array, fpr: Array) -> Array:
    """Which scores at most a share `fpr` of clean scores reach, bool (n,).

    score: float (n,); clean: float (r,); fpr: float () in [0, 1]. Of fewer than 1 / fpr clean rows none may reach it.
    """
    ordered = jnp.sort(clean)
    reached = clean.size - jnp.searchsorted(ordered, score, side="left")
    return reached <= fpr * clean.size
