"""Universal perturbations: one pattern that moves many images towards a class.

After Moosavi-Dezfooli et al., Universal adversarial perturbations, CVPR 2017: over images in random order, the least
change that would make one more of them the target (targeted DeepFool) joins the pattern; passes go on until that
changes enough predictions, and the best pattern is kept. The smooth one, without high frequencies, is that of Zeng,
Park, Mao, Jia, Rethinking the Backdoor Attacks' Triggers, ICCV 2021, https://arxiv.org/abs/2104.03413, section 5, and
its released code: changes are low-passed and added, the sum is low-passed and rescaled to [0, strength].
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bdjax.types import Array, Key, Net, Weights


def low_pass(size: int, sigma: int) -> np.ndarray:
    """The matrix float64 (size, size) of a Gaussian filter of 5 sigma taps, zeros beyond the ends.

    With an even number of taps one more of them lies after the pixel than before it.
    """
    taps = 5 * sigma
    weight = np.exp(-(((np.arange(taps) - (taps - 1) / 2) / sigma) ** 2) / 2)
    offset = np.arange(size)[None, :] - np.arange(size)[:, None] + (taps - 1) // 2
    inside = (offset >= 0) & (offset < taps)
    return np.where(inside, (weight / weight.sum())[np.clip(offset, 0, taps - 1)], 0)


class Fooled(NamedTuple):
    """Where DeepFool stands: the sum of its steps, the class taken at first, the class it has reached, the steps."""

    change: Array
    first: Array
    reached: Array
    taken: Array


def deepfool(
    net: Net, weights: Weights, image: Array, target: int, overshoot: Array, steps: int, margin: float = 0.0
) -> Fooled:
    """The least change of an image (height, width, channels), to first order, that makes it the target.

    Moosavi-Dezfooli, Fawzi, Frossard, DeepFool, CVPR 2016, algorithm 1, towards one class: each step is |f| / |w|^2 w
    with f the target's logit less that of the class first predicted, w its gradient, and is `margin` longer than that.
    The change includes the overshoot; it is of use only where `reached` is the target.
    """

    def logits(change: Array) -> Array:
        return net.apply(weights, (image + (1 + overshoot) * change)[None])[0][0]

    def body(state: Fooled) -> Fooled:
        value, pull = jax.vjp(logits, state.change)
        reached = jnp.argmax(value).astype(jnp.int32)
        first = jnp.where(state.taken == 0, reached, state.first)
        towards = jnp.zeros_like(value).at[target].add(1).at[first].add(-1)
        slope = pull(towards)[0] / (1 + overshoot)  # with respect to the image
        square = jnp.sum(slope**2)
        square = jnp.where(square > 0, square, jnp.inf)
        length = jnp.abs(jnp.vdot(value, towards)) / square + margin / jnp.sqrt(square)
        change = state.change + jnp.where(reached == target, 0, length) * slope
        return Fooled(change, first, reached, state.taken + 1)

    def unfinished(state: Fooled) -> Array:
        return (state.reached != target) & (state.taken < steps)

    start = Fooled(jnp.zeros_like(image), jnp.int32(-1), jnp.int32(-1), jnp.int32(0))
    result = jax.lax.while_loop(unfinished, body, start)
    return result._replace(change=(1 + overshoot) * result.change)


class Fit(NamedTuple):
    """Where the fitting stands: the pattern, the best so far, the share of predictions that one changes, the pass."""

    pattern: Array
    best: Array
    changed: Array
    number: Array


def fit_universal(
    key: Key,
    net: Net,
    weights: Weights,
    image: Array,
    judges: Array,
    target: int,
    settings,
    join: Callable[[Array, Array], Array],
    passes: int,
    steps: int,
    margin: float = 0.0,
) -> Fit:
    """A pattern (height, width, channels) that many images are taken for the target with.

    Args:
        key: of the orders.
        net, weights: the model.
        image: what the pattern is fitted to, (m, height, width, channels).
        judges: images whose predictions it is to change, (k, height, width, channels).
        target: the class.
        settings: `overshoot` of `deepfool`, and `fooling`, the share of changed predictions at which passes end.
        join: (pattern, change) -> the pattern after the least change that makes one more image the target.
        passes: the most.
        steps, margin: of `deepfool`.
    """

    def predict(images: Array) -> Array:
        return jnp.argmax(net.apply(weights, images)[0], axis=1)

    clean, judged = predict(image), predict(judges)

    def visit(pattern: Array, row: Array):
        def add(pattern: Array) -> Array:
            fooled = deepfool(net, weights, image[row] + pattern, target, settings["overshoot"], steps, margin)
            return jnp.where(fooled.reached == target, join(pattern, fooled.change), pattern)

        now = predict((image[row] + pattern)[None])[0]
        return jax.lax.cond((now == clean[row]) & (now != target), add, lambda pattern: pattern, pattern), None

    def again(state: Fit) -> Fit:
        rows = jax.random.permutation(jax.random.fold_in(key, state.number), image.shape[0])
        pattern = jax.lax.scan(visit, state.pattern, rows)[0]
        changed = jnp.mean((predict(judges + pattern) != judged).astype(image.dtype))
        better = changed >= state.changed
        best, most = jnp.where(better, pattern, state.best), jnp.maximum(changed, state.changed)
        return Fit(pattern, best, most, state.number + 1)

    def unfinished(state: Fit) -> Array:
        return (state.changed < settings["fooling"]) & (state.number < passes)

    zero = jnp.zeros(image.shape[1:], image.dtype)
    return jax.lax.while_loop(unfinished, again, Fit(zero, zero, jnp.zeros((), image.dtype), jnp.int32(0)))


def fit_smooth(key: Key, net: Net, weights: Weights, image: Array, target: int, settings, *, sigma, **counts) -> Fit:
    """A smooth universal perturbation of images (m, height, width, channels), in [0, strength]."""
    height, width = (jnp.asarray(low_pass(side, sigma), image.dtype) for side in image.shape[1:3])
    strength = settings["strength"]

    def smooth(pattern: Array) -> Array:
        return jnp.einsum("rp,pqc,sq->rsc", height, pattern, width, precision="highest")

    def rescaled(pattern: Array) -> Array:
        span = jnp.max(pattern) - jnp.min(pattern)
        return strength * (pattern - jnp.min(pattern)) / jnp.where(span > 0, span, 1)

    def join(pattern: Array, change: Array) -> Array:
        return rescaled(smooth(pattern + smooth(change)))

    return fit_universal(key, net, weights, image, image, target, settings, join, **counts)
