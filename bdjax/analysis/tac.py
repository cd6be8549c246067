"""Trigger-activated change: how far the trigger moves what each channel of each layer gives.

Zheng, Tang, Li, Liu, Data-free Backdoor Removal Based on Channel Lipschitzness, ECCV 2022, arXiv:2208.03111, section 3.
"""

from collections.abc import Mapping
from pathlib import Path

import jax.numpy as jnp

from bdjax.analysis.parts.rows import Twins, draw
from bdjax.cards import Card, Method, Setting
from bdjax.data import sources
from bdjax.types import Array, Batch, Net, Weights

CARD = Card(
    name="tac",
    title="Trigger-activated change",
    citation="Zheng, Tang, Li, Liu, Data-free Backdoor Removal Based on Channel Lipschitzness, ECCV 2022, "
    "arXiv:2208.03111",
    year=2022,
    version=1,
    kind="analysis of stored models",
    needs=("victim", "queries", "target", "test"),
    changes="nothing",
    settings={
        "form": Setting(
            "mean_norm",
            "over space and images: the mean of lengths, the length of the mean, or the sum of mean absolute changes",
            choices=("mean_norm", "norm_mean", "absolute"),
        ),
        "rows": Setting(5000, "test images at most, of those that the attack has to move", "images", low=1),
    },
    presets={"paper": {}, "benchmark": {"form": "absolute"}},
    departures=(
        "`mean_norm` is the definition of the paper on channel Lipschitzness as far as it is remembered; the text was "
        "not at hand, and only `absolute` was compared with code.",
        "The benchmark looks at images that were poisoned in training; here, under every preset, at test images.",
        "Of a residual block's last convolution the benchmark reads the tensor after the shortcut has been added to it "
        "in place. Here it is what the convolution gives.",
    ),
)


def summed(change: Array, weight: Array, form: str) -> Array:
    """What adds up over batches: (channels,), of form=norm_mean (..., channels).

    change: float (b, ..., channels), triggered less clean; weight: float (b,), 0 for images that do not count.
    """
    weight = weight.reshape(-1, *[1] * (change.ndim - 1))
    if form == "norm_mean":
        return jnp.sum(change * weight, axis=0)
    space = tuple(range(1, change.ndim - 1))
    size = jnp.sum(jnp.abs(change), space) if form == "absolute" else jnp.sqrt(jnp.sum(change**2, space))
    return jnp.sum(size * weight.reshape(-1, 1), axis=0)


def finished(sums: Array, images: Array, form: str) -> Array:
    """The change of each channel, float (channels,), from the sums over so many images."""
    mean = sums / images
    return jnp.sqrt(jnp.sum(mean**2, tuple(range(mean.ndim - 1)))) if form == "norm_mean" else mean


def changes(net: Net, weights: Weights, twins: Twins, names: Mapping[str, str], form: str) -> dict[str, Array]:
    """The change of each channel of some layers over the twins that count: name -> float (channels,).

    names: name of a layer -> its tap.
    """

    def seen(batch: Batch) -> dict[str, Array]:
        taps = [net.apply(weights, one.image)[2] for one in (batch, twins.triggered.read(batch.row))]
        counts = batch.weight * twins.moved[batch.row]
        return {name: summed(taps[1][tap] - taps[0][tap], counts, form) for name, tap in names.items()}

    sums, images = sources.total(twins.clean, seen), jnp.sum(twins.moved)
    return {name: finished(value, images, form) for name, value in sums.items()}


def make(
    folder: str | Path,
    attack: str,
    ratio: float,
    defenses: tuple[str, ...] = (),
    seeds: tuple[int, ...] = (),
    *,
    form: str = "mean_norm",
    rows: int = 5000,
):
    """Measure the change in every convolution, normalization and linear layer of every model.

    Args:
        folder: a study's `out`.
        attack, ratio, defenses, seeds: coordinates in its results; () for all.
        form, rows: see the card.

    Returns:
        An `xarray.Dataset` with tac, float >= 0 in units of the activation, dims (seed, defense, channel);
        coordinates layer and index say which channel it is.

    Raises:
        InvalidInput: the folder has no such cells, lacks a model, or a defense has replaced a layer.
    """
    from bdjax.analysis.parts import channels, stored

    study = stored.opened(folder, attack, ratio, defenses, seeds)
    names = {layer.name: layer.tap for layer in channels.layers(study, "tac")}

    def function(key, net, given):
        return changes(net, given.victim, draw(key, given, rows), names, form)

    found = stored.ask(study, CARD.needs, function)
    values = {name: found[name] for name in names}
    about = {"long_name": "trigger-activated change", "units": "activation"}
    return channels.dataset(study, values, "tac", {"attack": attack, "ratio": ratio, "form": form}, about)


def figure(found, by_layer: bool = True):
    """Every layer as a column of its channels, one panel a defense, of the first seed: see `channels.bricks`."""
    from bdjax.analysis.parts import channels

    return channels.bricks(found["tac"].isel(seed=0), "trigger-activated change", by_layer)


TAC = Method(CARD, make)
