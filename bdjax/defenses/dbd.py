"""DBD: learn features without labels, a head on them, and then only from the labels that the head believes.

Huang, Li, Wu, Qin, Ren, Backdoor Defense via Decoupling the Training Process, ICLR 2022, arXiv:2202.03423, section 4:
self-supervised learning of the features by SimCLR, where a trigger has no label to lead to; a head on frozen features
under symmetric cross-entropy; and semi-supervised training by MixMatch, in which the rows of lowest loss, chosen anew
before every epoch, keep their labels.
"""

import jax

from bdjax import train
from bdjax.cards import Card, Method, Setting
from bdjax.data import sources
from bdjax.keys import stream
from bdjax.models.parts import heads
from bdjax.train import contrastive, semi_supervised
from bdjax.types import Trained, Weights

CARD = Card(
    name="dbd",
    title="DBD",
    citation="Huang, Li, Wu, Qin, Ren, Backdoor Defense via Decoupling the Training Process, ICLR 2022, "
    "arXiv:2202.03423",
    year=2022,
    version=1,
    kind="semi-supervised training",
    stage="training",
    needs=("train",),
    changes="the training rule; in every epoch rows lose their labels, none for good",
    settings={
        "contrastive_epochs": Setting(1000, "self-supervised passes over all rows", "epochs", low=1),
        "warmup_epochs": Setting(10, "passes that train the head alone", "epochs", low=1),
        "epochs": Setting(190, "semi-supervised epochs", "epochs", low=1),
        "contrastive_batch": Setting(512, "rows a self-supervised step, at most all of them", "rows", low=1),
        "warmup_batch": Setting(128, "rows a step of the head, at most all of them", "rows", low=1),
        "contrastive_rate": Setting(0.4, "self-supervised learning rate at the start", low=0.0),
        "momentum": Setting(0.9, "self-supervised SGD momentum", low=0.0, high=1.0),
        "weight_decay": Setting(1e-4, "self-supervised, coupled L2 on every parameter", low=0.0),
        "period": Setting(0, "half period of the cosine of that rate; 0: the length of the stage", "epochs", low=0),
        "temperature": Setting(0.5, "what similarities of views are divided by", low=0.01),
        "learning_rate": Setting(0.002, "Adam learning rate of the head, and of all weights afterwards", low=0.0),
        "forward": Setting(0.1, "weight of the cross-entropy in the loss of the head and in that of a row", low=0.0),
        "reverse": Setting(1.0, "weight of the reverse cross-entropy there", low=0.0),
        "labeled": Setting(0.5, "rows that keep their labels, rounded down", "share of all rows", low=0.0, high=1.0),
    }
    | semi_supervised.SETTINGS,
    presets={
        "paper": {},
        "benchmark": {"contrastive_epochs": 100, "period": 1000, "epochs": 100, "border": "black"},
    },
    departures=(
        "Numbers are those of the released code for CIFAR-10. Its views have 256 levels after every change and are "
        "blurred by repeated means; here they are not rounded, and the blur is Gaussian.",
        "A resized crop reads beyond its edges where the image goes on; in the released code it ends there.",
        "The released code mirrors images; here the dataset says whether that is allowed.",
        "The benchmark's option for the temperature is never read: it computes with 0.5 as well.",
    ),
)


def make(net, shape, classes, *, contrastive_epochs, contrastive_batch, period, warmup_epochs, warmup_batch, **semi):
    """Features without labels, a head, and all of it by MixMatch."""
    path = heads.place(net)

    def join(moving):
        return heads.put(moving["rest"], path, moving["head"])

    def apart(params):
        return {"head": heads.at(params, path), "rest": heads.put(params, path, {})}

    def losses(logits, label, settings):
        return train.symmetric_cross_entropy(logits, label, settings["forward"], settings["reverse"])

    def begin_head(key, _given, weights):
        parts = apart(weights.params)
        head = heads.drawn(stream(key, "head"), parts["head"])
        return head, {"rest": parts["rest"], "batch_stats": weights.batch_stats}

    def warm(_key, head, still, rows, given):
        weights = Weights(join({"head": head, "rest": still["rest"]}), still["batch_stats"])
        logits, batch_stats, _ = net.apply(weights, rows.image, train=True, weight=rows.weight)
        value = train.mean(losses(logits, rows.label, given.settings), rows.weight)
        info = {"loss": value, "accuracy": train.accuracy(logits, rows.label, rows.weight)}
        return value, (still | {"batch_stats": batch_stats}, info)

    def leave_head(_key, state, _given):
        params = join({"head": state.moving, "rest": state.still["rest"]})
        return Trained(Weights(params, state.still["batch_stats"]), {"adam": state.opt_state})

    def begin_all(_key, given, weights):
        parts = apart(weights.params)
        fresh = train.adam()(given, None).init(parts["rest"])
        return parts, weights.batch_stats, {"head": given.carry["adam"], "rest": fresh}

    def split(key, weights, _epoch, given):
        def of(rows):
            seen = crops(jax.random.fold_in(key, rows.row[0]), rows, None, given)
            return losses(net.apply(weights, seen.image)[0], rows.label, given.settings)

        return semi_supervised.lowest(sources.each(given.train, of, warmup_batch), given.settings["labeled"])

    def leave_all(_key, state, _given):
        weights = Weights(join(state.moving), state.still["batch_stats"])
        return Trained(weights, {"labeled": state.still["labeled"]})

    crops = semi_supervised.crops(semi["border"])
    return (
        contrastive.learn_views(
            net,
            shape,
            lambda given: given.train,
            "dbd",
            epochs=contrastive_epochs,
            batch=contrastive_batch,
            rule=train.sgd("contrastive_rate", schedule=train.cosine(period)),
        ),
        train.descend(
            lambda given: given.train,
            epochs=warmup_epochs,
            batch=warmup_batch,
            begin=begin_head,
            loss=warm,
            rule=train.adam(),
            leave=leave_head,
            augment=crops,
        ),
        semi_supervised.mixmatch(
            net,
            lambda given: given.train,
            split=split,
            begin=begin_all,
            rule=lambda given, clock: train.each(dict.fromkeys(("head", "rest"), train.adam()(given, clock))),
            leave=leave_all,
            classes=classes,
            before=warmup_epochs,
            join=join,
            **semi,
        ),
    )


DBD = Method(CARD, make)
