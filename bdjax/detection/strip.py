"""STRIP: a triggered image under other images stays what the trigger says; a clean one becomes anything.

Gao, Xu, Wang, Chen, Ranasinghe, Nepal, STRIP: A Defence Against Trojan Attacks on Deep Neural Networks, ACSAC 2019,
arXiv:1902.06531, section 4: the mean entropy of predictions over images laid on top, equation 4, is low under it.
"""

import jax
import jax.numpy as jnp

from bdjax.cards import Card, Method, Setting
from bdjax.data import sources
from bdjax.detection.parts.decisions import above_clean
from bdjax.types import Array, Detector, Key

CARD = Card(
    name="strip",
    title="STRIP",
    citation="Gao, Xu, Wang, Chen, Ranasinghe, Nepal, STRIP: A Defence Against Trojan Attacks on Deep Neural "
    "Networks, ACSAC 2019, arXiv:1902.06531",
    year=2019,
    version=1,
    kind="entropy under superimposed images",
    stage="inference",
    needs=("victim", "clean", "valid"),
    settings={
        "overlays": Setting(100, "clean images laid on top, each once; all where there are fewer", "images", low=1),
        "alpha": Setting(1.0, "weight of an overlay; the image keeps the weight 1", low=0.0),
        "shared": Setting(0, "rows in a row that share their overlays; 0: each draws its own", "rows", low=0),
        "fpr": Setting(0.01, "share of clean rows that may be flagged", low=0.0, high=1.0),
    },
    presets={"paper": {}, "benchmark": {"shared": 128, "fpr": 0.1}},
    departures=(
        "Images are added after normalization, as in the authors' code: x + alpha (overlay - mean), the mean a channel "
        "over the clean rows, where the network's own is not known.",
        "The threshold is the quantile of clean scores; the paper takes that of a normal distribution fitted to them.",
        "Clean scores come from rows that are not overlays; the benchmark scores its overlays against themselves.",
    ),
)


def draw_overlays(key: Key, row: Array, size: int, overlays: int, shared: int) -> Array:
    """Which of `size` clean rows are laid on each row, int32 (b, overlays), without repetition."""

    def one(row: Array) -> Array:
        own = jax.random.fold_in(key, row // shared if shared else row)
        return jax.random.permutation(own, jnp.arange(size, dtype=jnp.int32))[:overlays]

    return jax.vmap(one)(row)


def entropy(logits: Array) -> Array:
    """The entropy of predictions (b, classes) in nats, float (b,); 1e-8 is added to every probability."""
    share = jax.nn.softmax(logits) + 1e-8
    return -jnp.sum(share * jnp.log(share), axis=1)


def make(net, shape, classes, *, overlays, shared):
    """The mean entropy over overlays, negated."""
    del net, shape, classes

    def fit(_key, _net, _trained, given):
        count = given.clean.size

        def channels(batch):
            return jnp.sum(jnp.mean(batch.image, (1, 2)) * batch.weight[:, None], 0)

        return {"mean": sources.total(given.clean, channels) / count}

    def score(key, net, trained, found, rows, given):
        drawn = draw_overlays(key, rows.row, given.clean.size, min(overlays, given.clean.size), shared)

        def one(row: Array) -> Array:
            overlay = given.clean.read(row).image - found["mean"]
            return entropy(net.apply(trained.weights, rows.image + given.settings["alpha"] * overlay)[0])

        return -jnp.mean(jax.lax.map(one, drawn.T), axis=0)

    def threshold(_found, score, clean, given):
        return above_clean(score, clean, given.settings["fpr"])

    return Detector(("rows", "queries"), score, fit, threshold, calibrate="valid")


STRIP = Method(CARD, make)
