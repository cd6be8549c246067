"""Frequency saliency: which spatial frequencies of clean and triggered test images decide a stored model's prediction.

Wu, Chen, Zhang, Zhu, Wei, Yuan, Shen, BackdoorBench: A Comprehensive Benchmark of Backdoor Learning, NeurIPS 2022,
arXiv:2206.12654: the Fourier transform of the gradient of the largest logit, on a logarithmic scale.
"""

from pathlib import Path

import jax
import jax.numpy as jnp

from bdjax.analysis.parts import drawing
from bdjax.analysis.parts.rows import IMAGES, draw
from bdjax.cards import Card, Method, Setting
from bdjax.types import Array, Net, Weights

CARD = Card(
    name="frequency",
    title="Frequency saliency",
    citation="Wu, Chen, Zhang, Zhu, Wei, Yuan, Shen, BackdoorBench: A Comprehensive Benchmark of Backdoor Learning, "
    "NeurIPS 2022, arXiv:2206.12654",
    year=2022,
    version=1,
    kind="analysis of stored models",
    needs=("victim", "queries", "target", "test"),
    changes="nothing",
    settings={"rows": Setting(64, "test images at most, of those that the attack has to move", "images", low=1)},
    departures=(
        "The benchmark takes gradients in normalized images, here they are in pixels; and it shows four images, here "
        "the figure shows the mean over all that are looked at.",
        "Where a gradient has nothing of a frequency, 1e-30 is taken in place of 0 under the logarithm.",
    ),
)


def saliency(net: Net, weights: Weights, image: Array) -> Array:
    """Log magnitude of each frequency, scaled for each image to [0, 1] and then averaged over colors.

    image: float (b, height, width, channels) -> float (b, height, width), frequency 0 at (height // 2, width // 2).
    """
    slope = jax.grad(lambda image: jnp.sum(jnp.max(net.apply(weights, image)[0], axis=1)))(image)
    size = jnp.abs(jnp.fft.fftshift(jnp.fft.ifft2(slope, axes=(1, 2)), axes=(1, 2)))
    height = jnp.log(jnp.maximum(size, 1e-30))
    low, high = (bound(height, axis=(1, 2, 3), keepdims=True) for bound in (jnp.min, jnp.max))
    return jnp.mean((height - low) / jnp.where(high > low, high - low, 1), axis=-1)


def make(
    folder: str | Path,
    attack: str,
    ratio: float,
    defenses: tuple[str, ...] = (),
    seeds: tuple[int, ...] = (),
    *,
    rows: int = 64,
):
    """Transform the gradients of every model at some test images, without and with the trigger.

    Args:
        folder: a study's `out`.
        attack, ratio, defenses, seeds: coordinates in its results; () for all.
        rows: see the card.

    Returns:
        An `xarray.Dataset` with saliency, float in [0, 1] of dims (seed, defense, images, row, v, u); coordinates v and
        u are frequencies, in cycles per pixel, from -1/2 to 1/2.

    Raises:
        InvalidInput: the folder has no such cells or lacks a model.
    """
    import numpy as np
    import xarray as xr

    from bdjax.analysis.parts import stored

    study = stored.opened(folder, attack, ratio, defenses, seeds)

    def function(key, net, given):
        twins = draw(key, given, rows)
        every = jnp.arange(twins.clean.size, dtype=jnp.int32)
        sources = (twins.clean, twins.triggered)
        return jnp.stack([saliency(net, given.victim, source.read(every).image) for source in sources])

    found = np.asarray(stored.ask(study, CARD.needs, function))
    dims = ("seed", "defense", "images", "row", "v", "u")
    about = {"long_name": "log magnitude of the gradient's frequencies, scaled", "units": "1"}
    coordinates = {"seed": list(study.seeds), "defense": list(study.models), "images": list(IMAGES)}
    coordinates |= {name: np.fft.fftshift(np.fft.fftfreq(study.shape[axis])) for axis, name in enumerate(("v", "u"))}
    return xr.Dataset({"saliency": (dims, found, about)}, coordinates, {"attack": attack, "ratio": ratio})


@drawing.styled
def figure(found):
    """The mean over seeds and images: a row a defense; clean left, triggered right."""
    mean = found["saliency"].mean(("seed", "row"))
    defenses = found["defense"].values
    drawn = drawing.blank(0.4 + 2.8 * len(defenses))
    panels = drawn.subplots(len(defenses), 2, squeeze=False, sharex=True, sharey=True)
    u, v = found["u"].values, found["v"].values
    half = (u[1] - u[0]) / 2, (v[1] - v[0]) / 2
    extent = (u[0] - half[0], u[-1] + half[0], v[-1] + half[1], v[0] - half[1])
    look = {"cmap": "cividis", "vmin": float(mean.min()), "vmax": float(mean.max()), "extent": extent}
    for row, defense in zip(panels, defenses, strict=True):
        for panel, images in zip(row, found["images"].values, strict=True):
            shown = panel.imshow(mean.sel(defense=defense, images=images).values, **look)
            drawing.title(panel, f"{defense}, {images}")
        row[0].set_ylabel("vertical frequency,\ncycles per pixel")
    for panel in panels[-1]:
        panel.set_xlabel("horizontal frequency, cycles per pixel")
    drawn.colorbar(shown, ax=list(panels.ravel()), label="log magnitude, 0 to 1 in each image", pad=0.01, aspect=40)
    return drawn


FREQUENCY = Method(CARD, make)
