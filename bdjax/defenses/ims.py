"""IMS: two masks on convolutions, inverse to one another, are learned so that one keeps the task and one the backdoor.

Dunnett, Arablouei, Miller, Dedeoglu, Jurdak, Backdoor Mitigation via Invertible Pruning Masks, NeurIPS 2025,
arXiv:2509.15497. Every output channel of a convolution has a number m, which decides for one of the masks, and a
selection s, which exempts the channel from both where it is 1: the mask is g + s (1 - g), g = sigmoid(k (m - 1/2)), and
its inverse the same of 1 - m. With P(f, h) the mean of -log sum_c f_c h_c and Q(f, h) that of -log(1 - sum_c f_c h_c),
over the classes' probabilities c, the inner problem finds perturbations d of clean images that stand in for triggers,
by P(inverse(x + d), victim(x + d)) + Q(victim(x + d), victim(x)). The outer one has the mask agree with the victim on
clean images, and on perturbed ones with what it says of the clean; and the inverse disagree. Labels are not used.
"""

import jax
import jax.numpy as jnp
import optax
from flax import traverse_util

from bdjax import train
from bdjax.cards import Card, Method, Setting
from bdjax.models.parts import taps
from bdjax.types import Array, Batch, Layer, Net, Trained, Weights, real

CARD = Card(
    name="ims",
    title="IMS",
    citation="Dunnett, Arablouei, Miller, Dedeoglu, Jurdak, Backdoor Mitigation via Invertible Pruning Masks, NeurIPS "
    "2025, arXiv:2509.15497",
    year=2025,
    version=1,
    kind="mask on channels",
    stage="post-training",
    needs=("clean", "victim"),
    changes="kernels of convolutions, by a factor for each output channel",
    settings={
        "initial_rounds": Setting(100, "steps of the mask on clean images alone, at most", "steps", low=1),
        "rounds": Setting(200, "steps without sparsity, and again with it, at most", "steps", low=1),
        "batch": Setting(256, "random rows a step; all of them where there are fewer", "rows", low=1),
        "learning_rate": Setting(0.02, "constant learning rate of mask and selection, by AdamW", low=0.0),
        "steepness": Setting(20.0, "k, of the sigmoid that brings the mask close to 0 or 1", low=0.0),
        "sparsity": Setting(10.0, "weight of the mean of 1 - s over all channels", low=0.0),
        "inner_steps": Setting(20, "steps of the perturbation, anew for every batch", "steps", low=1),
        "inner_rate": Setting(
            1e-3, "constant learning rate of the perturbation, by AdamW", "pixels in [0, 1]", low=0.0
        ),
        "bound": Setting(1.0, "largest perturbation of a value", "pixels in [0, 1]", low=0.0),
        "weight_decay": Setting(0.01, "of both AdamW, decoupled", low=0.0),
        "patience": Setting(25, "steps without a gain after which a stage ends", "steps", low=0),
        "gain": Setting(0.98, "share of the least loss that a loss must be below to be a gain", low=0.0),
    },
    presets={"paper": {}, "benchmark": {}},
    departures=(
        "`paper` is the authors' released code, a fork of the reference benchmark, which itself has no IMS.",
        "The mask is folded into the kernels: a convolution is linear and has no bias, so that nothing else changes. "
        "The released code multiplies what convolutions give.",
        "The fixed whitening of airbench has no mask.",
        "The released code finds a perturbation in the first stage too, where no loss reads it; here that is left out.",
    ),
)

TINY = 1e-8  # inside of logarithms


def factor(mask: Array, selection: Array, steepness: Array) -> Array:
    """What the channels are multiplied by, float (channels,): g + s (1 - g), g = sigmoid(k (m - 1/2))."""
    gate = jax.nn.sigmoid(steepness * (mask - 0.5))
    return gate + selection * (1 - gate)


def masked(layers: tuple[Layer, ...], weights: Weights, learned, steepness: Array, inverse: bool = False) -> Weights:
    """The weights under the mask or its inverse; learned: `mask` and `selection`, layer's name -> float (channels,)."""
    flat = traverse_util.flatten_dict(weights.params)
    for layer in layers:
        mask, selection = (learned[part][layer.name] for part in ("mask", "selection"))
        channels = factor(1 - mask if inverse else mask, selection, steepness)
        flat |= {path: leaf * channels for path, leaf in flat.items() if path[:-1] == layer.path}
    return weights.replace(params=traverse_util.unflatten_dict(flat))


def overlap(one: Array, other: Array) -> Array:
    """The chance that draws from both softmaxes of logits (b, classes) are the same class, float (b,)."""
    return jnp.sum(jax.nn.softmax(one) * jax.nn.softmax(other), axis=1)


def agree(one: Array, other: Array, weight: Array) -> Array:
    """Small where both predict the same: the mean of -log overlap over rows by their weight."""
    return train.mean(-jnp.log(overlap(one, other) + TINY), weight)


def disagree(one: Array, other: Array, weight: Array) -> Array:
    """Small where they do not: the mean of -log(1 - overlap)."""
    return train.mean(-jnp.log(1 - overlap(one, other) + TINY), weight)


def perturbation(net: Net, victim: Weights, inverse: Weights, rows: Batch, settings, steps: int) -> Array:
    """What is added to each image, like rows.image: the victim is led astray and the inverse mask along with it."""
    before = net.apply(victim, rows.image)[0]
    rule = optax.adamw(settings["inner_rate"], weight_decay=settings["weight_decay"])

    def cost(delta: Array) -> Array:
        after, kept = (net.apply(weights, rows.image + delta)[0] for weights in (victim, inverse))
        return agree(kept, after, rows.weight) + disagree(after, before, rows.weight)

    def body(_, carry):
        delta, opt_state = carry
        updates, opt_state = rule.update(jax.grad(cost)(delta), opt_state, delta)
        return jnp.clip(delta + updates, -settings["bound"], settings["bound"]), opt_state

    zero = jnp.zeros_like(rows.image)
    return jax.lax.fori_loop(0, steps, body, (zero, rule.init(zero)))[0]


def outer(net: Net, layers: tuple[Layer, ...], victim: Weights, learned, rows: Batch, delta, settings, sparse: bool):
    """The loss of mask and selection, and its info; delta: None for what is asked of clean images alone."""

    def run(image: Array):
        sides = (masked(layers, victim, learned, settings["steepness"], inverse) for inverse in (False, True))
        return [net.apply(weights, image)[0] for weights in (victim, *sides)]

    (before, kept, lost), weight = run(rows.image), rows.weight
    info = {"agreement": agree(kept, before, weight), "disagreement": disagree(lost, before, weight)}
    if delta is not None:
        after, purified, backdoored = run(rows.image + delta)
        info["purified"] = agree(purified, before, weight)
        info["backdoored"] = agree(backdoored, after, weight) + disagree(backdoored, before, weight)
    if sparse:
        # |1 - s| with a slope of 0 where s = 1, as PyTorch has it: all selections begin there.
        apart = jnp.concatenate([1 - value for value in learned["selection"].values()])
        info["sparsity"] = settings["sparsity"] * jnp.mean(apart * jnp.sign(apart))
    value = sum(info.values())
    return value, info | {"loss": value}


def waiting(still: dict[str, Array], value: Array, gain: Array) -> dict[str, Array]:
    """The least loss () and how many losses in a row, int32 (), were no gain on it."""
    gained = value < still["least"] * gain
    return {"least": jnp.where(gained, value, still["least"]), "waited": jnp.where(gained, 0, still["waited"] + 1)}


def make(net, shape, classes, *, initial_rounds, rounds, batch, inner_steps, patience):
    """The masks are learned on clean images, then against perturbations, without and with sparsity."""
    del shape, classes
    layers = taps.convolution_layers(net, "ims")

    def ones(victim: Weights):
        flat = traverse_util.flatten_dict(victim.params)
        sizes = {layer.name: flat[*layer.path, "kernel"].shape[-1] for layer in layers}
        return {part: {name: jnp.ones(size, real()) for name, size in sizes.items()} for part in ("mask", "selection")}

    def begin(_key, given, weights):
        learned = ones(given.victim) if weights is None else dict(given.carry)
        return learned, {"least": jnp.asarray(jnp.inf, real()), "waited": jnp.zeros((), jnp.int32)}

    def order(key, _epoch, given, _still):
        return jax.random.permutation(key, jnp.arange(given.clean.size, dtype=jnp.int32))[None, :batch]

    def project(learned, still, _rows, _given, _clock):
        return jax.tree.map(lambda value: jnp.clip(value, 0, 1), learned), still

    def leave(_key, state, given):
        return Trained(masked(layers, given.victim, state.moving, given.settings["steepness"]), state.moving)

    def stage(epochs: int, perturbs: bool, sparse: bool):
        def loss(_key, learned, still, rows, given):
            delta, settings = None, given.settings
            if perturbs:
                inverse = masked(layers, given.victim, jax.lax.stop_gradient(learned), settings["steepness"], True)
                delta = perturbation(net, given.victim, inverse, rows, settings, inner_steps)
                delta = jax.lax.stop_gradient(delta)
            value, info = outer(net, layers, given.victim, learned, rows, delta, settings, sparse)
            still = waiting(still, value, settings["gain"])
            return value, (still, info | {"waited": still["waited"].astype(real())})

        return train.descend(
            lambda given: given.clean,
            epochs=epochs,
            batch=batch,
            begin=begin,
            loss=loss,
            rule=lambda given, _clock: optax.adamw(
                given.settings["learning_rate"], weight_decay=given.settings["weight_decay"]
            ),
            leave=leave,
            order=order,
            full=True,
            project=project,
            augment=False,
            until=lambda info, _given: info["waited"] > patience,
        )

    return stage(initial_rounds, False, True), stage(rounds, True, False), stage(rounds, True, True)


IMS = Method(CARD, make)
