"""D-ST: learn features in which only rows that look clean are drawn to their class, and a head on the surest rows.

Chen, Wu, Wang, Effective Backdoor Defense by Exploiting Sensitivity of Poisoned Samples, NeurIPS 2022. A new network
learns the training set for a moment, and how much the features of a row change under a transformation says whether it
is clean, poisoned or neither. Then contrastive learning: two views of a row are alike, and to a clean row all rows of
its label are. Last a linear head on these features descends the cross-entropy of the clean rows less a small part of
that of the poisoned ones.
"""

import jax.numpy as jnp

from bdjax import train
from bdjax.cards import Card, Method, Setting
from bdjax.data import views
from bdjax.defenses.parts import distinguishing
from bdjax.keys import stream
from bdjax.models.parts import heads
from bdjax.train import contrastive, optimizers
from bdjax.types import Array, Batch, Given, Trained, Weights, real

LAST = 1e-3
"""The share of the rate of the features that the cosine ends at."""

VIEW = {"kernel": "linear", "blurred": False}
"""What sets views apart from those of SimCLR."""

CARD = Card(
    name="d_st",
    title="D-ST",
    citation="Chen, Wu, Wang, Effective Backdoor Defense by Exploiting Sensitivity of Poisoned Samples, NeurIPS 2022, "
    "https://openreview.net/forum?id=AsH-Tx2U0Ug",
    year=2022,
    version=1,
    kind="semi-supervised contrastive training",
    stage="training",
    needs=("train",),
    changes="the training rule; rows that do not look clean lose their labels",
    settings=distinguishing.SETTINGS
    | {
        "contrastive_epochs": Setting(200, "passes that train the features", "epochs", low=1),
        "contrastive_batch": Setting(512, "rows a step there; all of them where there are fewer", "rows", low=1),
        "contrastive_rate": Setting(0.5, "SGD learning rate there, at the start of its cosine", low=0.0),
        "contrastive_decay": Setting(1e-4, "weight decay there, coupled L2 on every parameter", low=0.0),
        "contrastive_warmup": Setting(10, "epochs in which that rate rises first; 0: it does not", "epochs", low=0),
        "temperature": Setting(0.1, "what similarities of views are divided by", low=0.01),
        "base": Setting(0.07, "the contrastive loss is multiplied by temperature / base", low=0.01),
        "epochs": Setting(10, "passes that train the head", "epochs", low=1),
        "batch": Setting(512, "rows a step there; all of them where there are fewer", "rows", low=1),
        "learning_rate": Setting(5.0, "SGD learning rate there", low=0.0),
        "weight_decay": Setting(0.0, "weight decay there, coupled L2", low=0.0),
        "warmup": Setting(0, "epochs in which that rate rises first; 0: it does not", "epochs", low=0),
        "warmup_from": Setting(0.01, "the rate from which both rise", low=0.0),
        "poisoned_weight": Setting(0.001, "weight of the ascent on poisoned rows", low=0.0),
        "read_uncertain": Setting(False, "whether the head's batches hold uncertain rows, which count for nothing"),
    },
    presets={
        "paper": {},
        "benchmark": {
            "redraw": True,
            "contrastive_batch": 128,
            "contrastive_decay": 5e-4,
            "batch": 128,
            "weight_decay": 5e-4,
            "warmup": 10,
            "read_uncertain": True,
        },
    },
    departures=(
        "Numbers are those of the released code for CIFAR-10. It warms the rate up where a batch has more than 256 "
        "rows; here `contrastive_warmup` says so.",
        "A batch without poisoned rows, or without clean ones, has no such part in the head's loss; in the public "
        "versions the loss is then not a number.",
        "Views are not rounded to 256 levels, and a resized crop reads beyond its edges where the image goes on. The "
        "public versions mirror images; here the dataset says whether that is allowed.",
        "The released code runs the network twice a step while it pushes class centers apart, which moves statistics "
        "twice; here, as in the benchmark, once.",
        "The released code keeps the head whose accuracy on the test set is highest; here, as in the benchmark, the "
        "last one is kept.",
    ),
)


def drawn_together(rows: Batch, given: Given) -> Array:
    """Which views are alike, bool (2 b, 2 b): both of a row, and to a clean row all views of rows of its label."""
    clean = given.carry["clean"][rows.row]
    one = jnp.eye(len(clean), dtype=bool) | (clean[:, None] & (rows.label[:, None] == rows.label))
    return jnp.tile(one, (2, 2))


def cosine(done: Array | float) -> Array:
    """The factor on the rate of the features after a share of their epochs: from 1 down to LAST."""
    return LAST + (1 - LAST) * (1 + jnp.cos(jnp.pi * done)) / 2


def rising(rate: str, decay: str, warmup: int, factor=lambda done: 1.0):
    """SGD by the names of its settings; the rate rises linearly to where `factor` has brought it when `warmup` ends.

    factor: the share of epochs that end with this one -> factor on the rate.
    """

    def rule(given, clock):
        settings = given.settings
        now = settings[rate] * factor((clock.epoch.astype(real()) + 1) / clock.epochs)
        if warmup:
            top = settings[rate] * factor(warmup / clock.epochs)
            start, risen = settings["warmup_from"], clock.step.astype(real()) / (warmup * clock.steps)
            now = jnp.where(clock.epoch < warmup, start + risen * (top - start), now)
        return optimizers.sgd(now, settings["momentum"], settings[decay])

    return rule


def make(
    net,
    shape,
    classes,
    *,
    contrastive_epochs,
    contrastive_batch,
    contrastive_warmup,
    epochs,
    batch,
    warmup,
    read_uncertain,
    **split,
):
    """The split of the rows, features, and a head."""
    path = heads.place(net)
    first = distinguishing.stages(net, "d_st", classes, **split)
    features = contrastive.learn_views(
        net,
        shape,
        lambda given: given.train,
        "d_st",
        epochs=contrastive_epochs,
        batch=contrastive_batch,
        rule=rising("contrastive_rate", "contrastive_decay", contrastive_warmup, cosine),
        alike=drawn_together,
        normalized=False,
        base="base",
        **VIEW,
    )

    def keep(key, state, given):
        return Trained(features.finish(key, state, given).weights, dict(given.carry))

    def begin(key, _given, weights):
        return heads.drawn(stream(key, "head"), heads.at(weights.params, path)), weights

    def order(key, _epoch, given, _still):
        return train.chosen(key, given.carry["clean"] | given.carry["poisoned"], batch)

    def augment(key, rows, _epoch, given):
        return rows.replace(image=views.strong(stream(key, "view"), rows.image, given.augment, **VIEW))

    def loss(_key, head, still, rows, given):
        logits = net.apply(still.replace(params=heads.put(still.params, path, head)), rows.image)[0]
        value = distinguishing.balance(logits, rows, given, given.settings["poisoned_weight"])
        return value, (still, {"loss": value, "accuracy": train.accuracy(logits, rows.label, rows.weight)})

    def leave(_key, state, given):
        params = heads.put(state.still.params, path, state.moving)
        return Trained(Weights(params, state.still.batch_stats), dict(given.carry))

    head = train.descend(
        lambda given: given.train,
        epochs=epochs,
        batch=batch,
        begin=begin,
        loss=loss,
        rule=rising("learning_rate", "weight_decay", warmup),
        leave=leave,
        order=None if read_uncertain else order,
        augment=augment,
    )
    return *first, features._replace(finish=keep), head


D_ST = Method(CARD, make)
