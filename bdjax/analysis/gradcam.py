"""Grad-CAM: where in clean and triggered test images a stored model looks.

Selvaraju, Cogswell, Das, Vedantam, Parikh, Batra, Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
Localization, ICCV 2017, arXiv:1610.02391; the maps are those of the detector `sentinet`.
"""

from pathlib import Path

import jax
import jax.numpy as jnp

from bdjax.analysis.parts import drawing
from bdjax.cards import Card, Method, Setting

CARD = Card(
    name="gradcam",
    title="Grad-CAM",
    citation="Selvaraju, Cogswell, Das, Vedantam, Parikh, Batra, Grad-CAM: Visual Explanations from Deep Networks via "
    "Gradient-based Localization, ICCV 2017, arXiv:1610.02391",
    year=2017,
    version=1,
    kind="analysis of stored models",
    needs=("victim", "queries", "target", "test"),
    changes="nothing",
    settings={
        "rows": Setting(4, "test images, of those that the attack has to move", "images", low=1),
        "tap": Setting("", "layer whose map is weighed; empty: what global pooling reads"),
    },
    departures=(
        "The benchmark's tool of this name draws FullGrad, which reads no chosen layer; this is Grad-CAM of the "
        "predicted class.",
        "The benchmark shows other clean images than triggered ones; here they are the same.",
    ),
)


def make(
    folder: str | Path,
    attack: str,
    ratio: float,
    defenses: tuple[str, ...] = (),
    seeds: tuple[int, ...] = (),
    *,
    rows: int = 4,
    tap: str = "",
):
    """Say of some test images, without and with the trigger, how much each pixel counts for the prediction.

    Args:
        folder: a study's `out`.
        attack, ratio, defenses, seeds: coordinates in its results; () for all.
        rows, tap: see the card.

    Returns:
        An `xarray.Dataset` with heat, float in [0, 1] of dims (seed, defense, images, row, y, x); predicted, int, and
        confidence, float in [0, 1], of dims (seed, defense, images, row); image, float in [0, 1] of dims (seed, images,
        row, y, x, color), and true, int of dims (seed, row), which are the same for all defenses.

    Raises:
        InvalidInput: the folder has no such cells or lacks a model; or no layer of that name gives a map.
    """
    import numpy as np
    import xarray as xr

    from bdjax.analysis.parts import stored
    from bdjax.analysis.parts.rows import IMAGES, draw
    from bdjax.detection.parts import gradcam
    from bdjax.models.parts import taps

    study = stored.opened(folder, attack, ratio, defenses, seeds)
    tap = tap or gradcam.last_map(study.net)
    for models in study.models.values():
        taps.checked_map(models.group.net, study.shape, tap, "gradcam")

    def function(key, net, given):
        twins = draw(key, given, rows)
        row = jnp.arange(twins.clean.size, dtype=jnp.int32)
        batches = [source.read(row) for source in (twins.clean, twins.triggered)]
        shown = jnp.concatenate([batch.image for batch in batches])
        chance = jax.nn.softmax(net.apply(given.victim, shown)[0])
        found = {
            "heat": gradcam.heat(net, given.victim, shown, tap),
            "predicted": jnp.argmax(chance, axis=1),
            "confidence": jnp.max(chance, axis=1),
            "image": shown,
        }
        return {name: jnp.reshape(each, (2, -1, *each.shape[1:])) for name, each in found.items()} | {
            "true": batches[0].label
        }

    found = stored.ask(study, CARD.needs, function)
    found |= {name: found[name][:, 0] for name in ("image", "true")}
    one = ("seed", "defense", "images", "row")
    dims = {"heat": (*one, "y", "x"), "predicted": one, "confidence": one, "true": ("seed", "row")}
    dims |= {"image": ("seed", "images", "row", "y", "x", "color")}
    units = {"heat": "1", "predicted": "class", "confidence": "1", "true": "class", "image": "1"}
    variables = {name: (dims[name], np.asarray(found[name]), {"units": units[name]}) for name in dims}
    coordinates = {"seed": list(study.seeds), "defense": list(study.models), "images": list(IMAGES)}
    return xr.Dataset(variables, coordinates, {"attack": attack, "ratio": ratio, "tap": tap})


@drawing.styled
def figure(found):
    """The images of the first seed, clean and triggered, and below them, a row a defense, the maps laid over them."""
    one = found.isel(seed=0)
    columns = [(row, images) for row in one["row"].values[:4] for images in one["images"].values]
    defenses = one["defense"].values
    drawn = drawing.blank(1.12 * (1 + len(defenses)) + 0.25)
    panels = drawn.subplots(1 + len(defenses), len(columns), squeeze=False)
    for column, (row, images) in enumerate(columns):
        here = one.isel(row=row).sel(images=images)
        drawing.picture(panels[0, column], here["image"].values)
        panels[0, column].set_title(f"{images}\nclass {int(here['true'])}", fontsize=7)
        for panel, defense in zip(panels[1:, column], defenses, strict=True):
            it = here.sel(defense=defense)
            drawing.picture(panel, it["image"].values.mean(-1), cmap="gray", vmin=0, vmax=1)
            shown = panel.imshow(it["heat"].values, cmap="inferno", vmin=0, vmax=1, alpha=0.6)
            panel.set_title(f"as {int(it['predicted'])}, {100 * float(it['confidence']):.0f}%", fontsize=7)
    for panel, defense in zip(panels[1:, 0], defenses, strict=True):
        panel.set_ylabel(str(defense).partition(":")[0], parse_math=False)
    bar = drawn.colorbar(shown, ax=list(panels[1:].ravel()), pad=0.01, aspect=30)
    bar.set_label("weight of the pixel, of the largest")
    return drawn


GRADCAM = Method(CARD, make)
