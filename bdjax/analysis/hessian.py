"""Hessian: the curvature of the loss around stored models, on clean and on triggered test images.

Ghorbani, Krishnan, Xiao, An Investigation into Neural Net Optimization via Hessian Eigenvalue Density, ICML 2019,
arXiv:1901.10159, section 2 and appendix B: Lanczos steps from random vectors give a quadrature of the spectral density,
whose ends are the extreme eigenvalues; its mean times the number of parameters is Hutchinson's estimate of the trace.
"""

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from bdjax.analysis.parts import drawing
from bdjax.analysis.parts.rows import IMAGES, draw
from bdjax.cards import Card, Method, Setting
from bdjax.data import sources
from bdjax.types import Array, Batch, Key, Net, Source, Weights, real

CARD = Card(
    name="hessian",
    title="Hessian spectrum",
    citation="Ghorbani, Krishnan, Xiao, An Investigation into Neural Net Optimization via Hessian Eigenvalue Density, "
    "ICML 2019, arXiv:1901.10159",
    year=2019,
    version=1,
    kind="analysis of stored models",
    needs=("victim", "queries", "target", "test"),
    changes="nothing",
    settings={
        "rows": Setting(128, "test images at most, of those that the attack has to move", "images", low=1),
        "steps": Setting(30, "Lanczos steps from each vector, each with a vector kept of the size of the model", low=1),
        "probes": Setting(2, "random vectors", low=1),
    },
    departures=(
        "The paper smooths the quadrature; here are its nodes and weights.",
        "The benchmark finds the largest eigenvalues by power iteration to a change of 0.1%; here they are those of "
        "Lanczos steps, whose error falls much faster.",
    ),
)


def curvature(net: Net, weights: Weights, source: Source, counts: Array) -> Callable[[Array], Array]:
    """Hessian times a vector over all parameters, float (n,) -> (n,), of the mean cross-entropy in inference mode.

    counts: bool (size,), the rows of the source that the mean is over.
    """
    flat, tree = ravel_pytree(weights.params)

    def slope(point: Array, batch: Batch) -> Array:
        def loss(point: Array) -> Array:
            logits = net.apply(weights.replace(params=tree(point)), batch.image)[0]
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.label)
            return jnp.sum(losses * batch.weight * counts[batch.row])

        return jax.grad(loss)(point)

    def times(vector: Array) -> Array:
        def one(batch: Batch) -> Array:
            # Backward twice: the layers' own derivatives have no forward form.
            return jax.vjp(lambda point: slope(point, batch), flat)[1](vector)[0]

        return sources.total(source, one) / jnp.sum(counts)

    return times


def lanczos(times: Callable[[Array], Array], start: Array, steps: int) -> tuple[Array, Array]:
    """Nodes, ascending, and weights, which add up to 1, of the quadrature of a symmetric matrix, float (steps,) each.

    times: the matrix times a vector. start: float (n,). Every vector is made orthogonal to all before it, twice. Once
    they span all that the start reaches, further nodes have weight 0 and lie between the others.
    """

    def step(carry, place):
        kept, vector, alive = carry
        kept = kept.at[place].set(vector)
        product = times(vector)
        diagonal = jnp.vdot(vector, product)
        for _ in range(2):
            product = product - kept.T @ (kept @ product)
        beside = jnp.linalg.norm(product)
        scale = jnp.abs(diagonal) + beside
        lives = alive & (beside > 100 * jnp.finfo(start.dtype).eps * jnp.maximum(scale, 1e-30))
        vector = jnp.where(lives, product / jnp.where(lives, beside, 1), 0)
        return (kept, vector, lives), (diagonal, jnp.where(lives, beside, 0), alive)

    blank = jnp.zeros((steps, start.size), start.dtype)
    first = (blank, start / jnp.linalg.norm(start), jnp.array(True))
    _, (diagonal, beside, alive) = jax.lax.scan(step, first, jnp.arange(steps))
    diagonal = jnp.where(alive, diagonal, diagonal[0])
    matrix = jnp.diag(diagonal) + jnp.diag(beside[:-1], 1) + jnp.diag(beside[:-1], -1)
    nodes, vectors = jnp.linalg.eigh(matrix)
    return nodes, vectors[0] ** 2


def spectrum(key: Key, times: Callable[[Array], Array], size: int, steps: int, probes: int) -> dict[str, Array]:
    """Quadratures from `probes` vectors of random signs: nodes and weights, float (probes, steps), and what they say.

    Returns:
        And largest and smallest, the extreme nodes; trace, the mean over probes; trace_error, its standard error, NaN
        for one probe.
    """

    def one(key: Key) -> tuple[Array, Array]:
        return lanczos(times, jax.random.rademacher(key, (size,), real()), steps)

    nodes, weights = jax.lax.map(one, jax.random.split(key, probes))
    traces = size * jnp.sum(nodes * weights, axis=1)
    error = jnp.std(traces, ddof=1) / jnp.sqrt(probes) if probes > 1 else jnp.nan
    found = {"nodes": nodes, "weights": weights, "largest": jnp.max(nodes), "smallest": jnp.min(nodes)}
    return found | {"trace": jnp.mean(traces), "trace_error": jnp.asarray(error, nodes.dtype)}


def make(
    folder: str | Path,
    attack: str,
    ratio: float,
    defenses: tuple[str, ...] = (),
    seeds: tuple[int, ...] = (),
    *,
    rows: int = 128,
    steps: int = 30,
    probes: int = 2,
):
    """Find the spectrum of the Hessian of every model, on the same images without trigger and with it.

    The loss of triggered images is that of the label that the attacker wants.

    Args:
        folder: a study's `out`.
        attack, ratio, defenses, seeds: coordinates in its results; () for all.
        rows, steps, probes: see the card.

    Returns:
        An `xarray.Dataset` with largest, smallest, trace and trace_error, float of dims (seed, defense, images), and
        nodes and weights of dims (seed, defense, images, probe, step).

    Raises:
        InvalidInput: the folder has no such cells or lacks a model.
    """
    import numpy as np
    import xarray as xr

    from bdjax.analysis.parts import stored

    study = stored.opened(folder, attack, ratio, defenses, seeds)

    def function(key, net, given):
        twins, size = draw(key, given, rows), ravel_pytree(given.victim.params)[0].size
        wanted = sources.mapped(twins.triggered, lambda batch: batch.replace(label=given.target(batch.label)))
        found = [
            spectrum(key, curvature(net, given.victim, source, twins.moved), size, min(steps, size), probes)
            for source in (twins.clean, wanted)
        ]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *found)

    dims = ("seed", "defense", "images", "probe", "step")
    found = {name: np.asarray(each) for name, each in stored.ask(study, CARD.needs, function).items()}
    units = {name: "1" if name == "weights" else "loss per squared weight" for name in found}
    variables = {name: (dims[: each.ndim], each, {"units": units[name]}) for name, each in found.items()}
    coordinates = {"seed": list(study.seeds), "defense": list(study.models), "images": list(IMAGES)}
    return xr.Dataset(variables, coordinates, {"attack": attack, "ratio": ratio})


@drawing.styled
def figure(found):
    """The spectral density, a panel a defense: bars of weight over eigenvalue, mean over seeds and probes."""
    import numpy as np

    defenses = found["defense"].values
    bound = max(abs(float(found["smallest"].min())), abs(float(found["largest"].max())))
    linear = max(bound * 1e-3, 1e-12)
    span = np.arcsinh(bound / linear)
    edges = linear * np.sinh(np.linspace(-span, span, 41))  # even on the axis below
    drawn = drawing.blank(0.5 + 1.8 * len(defenses))
    panels = drawn.subplots(len(defenses), 1, squeeze=False, sharex=True, sharey=True)[:, 0]
    for panel, defense in zip(panels, defenses, strict=True):
        for place, images in enumerate(found["images"].values):
            here = found.sel(defense=defense, images=images)
            nodes, weights = here["nodes"].values, here["weights"].values
            share = np.histogram(nodes, edges, weights=weights)[0] / weights.sum()
            label = f"{images}: largest {float(here['largest'].mean()):.3g}, trace {float(here['trace'].mean()):.3g}"
            panel.stairs(100 * share, edges, label=label, **drawing.style(place))
        panel.set_xscale("asinh", linear_width=linear)
        panel.set_yscale("log")
        panel.set_ylim(1e-6, 200)
        panel.set_ylabel("directions, %")
        panel.legend(frameon=False, fontsize=7, loc="upper right")
        drawing.title(panel, str(defense))
    panels[-1].set_xlabel("eigenvalue of the Hessian, loss per squared weight")
    return drawn


HESSIAN = Method(CARD, make)
