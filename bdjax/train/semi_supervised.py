"""MixMatch: rows that keep their labels and rows that do not are mixed with each other, under labels guessed for these.

Berthelot, Carlini, Goodfellow, Papernot, Oliver, Raffel, MixMatch: A Holistic Approach to Semi-Supervised Learning,
NeurIPS 2019, arXiv:1905.02249, algorithm 1 and equations 2 to 5, in the form that defenses give it: one share of the
mixture for a batch, no averaged weights, and a weight of the second loss that rises linearly.
"""

from collections.abc import Callable
from itertools import pairwise

import jax
import jax.numpy as jnp

from bdjax.cards import Setting
from bdjax.keys import stream
from bdjax.train.descend import BeginFn, RuleFn, descend
from bdjax.train.losses import mean
from bdjax.train.orders import cycled, drawn_partners
from bdjax.types import Array, Batch, FinishFn, Given, Key, Net, PyTree, SourceFn, Stage, Weights, real

SETTINGS = {
    "steps": Setting(1024, "semi-supervised steps an epoch", "steps", low=1),
    "batch": Setting(64, "labeled rows a semi-supervised step, and as many unlabeled ones", "rows", low=1),
    "sharpening": Setting(
        0.5, "T, by whose inverse guessed probabilities are raised before they are normalized", low=0.01
    ),
    "mix": Setting(0.75, "alpha, the mixture keeps a share drawn from Beta(alpha, alpha), or 1 less it", low=0.01),
    "unlabeled_weight": Setting(15.0, "weight of the loss on unlabeled rows once it has risen", low=0.0),
    "ramp": Setting(190.0, "epochs in which that weight rises from 0, those before this stage included", low=0.01),
    "border": Setting("reflected", "what a crop shows beyond the image", choices=("black", "reflected")),
}
"""What `mixmatch` reads from `given.settings`, and its counts."""


def lowest(score: Array, share: Array | float) -> Array:
    """Whether a row is among that share of all, rounded down, with the lowest scores: bool (n,)."""
    return jnp.argsort(jnp.argsort(score)) < jnp.floor(share * score.size)


def guess(net: Net, weights: Weights, views: tuple[Batch, Batch], sharpening) -> tuple[Array, PyTree]:
    """Labels for rows in two views: (float (b, classes), batch_stats), in training mode and without a gradient."""
    total = 0.0
    for rows in views:
        logits, batch_stats, _ = net.apply(weights, rows.image, train=True, weight=rows.weight)
        total, weights = total + jax.nn.softmax(logits), weights.replace(batch_stats=batch_stats)
    raised = (total / len(views)) ** (1 / sharpening)
    return jax.lax.stop_gradient(raised / jnp.sum(raised, 1, keepdims=True)), weights.batch_stats


def drawn_share(key: Key, mix: Array) -> Array:
    """What a mixture keeps of each row, float () from a half to 1."""
    share = jax.random.beta(key, mix, mix, dtype=real())
    return jnp.maximum(share, 1 - share)


def interleaved(parts: list[Array]) -> list[Array]:
    """Batches (b, ...), each with pieces of all the others, so that their statistics are alike; twice undoes it.

    Piece i of the first batch changes places with piece i of batch i; the last pieces are the longer ones.
    """
    count, size = len(parts), len(parts[0])
    edges = [sum(size // count + (piece >= count - size % count) for piece in range(end)) for end in range(count + 1)]
    pieces = [[part[start:stop] for start, stop in pairwise(edges)] for part in parts]
    for number in range(1, count):
        pieces[0][number], pieces[number][number] = pieces[number][number], pieces[0][number]
    return [jnp.concatenate(one) for one in pieces]


def mixed(net: Net, weights: Weights, rows: dict[str, Batch], guesses: Array, share, partner: Array):
    """Losses of the mixture on labeled and on unlabeled rows, in training mode: (labeled, unlabeled, batch_stats).

    Args:
        net, weights: the network.
        rows: `labeled`, and `first` and `second`, two views of the unlabeled ones; m rows in this order.
        guesses: float (b, classes), labels of the unlabeled ones.
        share, partner: what each row keeps of itself, and whose it takes the rest from, int32 (m,).
    """
    names = "labeled", "first", "second"
    image, weight = (jnp.concatenate([getattr(rows[name], field) for name in names]) for field in ("image", "weight"))
    own = jax.nn.one_hot(rows["labeled"].label, guesses.shape[1], dtype=guesses.dtype)
    target = jnp.concatenate([own, guesses, guesses])
    image, target = (share * each + (1 - share) * each[partner] for each in (image, target))
    seen = []
    for one, counts in zip(*(interleaved(jnp.split(each, len(names))) for each in (image, weight)), strict=True):
        logits, batch_stats, _ = net.apply(weights, one, train=True, weight=counts)
        weights = weights.replace(batch_stats=batch_stats)
        seen.append(logits)
    logits, few = jnp.concatenate(interleaved(seen)), len(own)
    known = -jnp.sum(target[:few] * jax.nn.log_softmax(logits[:few]), axis=1)
    apart = jnp.mean((jax.nn.softmax(logits[few:]) - target[few:]) ** 2, axis=1)
    return mean(known, weight[:few]), mean(apart, weight[few:]), weights.batch_stats


def crops(border: str):
    """Augmentation of a batch by the dataset's own, with what a crop shows beyond the image: see `SETTINGS`."""

    def augment(key: Key, rows: Batch, _epoch, given: Given) -> Batch:
        return rows.replace(image=given.augment(stream(key, "augment"), rows.image, border=border))

    return augment


def mixmatch(
    net: Net,
    source: SourceFn,
    *,
    split: Callable[[Key, Weights, Array, Given], Array],
    begin: BeginFn,
    rule: RuleFn,
    leave: FinishFn,
    classes: int,
    epochs: int,
    steps: int,
    batch: int,
    border: str,
    before: int = 0,
    join: Callable[[PyTree], PyTree] = lambda moving: moving,
) -> Stage:
    """Training by MixMatch, with another split before every epoch.

    Args:
        net, classes: the network and how many logits it gives.
        source: all rows.
        split: (key, weights, epoch int32 (), given) -> bool (n,), which rows keep their labels.
        begin: as for `descend`, with `batch_stats` for what is still.
        rule, leave: as for `descend`; `state.still` has `batch_stats` and `labeled`, the last split.
        epochs, steps, batch, border: see `SETTINGS`.
        before: epochs of earlier stages, for `split` and for the weight that rises.
        join: what moves -> parameters.
    """
    augment = crops(border)

    def start(key, given, weights):
        moving, batch_stats, *held = begin(key, given, weights)
        nothing = jnp.zeros(source(given).size, bool)
        return moving, {"batch_stats": batch_stats, "labeled": nothing, "step": jnp.int32(0)}, *held

    def renew(key, moving, still, given):
        weights = Weights(join(moving), still["batch_stats"])
        return still | {"labeled": split(key, weights, before + still["step"] // steps, given)}

    def order(key, _epoch, _given, still):
        masks = {"labeled": still["labeled"], "unlabeled": ~still["labeled"]}
        return {name: cycled(stream(key, name), mask, batch, steps) for name, mask in masks.items()}

    def views(key, rows, epoch, given):
        read = {"labeled": "labeled", "first": "unlabeled", "second": "unlabeled"}
        return {name: augment(stream(key, name), rows[one], epoch, given) for name, one in read.items()}

    def loss(key, moving, still, rows, given):
        settings, weights = given.settings, Weights(join(moving), still["batch_stats"])
        guesses, batch_stats = guess(net, weights, (rows["first"], rows["second"]), settings["sharpening"])
        weight = jnp.concatenate([rows[name].weight for name in ("labeled", "first", "second")])
        share, partner = drawn_share(stream(key, "share"), settings["mix"]), drawn_partners(stream(key, "turn"), weight)
        known, apart, batch_stats = mixed(net, weights.replace(batch_stats=batch_stats), rows, guesses, share, partner)
        risen = jnp.minimum((before + still["step"].astype(real()) / steps) / settings["ramp"], 1)
        value = known + settings["unlabeled_weight"] * risen * apart
        info = {"loss": value, "labeled_loss": known, "unlabeled_loss": apart}
        return value, (still | {"batch_stats": batch_stats, "step": still["step"] + 1}, info)

    return descend(
        lambda given: dict.fromkeys(("labeled", "unlabeled"), source(given)),
        epochs=epochs,
        batch=batch,
        begin=start,
        loss=loss,
        rule=rule,
        leave=leave,
        order=order,
        full=True,
        renew=renew,
        augment=views,
    )
