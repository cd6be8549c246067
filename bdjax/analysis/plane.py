"""Plane: loss, clean error and attack success on the plane in weight space that three stored models lie in.

Garipov, Izmailov, Podoprikhin, Vetrov, Wilson, Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs, NeurIPS
2018, arXiv:1802.10026, figure 1 and appendix A.1; here the models are the backdoored one and two that were purified.
"""

from pathlib import Path

from bdjax.cards import Card, Method, Setting
from bdjax.errors import InvalidInput

MARGIN = 0.3
"""How far the plane is shown beyond the models, as a share of how far they lie apart along each axis."""

CARD = Card(
    name="plane",
    title="Plane through three models",
    citation="Garipov, Izmailov, Podoprikhin, Vetrov, Wilson, Loss Surfaces, Mode Connectivity, and Fast Ensembling of "
    "DNNs, NeurIPS 2018, arXiv:1802.10026",
    year=2018,
    version=1,
    kind="analysis of stored models",
    needs=("clean", "victim", "queries", "target", "test"),
    changes="nothing",
    settings={
        "points": Setting(21, "along each axis", low=2),
        "batch": Setting(128, "rows a pass that make the statistics of batch normalisation anew", "rows", low=1),
    },
)


def make(
    folder: str | Path,
    attack: str,
    ratio: float,
    defenses: tuple[str, ...] = (),
    seeds: tuple[int, ...] = (),
    *,
    points: int = 21,
    batch: int = 128,
):
    """Score the points of a plane through the models of three defenses; statistics are made anew at every point.

    Args:
        folder: a study's `out`.
        attack, ratio: coordinates in its results.
        defenses: three of them, of which none changes the network; () where the study has but three.
        seeds: coordinates too, each with a plane of its own; () for all.
        points, batch: see the card.

    Returns:
        An `xarray.Dataset` with loss (clean, mean cross-entropy), error (clean) and asr, dims (seed, row, column);
        x (seed, column) and y (seed, row), distances in weight space; corners (seed, defense, axis), where the three
        models lie, the first at the origin and the second on the x axis.

    Raises:
        InvalidInput: the folder has no such cells or lacks a model; not three defenses; one of them changes the
            network; or their models lie on one line.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np
    import xarray as xr

    from bdjax.analysis.parts import stored
    from bdjax.audits.connectivity import scores
    from bdjax.data import sources
    from bdjax.metrics import geometry
    from bdjax.models.parts.statistics import reestimated
    from bdjax.types import Trained

    study = stored.opened(folder, attack, ratio, defenses, seeds, "connectivity")
    names, models = list(study.models), list(study.models.values())
    if len(names) != 3:
        raise InvalidInput(f"plane: {len(names)} defenses, {', '.join(names)}; give three")
    changed = [name for name, one in study.models.items() if one.group.net is not study.net]
    if changed:
        raise InvalidInput(f"plane: {changed[0]} changes the network, so its models lie in another space; give another")

    def function(cell, shared):
        given = stored.make_given(models[0], cell, shared)
        through = geometry.plane(*(weights.params for weights in (cell.victim, *cell.left.carry["others"])))
        low, high = jnp.min(through.corners, 0), jnp.max(through.corners, 0)
        x, y = low[:, None] + (high - low)[:, None] * jnp.linspace(-MARGIN, 1 + MARGIN, points)

        def seen(place):
            weights = cell.victim.replace(params=geometry.located(through, *place))
            return scores(study.net, reestimated(study.net, weights, sources.shuffled(given.clean), batch), given)

        grid = jnp.stack(jnp.meshgrid(x, y), axis=-1).reshape(-1, 2)
        found = jax.tree.map(lambda leaf: leaf.reshape(points, points), jax.lax.map(seen, grid))
        return found | {"x": x, "y": y, "corners": through.corners}

    others = {"others": tuple(one.cells.victim for one in models[1:])}
    cells = models[0].cells.replace(left=Trained(None, others))
    found = jax.tree.map(np.asarray, stored.over_seeds(models[0], function)(cells))
    flat = [str(seed) for seed, corners in zip(study.seeds, found["corners"], strict=True) if np.isnan(corners).any()]
    if flat:
        raise InvalidInput(f"plane: the models of seed {flat[0]} lie on one line; give three that differ")
    dims = dict.fromkeys(("loss", "error", "asr"), ("seed", "row", "column"))
    dims |= {"x": ("seed", "column"), "y": ("seed", "row"), "corners": ("seed", "defense", "axis")}
    variables = {name: (dims[name], value) for name, value in found.items()}
    coordinates = {"seed": list(study.seeds), "defense": names, "axis": ["x", "y"]}
    return xr.Dataset(variables, coordinates, {"attack": attack, "ratio": ratio})


PLANE = Method(CARD, make)
