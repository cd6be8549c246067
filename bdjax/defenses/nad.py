"""NAD: fine-tune a copy of the victim, then fine-tune the victim so that its attention becomes the copy's.

Li, Lyu, Koren, Lyu, Li, Ma, Neural Attention Distillation: Erasing Backdoor Triggers from Deep Neural Networks, ICLR
2021, arXiv:2101.05930, section 3. The attention of a layer is the sum over channels of |F|^p at each position, divided
by its Euclidean norm; the student's loss is cross-entropy and, for three layers, beta times the mean squared difference
from the teacher's attention, as in the authors' released code, whose betas these are.

The layers are the ends of the last three stages, what the authors take of networks with three: `layer2_1.add`,
`layer3_1.add` and `layer4_1.add` in preact_resnet18, the same with `relu2` in resnet18, `relu1`, `relu2` and `relu3` in
small_cnn.
"""

import jax

from bdjax import train
from bdjax.cards import Card, Method, Setting
from bdjax.defenses.parts.attention import distance, resolved
from bdjax.models.parts import heads
from bdjax.train import Clock, recipes
from bdjax.types import Batch, Net, PyTree, Trained, Weights

CARD = Card(
    name="nad",
    title="NAD",
    citation="Li, Lyu, Koren, Lyu, Li, Ma, Neural Attention Distillation: Erasing Backdoor Triggers from Deep Neural "
    "Networks, ICLR 2021, arXiv:2101.05930",
    year=2021,
    version=1,
    kind="distillation",
    stage="post-training",
    needs=("clean", "victim"),
    changes="all weights",
    settings={
        "teacher_epochs": Setting(10, "passes over the clean rows that make the teacher", "epochs", low=1),
        "epochs": Setting(10, "passes over the clean rows under distillation", "epochs", low=1),
        "batch": Setting(64, "rows a step; the whole clean set where that is smaller", "rows", low=1),
        "learning_rate": Setting(0.1, "of teacher and student at the start", low=0.0),
        "drop_every": Setting(2, "after so many epochs the rate is a tenth of what it was; 0: never", "epochs", low=0),
        "teacher_period": Setting(
            0, "half period of a cosine for the teacher's rate instead; 0: the student's rule", "epochs", low=0
        ),
        "momentum": Setting(0.9, "of SGD", low=0.0, high=1.0),
        "nesterov": Setting(True, "momentum of Nesterov's kind"),
        "weight_decay": Setting(1e-4, "coupled L2 on every parameter, those of BatchNorm included", low=0.0),
        "taps": Setting(
            "stages",
            "stages: the ends of the last three; pooled: those of the last two and the pooled features, whose one "
            "position always gets all attention; or three layers joined by +, from low to high",
        ),
        "beta1": Setting(500.0, "weight of the lowest layer's attention", low=0.0),
        "beta2": Setting(1000.0, "weight of the middle layer's attention", low=0.0),
        "beta3": Setting(1000.0, "weight of the highest layer's attention", low=0.0),
        "power": Setting(2.0, "of an activation in the sum over channels", low=1.0),
        "repeated": Setting(False, "what leads to each tap runs once more, so that moving statistics move again"),
    },
    presets={
        "paper": {},
        "benchmark": {
            "batch": 256,
            "learning_rate": 0.01,
            "drop_every": 0,
            "teacher_period": 100,
            "nesterov": False,
            "weight_decay": 5e-4,
            "taps": "pooled",
            "repeated": True,
        },
    },
    departures=(
        "Betas are those of the last revision of the released code; earlier ones put all on one layer.",
        "The released code runs 20 epochs, lowers the rate only once, and also cuts squares of 2x2 out of images (3x3 "
        "by its comments).",
        "The reference benchmark makes the teacher in half precision; this computes in single precision.",
    ),
)


def repeated_statistics(net: Net, taps: list[str], before: PyTree, after: PyTree) -> PyTree:
    """Moving statistics after as many more updates by the same batch as there are taps at or behind each layer.

    before, after: batch_stats before and after one update.
    """
    names = [layer.tap for layer in net.layers]
    changed = after
    for index, layer in enumerate(net.layers):
        if layer.kind == "norm":
            times = 1 + sum(names.index(tap) >= index for tap in taps)
            factor = (1 - (1 - layer.momentum) ** times) / layer.momentum
            old, new = (heads.at(tree, layer.path) for tree in (before, after))
            moved = jax.tree.map(lambda old, new, factor=factor: old + factor * (new - old), old, new)
            changed = heads.put(changed, layer.path, moved)
    return changed


def distilled(
    net: Net, taps: list[str], repeated: bool, weights: Weights, teacher: Weights, image, batch: Batch, given
):
    """The gradient of cross-entropy and attention, the student in training mode, the teacher in inference mode."""
    settings = given.settings
    wanted = net.apply(teacher, image)[2]

    def loss(params: PyTree):
        at = weights.replace(params=params)
        logits, batch_stats, found = net.apply(at, image, train=True, weight=batch.weight)
        gaps = [distance(found[tap], wanted[tap], batch.weight, settings["power"]) for tap in taps]
        drawn = sum(settings[f"beta{number}"] * gap for number, gap in enumerate(gaps, 1))
        value = train.cross_entropy(logits, batch.label, batch.weight) + drawn
        accuracy = train.accuracy(logits, batch.label, batch.weight)
        return value, (batch_stats, {"loss": value, "attention": drawn, "accuracy": accuracy})

    gradient, (batch_stats, info) = jax.grad(loss, has_aux=True)(weights.params)
    if repeated:
        batch_stats = repeated_statistics(net, taps, weights.batch_stats, batch_stats)
    return gradient, batch_stats, info


def make(net, shape, classes, *, teacher_epochs, epochs, batch, nesterov, drop_every, teacher_period, taps, repeated):
    """Fine-tuning of the teacher, then distillation of its attention into the victim."""
    del shape, classes
    layers = resolved(net, taps)

    def falling(clock: Clock):
        return 0.1 ** (clock.epoch // drop_every) if drop_every else 1.0

    def cosine(clock: Clock):
        return recipes.rate(clock.epoch, 1, teacher_epochs, "epoch", teacher_period)

    def begin(_key, given, _weights):
        return given.victim.params, given.victim.batch_stats

    def plain(_key, params, batch_stats, rows, _given):
        return train.loss_gradient(net, Weights(params, batch_stats), rows.image, rows)

    def distill(_key, params, batch_stats, rows, given):
        weights, teacher = Weights(params, batch_stats), given.carry["teacher"]
        return distilled(net, layers, repeated, weights, teacher, rows.image, rows, given)

    def teach(_key, state, given):
        return Trained(given.victim, {"teacher": Weights(state.moving, state.still)})

    def leave(_key, state, _given):
        return Trained(Weights(state.moving, state.still))

    def clean(given):
        return given.clean

    first = train.sgd(nesterov=nesterov, schedule=cosine if teacher_period else falling)
    then = train.sgd(nesterov=nesterov, schedule=falling)
    shared = {"batch": batch, "begin": begin}
    return (
        train.descend(clean, epochs=teacher_epochs, gradient=plain, rule=first, leave=teach, **shared),
        train.descend(clean, epochs=epochs, gradient=distill, rule=then, leave=leave, **shared),
    )


NAD = Method(CARD, make)
