"""ASD: train semi-supervised, and let the rows that keep their labels grow from a few clean ones.

Gao, Bai, Gu, Yang, Xia, Backdoor Defense via Adaptively Splitting Poisoned Dataset, CVPR 2023, arXiv:2303.12993,
section 4. Before every epoch of MixMatch the rows are split anew: first the clean seeds and so many rows of lowest loss
in each class keep their labels, more from time to time; then the half of all rows whose loss is lowest; last the half
whose loss falls least when a copy of the model is trained for a moment on all labels, for poison is learned at once.
"""

import jax
import jax.numpy as jnp
import optax

from bdjax import train
from bdjax.cards import Card, Method, Setting
from bdjax.data import sources
from bdjax.keys import stream
from bdjax.train import semi_supervised
from bdjax.types import Array, Given, Key, Net, Source, Trained, Weights

CARD = Card(
    name="asd",
    title="ASD",
    citation="Gao, Bai, Gu, Yang, Xia, Backdoor Defense via Adaptively Splitting Poisoned Dataset, CVPR 2023, "
    "arXiv:2303.12993",
    year=2023,
    version=1,
    kind="semi-supervised training",
    stage="training",
    needs=("train", "clean"),
    changes="the training rule; in every epoch rows lose their labels, none for good; clean rows are added",
    settings={
        "class_epochs": Setting(60, "epochs in which every class chooses the same number of rows", "epochs", low=1),
        "loss_epochs": Setting(30, "epochs after these in which all rows compete", "epochs", low=0),
        "epochs": Setting(30, "epochs after these in which a copy of the model is trained first", "epochs", low=1),
        "seeds": Setting(10, "clean rows a class, at most those that the defender has", "rows", low=1),
        "growth": Setting(10.0, "by how many rows a class the labeled ones grow at a time", "rows", low=0.0),
        "every": Setting(5, "epochs between two such times", "epochs", low=1),
        "labeled": Setting(0.5, "rows that keep their labels afterwards, rounded down", "share", low=0.0, high=1.0),
        "learning_rate": Setting(0.002, "Adam learning rate", low=0.0),
        "copy_rate": Setting(0.015, "Adam learning rate of the copy, in its later layers", low=0.0),
        "copy_batch": Setting(128, "rows a step of the copy, and at a time where losses are computed", "rows", low=1),
        "forward": Setting(0.1, "weight of the cross-entropy in the loss of a row", low=0.0),
        "reverse": Setting(1.0, "weight of the reverse cross-entropy there", low=0.0),
    }
    | semi_supervised.SETTINGS
    | {"ramp": Setting(120.0, semi_supervised.SETTINGS["ramp"].about, "epochs", low=0.01)},
    presets={"paper": {}},
    departures=(
        "Seeds are some of the defender's clean rows, beside the training set. The released code takes them from the "
        "training set by whether they are poisoned, which a defender does not know.",
        "In a residual network the copy trains its last two stages and the head, as in the released code; in any other "
        "all layers from the middle one of its convolutions on.",
        "The released code mirrors images; here the dataset says whether that is allowed.",
        "The reference benchmark has no ASD.",
    ),
)


def lowest_by_class(loss: Array, label: Array, barred: Array, count: Array) -> Array:
    """Whether a row is among so many of its class with the lowest losses, of those that are not barred: bool (n,)."""
    order = jnp.lexsort((loss, barred, label))
    first = jnp.searchsorted(label[order], label[order])
    place = jnp.zeros_like(order).at[order].set(jnp.arange(len(order)) - first)
    return (place < count) & ~barred


def later_layers(net: Net) -> frozenset[str]:
    """The entries of params from the block of the middle convolution on, the head included.

    Stages 3 and 4 of an 18-layer residual network have the second half of its 20 convolutions.
    """
    convolutions = [layer for layer in net.layers if layer.kind == "conv"]
    middle = convolutions[len(convolutions) // 2].path[0] if convolutions else ""
    paths = [layer.path[0] for layer in net.layers if layer.path]
    return frozenset(paths[paths.index(middle) if middle else 0 :])


def trained_copy(key: Key, net: Net, weights: Weights, source: Source, given: Given, *, batch: int, border: str):
    """The weights after a pass over all rows with their labels, in training mode: cross-entropy, Adam, later layers."""
    crops, later = semi_supervised.crops(border), later_layers(net)
    rule, order = train.adam("copy_rate")(given, None), train.shuffled(stream(key, "order"), source.size, batch)

    def step(number, carry):
        moving, batch_stats, state = carry
        rows = crops(jax.random.fold_in(key, number), source.read(order[number]), None, given)

        def loss(moving):
            at = Weights(weights.params | moving, batch_stats)
            logits, after, _ = net.apply(at, rows.image, train=True, weight=rows.weight)
            return train.cross_entropy(logits, rows.label, rows.weight), after

        slope, batch_stats = jax.grad(loss, has_aux=True)(moving)
        updates, state = rule.update(slope, state, moving)
        return optax.apply_updates(moving, updates), batch_stats, state

    moving = {name: value for name, value in weights.params.items() if name in later}
    start = moving, weights.batch_stats, rule.init(moving)
    moving, batch_stats, _ = jax.lax.fori_loop(0, len(order), step, start)
    return Weights(weights.params | moving, batch_stats)


def make(net, shape, classes, *, class_epochs, loss_epochs, epochs, seeds, every, copy_batch, **semi):
    """MixMatch under splits by loss, then under splits by how the loss of a copy falls."""
    del shape
    crops = semi_supervised.crops(semi["border"])

    def rows_of(given) -> Source:
        few = min(seeds, given.clean.size // classes)
        label = sources.each(given.clean, lambda rows: rows.label)
        (chosen,) = sources.balanced_rows(jax.random.key(0), label, classes, (few,))
        return sources.concatenated(given.train, sources.subset(given.clean, chosen))

    def losses(key, weights, given):
        def of(rows):
            seen = crops(jax.random.fold_in(key, rows.row[0]), rows, None, given)
            logits, settings = net.apply(weights, seen.image)[0], given.settings
            return train.symmetric_cross_entropy(logits, rows.label, settings["forward"], settings["reverse"])

        return sources.each(rows_of(given), of, copy_batch)

    def by_loss(key, weights, epoch, given):
        rows, loss = rows_of(given), losses(key, weights, given)
        seed = jnp.arange(rows.size) >= given.train.size
        label = sources.each(rows, lambda rows: rows.label)
        count = given.settings["growth"] * (epoch // every)
        grown = seed | lowest_by_class(loss, label, seed, count)
        return jnp.where(epoch < class_epochs, grown, semi_supervised.lowest(loss, given.settings["labeled"]))

    def by_fall(key, weights, _epoch, given):
        before = losses(stream(key, "before"), weights, given)
        options = {"batch": copy_batch, "border": semi["border"]}
        copy = trained_copy(stream(key, "copy"), net, weights, rows_of(given), given, **options)
        after = losses(stream(key, "after"), copy, given)
        return semi_supervised.lowest(before - after, given.settings["labeled"])

    def begin_later(_key, given, weights):
        return weights.params, weights.batch_stats, given.carry["adam"]

    def begin(key, _given, _weights):
        first = net.init(stream(key, "init"))
        return first.params, first.batch_stats

    def leave(_key, state, given):
        weights = Weights(state.moving, state.still["batch_stats"])
        return Trained(weights, {"adam": state.opt_state, "labeled": state.still["labeled"][: given.train.size]})

    def leave_last(key, state, given):
        left = leave(key, state, given)
        return left.replace(carry={"labeled": left.carry["labeled"]})

    shared = {"classes": classes, "rule": train.adam()} | semi
    first = class_epochs + loss_epochs
    return (
        semi_supervised.mixmatch(net, rows_of, split=by_loss, begin=begin, leave=leave, epochs=first, **shared),
        semi_supervised.mixmatch(
            net, rows_of, split=by_fall, begin=begin_later, leave=leave_last, epochs=epochs, before=first, **shared
        ),
    )


ASD = Method(CARD, make)
