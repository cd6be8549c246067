"""Trigger inversion by decoupling benign features: the losses that BTI-DBF and PAM share.

Xu, Huang, Li, Qin, Ren, Towards Reliable and Efficient Backdoor Trigger Inversion via Decoupling Benign Features, ICLR
2024, https://openreview.net/forum?id=Tw9wemV6cb. A mask on the last feature map is learned under which the model keeps
its predictions and outside of which it loses them; then a generator learns images that differ from clean ones as little
as possible in what the mask keeps and as much as possible in the rest. Losses, bounds and constants are those of the
authors' released code.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from bdjax import train
from bdjax.cards import Setting
from bdjax.data import sources
from bdjax.errors import InvalidInput
from bdjax.keys import stream
from bdjax.models.auxiliary.unet import Generator, unet
from bdjax.types import Array, Batch, Given, Key, Net, PyTree, Source, Weights, real

SETTINGS = {
    "tap": Setting("", "the layer whose output is masked; empty: what feeds the pooling"),
    "width": Setting(32, "channels of the generator's first block, a U-Net's", low=1),
    "blocks": Setting(4, "times that the generator halves its images, fewer where they are too small", low=0),
    "batch": Setting(128, "rows a step in every stage; the whole clean set where that is smaller", "rows", low=1),
    "pretraining_epochs": Setting(50, "in which the generator learns to give its images back", "epochs", low=1),
    "agreement": Setting(
        "prediction",
        "the generator's images learn the model's prediction on clean ones, or the reverse, as it was released",
        choices=("prediction", "swapped"),
    ),
    "mask_epochs": Setting(20, "of the mask, a round", "epochs", low=1),
    "mask_rate": Setting(0.01, "learning rate of the mask, by Adam", low=0.0),
    "batch_statistics": Setting(
        True, "the copy that is inverted learns its statistics anew along with the mask; else it keeps the model's"
    ),
    "generator_epochs": Setting(30, "of the generator, a round", "epochs", low=1),
    "generator_rate": Setting(1e-3, "learning rate of the generator, by Adam", low=0.0),
    "image_bound": Setting(0.3, "largest mean square change of a standardised pixel before it is reduced", low=0.0),
    "feature_bound": Setting(3.0, "largest mean square change of what the mask keeps, likewise", low=0.0),
    "benign_weight": Setting(0.01, "of the change of what the mask keeps, against that of the rest", low=0.0),
}
"""For cards. Standardised: less the mean and by the deviation of the clean rows, a channel."""

DEPARTURES = (
    "Images are standardised by the mean and deviation of the defender's rows, where the released code has constants "
    "of CIFAR-10; the generator's images are not cut to [0, 1], as there.",
    "Where the images are too small to be halved four times, the generator has fewer blocks.",
    "The released code calls the pretraining's cross-entropy with probabilities for logits and its two arguments "
    "exchanged: `released`; `paper` takes the cross-entropy against the model's prediction.",
    "Stopping once the detected target changes, which the released code has but does not use, is left out.",
)

BOUND, FAR, NEAR = 0.1, 100.0, 0.01  # pretraining: the weight of the change of the image, above a bound and below it
NOISE = 0.03  # deviation of the noise on standardised images when the target is detected


class Inverter(NamedTuple):
    """What inverts a network's triggers: the network, the masked layer, its size and the generator."""

    net: Net
    tap: str
    size: tuple[int, ...]  # of the activation there: (height, width, channels)
    generator: Generator

    def features(self, weights: Weights, image: Array, train: bool = False, weight: Array | None = None):
        """The masked layer's activation (b, ...) before masking, logits (b, classes), and moving statistics."""
        logits, batch_stats, taps = self.net.apply(weights, image, train=train, weight=weight)
        return taps[self.tap], logits, batch_stats

    def head(self, weights: Weights, image: Array, features: Array) -> Array:
        """Logits (b, classes) from the masked layer's activation; of the images only the shape matters."""
        return self.net.apply(weights, image, edit={self.tap: lambda _: features})[0]

    def generated(self, params: PyTree, pixels: dict[str, Array], image: Array) -> Array:
        """The generator's images, in pixels like image (b, height, width, channels); pixels is what `moments` gives."""
        standard = self.generator.apply(params, (image - pixels["mean"]) / pixels["deviation"])
        return standard * pixels["deviation"] + pixels["mean"]


def inverter(net: Net, shape: tuple[int, int, int], tap: str, width: int, blocks: int) -> Inverter:
    """What inverts the triggers of `net` for images of `shape`; tap "" is the layer that feeds the pooling.

    Raises:
        InvalidInput: the network has no such layer, or its images are too small for a generator.
    """
    kinds = [layer.kind for layer in net.layers]
    if not tap and "pool" in kinds[1:]:
        tap = net.layers[kinds.index("pool") - 1].tap
    image = jax.ShapeDtypeStruct((1, *shape), real())
    taps = jax.eval_shape(lambda image: net.apply(net.init(jax.random.key(0)), image)[2], image)
    if tap not in taps:
        raise InvalidInput(f"no layer {tap!r} whose features could be masked; give tap, one of {', '.join(taps)}")
    return Inverter(net, tap, taps[tap].shape[1:], unet(shape, width, blocks))


def moments(source: Source) -> dict[str, Array]:
    """Mean and deviation of the pixels of a source, float (channels,) each; a deviation is at least a 255th."""

    def sums(rows: Batch) -> tuple[Array, Array]:
        weight = rows.weight[:, None]
        return jnp.sum(weight * rows.image.mean((1, 2)), 0), jnp.sum(weight * (rows.image**2).mean((1, 2)), 0)

    mean, square = (value / source.size for value in sources.total(source, sums))
    return {"mean": mean, "deviation": jnp.sqrt(jnp.maximum(square - mean**2, 255.0**-2))}


def change(one: Array, other: Array, weight: Array) -> Array:
    """The mean square difference of two arrays (b, ...) over rows of weight 1 and all else."""
    return train.mean(jnp.mean(jnp.square(one - other), tuple(range(1, one.ndim))), weight)


def bounded(mask: Array) -> Array:
    """The mask in (0, 1) from what is learned of it."""
    return jnp.tanh(mask) / (2 + 1e-7) + 0.5


def restoring(found: Inverter, agreement: str):
    """The loss of the pretraining: prediction, features and image stay as they were."""

    def loss(_key, params: PyTree, still, rows: Batch, _given):
        weights, pixels = still["weights"], still["pixels"]
        image = found.generated(params, pixels, rows.image)
        before, wanted, _ = found.features(weights, rows.image)
        after, logits, _ = found.features(weights, image)
        wanted = jax.nn.softmax(wanted)
        if agreement == "swapped":
            surprise = -jax.nn.softmax(logits) * jax.nn.log_softmax(wanted)
        else:
            surprise = -wanted * jax.nn.log_softmax(logits)
        moved = change(rows.image / pixels["deviation"], image / pixels["deviation"], rows.weight)
        value = train.mean(jnp.sum(surprise, 1), rows.weight) + change(before, after, rows.weight)
        value += jnp.where(moved > BOUND, FAR, NEAR) * moved
        return value, (still, {"loss": value, "change": moved})

    return loss


def decoupling(found: Inverter, batch_statistics: bool):
    """The loss of the mask: right by what it keeps, wrong by the rest."""

    def loss(_key, mask: Array, still, rows: Batch, _given):
        copy = still["weights"].replace(batch_stats=still["statistics"])
        features, _, batch_stats = found.features(copy, rows.image, batch_statistics, rows.weight)

        def surprise(mask: Array) -> Array:
            return train.cross_entropy(found.head(copy, rows.image, mask * features), rows.label, rows.weight)

        inside, outside = surprise(bounded(mask)), surprise(1 - bounded(mask))
        info = {"loss": inside - outside, "inside": inside, "outside": outside}
        return inside - outside, (still | {"statistics": batch_stats}, info)

    return loss


def reversing(found: Inverter):
    """The loss of the generator: the features change outside the mask, and after round 0 the target is predicted.

    While the images or what the mask keeps have moved too far, the first part is the images' change alone.
    """

    def loss(_key, params: PyTree, still, rows: Batch, given: Given):
        carry, settings = given.carry, given.settings
        copy = still["weights"].replace(batch_stats=carry["statistics"])
        mask, deviation = carry["mask"], carry["pixels"]["deviation"]
        image = found.generated(params, carry["pixels"], rows.image)
        before, _, _ = found.features(copy, rows.image)
        after, logits, _ = found.features(copy, image)
        benign = change(mask * before, mask * after, rows.weight)
        backdoor = change((1 - mask) * before, (1 - mask) * after, rows.weight)
        moved = change(rows.image / deviation, image / deviation, rows.weight)
        far = (moved > settings["image_bound"]) | (benign > settings["feature_bound"])
        value = jnp.where(far, moved, settings["benign_weight"] * benign - backdoor)
        aimed = train.cross_entropy(logits, jnp.full_like(rows.label, carry["target"]), rows.weight)
        value += jnp.where(carry["round"] > 0, aimed, 0)
        return value, (still, {"loss": value, "change": moved, "benign": benign, "backdoor": backdoor})

    return loss


def detected(key: Key, found: Inverter, weights: Weights, params: PyTree, pixels, given: Given) -> Array:
    """The class that the model gives most of the generator's images of the clean rows, int32 ()."""

    def votes(rows: Batch) -> Array:
        own = jax.random.fold_in(key, rows.row[0])
        image = given.augment(stream(own, "augment"), rows.image)
        noise = NOISE * jax.random.normal(stream(own, "noise"), image.shape, image.dtype)
        image = found.generated(params, pixels, image + noise * pixels["deviation"])
        logits = found.net.apply(weights, image)[0]
        return rows.weight @ jax.nn.one_hot(jnp.argmax(logits, 1), logits.shape[1], dtype=rows.weight.dtype)

    return jnp.argmax(sources.total(given.clean, votes)).astype(jnp.int32)
