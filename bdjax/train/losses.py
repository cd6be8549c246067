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


def accuracy(logits: Array, label: Array, weight: Array) -> Array:
    """The share of rows whose largest logit is their label's."""
    return mean((jnp.argmax(logits, axis=1) == label).astype(weight.dtype), weight)


def loss_gradient(net: Net, weights: Weights, image: Array, batch: Batch, smoothing: Array | float = 0.0):
    """Gradient of the cross-entropy in training mode: (gradients, batch_stats, info)."""

    def loss(params):
        at = weights.replace(params=params)
        logits, batch_stats, _ = net.apply(at, image, train=True, weight=batch.weight)
        return cross_entropy(logits, batch.label, batch.weight, smoothing), (batch_stats, logits)

    (value, (batch_stats, logits)), gradient = jax.value_and_grad(loss, has_aux=True)(weights.params)
    return gradient, batch_stats, {"loss": value, "accuracy": accuracy(logits, batch.label, batch.weight)}
