"""Fine-pruning: remove the neurons that clean images leave dormant, then fine-tune what is left.

Liu, Dolan-Gavitt, Garg, Fine-Pruning: Defending Against Backdooring Attacks on Deep Neural Networks, RAID 2018,
arXiv:1805.12185, section 4: neurons of the last convolutional layer are pruned in order of their average activation on
clean images until accuracy on held-out ones falls too far; the pruned network is fine-tuned on clean images. A neuron
is a channel of what the final linear layer reads, and is removed by its weights there, which then stay 0.
"""

import jax
import jax.numpy as jnp

from bdjax import train
from bdjax.cards import Card, Method, Setting
from bdjax.data import sources
from bdjax.defenses.parts.pruning import once
from bdjax.defenses.parts.thresholds import ACCURACY, BENCHMARK, accepted
from bdjax.keys import stream
from bdjax.models.parts import heads
from bdjax.train import recipes
from bdjax.types import Array, Batch, Given, Key, Net, Source, Stage, Weights, real

CARD = Card(
    name="fine_pruning",
    title="Fine-Pruning",
    citation="Liu, Dolan-Gavitt, Garg, Fine-Pruning: Defending Against Backdooring Attacks on Deep Neural Networks, "
    "RAID 2018, arXiv:1805.12185",
    year=2018,
    version=1,
    kind="pruning and fine-tuning",
    stage="post-training",
    needs=("clean", "victim"),
    more_needs={"choose=valid": ("valid",), "choose=test": ("test",)},
    changes="weights of the linear layer, to 0; then all others",
    settings={
        "choose": Setting("valid", "accuracy is that on held-out rows, or on the test set", choices=("valid", "test")),
        **ACCURACY,
        "parts": Setting(0, "prune one in so many of the channels at a time, rounded up; 0: one by one", low=0),
        "signed": Setting(False, "rank by the mean of activations, not of their size"),
        "augment_ranking": Setting(False, "rank by augmented images"),
        "spare_last": Setting(False, "leave out the last of the channels that are to be pruned"),
        "rollback": Setting(True, "undo the pruning that cost too much accuracy"),
    }
    | recipes.RECIPE
    | {"batch": Setting(256, "rows a step; the whole clean set where that is smaller", "rows", low=1)},
    presets={
        "paper": {},
        "benchmark": {
            **BENCHMARK,
            "parts": 100,
            "signed": True,
            "augment_ranking": True,
            "spare_last": True,
            "rollback": False,
            "period": 100,
        },
    },
    departures=(
        "The authors' networks end in a convolution, a rectifier and linear layers. In a residual network the channels "
        "are those of the last sum, and where no rectifier follows it dormant means small, not negative.",
        "How much accuracy may be lost, and the recipe of fine-tuning, are not the paper's: two points on held-out "
        "rows, as for the other pruning defenses, and the recipe of `ft`.",
        "The benchmark stops at a change of a tenth of the accuracy on the test set and keeps the pruning that caused "
        "it; it fine-tunes in half precision, this in single.",
    ),
)


def activity(key: Key, net: Net, weights: Weights, given: Given, signed: bool, augment: bool) -> Array:
    """The mean over the clean rows of what each channel hands to the head, or of its size, float (channels,)."""
    tap = heads.reads(net, "fine_pruning")

    def found(batch: Batch) -> Array:
        image = given.augment(jax.random.fold_in(key, batch.row[0]), batch.image) if augment else batch.image
        value = net.apply(weights, image)[2][tap]
        return jnp.sum((value if signed else jnp.abs(value)) * batch.weight[:, None], 0)

    return sources.total(given.clean, found) / given.clean.size


def masks(order: Array, counts: Array) -> Array:
    """For each count, 0 for so many channels, the first in `order` int32 (channels,), else 1: (counts, channels)."""
    return (jnp.argsort(order) >= counts[:, None]).astype(real())


def accuracies(net: Net, weights: Weights, source: Source, keep: Array) -> Array:
    """The accuracy with each of the masks (m, channels) on the head, float (m,), in one pass over `source`."""
    tap, head = heads.reads(net, "fine_pruning"), heads.at(weights.params, heads.place(net))
    kernel = keep[:, :, None] * head["kernel"]

    def right(batch: Batch) -> Array:
        read = net.apply(weights, batch.image)[2][tap]
        logits = jnp.einsum("bc,mck->mbk", read, kernel) + head["bias"][None, None]
        return jnp.sum((jnp.argmax(logits, axis=2) == batch.label[None]) * batch.weight[None], axis=1)

    return sources.total(source, right) / source.size


def last(good: Array, rollback: bool) -> Array:
    """The index of the last before the first that is not good, bool (n,); without rollback the first that is not."""
    before = jnp.sum(jnp.cumprod(good)) - 1
    return jnp.maximum(before, 0) if rollback else jnp.minimum(before + 1, good.size - 1)


def without(net: Net, weights: Weights, keep: Array) -> Weights:
    """The weights with those of the head multiplied by `keep` float (channels,)."""
    path = heads.place(net)
    head = heads.at(weights.params, path)
    return weights.replace(params=heads.put(weights.params, path, {**head, "kernel": head["kernel"] * keep[:, None]}))


def pruning(net: Net, *, choose, relative, parts, signed, augment_ranking, spare_last, rollback) -> Stage:
    """The stage that prunes."""
    path = heads.place(net)

    def change(key, given, weights):
        channels = heads.at(weights.params, path)["kernel"].shape[0]
        order = jnp.argsort(activity(stream(key, "augment"), net, weights, given, signed, augment_ranking))
        counts = jnp.arange(0, channels, -(-channels // parts) if parts else 1)
        keep = masks(order, jnp.maximum(counts - 1, 0) if spare_last else counts)
        found = accuracies(net, weights, given.test if choose == "test" else given.valid, keep)
        chosen = last(accepted(relative, found[0], found, given.settings["allowed"]), rollback)
        return without(net, weights, keep[chosen]), {"pruned": 1 - jnp.mean(keep[chosen]), "accuracy": found[chosen]}

    def carry(weights, _given):
        keep = jnp.any(heads.at(weights.params, path)["kernel"] != 0, axis=1)
        return {"keep": keep.astype(real())}

    return once(change, carry)


def tuning(net: Net, recipe: dict) -> Stage:
    """Fine-tuning on the clean rows under which weights of the head that are 0 stay so, channel by channel."""

    def project(params, still, _rows, given, _clock):
        return without(net, Weights(params, still["batch_stats"]), given.carry["keep"]).params, still

    return train.supervised(net, lambda given: given.clean, project=project, **recipe)


def make(net, shape, classes, *, choose, relative, parts, signed, augment_ranking, spare_last, rollback, **recipe):
    """Pruning, then fine-tuning."""
    del shape, classes
    prune = pruning(
        net,
        choose=choose,
        relative=relative,
        parts=parts,
        signed=signed,
        augment_ranking=augment_ranking,
        spare_last=spare_last,
        rollback=rollback,
    )
    return prune, tuning(net, recipe)


FINE_PRUNING = Method(CARD, make)
