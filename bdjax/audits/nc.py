"""Neural Cleanse: is there a class that a strangely small patch sends every image to?

Wang, Yao, Shan, Li, Viswanath, Zheng, Zhao, Neural Cleanse: Identifying and Mitigating Backdoor Attacks in Neural
Networks, IEEE S&P 2019, https://doi.org/10.1109/SP.2019.00031, section IV. Inversion and the rule for outliers are
`train.inversion`; what is done about a flagged class is the defense of the same name.
"""

import jax.numpy as jnp

from bdjax.audits.parts import common
from bdjax.cards import Card, Method, Setting
from bdjax.train import inversion
from bdjax.types import Audit, real

CARD = Card(
    name="nc",
    title="Neural Cleanse",
    citation="Wang, Yao, Shan, Li, Viswanath, Zheng, Zhao, Neural Cleanse: Identifying and Mitigating Backdoor Attacks "
    "in Neural Networks, IEEE S&P 2019, https://doi.org/10.1109/SP.2019.00031",
    year=2019,
    version=2,
    kind="detection of backdoored models by trigger inversion",
    stage="post-training",
    needs=("clean", "victim"),
    changes="nothing; mask and pattern of every class are learned",
    settings={
        "epochs": Setting(80, "passes over the clean rows, at most", "epochs", low=1),
        "batch": Setting(256, "rows a step; the whole clean set where that is smaller", "rows", low=1),
        "learning_rate": Setting(0.1, "constant learning rate of mask and pattern, by Adam", low=0.0),
    }
    | inversion.SETTINGS,
    presets={"paper": {}, "benchmark": inversion.BENCHMARK},
    departures=(
        *inversion.DEPARTURES,
        "With as few classes as the median has to itself, such as 3, the rule for outliers can hardly ever flag one.",
    ),
)


def make(net, shape, classes, *, median, **find):
    """Inversion of every class, then the rule for outliers."""
    common.check_classes(classes, "nc")
    stage = inversion.invert(net, shape, classes, lambda given: given.clean, rate="learning_rate", **find)

    def measure(_key, _net, trained, _given):
        index, flagged = inversion.outliers(trained.carry["norm"], median)
        index = jnp.nan_to_num(index, nan=0.0, posinf=jnp.finfo(real()).max)  # all norms alike: no outlier
        below = jnp.where(trained.carry["norm"] <= inversion.median_of(trained.carry["norm"], median), index, 0)
        return {
            "norm": trained.carry["norm"],
            "index": index,
            "flagged": flagged.astype(real()),
            "detected": jnp.any(flagged).astype(real()),
            "largest": jnp.max(below),
            "class": jnp.argmax(below).astype(real()),
        }

    return Audit((stage,), measure)


NC = Method(CARD, make)
