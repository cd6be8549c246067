"""Steps of a library on the host, inside a traced program."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from bdjax.types import Array, PyTree


def call_on_host(function: Callable, result: PyTree, *arguments: PyTree) -> PyTree:
    """`function(*arguments)` of NumPy arrays, pure, on the host: arrays as `result`, whose leaves have shape and dtype.

    One cell after the other under every driver, so that a batch gives what a cell alone gives. Programs with such a
    step are not kept in the compile cache.
    """
    leaves, tree = jax.tree.flatten(arguments)
    asked, form = jax.tree.flatten(result)

    # 64 bits go as two words: the thread that calls back rounds them to 32 where only the caller's switched them on.
    def run(*words):
        whole = [np.ravel(one).view(leaf.dtype).reshape(leaf.shape) for one, leaf in zip(words, leaves, strict=True)]
        found = jax.tree.leaves(function(*jax.tree.unflatten(tree, whole)))
        found = [np.ravel(np.asarray(one, like.dtype)) for one, like in zip(found, asked, strict=True)]
        return [one.view(word.dtype).reshape(word.shape) for one, word in zip(found, shapes, strict=True)]

    shapes = [jax.eval_shape(_to_words, like) for like in asked]
    found = jax.pure_callback(run, shapes, *map(_to_words, leaves), vmap_method="sequential")
    pairs = zip(found, asked, strict=True)
    return jax.tree.unflatten(form, [jax.lax.bitcast_convert_type(one, like.dtype) for one, like in pairs])


def _to_words(leaf: Array) -> Array:
    return jax.lax.bitcast_convert_type(leaf, jnp.uint32) if leaf.dtype.itemsize == 8 else leaf
