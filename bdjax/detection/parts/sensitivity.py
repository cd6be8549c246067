"""How sensitive features are: how much they change under a transformation, in a network that has just begun to learn.

Chen, Wu, Wang, Effective Backdoor Defense by Exploiting Sensitivity of Poisoned Samples, NeurIPS 2022: the metric of
feature consistency towards transformations, equation 1, in a network that learns the training set for a moment and
whose class centers are then pushed apart.
"""

import jax
import jax.numpy as jnp

from bdjax import train
from bdjax.data import warp
from bdjax.train.descend import RuleFn
from bdjax.types import Array, Key, Net, ScoreFn, SourceFn, Stage, Weights


def center_similarity(feature: Array, label: Array, weight: Array, classes: int) -> Array:
    """The mean cosine between the centers of the classes in a batch, their own counted as 0: float ()."""
    member = jax.nn.one_hot(label, classes, dtype=feature.dtype) * weight[:, None]
    total = member.T @ feature  # as long as the mean after normalization
    square = jnp.sum(total**2, 1, keepdims=True)
    center = total * jnp.where(square > 0, jax.lax.rsqrt(jnp.where(square > 0, square, 1)), 0)
    present = jnp.maximum(jnp.sum(jnp.any(member > 0, 0)), 1)
    return jnp.sum(center @ center.T * (1 - jnp.eye(classes))) / present**2


def transform(image: Array, angle: Array, shift: Array) -> Array:
    """An image (height, width, channels) turned by an angle in radians, then moved by (2,) whole pixels, else black."""
    height, width, _ = image.shape
    turned = warp.sample(image, jnp.round(warp.rotation(height, width, angle)))
    return warp.sample(turned, warp.identity(height, width, image.dtype) - shift)


def draw_view(key: Key, image: Array, turn: Array, shift: Array) -> Array:
    """An image under a random rotation, of `turn` degrees at most, and translation, of a share `shift` at most."""
    angle, moved = jax.random.split(key)
    angle = jnp.radians(turn * jax.random.uniform(angle, (), image.dtype, -1, 1))
    most = shift * jnp.array(image.shape[:2], image.dtype)
    return transform(image, angle, jnp.round(most * jax.random.uniform(moved, (2,), image.dtype, -1, 1)))


def inconsistency(feature: Array, other: Array) -> Array:
    """The mean squared difference of two views' features (b, d), float (b,): equation 1."""
    return jnp.mean((feature - other) ** 2, axis=1)


def learn(
    net: Net,
    tap: str,
    source: SourceFn,
    classes: int,
    rule: RuleFn,
    *,
    epochs: int,
    tuning_epochs: int,
    batch: int,
) -> Stage:
    """A short training of a new network, without augmentation, and then its class centers pushed apart.

    Args:
        net, tap, classes: the network, the tap that its head reads, and how many classes there are.
        source, rule, batch: as for `descend`; one rule for both parts.
        epochs, tuning_epochs: of each part.
    """

    def begin(key, given, weights):
        params, still = train.begin_weights(net, fresh=True)(key, given, weights)
        return params, still | {"epoch": jnp.int32(-1)}

    def renew(_key, _params, still, _given):
        return still | {"epoch": still["epoch"] + 1}

    def loss(_key, params, still, rows, _given):
        weights = Weights(params, still["batch_stats"])
        logits, batch_stats, found = net.apply(weights, rows.image, train=True, weight=rows.weight)
        learned = train.cross_entropy(logits, rows.label, rows.weight)
        apart = center_similarity(found[tap], rows.label, rows.weight, classes)
        value = jnp.where(still["epoch"] < epochs, learned, apart)
        return value, (still | {"batch_stats": batch_stats}, {"loss": value})

    return train.descend(
        source,
        epochs=epochs + tuning_epochs,
        batch=batch,
        begin=begin,
        loss=loss,
        rule=rule,
        leave=train.leave_weights,
        renew=renew,
        augment=False,
    )


def scored(tap: str) -> ScoreFn:
    """The score of a row: how far the features of a random view are from its own; reads settings `turn`, `shift`."""

    def score(key, net, trained, _found, rows, given):
        def view(image: Array, row: Array) -> Array:
            return draw_view(jax.random.fold_in(key, row), image, given.settings["turn"], given.settings["shift"])

        own, other = (
            net.apply(trained.weights, image)[2][tap] for image in (rows.image, jax.vmap(view)(rows.image, rows.row))
        )
        return inconsistency(own.reshape(len(own), -1), other.reshape(len(own), -1))

    return score
