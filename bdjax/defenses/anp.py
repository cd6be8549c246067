"""ANP: prune the neurons that, perturbed in the worst way, make a backdoored network collapse.

Wu, Wang, Adversarial Neuron Pruning Purifies Backdoored Deep Models, NeurIPS 2021, arXiv:2110.14430, section 4: a
neuron is a channel of batch normalisation. A mask m in [0, 1] on its scale is learnt on clean rows against the worst
perturbation of scales and biases, (m + delta) scale and (1 + xi) bias, by alpha CE(m) + (1 - alpha) CE(m, delta, xi);
then neurons with small masks lose their scale and keep their bias. Steps and constants are those of the authors'
released code.
"""

import jax
import jax.numpy as jnp
from flax import struct

from bdjax import train
from bdjax.cards import Card, Method, Setting
from bdjax.defenses.parts import thresholds
from bdjax.defenses.parts.pruning import by_mask, clip_mask
from bdjax.keys import stream
from bdjax.models.parts.norms import entries, norms, scaled
from bdjax.types import Array, Key, Net, Stage, Trained, Weights, real

CARD = Card(
    name="anp",
    title="ANP",
    citation="Wu, Wang, Adversarial Neuron Pruning Purifies Backdoored Deep Models, NeurIPS 2021, arXiv:2110.14430",
    year=2021,
    version=1,
    kind="pruning",
    stage="post-training",
    needs=("clean", "victim"),
    more_needs=thresholds.MORE_NEEDS,
    changes="scales of batch normalisation, to 0",
    settings={
        "iterations": Setting(2000, "steps of the mask, on batches drawn with replacement", "steps", low=1),
        "batch": Setting(128, "rows a step", "rows", low=1),
        "learning_rate": Setting(0.2, "of the mask, constant", low=0.0),
        "momentum": Setting(0.9, "of SGD on the mask", low=0.0, high=1.0),
        "budget": Setting(0.4, "the perturbation starts within it, and its steps are so long in all", low=0.0),
        "inner_steps": Setting(1, "steps of the perturbation", "steps", low=1),
        "project": Setting(False, "bring the perturbation back into the budget after each step"),
        "alpha": Setting(0.2, "weight of the loss without perturbation; the other's is the rest", low=0.0, high=1.0),
        "threshold": Setting(0.9, "neurons with a mask up to it are pruned; the strongest that is tried", low=0.0),
        **thresholds.SETTINGS,
    },
    presets={
        "paper": {"choose": "valid"},
        "benchmark": {"batch": 256, "learning_rate": 0.01, **thresholds.BENCHMARK},
    },
    departures=(
        "The perturbation may leave its budget, up to twice as far, as in the released code, which starts it anywhere "
        "within the budget and steps by all of it; project=true keeps to the paper's bound.",
        "The authors' code prunes at 0.2 whatever the model: choose=fixed,threshold=0.2. `paper` takes the strongest "
        "threshold that keeps accuracy on held-out rows, as all pruning here does that has to choose one.",
        "The released code reads masks back from a file with four decimals before they meet the threshold, and with "
        "budget 0 leaves out the second term of the loss.",
    ),
)


@struct.dataclass
class Noise:
    """A perturbation of every neuron, layer -> float (channels,)."""

    scale: dict[str, Array]
    bias: dict[str, Array]


def random_noise(key: Key, mask: dict[str, Array], budget: Array) -> Noise:
    """Uniform in [-budget, budget) for every neuron of `mask`."""

    def draw(part: str) -> dict[str, Array]:
        keys = {name: stream(key, f"{part} of {name}") for name in mask}
        return {name: budget * jax.random.uniform(keys[name], mask[name].shape, real(), -1, 1) for name in mask}

    return Noise(draw("scale"), draw("bias"))


def masked(net: Net, weights: Weights, mask: dict[str, Array], noise: Noise | None = None) -> Weights:
    """The weights under a mask, perturbed by `noise` where it is given."""
    scale, bias = mask, {}
    if noise is not None:
        scale = jax.tree.map(jnp.add, mask, noise.scale)
        bias = jax.tree.map(lambda shift: 1 + shift, noise.bias)
    return weights.replace(params=scaled(net, weights.params, scale, bias))


def worst(cost, noise: Noise, budget: Array, steps: int, project: bool) -> Noise:
    """`noise` after `steps` steps of budget / steps along the sign of the gradient of cost(noise), a scalar."""

    def body(_, noise: Noise) -> Noise:
        uphill = jax.tree.map(
            lambda value, slope: value + budget / steps * jnp.sign(slope), noise, jax.grad(cost)(noise)
        )
        return jax.tree.map(lambda value: jnp.clip(value, -budget, budget), uphill) if project else uphill

    return jax.lax.fori_loop(0, steps, body, noise)


def gradient(net: Net, weights: Weights, mask, noise: Noise, image: Array, batch, settings, steps: int, project: bool):
    """The gradient for the mask at the worst perturbation that is found from `noise`: (gradient, info)."""

    def cost(mask, noise: Noise | None = None):
        logits, _, _ = net.apply(masked(net, weights, mask, noise), image, train=True, weight=batch.weight)
        return train.cross_entropy(logits, batch.label, batch.weight), logits

    noise = worst(lambda noise: cost(mask, noise)[0], noise, settings["budget"], steps, project)

    def both(mask):
        natural, logits = cost(mask)
        robust = cost(mask, noise)[0]
        value = settings["alpha"] * natural + (1 - settings["alpha"]) * robust
        accuracy = train.accuracy(logits, batch.label, batch.weight)
        return value, {"loss": value, "robust_loss": robust, "accuracy": accuracy}

    return jax.grad(both, has_aux=True)(mask)


def learning(net: Net, *, iterations: int, batch: int, inner_steps: int, project: bool) -> Stage:
    """The stage that learns the mask; it leaves the victim as it is and carries `mask`."""
    layers = norms(net, "anp")

    def begin(_key, given, _weights):
        return jax.tree.map(jnp.ones_like, entries(layers, given.victim.params, "scale")), {}

    def order(key, _epoch, given, _still):
        return jax.random.randint(key, (iterations, batch), 0, given.clean.size, jnp.int32)

    def slope(key, mask, still, rows, given):
        noise = random_noise(stream(key, "noise"), mask, given.settings["budget"])
        found, info = gradient(net, given.victim, mask, noise, rows.image, rows, given.settings, inner_steps, project)
        return found, still, info

    def leave(_key, state, given):
        return Trained(given.victim, {"mask": state.moving})

    return train.descend(
        lambda given: given.clean,
        epochs=1,
        batch=batch,
        begin=begin,
        gradient=slope,
        rule=train.sgd(decay=None),
        leave=leave,
        order=order,
        full=True,
        project=clip_mask,
    )


def make(net, shape, classes, *, choose, tried, relative, **static):
    """Learning of the mask, then pruning."""
    del shape, classes
    return learning(net, **static), by_mask(net, norms(net, "anp"), choose, tried, relative)


ANP = Method(CARD, make)
