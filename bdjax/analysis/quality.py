"""Image quality: how far test images with the trigger are from the same images without it.

PSNR, SSIM and a perceptual distance as `bdjax.metrics.stealth` defines and cites them, image by image; Wu, Chen, Zhang,
Zhu, Wei, Yuan, Shen, BackdoorBench: A Comprehensive Benchmark of Backdoor Learning, NeurIPS 2022, arXiv:2206.12654, has
the first two among its analysis tools.
"""

from pathlib import Path

import jax.numpy as jnp
import numpy as np

from bdjax.analysis.parts import drawing
from bdjax.analysis.parts.rows import draw
from bdjax.cards import Card, Method, Setting
from bdjax.metrics import stealth

CARD = Card(
    name="quality",
    title="Image quality",
    citation="Wang, Bovik, Sheikh, Simoncelli, Image Quality Assessment: From Error Visibility to Structural "
    "Similarity, IEEE Transactions on Image Processing 2004, https://doi.org/10.1109/TIP.2003.819861",
    year=2004,
    version=1,
    kind="analysis of stored models",
    needs=("queries", "target", "test"),
    changes="nothing",
    settings={
        "rows": Setting(500, "test images at most, of those that the attack has to move", "images", low=1),
        "border": Setting(
            "inside",
            "where SSIM's window lies: inside the image, which hardly sees a trigger in a corner, or around each "
            "pixel, the image mirrored at its edges",
            choices=("inside", "mirrored"),
        ),
    },
    presets={"paper": {}, "benchmark": {"border": "mirrored"}},
    departures=(
        "The benchmark compares the first images of its set in place of those with the trigger, takes the range of "
        "values from each pair, and adds FID; here pairs are those with the trigger, the range is 1, and there is no "
        "FID, which needs the weights of another network.",
    ),
)

FIGURES = {"psnr": "dB", "ssim": "1", "perceptual": "1", "largest": "1", "l2": "1"}
"""The variables and their units."""


def compare(clean: np.ndarray, triggered: np.ndarray, border: str = "inside") -> dict[str, np.ndarray]:
    """The figures of pairs of images, float (n, height, width, 1 or 3) in [0, 1]: each float (n,).

    Returns:
        psnr, infinite where nothing changes; ssim, at most 1; perceptual, a distance in [0, 1]; largest, the largest
        change of a value; l2, the length of the change. ssim and perceptual are NaN for images smaller than 16 pixels.
    """
    one, two = 255 * np.asarray(clean, float), 255 * np.asarray(triggered, float)
    change = (two - one) / 255
    small = min(one.shape[1:3]) < stealth.SMALLEST
    none, edge = np.full(len(one), np.nan), stealth.WINDOW // 2 if border == "mirrored" else 0
    wide = [np.pad(each, [(0, 0), (edge, edge), (edge, edge), (0, 0)], mode="reflect") for each in (one, two)]
    return {
        "psnr": stealth.psnr(one, two),
        "ssim": none if small else stealth.ssim(*wide),
        "perceptual": none if small else 1 - stealth.haarpsi(one, two),
        "largest": np.abs(change).max(axis=(1, 2, 3)),
        "l2": np.sqrt((change**2).sum(axis=(1, 2, 3))),
    }


def make(
    folder: str | Path,
    attack: str,
    ratio: float,
    defenses: tuple[str, ...] = (),
    seeds: tuple[int, ...] = (),
    *,
    rows: int = 500,
    border: str = "inside",
):
    """Compare test images with and without the trigger.

    Args:
        folder: a study's `out`.
        attack, ratio, defenses, seeds: coordinates in its results; () for all. Triggers do not depend on the defense.
        rows, border: see the card.

    Returns:
        An `xarray.Dataset` with the variables of `compare`, float of dims (seed, row), one row an image.

    Raises:
        InvalidInput: the folder has no such cells or lacks a model.
    """
    import xarray as xr

    from bdjax.analysis.parts import stored

    study = stored.opened(folder, attack, ratio, defenses, seeds)
    study = study._replace(models=dict([next(iter(study.models.items()))]))

    def function(key, _net, given):
        twins = draw(key, given, rows)
        every = jnp.arange(twins.clean.size, dtype=jnp.int32)
        return twins.clean.read(every).image, twins.triggered.read(every).image, twins.moved

    clean, triggered, moved = (one[:, 0] for one in stored.ask(study, CARD.needs, function))
    found = [compare(*pair, border) for pair in zip(clean, triggered, strict=True)]
    variables = {
        name: (("seed", "row"), np.where(moved, np.stack([each[name] for each in found]), np.nan), {"units": unit})
        for name, unit in FIGURES.items()
    }
    return xr.Dataset(variables, {"seed": list(study.seeds)}, {"attack": attack, "ratio": ratio, "border": border})


@drawing.styled
def figure(found):
    """The share of images up to a figure, one panel a figure, one line a seed; what never changes is left out."""
    names = {"psnr": "PSNR, dB", "ssim": "SSIM", "perceptual": "perceptual distance", "l2": "length of the change"}
    names = {name: label for name, label in names.items() if np.isfinite(found[name]).any()}
    drawn = drawing.blank(2.4)
    panels = drawn.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for panel, (name, label) in zip(panels, names.items(), strict=True):
        for place, seed in enumerate(found["seed"].values):
            values = np.sort(found[name].sel(seed=seed).values)
            values = values[np.isfinite(values)]
            style = drawing.style(place)
            panel.step(values, 100 * (np.arange(values.size) + 1) / values.size, where="post", label=f"{seed}", **style)
        panel.set_xlabel(label)
        panel.set_ylim(0, 102)
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("images up to this value, %")
    panels[0].legend(title="seed", frameon=False, fontsize=7)
    return drawn


QUALITY = Method(CARD, make)
