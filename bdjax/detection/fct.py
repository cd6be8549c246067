"""FCT: under a transformation the features of poisoned rows change more, in a network that has just begun.

Chen, Wu, Wang, Effective Backdoor Defense by Exploiting Sensitivity of Poisoned Samples, NeurIPS 2022: the metric of
feature consistency towards transformations, equation 1, in a network that learns the training set for a moment and
whose class centers are then pushed apart.
"""

import jax
import jax.numpy as jnp

from bdjax import train
from bdjax.cards import Card, Method, Setting
from bdjax.data import warp
from bdjax.models.parts import heads
from bdjax.types import Array, Detector, Key, Weights

CARD = Card(
    name="fct",
    title="FCT",
    citation="Chen, Wu, Wang, Effective Backdoor Defense by Exploiting Sensitivity of Poisoned Samples, NeurIPS 2022, "
    "https://openreview.net/forum?id=AsH-Tx2U0Ug",
    year=2022,
    version=1,
    kind="consistency of features under transformations",
    stage="pre-training",
    needs=("suspects",),
    settings={
        "epochs": Setting(2, "epochs of cross-entropy, from a new initialization and without augmentation", low=1),
        "tuning_epochs": Setting(10, "epochs that push the centers of classes apart", "epochs", low=0),
        "batch": Setting(128, "rows a step; the whole set where that is smaller", "rows", low=1),
        "learning_rate": Setting(0.01, "SGD learning rate at the start", low=0.0),
        "momentum": Setting(0.9, "SGD momentum", low=0.0, high=1.0),
        "weight_decay": Setting(5e-4, "coupled L2 on every parameter", low=0.0),
        "period": Setting(100, "half period of the cosine schedule", "epochs", low=1),
        "turn": Setting(180.0, "largest angle of the rotation, either way", "degrees", low=0.0, high=180.0),
        "shift": Setting(0.2, "largest translation, either way, in parts of the image", low=0.0, high=1.0),
        "share": Setting(0.05, "rows that are flagged", "share of all rows", low=0.0, high=1.0),
    },
    presets={"paper": {}, "benchmark": {}},
    departures=(
        "Both views of a row are drawn once; the public versions draw the second again to compare it with a threshold "
        "made of other draws.",
        "Of the views that the public versions offer this is their default, a rotation followed by a translation.",
        "The share of rows that are taken for clean, which the defense built on it uses, is not asked for.",
    ),
)


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


def make(net, shape, classes, *, epochs, tuning_epochs, batch, period):
    """A short training, and how far a view's features are from the image's own."""
    del shape
    tap = heads.reads(net, "fct")

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

    stage = train.descend(
        lambda given: given.suspects,
        epochs=epochs + tuning_epochs,
        batch=batch,
        begin=begin,
        loss=loss,
        rule=train.recipe(net, "epoch", period),
        leave=train.leave_weights,
        renew=renew,
        augment=False,
    )

    def score(key, net, trained, _found, rows, given):
        def view(image: Array, row: Array) -> Array:
            return draw_view(jax.random.fold_in(key, row), image, given.settings["turn"], given.settings["shift"])

        own, other = (
            net.apply(trained.weights, image)[2][tap] for image in (rows.image, jax.vmap(view)(rows.image, rows.row))
        )
        return inconsistency(own.reshape(len(own), -1), other.reshape(len(own), -1))

    def threshold(_found, score, _clean, given):
        flagged = jnp.floor(score.size * given.settings["share"]).astype(jnp.int32)
        bound = jnp.append(jnp.sort(score), jnp.inf)[score.size - flagged]
        return score >= bound

    return Detector(("rows",), score, None, threshold, (stage,))


FCT = Method(CARD, make)
