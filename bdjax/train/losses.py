"""Losses over a batch whose padding counts for nothing, and the gradient that most methods start from."""

import jax
import jax.numpy as jnp

from bdjax.types import Array, Batch, Net, Weights


def mean(value: Array, weight: Array) -> Array:
    """The mean of value (b,) over rows by their weight (b,); 0 where all weights are 0."""
    total = jnp.sum(weight)
    return jnp.sum(value * weight) / jnp.where(total == 0, 1, total)


def cross_entropy(logits: Array, label: Array, weight: Array, smoothing: Array | float = 0.0) -> Array:
    """Mean cross-entropy over rows; under smoothing s the label gets 1 - s and each other class s / (K - 1)."""
    logs = jax.nn.log_softmax(logits)
    true = jnp.take_along_axis(logs, label[:, None], axis=1)[:, 0]
    others = jnp.sum(logs, axis=1) - true
    return mean(-(1 - smoothing) * true - smoothing / (logits.shape[1] - 1) * others, weight)


def symmetric_cross_entropy(logits: Array, label: Array, forward: Array | float, reverse: Array | float) -> Array:
    """The weighted sum of cross-entropy and of its reverse, in which a label's zeros are 1e-4, of each row: float (b,).

    Wang, Ma, Chen, Luo, Yi, Bailey, Symmetric Cross Entropy for Robust Learning with Noisy Labels, ICCV 2019,
    arXiv:1908.06112, equations 6 and 7.
    """
    logs, own = jax.nn.log_softmax(logits), jax.nn.one_hot(label, logits.shape[1], dtype=logits.dtype)
    others = jnp.sum(jnp.clip(jnp.exp(logs), 1e-7, 1) * (1 - own), axis=1)
    return -forward * jnp.sum(own * logs, axis=1) - reverse * jnp.log(1e-4) * others


def accuracy(logits: Array, label: Array, weight: Array) -> Array:
    """The share of rows whose largest logit is their label's."""
    return mean((jnp.argmax(logits, axis=1) == label).astype(weight.dtype), weight)


def loss_gradient(
    net: Net, weights: Weights, image: Array, batch: Batch, smoothing: Array | float = 0.0, learn: bool = True
):
    """Gradient of the cross-entropy, in training mode unless `learn` is false: (gradients, batch_stats, info)."""

    def loss(params):
        at = weights.replace(params=params)
        logits, batch_stats, _ = net.apply(at, image, train=learn, weight=batch.weight)
        return cross_entropy(logits, batch.label, batch.weight, smoothing), (batch_stats, logits)

    (value, (batch_stats, logits)), gradient = jax.value_and_grad(loss, has_aux=True)(weights.params)
    return gradient, batch_stats, {"loss": value, "accuracy": accuracy(logits, batch.label, batch.weight)}
