"""Cognitive Distillation: the smallest part of an image that gives the same logits is small where there is a trigger.

Huang, Ma, Erfani, Bailey, Distilling Cognitive Backdoor Patterns within an Image, ICLR 2023, arXiv:2301.10908,
equations 1 and 2: a mask m a pixel descends |f(x m + (1 - m) c) - f(x)| + gamma |m|_1 + beta TV(m), c a new random
color in every step; the score is the norm of the mask, which a trigger makes small.
"""

import jax
import jax.numpy as jnp
import optax

from bdjax.cards import Card, Method, Setting
from bdjax.keys import stream
from bdjax.types import Array, Detector, Key, Net, Weights

CARD = Card(
    name="cd",
    title="Cognitive Distillation",
    citation="Huang, Ma, Erfani, Bailey, Distilling Cognitive Backdoor Patterns within an Image, ICLR 2023, "
    "arXiv:2301.10908",
    year=2023,
    version=1,
    kind="size of what an image is recognized by",
    stage="pre-training",
    needs=("victim", "valid"),
    settings={
        "steps": Setting(100, "steps of Adam on every mask", "steps", low=1),
        "mask_rate": Setting(0.1, "learning rate of the masks", low=0.0),
        "gamma": Setting(0.01, "weight of the norm of a mask", low=0.0),
        "beta": Setting(10.0, "weight of a mask's total variation, squared differences by pixels", low=0.0),
        "deviations": Setting(
            1.0, "standard deviations below the mean of clean rows' norms at which a row is flagged", low=0.0
        ),
        "flag": Setting("below", "on which side of that threshold rows are flagged", choices=("below", "above")),
    },
    presets={"paper": {}, "benchmark": {"flag": "above"}},
    departures=(
        "Clean norms are those of the defender's validation rows; the benchmark takes rows that the truth says are "
        "clean, which no detector here is shown.",
        "The benchmark flags norms above the threshold, the wrong side: flag=above.",
        "Each image descends its own loss; the released code descends the mean over a batch, which differs only in "
        "what Adam's epsilon of 1e-8 is compared with.",
        "Colors are drawn for each row and step, so that no batch changes a score.",
        "The released class has beta=1 by default; its example and the benchmark have 10.",
    ),
)

BETAS = 0.1, 0.1  # of Adam


def draw_color(key: Key, row: Array, step: Array, channels: int) -> Array:
    """A color a row for one step, uniform in [0, 1]: float (b, 1, 1, channels)."""

    def one(row: Array) -> Array:
        return jax.random.uniform(jax.random.fold_in(jax.random.fold_in(key, row), step), (1, 1, channels))

    return jax.vmap(one)(row)


def variation(mask: Array) -> Array:
    """Squared differences between neighbors, summed and divided by the pixels, float (b,); mask (b, h, w, 1)."""
    down = jnp.sum(jnp.diff(mask, axis=1) ** 2, (1, 2, 3))
    right = jnp.sum(jnp.diff(mask, axis=2) ** 2, (1, 2, 3))
    return (down + right) / (mask.shape[1] * mask.shape[2])


def distill(net: Net, weights: Weights, image: Array, color, steps: int, rate: Array, gamma: Array, beta: Array):
    """The masks of images (b, height, width, channels) after `steps`, float (b, height, width, 1) in (0, 1).

    color: step int32 () -> float (b, 1, 1, channels), what is shown where the mask is not.
    """
    logits = net.apply(weights, image)[0]
    rule = optax.adam(rate, *BETAS)

    def shown(free: Array) -> Array:
        return (jnp.tanh(free) + 1) / 2

    def loss(free: Array, step: Array) -> Array:
        mask = shown(free)
        found = net.apply(weights, mask * image + (1 - mask) * color(step))[0]
        apart = jnp.mean(jnp.abs(found - logits), axis=1)
        return jnp.sum(apart + gamma * jnp.sum(mask, (1, 2, 3)) + beta * variation(mask))

    def move(state, step: Array):
        free, opt_state = state
        updates, opt_state = rule.update(jax.grad(loss)(free, step), opt_state)
        return (optax.apply_updates(free, updates), opt_state), ()

    free = jnp.ones((*image.shape[:3], 1), image.dtype)
    (free, _), _ = jax.lax.scan(move, (free, rule.init(free)), jnp.arange(steps))
    return shown(free)


def make(net, shape, classes, *, steps, flag):
    """The norm of each row's mask, negated."""
    del net, classes

    def score(key, net, trained, _found, rows, given):
        settings = given.settings
        own = stream(key, "color")

        def color(step: Array) -> Array:
            return draw_color(own, rows.row, step, shape[2]).astype(rows.image.dtype)

        terms = settings["mask_rate"], settings["gamma"], settings["beta"]
        return -jnp.sum(distill(net, trained.weights, rows.image, color, steps, *terms), (1, 2, 3))

    def threshold(_found, score, clean, given):
        below = (score - jnp.mean(clean)) / jnp.maximum(jnp.std(clean, ddof=1), 1e-12)  # both are negated norms
        return (below > given.settings["deviations"]) == (flag == "below")

    return Detector(("rows",), score, None, threshold, calibrate="valid")


CD = Method(CARD, make)
