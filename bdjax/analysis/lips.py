"""Channel Lipschitz bounds: how far each channel of each layer can be moved by what the layer reads, without any data.

Zheng, Tang, Li, Liu, Data-free Backdoor Removal Based on Channel Lipschitzness, ECCV 2022, arXiv:2208.03111, sections 3
and 4; the bounds are those by which the defense `clp` prunes.
"""

from pathlib import Path

import jax.numpy as jnp

from bdjax.cards import Card, Method, Setting
from bdjax.defenses import clp
from bdjax.models.parts.batch_norm import EPSILON
from bdjax.models.parts.norms import entries
from bdjax.types import Array, Layer, Net, Weights

CARD = Card(
    name="lips",
    title="Channel Lipschitz bounds",
    citation="Zheng, Tang, Li, Liu, Data-free Backdoor Removal Based on Channel Lipschitzness, ECCV 2022, "
    "arXiv:2208.03111",
    year=2022,
    version=1,
    kind="analysis of stored models",
    needs=("victim",),
    changes="nothing",
    settings={
        "epsilon": Setting(True, "add to running variances what the network adds"),
        "shortcuts_last": Setting(False, "count a block's shortcut as its last convolution"),
    },
    presets={"paper": {}, "benchmark": {"epsilon": False, "shortcuts_last": True}},
    departures=(
        "A normalization layer goes with the last convolution before it, as in the defense clp, whose card says what "
        "that means in a pre-activation network. One before any convolution is left out.",
    ),
)


def bounds(net: Net, weights: Weights, layers: tuple[Layer, ...], epsilon: bool, late: bool) -> dict[str, Array]:
    """The bound of every channel: name of a layer -> float (channels,).

    layers: convolutions, normalizations and linear layers of `net`; late: `shortcuts_last`.
    """
    kernel = entries(tuple(layer for layer in layers if layer.kind != "norm"), weights.params, "kernel")
    normed = {}
    if {layer.kind for layer in layers} >= {"conv", "norm"}:
        normed = clp.bounds(weights, clp.pairs(net, late), EPSILON if epsilon else 0.0)
    found = {}
    for layer in layers:
        if layer.kind == "conv":
            found[layer.name] = clp.spectral(kernel[layer.name])
        elif layer.kind == "linear":
            found[layer.name] = jnp.sqrt(jnp.sum(kernel[layer.name] ** 2, axis=0))
        elif layer.name in normed:
            found[layer.name] = normed[layer.name]
    return found


def make(
    folder: str | Path,
    attack: str,
    ratio: float,
    defenses: tuple[str, ...] = (),
    seeds: tuple[int, ...] = (),
    *,
    epsilon: bool = True,
    shortcuts_last: bool = False,
):
    """Bound the channels of every convolution, normalization and linear layer of every model.

    Args:
        folder: a study's `out`.
        attack, ratio, defenses, seeds: coordinates in its results; () for all.
        epsilon, shortcuts_last: see the card.

    Returns:
        An `xarray.Dataset` with lips, float >= 0, dims (seed, defense, channel); coordinates layer and index say which
        channel it is.

    Raises:
        InvalidInput: the folder has no such cells, lacks a model, or a defense has replaced a layer.
    """
    from bdjax.analysis.parts import channels, stored

    study = stored.opened(folder, attack, ratio, defenses, seeds)
    names = [layer.name for layer in channels.layers(study, "lips")]

    def function(_key, net, given):
        own = tuple(layer for layer in net.layers if layer.name in names)
        return bounds(net, given.victim, own, epsilon, shortcuts_last)

    found = stored.ask(study, CARD.needs, function)
    values = {name: found[name] for name in names if name in found}
    about = {"long_name": "channel Lipschitz bound", "units": "output change per input change"}
    return channels.dataset(study, values, "lips", {"attack": attack, "ratio": ratio}, about)


def figure(found, by_layer: bool = True):
    """Every layer as a column of its channels, one panel a defense, of the first seed: see `channels.bricks`."""
    from bdjax.analysis.parts import channels

    return channels.bricks(found["lips"].isel(seed=0), "channel Lipschitz bound", by_layer)


LIPS = Method(CARD, make)
