"""SAU: unlearn the adversarial examples on which the trained and the backdoored network make the same mistake.

Wei, Zhang, Zha, Wu, Shared Adversarial Unlearning: Backdoor Mitigation by Unlearning Shared Adversarial Examples,
NeurIPS 2023, arXiv:2307.10562, algorithm 1: for each batch of clean rows an inner maximisation looks for perturbations
that both networks give the same wrong label, and an outer step lowers the probability of the label that the backdoored
network gives them. Masks, clamps and constants are those of the authors' released code.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from bdjax import train
from bdjax.cards import Card, Method, Setting
from bdjax.train import optimizers
from bdjax.types import Array, PyTree, Trained, Weights

CARD = Card(
    name="sau",
    title="SAU",
    citation="Wei, Zhang, Zha, Wu, Shared Adversarial Unlearning: Backdoor Mitigation by Unlearning Shared Adversarial "
    "Examples, NeurIPS 2023, arXiv:2307.10562",
    year=2023,
    version=1,
    kind="adversarial unlearning",
    stage="post-training",
    needs=("clean", "victim"),
    changes="all parameters; moving statistics stay those of the victim",
    settings={
        "epochs": Setting(100, "passes over the clean rows; 20 for Tiny ImageNet in the paper", "epochs", low=1),
        "batch": Setting(256, "rows a step; the whole clean set where that is smaller", "rows", low=1),
        "learning_rate": Setting(1e-4, "of Adam with amsgrad, constant", low=0.0),
        "augment": Setting(False, "apply the dataset's augmentation to the clean rows"),
        "learn_statistics": Setting(False, "take the outer step in training mode, which moves the statistics"),
        "inner_steps": Setting(5, "steps of the perturbation", "steps", low=1),
        "inner_rate": Setting(0.2, "step of the perturbation along the gradient's sign", "pixels in [0, 1]", low=0.0),
        "radius": Setting(0.2, "largest perturbation of a pixel, where it begins, too", "pixels in [0, 1]", low=0.0),
        "adversarial_weight": Setting(0.01, "inner: of both networks' own mistakes; lambda 3 in the paper", low=0.0),
        "divergence_weight": Setting(1.0, "inner: of the two networks' agreement; lambda 4 in the paper", low=0.0),
        "clean_weight": Setting(1.0, "outer: of cross-entropy on clean rows; lambda 1 in the paper", low=0.0),
        "shared_weight": Setting(1.0, "outer: of the shared adversarial risk; lambda 2 in the paper", low=0.0),
        "perturbed_weight": Setting(0.0, "outer: of cross-entropy on perturbed rows, which the paper lacks", low=0.0),
    },
    presets={"paper": {}, "benchmark": {}},
    departures=(
        "Perturbed images are not cut to [0, 1], and the rate is constant, as in the authors' released code, which "
        "computes bounds and builds a schedule and uses neither. The benchmark runs that code unchanged.",
        "Clean rows are as many of every class; the released code draws them uniformly.",
    ),
)


class Pair(NamedTuple):
    """What the trained and the backdoored network give for one batch, each (b, classes) or (b,)."""

    trained: Array
    backdoored: Array


def fooled(logits: Pair, usual: Pair) -> Pair:
    """Whether each network leaves the label that it gives the clean image, bool (b,)."""
    return Pair(*(jnp.argmax(found, axis=1) != label for found, label in zip(logits, usual, strict=True)))


def shared(logits: Pair, usual: Pair) -> Array:
    """Whether both networks are fooled into the same label, bool (b,)."""
    one, two = fooled(logits, usual)
    return one & two & (jnp.argmax(logits.trained, axis=1) == jnp.argmax(logits.backdoored, axis=1))


def divergence(logits: Pair) -> Array:
    """The Jensen-Shannon divergence of the two networks' probabilities, float (b,); probabilities at least 1e-8."""
    one, two = (jnp.maximum(jax.nn.softmax(found), 1e-8) for found in logits)
    middle = jnp.log((one + two) / 2)
    return jnp.sum(one * (jnp.log(one) - middle) + two * (jnp.log(two) - middle), axis=1) / 2


def inner_loss(logits: Pair, usual: Pair, label: Array, weight: Array, settings) -> Array:
    """What the perturbation descends: the divergence of rows not shared, less the loss of networks not yet fooled.

    Args:
        logits: on perturbed images.
        usual: the labels that the networks give the clean images, int32 (b,).
        label: int32 (b,), true.
        weight: float (b,), 0 for padding.
        settings: `adversarial_weight` and `divergence_weight`.
    """
    own = sum(
        train.mean(optax.softmax_cross_entropy_with_integer_labels(found, label) * ~moved, weight) / 2
        for found, moved in zip(logits, fooled(logits, usual), strict=True)
    )
    apart = train.mean(divergence(logits) * ~shared(logits, usual), weight)
    return settings["divergence_weight"] * apart - settings["adversarial_weight"] * own


def perturbation(networks, image: Array, label: Array, weight: Array, settings, steps: int) -> Array:
    """Perturbations within `radius` of each pixel towards shared adversarial examples, shaped like image.

    A row that is shared has no gradient left and stays, so that a fixed number of steps is the released code's early
    end. Where `inner_rate` is `radius`, pixels move by -radius, 0 or radius.

    Args:
        networks: images -> Pair of logits.
        image: float (b, height, width, channels) in [0, 1].
        label, weight, settings: as for `inner_loss`, with `inner_rate` and `radius`.
        steps: of the signed gradient, from +radius everywhere.
    """
    usual = Pair(*(jnp.argmax(found, axis=1) for found in networks(image)))

    def cost(delta: Array) -> Array:
        return inner_loss(networks(image + delta), usual, label, weight, settings)

    def body(delta: Array, _):
        moved = delta - settings["inner_rate"] * jnp.sign(jax.grad(cost)(delta))
        return jnp.clip(moved, -settings["radius"], settings["radius"]), None

    return jax.lax.scan(body, jnp.full_like(image, settings["radius"]), length=steps)[0]


def shared_risk(logits: Array, mistake: Array, active: Array, weight: Array) -> Array:
    """The mean over active rows, of all rows, of -log(1 - p), p the probability of the backdoored network's mistake.

    Half of it is computed from the other classes' probabilities, at most 0.999, and half from p, at least 0.001, below
    which a row has no gradient.

    Args:
        logits: of the trained network on perturbed images, float (b, classes).
        mistake: int32 (b,).
        active: bool (b,).
        weight: float (b,), 0 for padding.
    """
    chance = jax.nn.softmax(logits)
    wrong = jax.nn.one_hot(mistake, logits.shape[1], dtype=chance.dtype)
    rest = jnp.minimum(jnp.sum(chance * (1 - wrong), axis=1), 0.999)
    own = jnp.maximum(jnp.sum(chance * wrong, axis=1), 0.001)
    return train.mean(-(jnp.log(1e-6 + rest) + jnp.log(1 + 1e-6 - own)) / 2 * active, weight)


def outer_loss(net, weights: Weights, victim: Weights, image: Array, moved: Array, rows, settings, learn: bool):
    """The loss of the outer step on clean images and perturbed ones `moved`: (value, (batch_stats, info))."""
    both, weight = jnp.concatenate([image, moved]), jnp.concatenate([rows.weight, rows.weight])
    logits, batch_stats, _ = net.apply(weights, both, train=learn, weight=weight)
    clean, perturbed = jnp.split(logits, 2)
    before, mistake = jnp.split(jnp.argmax(net.apply(victim, both)[0], axis=1), 2)
    active = (mistake != rows.label) & (mistake != before)
    value = (
        settings["clean_weight"] * train.cross_entropy(clean, rows.label, rows.weight)
        + settings["perturbed_weight"] * train.cross_entropy(perturbed, rows.label, rows.weight)
        + settings["shared_weight"] * shared_risk(perturbed, mistake, active, rows.weight)
    )
    same = active & (jnp.argmax(perturbed, axis=1) == mistake)
    info = {
        "loss": value,
        "accuracy": train.accuracy(clean, rows.label, rows.weight),
        "fooled": train.mean(active.astype(rows.weight.dtype), rows.weight),
        "shared": train.mean(same.astype(rows.weight.dtype), rows.weight),
    }
    return value, (batch_stats, info)


def make(net, shape, classes, *, epochs, batch, augment, learn_statistics, inner_steps):
    """Unlearning of shared adversarial examples on the clean rows."""
    del shape, classes

    def begin(_key, given, weights):
        first = train.start(given, weights)
        return first.params, first.batch_stats

    def gradient(_key, params, batch_stats, rows, given):
        weights, image = Weights(params, batch_stats), rows.image

        def networks(image: Array) -> Pair:
            return Pair(net.apply(weights, image)[0], net.apply(given.victim, image)[0])

        delta = perturbation(networks, image, rows.label, rows.weight, given.settings, inner_steps)

        def loss(params: PyTree):
            at = weights.replace(params=params)
            return outer_loss(net, at, given.victim, image, image + delta, rows, given.settings, learn_statistics)

        slope, (batch_stats, info) = jax.grad(loss, has_aux=True)(params)
        return slope, batch_stats, info

    def leave(_key, state, _given):
        return Trained(Weights(state.moving, state.still))

    return (
        train.descend(
            lambda given: given.clean,
            epochs=epochs,
            batch=batch,
            begin=begin,
            gradient=gradient,
            rule=train.adam(make=optimizers.amsgrad),
            leave=leave,
            augment=augment,
        ),
    )


SAU = Method(CARD, make)
