"""Loss landscape: loss, clean error and attack success around a stored model, along two random directions.

Li, Xu, Taylor, Studer, Goldstein, Visualizing the Loss Landscape of Neural Nets, NeurIPS 2018, arXiv:1712.09913,
section 4: every filter of a random direction has the length of the model's own filter.
"""

from pathlib import Path

import jax
import jax.numpy as jnp

from bdjax.analysis.parts import drawing
from bdjax.audits.connectivity import scores
from bdjax.cards import Card, Method, Setting
from bdjax.data import sources
from bdjax.keys import stream
from bdjax.types import Array, Key, PyTree

CARD = Card(
    name="landscape",
    title="Loss landscape",
    citation="Li, Xu, Taylor, Studer, Goldstein, Visualizing the Loss Landscape of Neural Nets, NeurIPS 2018, "
    "arXiv:1712.09913",
    year=2018,
    version=1,
    kind="analysis of stored models",
    needs=("victim", "queries", "target", "test"),
    changes="nothing",
    settings={
        "points": Setting(11, "along each direction, from -1 to 1; odd, so that the model is one", low=3),
        "rows": Setting(256, "random test images at most", "images", low=1),
    },
    departures=(
        "The benchmark looks at the whole training set; here, with attack success, at some test images.",
        "The benchmark's grid has 30 points along each direction, of which none is the model.",
    ),
)


def normalized(direction: PyTree, params: PyTree) -> PyTree:
    """The direction with every filter as long as that of the parameters; biases and scales of it are 0.

    A filter is what one output channel, the last axis, has of a leaf with two or more axes.
    """

    def one(leaf: Array, own: Array) -> Array:
        if leaf.ndim < 2:
            return jnp.zeros_like(leaf)
        axes = tuple(range(leaf.ndim - 1))
        lengths = [jnp.sqrt(jnp.sum(each**2, axes)) for each in (own, leaf)]
        return leaf * lengths[0] / (lengths[1] + 1e-10)

    return jax.tree.map(one, direction, params)


def drawn_like(key: Key, params: PyTree) -> PyTree:
    """A random direction, normal before it is normalized."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    normal = [jax.random.normal(each, leaf.shape, leaf.dtype) for each, leaf in zip(keys, leaves, strict=True)]
    return normalized(jax.tree.unflatten(tree, normal), params)


def make(
    folder: str | Path,
    attack: str,
    ratio: float,
    defenses: tuple[str, ...] = (),
    seeds: tuple[int, ...] = (),
    *,
    points: int = 11,
    rows: int = 256,
):
    """Score models on a grid around each stored one; batch normalization keeps the stored model's statistics.

    Args:
        folder: a study's `out`.
        attack, ratio, defenses, seeds: coordinates in its results; () for all.
        points, rows: see the card; an even number of points is made odd.

    Returns:
        An `xarray.Dataset` with loss (clean, mean cross-entropy), error (clean) and asr, fractions, dims (seed,
        defense, row, column), x = y = 0 is the stored model; coordinates x (column) and y (row), in lengths of filters.

    Raises:
        InvalidInput: the folder has no such cells or lacks a model.
    """
    import numpy as np
    import xarray as xr

    from bdjax.analysis.parts import stored

    study = stored.opened(folder, attack, ratio, defenses, seeds)
    place = np.linspace(-1, 1, points + 1 - points % 2)

    def function(key, net, given):
        params, every = given.victim.params, jnp.arange(given.test.size, dtype=jnp.int32)
        some = jax.random.permutation(stream(key, "rows"), every)[:rows]
        given = given._replace(test=sources.subset(given.test, some), queries=sources.subset(given.queries, some))
        first, second = (drawn_like(stream(key, name), params) for name in ("x", "y"))

        def seen(at: Array) -> dict[str, Array]:
            moved = jax.tree.map(lambda own, one, two: own + at[0] * one + at[1] * two, params, first, second)
            return scores(net, given.victim.replace(params=moved), given)

        grid = jnp.stack(jnp.meshgrid(jnp.asarray(place), jnp.asarray(place)), axis=-1).reshape(-1, 2)
        found = jax.lax.map(seen, grid)
        return jax.tree.map(lambda leaf: leaf.reshape(place.size, place.size), found)

    found = stored.ask(study, CARD.needs, function)
    units = {"loss": "nat", "error": "1", "asr": "1"}
    dims = ("seed", "defense", "row", "column")
    variables = {name: (dims, np.asarray(found[name]), {"units": unit}) for name, unit in units.items()}
    coordinates = {"seed": list(study.seeds), "defense": list(study.models)}
    coordinates |= {"x": ("column", place), "y": ("row", place)}
    return xr.Dataset(variables, coordinates, {"attack": attack, "ratio": ratio})


@drawing.styled
def figure(found):
    """Clean loss, on a logarithmic scale, and attack success around the models of the first seed, a row a defense."""
    import numpy as np

    one = found.isel(seed=0)
    defenses = one["defense"].values
    drawn = drawing.blank(0.4 + 2.6 * len(defenses))
    panels = drawn.subplots(len(defenses), 2, squeeze=False, sharex=True, sharey=True)
    loss = np.log10(np.maximum(one["loss"], 1e-4))
    shown = {"clean loss, nat": (loss, float(loss.min()), float(loss.max()))}
    shown["attack success, %"] = (100 * one["asr"], 0, 100)
    look = {"cmap": "cividis", "extend": "neither"}
    for column, (label, (values, low, high)) in enumerate(shown.items()):
        for panel, defense in zip(panels[:, column], defenses, strict=True):
            levels = np.linspace(low, max(high, low + 1e-3), 11)
            filled = panel.contourf(one.x, one.y, values.sel(defense=defense), levels, **look)
            panel.plot(0, 0, "o", color="white", markeredgecolor="black", markeredgewidth=0.8)
            panel.set_aspect("equal")
            drawing.title(panel, f"{defense}: {label.partition(', ')[0]}")
        bar = drawn.colorbar(filled, ax=list(panels[:, column]), label=label.partition(", ")[2], pad=0.02, aspect=40)
        bar.set_ticks(levels[::2], labels=[f"{10**tick:.3g}" if column == 0 else f"{tick:.0f}" for tick in levels[::2]])
    for panel in panels[-1]:
        panel.set_xlabel("first direction, filter lengths")
    for panel in panels[:, 0]:
        panel.set_ylabel("second direction,\nfilter lengths")
    return drawn


LANDSCAPE = Method(CARD, make)
