"""Batch normalisation with its derivative written out, which takes fewer passes over the images than the traced one.

Ioffe, Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate Shift", ICML
2015, https://arxiv.org/abs/1502.03167, algorithm 1 and the derivatives of section 3, where rows of weight 0 do not
count. Sums go over the pixels of an image first and then over images: XLA's sums over both at once take ten times as
long on a GPU where there are many channels and few pixels (docs/benchmarks/accelerator.md).
"""

import jax
import jax.numpy as jnp

from bdjax.types import Array, real

EPSILON = 1e-5


def beside(x: Array, vector: Array) -> Array:
    """A number a channel (channels,) with as many axes as x (..., channels)."""
    return vector.reshape(*[1] * (x.ndim - 1), -1)


def moments(x: Array, weight: Array) -> tuple[Array, Array, Array]:
    """Mean and biased variance a channel (channels,) of x (b, ..., channels), and how many values each was made of.

    weight: float (b,), 0 for rows that do not count.
    """
    share = _share(weight)[:, None]
    mean = jnp.sum(share * jnp.mean(x, _pixels(x)), 0)
    variance = jnp.sum(share * jnp.mean(jnp.square(x - beside(x, mean)), _pixels(x)), 0)
    return mean, variance, jnp.sum(weight) * (x[0].size // x.shape[-1])


def _pixels(x: Array) -> tuple[int, ...]:
    return tuple(range(1, x.ndim - 1))


def _share(weight: Array) -> Array:
    return weight / jnp.maximum(jnp.sum(weight), 1)


def standardize(x: Array, mean: Array, variance: Array, scale: Array, bias: Array) -> Array:
    """X float (b, ..., channels) less mean, by the root of variance, then scaled and shifted, a number a channel."""
    factor = scale * jax.lax.rsqrt(variance + EPSILON)
    return (x - beside(x, mean)) * beside(x, factor) + beside(x, bias)


@jax.custom_vjp
def batch_norm(x: Array, weight: Array, scale: Array, bias: Array) -> tuple[Array, Array, Array, Array]:
    """X float (b, ..., channels) standardized by its own `moments`, and these; `weight` is not differentiated."""
    mean, variance, count = moments(x.astype(real()), weight)
    return standardize(x.astype(real()), mean, variance, scale, bias).astype(x.dtype), mean, variance, count


def _forward(x: Array, weight: Array, scale: Array, bias: Array):
    found = batch_norm(x, weight, scale, bias)
    return found, (x, weight, scale, *found[1:3])


def _backward(saved, cotangents):
    """With z the standardized x, s its standard deviation, w a value's weight among all, and y = scale z + bias:

    dL/dx = scale/s (dL/dy - w (sum dL/dy + z sum z dL/dy)), and what comes in by mean and variance.
    """
    x, weight, scale, mean, variance = saved
    slope, of_mean, of_variance, _ = cotangents
    slope, centered = slope.astype(real()), x.astype(real()) - beside(x, mean)
    inverse = jax.lax.rsqrt(variance + EPSILON)
    normal = centered * beside(x, inverse)
    of_bias, of_scale = (jnp.sum(jnp.sum(part, _pixels(x)), 0) for part in (slope, slope * normal))
    share = (_share(weight) * (x.shape[-1] / x[0].size)).reshape(-1, *[1] * (x.ndim - 1))
    through = share * (beside(x, of_bias) + normal * beside(x, of_scale))
    of_x = beside(x, scale * inverse) * (slope - through)
    of_x += share * (beside(x, of_mean) + 2 * beside(x, of_variance) * centered)
    return of_x.astype(x.dtype), jnp.zeros_like(weight), of_scale, of_bias


batch_norm.defvjp(_forward, _backward)
