"""Arrays that PyTorch and the tests both make from a seed, so that only what a network gives need be stored."""

import numpy as np


def fill(names, shapes, seed=0):
    """A state_dict of random arrays: kernels of He's variance, batch statistics and scales near one.

    It draws from numpy's legacy generator, whose stream is frozen.
    """
    draw = np.random.RandomState(seed)
    state = {}
    for name, shape in zip(names, shapes, strict=True):
        leaf = name.split(".")[-1]
        if leaf == "num_batches_tracked":
            state[name] = np.zeros((), np.int64)
        elif leaf == "weight" and len(shape) > 1:
            state[name] = (draw.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))).astype(np.float32)
        elif leaf in ("weight", "running_var"):
            state[name] = draw.uniform(0.5, 1.5, shape).astype(np.float32)
        else:
            state[name] = (0.1 * draw.standard_normal(shape)).astype(np.float32)
    return state


def images(count, size, seed=1):
    """Images float32 (count, size, size, 3) in [0, 1]."""
    return np.random.RandomState(seed).uniform(size=(count, size, size, 3)).astype(np.float32)
