"""REFINE: freeze the network, transform what it reads with a trained U-Net and rename the classes that it predicts.

Chen, Shao, Huang, Li, Chen, Qin, Ren, REFINE: Inversion-Free Backdoor Defense via Model Reprogramming, ICLR 2025,
arXiv:2502.18508, figure 4 and algorithm 1: with a fixed derangement pi of the classes, the probability that the network
f gives class i for U(x) counts for class pi(i), and U learns on clean rows without labels that this is the class f(x)
of the image itself. A supervised contrastive loss holds transformed images of one such class together. Steps and
constants are those of the authors' released code.
"""

import jax
import jax.numpy as jnp
import optax

from bdjax import train
from bdjax.cards import Card, Method, Setting
from bdjax.keys import stream
from bdjax.models.auxiliary.bilinear_unet import bilinear_unet
from bdjax.models.parts.layers import NO_EDIT
from bdjax.train import optimizers
from bdjax.train.contrastive import contrast
from bdjax.train.descend import RuleFn
from bdjax.types import Array, Key, Net, Trained, Weights

OWN = "refine"

CARD = Card(
    name=OWN,
    title="REFINE",
    citation="Chen, Shao, Huang, Li, Chen, Qin, Ren, REFINE: Inversion-Free Backdoor Defense via Model Reprogramming, "
    "ICLR 2025, arXiv:2502.18508",
    year=2025,
    version=1,
    kind="input transformation",
    stage="post-training",
    needs=("clean", "victim"),
    changes="a U-Net transforms every image and the classes are renamed; the network's own weights stay as they are",
    settings={
        "width": Setting(64, "of the U-Net's first block", "channels", low=1),
        "halvings": Setting(4, "of the image inside the U-Net; fewer where a side would fall below one pixel", low=0),
        "epochs": Setting(150, "passes over the clean rows", "epochs", low=1),
        "batch": Setting(256, "rows a step; the whole clean set where that is smaller", "rows", low=1),
        "drop_last": Setting(True, "whether a pass leaves out the rows that do not fill a batch"),
        "optimizer": Setting("sgd", "what the U-Net learns with", choices=("sgd", "adam")),
        "learning_rate": Setting(0.01, "at the start", low=0.0),
        "first_drop": Setting(100, "the first epoch, from 0, at the rate times drop", "epochs", low=0),
        "second_drop": Setting(130, "the first epoch, from 0, at the rate times drop twice", "epochs", low=0),
        "drop": Setting(0.8, "factor on the rate", low=0.0, high=1.0),
        "momentum": Setting(0.9, "of SGD; decay of the first moment of Adam", low=0.0, high=1.0),
        "weight_decay": Setting(5e-4, "coupled L2 on the U-Net", low=0.0),
        "contrast_weight": Setting(0.1, "of the supervised contrastive loss on transformed images", low=0.0),
        "temperature": Setting(0.07, "of the contrastive loss", low=1e-6),
    },
    presets={
        "paper": {},
        "benchmark": {"batch": 128, "drop_last": False, "optimizer": "adam", "drop": 0.1, "weight_decay": 0.0},
    },
    departures=(
        "The released networks read standardized images, and a U-Net output in [0, 1] is handed to them as such. Here "
        "the U-Net reads and gives pixels in [0, 1] and the network standardizes them, so that it may give any image.",
        "Images are augmented as the dataset is, not by the authors' crops, flips and random gray images.",
        "The release trains the U-Net on the whole clean training set; here it learns on the defender's clean rows.",
        "Cross-entropy comes from logits, not from probabilities: a row whose class has a probability below 1e-12 "
        "keeps its gradient, which PyTorch's loss on probabilities takes from it.",
        "Where an image is too small for all halvings, the U-Net has fewer; the authors' takes 16x16 pixels or more.",
    ),
)


def derangement(key: Key, classes: int) -> Array:
    """A random order of the classes in which none is at its own place, all such orders alike likely: int32 (classes,).

    classes: at least 2.
    """
    own = jnp.arange(classes, dtype=jnp.int32)

    def draw(carry):
        key, now = jax.random.split(carry[0])
        return key, jax.random.permutation(now, own)

    return jax.lax.while_loop(lambda carry: jnp.any(carry[1] == own), draw, (key, own))[1]


def binary_cross_entropy(logits: Array, label: Array, weight: Array) -> Array:
    """Binary cross-entropy of softmax probabilities with one-hot labels (b,), the mean over classes and rows."""
    logs = jax.nn.log_softmax(logits)
    top, own = (jax.nn.one_hot(each, logits.shape[1], dtype=bool) for each in (jnp.argmax(logits, axis=1), label))
    # Only the likeliest class can round to probability 1; log(1 - p) of it is made of the others.
    rest = jax.nn.logsumexp(logits, axis=1, where=~top) - jax.nn.logsumexp(logits, axis=1)
    missed = jnp.where(top, rest[:, None], jnp.log1p(-jnp.where(top, 0, jnp.exp(logs))))
    return train.mean(-jnp.mean(jnp.where(own, logs, missed), axis=1), weight)


def together(image: Array, label: Array, weight: Array, temperature: Array) -> Array:
    """The supervised contrastive loss of images (b, height, width, channels) as points, each beside a copy of itself.

    The copy is like its row, so that a row that is alone in its class has an image to be like.
    """
    point = image.reshape(len(image), -1)
    point /= jnp.sqrt(jnp.maximum(jnp.sum(point**2, axis=1, keepdims=True), 1e-24))
    alike = label[:, None] == jnp.tile(label, 2)
    return contrast(jnp.tile(point, (2, 1)), alike, jnp.tile(weight, 2), temperature)


def transformed(unet: Net, own: Weights, image: Array, learn: bool, weight: Array | None):
    """The image that the network reads, float (b, height, width, channels) in [0, 1], and the U-Net's statistics."""
    seen, statistics, _ = unet.apply(own, image, train=learn, weight=weight)
    return jnp.clip(seen, 0, 1), statistics


def joined(weights: Weights, own: Weights, order: Array) -> Weights:
    """A network's weights with those of the U-Net and the class that each class is scored by, int32 (classes,)."""
    extra = {"unet": own.batch_stats, "order": order}
    return Weights({**weights.params, OWN: own.params}, {**weights.batch_stats, OWN: extra})


def reprogrammed(net: Net, unet: Net, classes: int) -> Net:
    """The network behind the U-Net, with class j scored by the logit of class order[j]; taps are the network's own."""

    def init(key: Key) -> Weights:
        order = derangement(stream(key, "order"), classes)
        return joined(net.init(key), unet.init(stream(key, "unet")), order)

    def apply(weights, image, train=False, weight=None, edit=NO_EDIT):
        params, statistics = {**weights.params}, {**weights.batch_stats}
        own, extra = params.pop(OWN), statistics.pop(OWN)
        seen, changed = transformed(unet, Weights(own, extra["unet"]), image, train, weight)
        logits, batch_stats, taps = net.apply(Weights(params, statistics), seen, train=train, weight=weight, edit=edit)
        return logits[:, extra["order"]], {**batch_stats, OWN: {**extra, "unet": changed}}, taps

    return Net(init, apply, net.layers)


def falling(optimizer: str, first_drop: int, second_drop: int) -> RuleFn:
    """SGD or Adam with coupled weight decay, the rate times `drop` from either of two epochs on."""

    def rule(given, clock):
        settings, drops = given.settings, (clock.epoch >= jnp.array([first_drop, second_drop])).sum()
        rate, momentum = settings["learning_rate"] * settings["drop"] ** drops, settings["momentum"]
        if optimizer == "sgd":
            return optimizers.sgd(rate, momentum, settings["weight_decay"])
        return optax.chain(optax.add_decayed_weights(settings["weight_decay"]), optax.adam(rate, b1=momentum))

    return rule


def make(net, shape, classes, *, width, halvings, optimizer, first_drop, second_drop, **passes):
    """Training of the U-Net in front of the frozen network, from a random start and under a random derangement."""
    unet = bilinear_unet(shape, width, halvings)

    def begin(key, _given, _weights):
        own = unet.init(stream(key, "unet"))
        return own.params, {"unet": own.batch_stats, "order": derangement(stream(key, "order"), classes)}

    def loss(_key, params, still, rows, given):
        settings = given.settings
        guess = jnp.argmax(net.apply(given.victim, rows.image)[0], axis=1)
        seen, statistics = transformed(unet, Weights(params, still["unet"]), rows.image, True, rows.weight)
        logits = net.apply(given.victim, seen)[0][:, still["order"]]
        apart = together(seen, guess, rows.weight, settings["temperature"])
        value = binary_cross_entropy(logits, guess, rows.weight) + settings["contrast_weight"] * apart
        info = {"loss": value, "contrast": apart, "agreement": train.accuracy(logits, guess, rows.weight)}
        return value, ({**still, "unet": statistics}, info)

    def leave(_key, state, given):
        return Trained(joined(given.victim, Weights(state.moving, state.still["unet"]), state.still["order"]))

    def wrap(net):
        return reprogrammed(net, unet, classes)

    rule = falling(optimizer, first_drop, second_drop)
    parts = {"begin": begin, "loss": loss, "rule": rule, "leave": leave, "wrap": wrap}
    return (train.descend(lambda given: given.clean, **parts, **passes),)


REFINE = Method(CARD, make)
