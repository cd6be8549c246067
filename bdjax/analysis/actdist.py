"""Activation distribution: the classes of the images that move each channel of each layer most.

Wu, Chen, Zhang, Zhu, Wei, Yuan, Shen, BackdoorBench: A Comprehensive Benchmark of Backdoor Learning, NeurIPS 2022,
arXiv:2206.12654: a channel whose largest activations are nearly all of triggered images serves the backdoor.
"""

from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp

from bdjax.analysis.parts.rows import draw
from bdjax.cards import Card, Method, Setting
from bdjax.data import sources
from bdjax.keys import stream
from bdjax.types import Array, Batch, Given, Key, Net, Source, Weights, real

CARD = Card(
    name="actdist",
    title="Activation distribution",
    citation="Wu, Chen, Zhang, Zhu, Wei, Yuan, Shen, BackdoorBench: A Comprehensive Benchmark of Backdoor Learning, "
    "NeurIPS 2022, arXiv:2206.12654",
    year=2022,
    version=1,
    kind="analysis of stored models",
    needs=("victim", "queries", "target", "test"),
    changes="nothing",
    settings={
        "rows": Setting(5000, "test images at most, with those that get the trigger", "images", low=2),
        "triggered": Setting(10, "of these images get the trigger; at least one", "%", low=1, high=99),
    },
    departures=(
        "The benchmark looks at training images under their poison; here at test images, as in its `mixed` set, which "
        "also serves attacks that poison batch by batch.",
    ),
)


def composition(activation: Array, label: Array, count: Array, labels: int) -> Array:
    """The share of each label among the images of largest activation, float (channels, labels).

    Args:
        activation: float (n, channels).
        label: int32 (n,) in [0, labels).
        count: int32 (), how many images, at least 1; of equal ones the first.
        labels: how many labels there are.
    """
    top = jnp.argsort(-activation, axis=0, stable=True)
    among = (jnp.arange(label.size) < count).astype(activation.dtype)

    def one(order: Array) -> Array:
        return jnp.zeros(labels, activation.dtype).at[label[order]].add(among)

    return jax.vmap(one, in_axes=1)(top) / count


def mixed(key: Key, given: Given, rows: int, triggered: int) -> tuple[Source, Array]:
    """At most `rows` random test images of which that percentage has the trigger; and which, bool (rows,)."""
    every = draw(key, given, given.test.size)  # those to be moved come first, of which the first get the trigger
    place, size = jnp.arange(given.test.size), min(rows, given.test.size)
    chosen = (place < max(1, size * triggered // 100)) & every.moved
    lots = jnp.where(chosen, -1, jax.random.uniform(stream(key, "others"), place.shape, real()))
    order = jnp.argsort(lots)[:size].astype(jnp.int32)
    clean, hidden = sources.subset(every.clean, order), sources.subset(every.triggered, order)
    stamped = chosen[order]

    def read(row: Array) -> Batch:
        batch = clean.read(row)
        return batch.replace(image=jnp.where(stamped[row, None, None, None], hidden.read(row).image, batch.image))

    return Source(size, read), stamped


def compositions(
    net: Net, weights: Weights, images: Source, stamped: Array, names: Mapping[str, str], classes: int
) -> dict[str, Array]:
    """`composition` of each channel of some layers, name -> float (channels, classes + 1); the last is triggered ones.

    stamped: bool (size,), which images have the trigger; names: name of a layer -> its tap.
    """

    def seen(batch: Batch) -> tuple[dict[str, Array], Array]:
        taps = net.apply(weights, batch.image)[2]
        sums = {name: jnp.sum(taps[tap], tuple(range(1, taps[tap].ndim - 1))) for name, tap in names.items()}
        return sums, jnp.where(stamped[batch.row], classes, batch.label)

    activation, label = sources.each(images, seen)
    count = jnp.maximum(jnp.sum(stamped), 1)
    return {name: composition(each, label, count, classes + 1) for name, each in activation.items()}


def make(
    folder: str | Path,
    attack: str,
    ratio: float,
    defenses: tuple[str, ...] = (),
    seeds: tuple[int, ...] = (),
    *,
    rows: int = 5000,
    triggered: int = 10,
):
    """Rank mixed images by each channel's activation, summed over space, and say whose are the first.

    As many images are looked at as there are triggered ones.

    Args:
        folder: a study's `out`.
        attack, ratio, defenses, seeds: coordinates in its results; () for all.
        rows, triggered: see the card; fewer have the trigger where the attack has to move fewer.

    Returns:
        An `xarray.Dataset` with share, float in [0, 1] of dims (seed, defense, channel, label); label is a class, by
        its number as text, or triggered; coordinates layer and index say which channel it is.

    Raises:
        InvalidInput: the folder has no such cells, lacks a model, or a defense has replaced a layer.
    """
    from bdjax.analysis.parts import channels, stored

    study = stored.opened(folder, attack, ratio, defenses, seeds)
    names = {layer.name: layer.tap for layer in channels.layers(study, "actdist")}
    classes = study.classes

    def function(key, net, given):
        return compositions(net, given.victim, *mixed(key, given, rows, triggered), names, classes)

    found = stored.ask(study, CARD.needs, function)
    values = {name: found[name] for name in names}
    about = {"long_name": "share of the images of largest activation", "units": "1"}
    labels = (*map(str, range(classes)), "triggered")
    return channels.dataset(study, values, "share", {"attack": attack, "ratio": ratio}, about, labels)


def figure(found):
    """The share of triggered images in percent, every layer a column, one panel a defense, of the first seed."""
    from bdjax.analysis.parts import channels

    share = 100 * found["share"].isel(seed=0).sel(label="triggered")
    return channels.bricks(share, "triggered among the images\nof largest activation, %", False, top=100)


ACTDIST = Method(CARD, make)
