"""TSC: permute the neurons of a copy of the model, train a curve between both on clean rows, and take a point of it.

Peng, Yang, Zhao, Dong, He, Zhang, He, Circumventing Backdoor Space via Weight Symmetry, ICML 2025, arXiv:2506.07467,
algorithm 1. A round has two stages. The first joins the model w with a copy whose neurons are permuted so that the
features of clean rows are least alike; on the way between them the loss of triggered rows rises. The second joins w,
permuted so that its features are most alike to those of the point taken, with that point, which restores the accuracy.
Both curves are phi(t) = (1 - t)^2 start + 2 t (1 - t) bend + t^2 end, whose bend alone is trained, at places t ~ U(0,
1). The next round begins with the point of the second curve, fine-tuned.
"""

from bdjax import train
from bdjax.cards import Card, Method, Setting
from bdjax.data import sources
from bdjax.defenses.parts.pruning import once
from bdjax.keys import stream
from bdjax.metrics import geometry
from bdjax.models.parts import permutations
from bdjax.models.parts.statistics import reestimated
from bdjax.train import curves
from bdjax.types import Given, Key, Source, Trained, Weights

CARD = Card(
    name="tsc",
    title="TSC",
    citation="Peng, Yang, Zhao, Dong, He, Zhang, He, Circumventing Backdoor Space via Weight Symmetry, ICML 2025, "
    "arXiv:2506.07467",
    year=2025,
    version=1,
    kind="path between models",
    stage="post-training",
    needs=("clean", "victim"),
    changes="all weights",
    settings={
        "rounds": Setting(3, "times that both stages are run", "rounds", low=1),
        "place": Setting(
            0.4,
            "point of either curve that is taken; 0 of the first the model, of the second the permuted one",
            low=0.0,
            high=1.0,
        ),
        "epochs": Setting(200, "passes that train the bend of a curve", "epochs", low=1),
        "learning_rate": Setting(0.02, "learning rate of the bend at the start", low=0.0),
        "period": Setting(
            100,
            "half period of the cosine of that rate, advanced each epoch; 0: the length of the stage",
            "epochs",
            low=0,
        ),
        "point_decay": Setting(1e-4, "L2 penalty on the point of the curve that a step has drawn", low=0.0),
        "weight_decay": Setting(5e-4, "coupled L2 penalty on the bend, and on the model in fine-tuning", low=0.0),
        "momentum": Setting(0.9, "of SGD", low=0.0, high=1.0),
        "batch": Setting(256, "rows a step; the whole clean set where that is smaller", "rows", low=1),
        "feature_batch": Setting(128, "rows over which features are compared at a time", "rows", low=1),
        "tuning_epochs": Setting(10, "passes that fine-tune the model between two rounds", "epochs", low=0),
        "tuning_rate": Setting(1e-4, "their learning rate at the start, cosine advanced each epoch", low=0.0),
        "augment": Setting(True, "whether images are augmented, also where features and statistics are taken"),
    },
    departures=(
        "`paper` is the authors' released code with the options of its example; the reference benchmark has no TSC.",
        "The paper compares features by their distance; the released code, and so this, by their correlation.",
        "The rate of the bend rises again after 100 of 200 epochs, as in the released code: period=100.",
        "Where neurons of several layers are added up, their features are those of the first convolution larger than "
        "1x1, as in the released code.",
        "Correlations are rounded to 6 places: of a model and its copy an order and its inverse are equally good, and "
        "in the released code noise decides between them.",
        "In airbench the outputs of the fixed whitening stay in their order.",
    ),
)


def make(net, shape, classes, *, rounds, epochs, period, batch, feature_batch, tuning_epochs, augment):
    """The first permutation, then in every round two curves and, but for the last, fine-tuning."""
    del classes
    groups = permutations.groups(net, shape, "tsc")

    def clean(key: Key, given: Given) -> Source:
        rows = sources.shuffled(given.clean)
        return sources.augmented_once(key, rows, given) if augment else rows

    def permuted(key: Key, weights: Weights, like: Weights, alike: bool, given: Given) -> Weights:
        rows = clean(stream(key, "features"), given)
        matrices = permutations.correlations(net, groups, like, weights, rows, feature_batch)
        return permutations.permuted(groups, weights, permutations.assigned(matrices, alike))

    def point(key, state, given):
        found = curves.at(geometry.bezier, ends(given), state.moving, given.settings["place"])
        return reestimated(net, found, clean(stream(key, "statistics"), given), batch)

    def ends(given):
        return given.carry["start"], given.carry["end"]

    # What stages leave: the ends of the curve that comes next are carried.
    def apart(key, weights, given):
        return Trained(weights, {"start": weights, "end": permuted(key, weights, weights, False, given)})

    def near(key, state, given):
        end = point(key, state, given)
        return Trained(end, {"start": permuted(key, given.carry["start"], end, True, given), "end": end})

    def plain(key, state, given):
        return Trained(point(key, state, given))

    def again(key, state, given):
        return apart(key, point(key, state, given), given)

    def tuned(key, state, given):
        return apart(key, train.leave_weights(key, state, given).weights, given)

    def bent(leave):
        return curves.bending(
            net,
            lambda given: given.clean,
            ends,
            epochs=epochs,
            batch=batch,
            rule=train.sgd(schedule=train.cosine(period)),
            leave=leave,
            decay="point_decay",
            augment=augment,
        )

    between = (bent(near), bent(again))
    if tuning_epochs:
        tuning = train.supervised(
            net,
            lambda given: given.clean,
            epochs=tuning_epochs,
            batch=batch,
            rule=train.sgd("tuning_rate", schedule=train.cosine()),
            leave=tuned,
            augment=augment,
        )
        between = (bent(near), bent(plain), tuning)
    untrained = once(lambda _key, _given, weights: (weights, {}))._replace(finish=apart)
    return untrained, *between * (rounds - 1), bent(near), bent(plain)


TSC = Method(CARD, make)
