"""Retuning: does a purified model learn the backdoor again from a handful of poisoned images?

Min, Qin, Zhang, Shen, Cheng, Uncovering, Explaining, and Mitigating the Superficial Safety of Backdoor Defense, NeurIPS
2024, arXiv:2410.09838 (the Retuning Attack): fine-tune all weights on a few clean rows among which five are poisoned,
and measure the attack success rate again. A clean model under the same audit is the control.
"""

import jax
import jax.numpy as jnp

from bdjax import metrics, train
from bdjax.cards import Card, Method, Setting
from bdjax.data import sources
from bdjax.errors import InvalidInput
from bdjax.keys import stream
from bdjax.types import Array, Audit, Given, Key, Source, Stage, Weights

CARD = Card(
    name="retuning",
    title="Retuning Attack",
    citation="Min, Qin, Zhang, Shen, Cheng, Uncovering, Explaining, and Mitigating the Superficial Safety of Backdoor "
    "Defense, NeurIPS 2024, arXiv:2410.09838",
    year=2024,
    version=1,
    kind="fine-tuning",
    stage="post-training",
    needs=("clean", "victim", "poisoned", "queries", "target", "test"),
    changes="all weights of a copy",
    settings={
        "rows": Setting(1000, "in all, poisoned ones included; no more than there are clean ones", "rows", low=1),
        "poisoned": Setting(5, "of them, which replace clean ones", "rows", low=0),
        "epochs": Setting(5, "passes over the rows", "epochs", low=1),
        "batch": Setting(128, "rows a step; all rows where there are fewer", "rows", low=1),
        "learning_rate": Setting(0.01, "constant", low=0.0),
        "momentum": Setting(0.9, "of SGD", low=0.0, high=1.0),
        "weight_decay": Setting(0.0, "coupled L2 on every parameter, those of BatchNorm included", low=0.0),
        "fresh": Setting(False, "augment anew at every step; else each image keeps the augmentation it first got"),
    },
    departures=(
        "Clean rows are drawn from the defender's, the paper's from the whole training set, of which they are 2%.",
        "The poisoned rows are those that the attack poisons first, the paper's a random draw of the poisoned ones.",
    ),
)


def pool(given: Given, poisoned: int) -> Source:
    """All clean rows, then the first `poisoned` rows that the attack poisons."""
    if not poisoned:
        return given.clean
    return sources.concatenated(given.clean, sources.subset(given.poisoned, jnp.arange(poisoned, dtype=jnp.int32)))


def drawn(key: Key, clean: int, rows: int, poisoned: int) -> Array:
    """Rows of the pool to tune on, int32 (rows,): random clean ones, then all that are poisoned."""
    some = jax.random.permutation(key, jnp.arange(clean, dtype=jnp.int32))[: rows - poisoned]
    return jnp.concatenate([some, clean + jnp.arange(poisoned, dtype=jnp.int32)])


def augmented(key: Key, augment, image: Array, row: Array) -> Array:
    """Each image (height, width, channels) of a batch augmented by a stream of its row's own."""

    def one(image: Array, row: Array) -> Array:
        return augment(jax.random.fold_in(key, row), image[None])[0]

    return jax.vmap(one)(image, row)


def _stage(net, rows: int, poisoned: int, fresh: bool, recipe: dict) -> Stage:
    def begin(key, given, weights):
        count = min(rows, given.clean.size)
        if poisoned >= count:
            raise InvalidInput(f"retuning:poisoned={poisoned} leaves no clean row of {count}; give fewer")
        first = train.start(given, weights)
        some = drawn(stream(key, "rows"), given.clean.size, count, poisoned)
        frozen = jax.random.key_data(stream(key, "augment"))  # of the augmentation that does not change
        return first.params, {"batch_stats": first.batch_stats, "rows": some, "frozen": frozen}

    def order(key, _epoch, _given, still):
        place = train.shuffled(key, still["rows"].size, recipe["batch"])
        return jnp.where(place < 0, -1, still["rows"][place])

    def slope(key, params, still, batch, given):
        own = stream(key, "augment") if fresh else jax.random.wrap_key_data(still["frozen"], impl="threefry2x32")
        changed = augmented(own, given.augment, batch.image, batch.row)
        stored = (batch.row >= given.clean.size)[:, None, None, None]
        image = jnp.where(stored, batch.image, changed)
        gradients, batch_stats, info = train.loss_gradient(net, Weights(params, still["batch_stats"]), image, batch)
        return gradients, still | {"batch_stats": batch_stats}, info

    hooks = {"begin": begin, "order": order, "full": True, "slope": slope, "augment": False}
    return train.supervised(net, lambda given: pool(given, poisoned), schedule="constant", **hooks, **recipe)


def measure(key, net, trained, given):
    """ACC, ASR and RA after retuning."""
    del key
    sums = metrics.counts(net, trained.weights, given.test, given.queries, given.target)
    return metrics.rates(sums)


def make(net, shape, classes, *, rows, poisoned, fresh, **recipe):
    """Fine-tuning on few rows, then the three rates."""
    del shape, classes
    return Audit((_stage(net, rows, poisoned, fresh, recipe),), measure)


RETUNING = Method(CARD, make)
