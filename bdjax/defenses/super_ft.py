"""Super-fine-tuning: a learning rate that goes up and down, first so far that the model forgets.

Sha, He, Berrang, Humbert, Zhang, Fine-Tuning Is All You Need to Mitigate Backdoor Attacks, arXiv:2212.09067, 2022:
the rate rises from its base to a peak and falls back, again and again; the peak is high in a first phase, which
forgets, and low in a second, which recovers the clean task. Steps and constants are those of the implementation
in backdoor-toolbox.
"""

import jax.numpy as jnp

from bdjax import train
from bdjax.cards import Card, Method, Setting
from bdjax.train import optimizers
from bdjax.types import Weights, real

CARD = Card(
    name="super_ft",
    title="Super-fine-tuning",
    citation="Sha, He, Berrang, Humbert, Zhang, Fine-Tuning Is All You Need to Mitigate Backdoor Attacks, 2022, "
    "arXiv:2212.09067",
    year=2022,
    version=1,
    kind="fine-tuning",
    stage="post-training",
    needs=("clean", "victim"),
    changes="all weights",
    settings={
        "epochs": Setting(100, "passes over the clean rows, of both phases together", "epochs", low=1),
        "forgetting_epochs": Setting(40, "passes of the first phase", "epochs", low=0),
        "batch": Setting(128, "rows a step; the whole clean set where that is smaller", "rows", low=1),
        "rise": Setting(10, "steps in which the rate rises, and in which it falls again", "steps", low=1),
        "base": Setting(0.03, "lowest learning rate; 0.003 for GTSRB", low=0.0),
        "forgetting_peak": Setting(2.5, "highest learning rate of the first phase; 0.25 for GTSRB", low=0.0),
        "recovery_peak": Setting(0.05, "highest learning rate of the second phase; 0.005 for GTSRB", low=0.0),
        "augment": Setting(False, "whether images are augmented"),
    },
    presets={"paper": {}},
    departures=(
        "The authors' own code is not public: constants are those of backdoor-toolbox. Its rate is set after a step, "
        "so that a step has the rate of the one before, also where the phase changes.",
        "backdoor-toolbox takes 2,000 clean rows of the test set.",
        "The reference benchmark has no super-fine-tuning.",
    ),
)


def rate(step, steps: int, forgetting_epochs: int, rise: int, settings):
    """The learning rate of a step, float (): base + (peak - base) (1 - |(j mod 2 rise) / rise - 1|), j the one before.

    steps: in an epoch.
    """
    before = jnp.maximum(step - 1, 0)
    peak = jnp.where(before // steps < forgetting_epochs, settings["forgetting_peak"], settings["recovery_peak"])
    height = 1 - jnp.abs((before % (2 * rise)).astype(real()) / rise - 1)
    return settings["base"] + (peak - settings["base"]) * height


def make(net, shape, classes, *, epochs, forgetting_epochs, batch, rise, augment):
    """Fine-tuning by plain SGD under that rate."""
    del shape, classes

    def gradient(_key, params, still, rows, _given):
        gradients, batch_stats, info = train.loss_gradient(net, Weights(params, still["batch_stats"]), rows.image, rows)
        return gradients, {"batch_stats": batch_stats}, info

    def rule(given, clock):
        return optimizers.sgd(rate(clock.step, clock.steps, forgetting_epochs, rise, given.settings), 0.0)

    return (
        train.descend(
            lambda given: given.clean,
            epochs=epochs,
            batch=batch,
            begin=train.begin_weights(net, fresh=False),
            gradient=gradient,
            rule=rule,
            leave=train.leave_weights,
            augment=augment,
        ),
    )


SUPER_FT = Method(CARD, make)
