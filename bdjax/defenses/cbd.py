"""CBD: a first network is trained into the backdoor on purpose, and a second one learns from the rows it fits badly.

Zhang, Liu, Wang, Lu, Hu, Backdoor Defense via Deconfounded Representation Learning, CVPR 2023, arXiv:2303.06818: a few
epochs of plain training catch the trigger before much else. Beside such a network, with losses l_B, a second one with
losses l_C learns from scratch by the mean of w CE, w = l_B / (l_B + l_C): rows that the first one fits count for
nothing. Numbers are those of the authors' released code.
"""

import jax
import optax

from bdjax import train
from bdjax.cards import Card, Method, Setting
from bdjax.detection.parts import isolation
from bdjax.types import Array, Trained, Weights

CARD = Card(
    name="cbd",
    title="CBD",
    citation="Zhang, Liu, Wang, Lu, Hu, Backdoor Defense via Deconfounded Representation Learning, CVPR 2023, "
    "arXiv:2303.06818",
    year=2023,
    version=1,
    kind="training with rows weighted",
    stage="training",
    needs=("train",),
    changes="the training rule; rows count for less, none is removed",
    settings={
        "backdoor_epochs": Setting(5, "passes of the first network, meant to learn the backdoor", "epochs", low=1),
        "backdoor_rate": Setting(0.1, "learning rate of the first network, constant", low=0.0),
        "epochs": Setting(100, "passes of the second network, which is kept", "epochs", low=1),
        "batch": Setting(64, "rows a step; the whole source where that is smaller", "rows", low=1),
        "learning_rate": Setting(0.1, "of the second network, at the start", low=0.0),
        "first_drop": Setting(20, "epoch from which on that rate is a tenth", "epochs", low=0),
        "second_drop": Setting(70, "epoch from which on it is a hundredth", "epochs", low=0),
        "momentum": Setting(0.9, "of both, of Nesterov's kind", low=0.0, high=1.0),
        "weight_decay": Setting(1e-4, "of both, coupled L2 on every parameter, those of BatchNorm included", low=0.0),
    },
    presets={"paper": {}},
    departures=(
        "The paper also lowers the mutual information of the two networks' features, by a critic that is trained in a "
        "pass of its own before each epoch. The released code leaves that out unless asked (`disentangle`), as is "
        "always done here.",
        "The released code trains a Wide ResNet on images that are not normalized, and cuts squares of 2x2 out of them "
        "(3x3 by its comments). Here it is the study's network and the dataset's own augmentation.",
        "The reference benchmark has no CBD.",
    ),
)


def weigh(first: Array, second: Array) -> Array:
    """How much each row counts, float (b,) from 0 to 1, by its losses float (b,) in the first and second network."""
    return first / (second + first + 1e-8)


def make(net, shape, classes, *, backdoor_epochs, epochs, batch, first_drop, second_drop):
    """A network that takes up the backdoor, and one that learns what the first has not."""
    del shape, classes

    def keep(_key, state, _given):
        weights = Weights(state.moving, state.still)
        return Trained(weights, {"backdoored": weights})

    def weighted(_key, params, batch_stats, rows, given):
        first = isolation.losses_of(net, given.carry["backdoored"], rows)
        logits, batch_stats, _ = net.apply(Weights(params, batch_stats), rows.image, train=True, weight=rows.weight)
        second = optax.softmax_cross_entropy_with_integer_labels(logits, rows.label)
        count = rows.weight * jax.lax.stop_gradient(weigh(first, second))
        value = train.mean(second, count)
        info = {
            "loss": value,
            "accuracy": train.accuracy(logits, rows.label, rows.weight),
            "counted": train.mean(count, rows.weight),
        }
        return value, (batch_stats, info)

    def leave(_key, state, _given):
        return Trained(Weights(state.moving, state.still))

    shared = {"batch": batch, "begin": isolation.anew(net)}
    return (
        train.descend(
            lambda given: given.train,
            epochs=backdoor_epochs,
            loss=isolation.descent(net, lambda losses, weight, settings: train.mean(losses, weight)),
            rule=train.sgd("backdoor_rate", nesterov=True),
            leave=keep,
            **shared,
        ),
        train.descend(
            lambda given: given.train,
            epochs=epochs,
            loss=weighted,
            rule=train.sgd(nesterov=True, schedule=train.falling(first_drop, second_drop)),
            leave=leave,
            **shared,
        ),
    )


CBD = Method(CARD, make)
