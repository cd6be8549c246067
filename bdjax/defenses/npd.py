"""NPD: freeze the network and insert one small trained layer, the neural polarizer, that filters out the trigger.

Zhu, Wei, Zha, Wu, Neural Polarizer: A Lightweight and Effective Backdoor Defense via Purifying Poisoned Features,
NeurIPS 2023, arXiv:2306.16697, section 3: the layer is a 1x1 convolution without bias, at first the identity, and batch
normalisation. It learns from the defender's clean rows and from targeted perturbations of them that stand in for
triggered images. Steps and constants are those of the authors' released code.
"""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import optax

from bdjax import train
from bdjax.cards import Card, Method, Setting
from bdjax.errors import InvalidInput
from bdjax.models.auxiliary.polarizer import OWN, channels_at, forward, inserted, polarized
from bdjax.train.descend import RuleFn
from bdjax.types import Array, Batch, Net, Stage, Trained, Weights, identity

CARD = Card(
    name="npd",
    title="NPD",
    citation="Zhu, Wei, Zha, Wu, Neural Polarizer: A Lightweight and Effective Backdoor Defense via Purifying Poisoned "
    "Features, NeurIPS 2023, arXiv:2306.16697",
    year=2023,
    version=1,
    kind="inserted layer",
    stage="post-training",
    needs=("clean", "victim"),
    changes="a layer is inserted; the network's own weights stay as they are",
    settings={
        "tap": Setting("", "the layer after which it is inserted; empty: what feeds the last block"),
        "warmup_epochs": Setting(5, "passes on clean cross-entropy alone, statistics learning", "epochs", low=0),
        "warmup_rate": Setting(1e-4, "learning rate of the warm-up, without momentum and weight decay", low=0.0),
        "epochs": Setting(50, "passes over the clean rows after the warm-up", "epochs", low=1),
        "batch": Setting(128, "rows a step; the whole clean set where that is smaller", "rows", low=1),
        "learning_rate": Setting(0.01, "constant", low=0.0),
        "momentum": Setting(0.9, "of SGD", low=0.0, high=1.0),
        "weight_decay": Setting(5e-4, "coupled L2 on the inserted layer", low=0.0),
        "learn_statistics": Setting(False, "after the warm-up, too, use batch statistics and keep those of clean rows"),
        "inner_steps": Setting(2, "steps of the perturbation at most", "steps", low=1),
        "inner_sign": Setting(True, "step along the gradient's sign, not along the gradient"),
        "inner_rate": Setting(0.1, "step of the perturbation", "pixels in [0, 1]", low=0.0),
        "radius": Setting(3.0, "longest perturbation of an image, Euclidean; for 32x32x3 values in the paper", low=0.0),
        "scale_radius": Setting(False, "radius times the root of values by 3072: half at 16x16x3, twice at 64x64x3"),
        "enough": Setting(
            0.6, "no further step once more than this share of a batch has its target", low=0.0, high=1.0
        ),
        "clean_weight": Setting(1.0, "of cross-entropy on clean rows", low=0.0),
        "restore_weight": Setting(0.4, "of cross-entropy on perturbed rows with the clean prediction", low=0.0),
        "margin_weight": Setting(0.4, "of the likeliest wrong class on perturbed rows", low=0.0),
        "target_weight": Setting(0.4, "of the perturbation's target on perturbed rows", low=0.0),
    },
    presets={"paper": {}, "benchmark": {}},
    departures=(
        "Any network and any layer: the authors insert before layer4.1.conv1 of PreActResNet18 alone. Where what goes "
        "into the layer also feeds a shortcut, as in ResNet18, the shortcut is filtered too.",
        "The authors set radius 5 and weights 0.5 for GTSRB, and for Tiny ImageNet radius 6, weights 1, 0.1, 0.1, no "
        "warm-up, learn_statistics and steps along the gradient itself.",
        "The radius is taken as given: 3 is 0.054 a pixel at 32x32x3, as is the authors' 6 at 64x64x3, but 0.108 at "
        "16x16x3, where a small network loses its accuracy. scale_radius keeps 0.054 at every size.",
        "The target of a perturbation is never the true label; the released code sets that logit to -10, which differs "
        "only where all others are lower.",
        "The rate is constant, as in the released code, which builds a schedule for the frozen network and not for the "
        "layer.",
    ),
)


def default_tap(net: Net) -> str:
    """The layer that feeds the first convolution of the last block; a convolution outside any block is one by itself.

    `layer4_1.relu1` in preact_resnet18, which is the input of layer4.1.conv1; `layer4_0.relu2` in resnet18; `relu2` in
    small_cnn.

    Raises:
        InvalidInput: the network has no convolution, or nothing comes before it.
    """
    places = {}
    for index, layer in enumerate(net.layers):
        if layer.kind == "conv":
            places.setdefault(layer.path[:-1] or layer.path, index)
    last = list(places.values())[-1] if places else 0
    if not last:
        taps = ", ".join(layer.tap for layer in net.layers)
        raise InvalidInput(f"npd: the network has no convolution to insert the layer before; give tap, one of {taps}")
    return net.layers[last - 1].tap


def perturbed(logits, image: Array, target: Array, weight: Array, settings, steps: int, sign: bool):
    """Images moved towards their targets, float (b, height, width, channels) in [0, 1].

    Args:
        logits: images -> logits.
        image: float (b, height, width, channels) in [0, 1].
        target: int32 (b,).
        weight: float (b,), 0 for padding.
        settings: `inner_rate`, `radius` and `enough`.
        steps: at most so many for the batch as a whole.
        sign: whether a step goes along the sign of the gradient.
    """

    def moved(delta: Array) -> Array:
        return jnp.clip(image + delta, 0, 1)

    def cost(delta: Array):
        found = logits(moved(delta))
        rows = optax.softmax_cross_entropy_with_integer_labels(found, target)
        return train.mean(jnp.clip(rows, -80, 80), weight), train.accuracy(found, target, weight)

    def body(step: Array, carry):
        delta, done = carry
        (_, hit), slope = jax.value_and_grad(cost, has_aux=True)(delta)
        done = done | ((step > 0) & (hit > settings["enough"]))
        stepped = delta - settings["inner_rate"] * (jnp.sign(slope) if sign else slope)
        length = jnp.sqrt(jnp.sum(stepped**2, axis=(1, 2, 3), keepdims=True))
        projected = stepped * jnp.minimum(1, settings["radius"] / jnp.maximum(length, 1e-12))
        return jnp.where(done, delta, projected), done

    start = (jnp.zeros_like(image), jnp.zeros((), bool))
    return moved(jax.lax.fori_loop(0, steps, body, start)[0])


def confusable(logits: Array, label: Array) -> Array:
    """The likeliest class but the label's own, int32 (b,)."""
    own = jax.nn.one_hot(label, logits.shape[1], dtype=bool)
    return jnp.argmax(jnp.where(own, -jnp.inf, logits), axis=1)


def unlikely(logits: Array, avoided: Array, weight: Array) -> Array:
    """The mean of -log(1.0001 - p + 1e-12), p the probability of the class `avoided` (b,)."""
    chance = jnp.take_along_axis(jax.nn.softmax(logits), avoided[:, None], axis=1)[:, 0]
    return train.mean(-jnp.log(1.0001 - chance + 1e-12), weight)


def warming(net: Net, tap: str):
    """The loss of the warm-up: cross-entropy on clean rows, the layer's statistics learning."""

    def loss(weights: Weights, rows: Batch, settings):
        del settings
        logits, batch_stats, _ = forward(net, tap, True, weights, rows.image, weight=rows.weight)
        value = train.cross_entropy(logits, rows.label, rows.weight)
        return value, (batch_stats, {"loss": value, "accuracy": train.accuracy(logits, rows.label, rows.weight)})

    return loss


def polarizing(net: Net, tap: str, learn: bool, inner_steps: int, inner_sign: bool, scale: float):
    """The loss of the main stage: clean rows keep their labels, perturbed rows get back their clean prediction."""

    def loss(weights: Weights, rows: Batch, settings):
        settings = {**settings, "radius": scale * settings["radius"]}

        def run(weights: Weights, image: Array, learn: bool = False):
            return forward(net, tap, learn, weights, image, weight=rows.weight)

        frozen = jax.lax.stop_gradient(weights)
        before = run(frozen, rows.image)[0]
        prediction, target = jnp.argmax(before, axis=1), confusable(before, rows.label)
        inner = partial(perturbed, lambda image: run(frozen, image)[0], steps=inner_steps, sign=inner_sign)
        image = jax.lax.stop_gradient(inner(rows.image, target, rows.weight, settings))
        logits, batch_stats, _ = run(weights, rows.image, learn)
        after = run(weights, image, learn)[0]
        value = (
            settings["clean_weight"] * train.cross_entropy(logits, rows.label, rows.weight)
            + settings["restore_weight"] * train.cross_entropy(after, prediction, rows.weight)
            + settings["margin_weight"] * unlikely(after, confusable(after, rows.label), rows.weight)
            + settings["target_weight"] * unlikely(after, target, rows.weight)
        )
        info = {
            "loss": value,
            "accuracy": train.accuracy(logits, rows.label, rows.weight),
            "reached": train.accuracy(after, target, rows.weight),
        }
        return value, (batch_stats, info)

    return loss


def make(net, shape, classes, *, tap, warmup_epochs, epochs, batch, scale_radius, learn_statistics, **inner):
    """Warm-up of the inserted layer, then its training against targeted perturbations."""
    del classes
    tap = tap or default_tap(net)
    channels = channels_at(net, tap, shape)
    scale = math.sqrt(math.prod(shape) / (32 * 32 * 3)) if scale_radius else 1.0

    def begin(_key, given, weights):
        first = polarized(given.victim, channels) if weights is None else weights
        return first.params[OWN], first.batch_stats

    def whole(own, batch_stats, given):
        return Weights(given.victim.params | {OWN: own}, batch_stats)

    def leave(_key, state, given):
        return Trained(whole(state.moving, state.still, given))

    def stage(epochs: int, of: Callable, rule: RuleFn, wrap) -> Stage:
        def loss(_key, own, batch_stats, rows, given):
            return of(whole(own, batch_stats, given), rows, given.settings)

        parts = {"begin": begin, "loss": loss, "rule": rule, "leave": leave, "augment": False}
        return train.descend(lambda given: given.clean, epochs=epochs, batch=batch, wrap=wrap, **parts)

    def insert(net):
        return inserted(net, tap, channels)

    polarize = polarizing(net, tap, learn_statistics, scale=scale, **inner)
    if not warmup_epochs:
        return (stage(epochs, polarize, train.sgd(), insert),)
    plain = train.sgd("warmup_rate", momentum=None, decay=None)
    return stage(warmup_epochs, warming(net, tap), plain, insert), stage(epochs, polarize, train.sgd(), identity)


NPD = Method(CARD, make)
