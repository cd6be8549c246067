"""ABL: trap what a network learns first, which is the poison, and unlearn it.

Li, Lyu, Koren, Lyu, Li, Ma, Anti-Backdoor Learning: Training Clean Models on Poisoned Data, NeurIPS 2021,
arXiv:2110.11571, section 3. Training keeps the loss near a floor gamma, below which only poisoned rows fall: local
gradient ascent, sign(loss - gamma) loss, which has the gradient of flooding, |loss - gamma| + gamma. Then the rows of
lowest loss are isolated, the network is trained on all others, and the isolated ones are unlearnt by gradient ascent.
"""

from bdjax import train
from bdjax.cards import Card, Method, Setting
from bdjax.data import sources
from bdjax.detection.parts import isolation
from bdjax.types import Given, Source, Trained, Weights

CARD = Card(
    name="abl",
    title="ABL",
    citation="Li, Lyu, Koren, Lyu, Li, Ma, Anti-Backdoor Learning: Training Clean Models on Poisoned Data, NeurIPS "
    "2021, arXiv:2110.11571",
    year=2021,
    version=1,
    kind="training with unlearning",
    stage="training",
    needs=("train",),
    changes="the training rule; no row is removed for good",
    settings={
        "isolation_epochs": Setting(20, "passes over all rows under the floor, without augmentation", "epochs", low=1),
        "epochs": Setting(60, "passes over the rows that are not isolated", "epochs", low=1),
        "unlearning_epochs": Setting(20, "passes over the isolated rows", "epochs", low=1),
        "batch": Setting(128, "rows a step; the whole source where that is smaller", "rows", low=1),
        "isolation_rate": isolation.SETTINGS["isolation_rate"],
        "learning_rate": Setting(0.01, "after isolation", low=0.0),
        "drop_epoch": Setting(50, "after isolation, from which on the rate is a tenth", "epochs", low=0),
        "unlearning_rate": Setting(1e-3, "learning rate of the ascent", low=0.0),
        "momentum": isolation.SETTINGS["momentum"],
        "weight_decay": isolation.SETTINGS["weight_decay"],
        "gamma": isolation.SETTINGS["gamma"],
        "floor": isolation.SETTINGS["floor"],
        "one_in": Setting(100, "one row in so many is isolated, rounded down, at least one", low=2),
        "augment_unlearning": Setting(False, "whether isolated rows are augmented"),
        "keep_momentum": Setting(False, "whether unlearning goes on with the optimizer of the stage before"),
    },
    presets={
        "paper": {},
        "benchmark": {
            "batch": 256,
            "isolation_rate": 0.01,
            "drop_epoch": 40,
            "unlearning_rate": 1e-4,
            "augment_unlearning": True,
            "keep_momentum": True,
        },
    },
    departures=(
        "The paper floors the loss of each row; the released code floors the mean of a batch, as is the default here.",
        "The paper's rate is 0.1, divided by 10 at epochs 20 and 70 of 100. Batch and weight decay are those of the "
        "released code, whose default run is shorter: 10, 60 and 4 epochs, the last at rate 0.0005.",
        "The released code also cuts squares of 2x2 out of images after isolation (3x3 by its comments).",
    ),
)


def make(net, shape, classes, *, epochs, batch, one_in, floor, drop_epoch, keep_momentum, **static):
    """Training under the floor, training on all but the isolated rows, and unlearning of the isolated ones."""
    del shape, classes
    falling = train.sgd(schedule=train.falling(drop_epoch), nesterov=True)

    def rows(isolated: bool):
        def source(given: Given) -> Source:
            few = max(1, given.train.size // one_in)
            ranking = given.carry["ranking"]
            return sources.subset(given.train, ranking[:few] if isolated else ranking[few:])

        return source

    def begin(_key, given, weights):
        held = (given.carry["opt_state"],) if "opt_state" in given.carry else ()
        return weights.params, weights.batch_stats, *held

    def isolate(_key, state, given):
        trained = Weights(state.moving, state.still)
        return Trained(trained, {"ranking": isolation.rank(net, trained, given.train, batch)})

    def learn(_key, state, given):
        carry = {"ranking": given.carry["ranking"]} | ({"opt_state": state.opt_state} if keep_momentum else {})
        return Trained(Weights(state.moving, state.still), carry)

    def leave(_key, state, given):
        return Trained(Weights(state.moving, state.still), {"ranking": given.carry["ranking"]})

    shared = {"batch": batch, "begin": begin}
    return (
        isolation.learn(net, lambda given: given.train, floor, isolate, epochs=static["isolation_epochs"], batch=batch),
        train.descend(
            rows(isolated=False),
            epochs=epochs,
            loss=isolation.descent(net, lambda losses, weight, settings: train.mean(losses, weight)),
            rule=falling,
            leave=learn,
            **shared,
        ),
        train.descend(
            rows(isolated=True),
            epochs=static["unlearning_epochs"],
            loss=isolation.descent(net, lambda losses, weight, settings: -train.mean(losses, weight)),
            rule=train.sgd("unlearning_rate", nesterov=True),
            leave=leave,
            augment=static["augment_unlearning"],
            **shared,
        ),
    )


ABL = Method(CARD, make)
