"""NC, Neural Cleanse: invert a trigger for every class, and unlearn those that are strangely small.

Wang, Yao, Shan, Li, Viswanath, Zheng, Zhao, Neural Cleanse: Identifying and Mitigating Backdoor Attacks in Neural
Networks, IEEE S&P 2019, https://doi.org/10.1109/SP.2019.00031, sections IV and VI.C. Inversion and the rule for
outliers are `train.inversion`.
"""

import jax.numpy as jnp

from bdjax import train
from bdjax.cards import Card, Method, Setting
from bdjax.data import sources
from bdjax.train import inversion, recipes
from bdjax.types import Array, Batch, Given, Source

CARD = Card(
    name="nc",
    title="Neural Cleanse",
    citation="Wang, Yao, Shan, Li, Viswanath, Zheng, Zhao, Neural Cleanse: Identifying and Mitigating Backdoor Attacks "
    "in Neural Networks, IEEE S&P 2019, https://doi.org/10.1109/SP.2019.00031",
    year=2019,
    version=2,
    kind="trigger inversion and unlearning",
    stage="post-training",
    needs=("clean", "victim"),
    changes="all weights, if a class is flagged; else nothing",
    settings=recipes.RECIPE
    | {
        "epochs": Setting(1, "passes of fine-tuning", "epochs", low=1),
        "batch": Setting(256, "rows a step; the whole clean set where that is smaller", "rows", low=1),
        "inversion_epochs": Setting(80, "passes of inversion, at most", "epochs", low=1),
        "inversion_batch": Setting(256, "rows a step of inversion", "rows", low=1),
        "inversion_rate": Setting(0.1, "constant learning rate of mask and pattern, by Adam", low=0.0),
        "one_in": Setting(5, "one clean row in so many gets the triggers of flagged classes", low=2),
    }
    | inversion.SETTINGS,
    presets={"paper": {}, "benchmark": {"epochs": 100, "period": 100} | inversion.BENCHMARK},
    departures=(
        *inversion.DEPARTURES,
        "One pass of fine-tuning is the paper's as far as it is remembered: its text was not at hand.",
        "The trigger is stamped as it was found. The benchmark reads it back from images whose range is stretched, "
        "cuts stamped images to whole levels, and saves the model that it loaded, not the one that it tuned.",
    ),
)


def rows_of(given: Given, one_in: int) -> tuple[Source, int]:
    """Clean rows, then one in `one_in` of all once for each class, stamped; and how many are clean."""
    clean, carry = sources.shuffled(given.clean), given.carry
    last = max(1, clean.size // one_in)
    first = clean.size - last

    def read(row: Array) -> Batch:
        late = jnp.maximum(row - first, 0)
        batch = clean.read(jnp.where(row < first, row, first + late % last))
        number = late // last
        stamped = inversion.stamp(batch.image, carry["mask"][number], carry["pattern"][number])
        image = jnp.where((row >= first)[:, None, None, None], stamped, batch.image)
        return batch.replace(image=image, row=row)

    return Source(first + last * carry["norm"].size, read), first


def make(net, shape, classes, *, inversion_epochs, inversion_batch, one_in, median, **static):
    """Inversion, then fine-tuning on images under the triggers of flagged classes."""
    recipe = {name: value for name, value in static.items() if name in recipes.RECIPE}
    find = {name: value for name, value in static.items() if name not in recipe}
    find |= {"epochs": inversion_epochs, "batch": inversion_batch, "rate": "inversion_rate"}

    def order(key, _epoch, given, _still):
        source, first = rows_of(given, one_in)
        flagged = inversion.outliers(given.carry["norm"], median)[1]
        copies = jnp.repeat(flagged, (source.size - first) // classes)
        # Without a flagged class there is nothing to unlearn, and the model stays as it is.
        return train.chosen(key, jnp.concatenate([jnp.ones(first, bool), copies]) & jnp.any(flagged), recipe["batch"])

    return (
        inversion.invert(net, shape, classes, lambda given: given.clean, **find),
        train.supervised(net, lambda given: rows_of(given, one_in)[0], order=order, **recipe),
    )


NC = Method(CARD, make)
