"""BAN: do noised neurons send what is left of the features, without those that matter, to one class?

Xu, Abad, Picek, Liu, BAN: Detecting Backdoors Activated by Adversarial Neuron Noise, NeurIPS 2024, arXiv:2405.19928,
section 4: a mask M parts the last feature map F into what predicts well, M F, and what predicts badly, (1 - M) F;
noise on the scales and biases of normalization ascends the loss; a backdoored network under that noise predicts its
target from (1 - M) F, whatever the image.
"""

import jax
import jax.numpy as jnp
import optax

from bdjax import train
from bdjax.audits.parts import common
from bdjax.cards import Card, Method, Setting
from bdjax.data import sources
from bdjax.errors import InvalidInput
from bdjax.keys import stream
from bdjax.models.parts import taps
from bdjax.models.parts.norms import entries, norms, scaled
from bdjax.types import Audit, Net, PyTree, Stage, Trained, Weights, real

CARD = Card(
    name="ban",
    title="BAN",
    citation="Xu, Abad, Picek, Liu, BAN: Detecting Backdoors Activated by Adversarial Neuron Noise, NeurIPS 2024, "
    "arXiv:2405.19928",
    year=2024,
    version=1,
    kind="detection of backdoored models by neuron noise",
    stage="post-training",
    needs=("clean", "victim"),
    changes="a copy: its normalization scales and biases, by noise",
    settings={
        "epochs": Setting(20, "passes over the clean rows that learn the mask", "epochs", low=1),
        "batch": Setting(128, "rows a step, and rows that the noise is made on", "rows", low=1),
        "learning_rate": Setting(0.01, "constant learning rate of the mask, by Adam", low=0.0),
        "sparsity": Setting(0.75, "weight of the mask's relative L1 norm", low=0.0),
        "epsilon": Setting(0.3, "bound of the random start of the noise, and the sum of its steps", low=0.0),
        "steps": Setting(30, "steps of ascent by the sign of the gradient", "steps", low=1),
        "bound": Setting(0.5, "share of predictions in one class from which a model is called backdoored", low=0.0),
    },
    presets={"paper": {}, "code": {"sparsity": 0.25, "steps": 1}},
    departures=(
        "The authors read the collapse off the printed counts and state no bound; bound is ours.",
        "The authors draw new noise on every batch and keep that of the last: here there is one batch.",
        "The mask is cut to [0, 1] after a step, not before it.",
        "Clean rows serve for mask, noise and counts; the authors count on further rows beside them.",
    ),
)


def feature_map(net: Net) -> str:
    """The tap of the last feature map, what the pooling reads.

    Raises:
        InvalidInput: the network has no pooling or nothing before it.
    """
    kinds = [layer.kind for layer in net.layers]
    if "pool" not in kinds[1:]:
        raise InvalidInput("ban: the network pools no feature map; choose a convolutional network")
    return net.layers[kinds.index("pool") - 1].tap


def learn_mask(net: Net, tap: str, shape, epochs: int, batch: int) -> Stage:
    """The stage that carries the mask of a feature map of `shape`; statistics are those of its batches, as weights."""

    def begin(key, given, _weights):
        return jax.random.uniform(stream(key, "mask"), shape, real()), {"batch_stats": given.victim.batch_stats}

    def loss(_key, mask, still, rows, given):
        at = Weights(given.victim.params, still["batch_stats"])

        def predict(part):
            edit = {tap: lambda feature: part * feature}
            logits, batch_stats, _ = net.apply(at, rows.image, train=True, weight=rows.weight, edit=edit)
            return train.cross_entropy(logits, rows.label, rows.weight), batch_stats

        (kept, batch_stats), (rest, _) = predict(mask), predict(1 - mask)
        norm = jnp.sum(jnp.abs(mask))
        value = kept - rest + given.settings["sparsity"] * norm / jax.lax.stop_gradient(jnp.maximum(norm, 1e-12))
        return value, ({"batch_stats": batch_stats}, {"kept": kept, "rest": rest})

    def leave(_key, state, given):
        return Trained(Weights(given.victim.params, state.still["batch_stats"]), {"mask": state.moving})

    return train.descend(
        lambda given: sources.shuffled(given.clean),
        epochs=epochs,
        batch=batch,
        begin=begin,
        loss=loss,
        rule=train.adam("learning_rate"),
        project=lambda mask, still, _rows, _given, _clock: (jnp.clip(mask, 0, 1), still),
        leave=leave,
        augment=False,
    )


def add_noise(net: Net, params: PyTree, noise: PyTree) -> PyTree:
    """Parameters whose normalization scales and biases are multiplied by 1 + noise, {scale, bias: {layer: (c,)}}."""
    factors = jax.tree.map(lambda leaf: 1 + leaf, noise)
    return scaled(net, params, factors["scale"], factors["bias"])


def disturb(net: Net, batch: int, steps: int) -> Stage:
    """The stage that leaves the network under the noise that ascends its loss on one batch of clean rows."""
    layers = norms(net, "ban")

    def begin(key, given, weights):
        def draw(name, layer, like):
            return given.settings["epsilon"] * jax.random.uniform(
                stream(key, f"{name} {layer}"), like.shape, real(), -1, 1
            )

        noise = {
            name: {layer: draw(name, layer, like) for layer, like in entries(layers, weights.params, name).items()}
            for name in ("scale", "bias")
        }
        return noise, {"batch_stats": weights.batch_stats}

    def ascend(_key, noise, still, rows, given):
        def loss(noise):
            at = Weights(add_noise(net, given.victim.params, noise), still["batch_stats"])
            logits, batch_stats, _ = net.apply(at, rows.image, train=True, weight=rows.weight)
            return train.cross_entropy(logits, rows.label, rows.weight), batch_stats

        (value, batch_stats), slope = jax.value_and_grad(loss, has_aux=True)(noise)
        return jax.tree.map(lambda leaf: -jnp.sign(leaf), slope), {"batch_stats": batch_stats}, {"loss": value}

    def leave(_key, state, given):
        params = add_noise(net, given.victim.params, state.moving)
        return Trained(Weights(params, state.still["batch_stats"]), {"mask": given.carry["mask"]})

    return train.descend(
        lambda given: sources.subset(sources.shuffled(given.clean), jnp.arange(min(batch, given.clean.size))),
        epochs=steps,
        batch=batch,
        begin=begin,
        gradient=ascend,
        rule=lambda given, clock: optax.sgd(given.settings["epsilon"] / clock.epochs),
        leave=leave,
        augment=False,
    )


def make(net, shape, classes, *, epochs, batch, steps):
    """The mask, the noise, and the shares of predictions under both."""
    common.check_classes(classes, "ban")
    tap = feature_map(net)

    def measure(_key, net, trained, given):
        edit = {tap: lambda feature: (1 - trained.carry["mask"]) * feature}

        def count(rows):
            found = jnp.argmax(net.apply(trained.weights, rows.image, edit=edit)[0], axis=1)
            return jnp.sum(jax.nn.one_hot(found, classes, dtype=real()) * rows.weight[:, None], axis=0)

        share = sources.total(given.clean, count) / given.clean.size
        largest = jnp.max(share)
        detected = (largest >= given.settings["bound"]).astype(real())
        return {"share": share, "largest": largest, "detected": detected, "class": jnp.argmax(share).astype(real())}

    return Audit(
        (learn_mask(net, tap, taps.shapes(net, shape)[tap], epochs, batch), disturb(net, batch, steps)), measure
    )


BAN = Method(CARD, make)
