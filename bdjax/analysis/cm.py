"""Confusion matrices: which class a stored model takes clean and triggered test images for.

Wu, Chen, Zhang, Zhu, Wei, Yuan, Shen, BackdoorBench: A Comprehensive Benchmark of Backdoor Learning, NeurIPS 2022,
arXiv:2206.12654, has them among its analysis tools.
"""

from pathlib import Path

import jax.numpy as jnp

from bdjax.analysis.parts import drawing
from bdjax.cards import Card, Method
from bdjax.types import Array

CARD = Card(
    name="cm",
    title="Confusion matrix",
    citation="Wu, Chen, Zhang, Zhu, Wei, Yuan, Shen, BackdoorBench: A Comprehensive Benchmark of Backdoor Learning, "
    "NeurIPS 2022, arXiv:2206.12654",
    year=2022,
    version=1,
    kind="analysis of stored models",
    needs=("victim", "queries", "target", "test"),
    changes="nothing",
    departures=(
        "The benchmark sorts triggered images by the label that the attacker wants, which leaves one row where there "
        "is one target; here rows are true labels, and only images that the attack has to move count.",
    ),
)


def count(label: Array, predicted: Array, weight: Array, classes: int) -> Array:
    """How many images of each true class are given each class, int32 (classes, classes).

    label, predicted: int32 (b,); weight: (b,), 1, or 0 for images that do not count.
    """
    return jnp.zeros((classes, classes), jnp.int32).at[label, predicted].add(weight.astype(jnp.int32))


def make(
    folder: str | Path,
    attack: str,
    ratio: float,
    defenses: tuple[str, ...] = (),
    seeds: tuple[int, ...] = (),
):
    """Count the classes that the test images are given, once as they are and once with the trigger.

    Args:
        folder: a study's `out`.
        attack, ratio, defenses, seeds: coordinates in its results; () for all.

    Returns:
        An `xarray.Dataset` with count, int32 of dims (seed, defense, images, true, predicted); images is clean or
        triggered, the other two are classes.

    Raises:
        InvalidInput: the folder has no such cells or lacks a model.
    """
    import xarray as xr

    from bdjax.analysis.parts import rows, stored
    from bdjax.data import sources
    from bdjax.data.poison import counted

    study = stored.opened(folder, attack, ratio, defenses, seeds)
    classes = study.classes

    def function(_key, net, given):
        def seen(batch):
            moved = batch.weight * counted(batch.label, given.target)
            images = ((batch.image, batch.weight), (given.queries.read(batch.row).image, moved))
            found = [(jnp.argmax(net.apply(given.victim, image)[0], axis=1), weight) for image, weight in images]
            return jnp.stack([count(batch.label, predicted, weight, classes) for predicted, weight in found])

        return sources.total(given.test, seen)

    found = stored.ask(study, CARD.needs, function)
    about = {"long_name": "test images", "units": "images"}
    variables = {"count": (("seed", "defense", "images", "true", "predicted"), found, about)}
    coordinates = {"seed": list(study.seeds), "defense": list(study.models), "images": list(rows.IMAGES)}
    coordinates |= {"true": range(classes), "predicted": range(classes)}
    return xr.Dataset(variables, coordinates, {"attack": attack, "ratio": ratio})


@drawing.styled
def figure(found):
    """Mean over seeds of the share of each true class, in percent: a row a defense; clean left, triggered right."""
    import numpy as np

    with np.errstate(invalid="ignore"):
        share = (100 * found["count"] / found["count"].sum("predicted")).mean("seed")
    defenses, classes = found["defense"].values, found["true"].size
    drawn = drawing.blank(0.4 + 3.2 * len(defenses))
    panels = drawn.subplots(len(defenses), 2, squeeze=False, sharex=True, sharey=True)
    for row, defense in zip(panels, defenses, strict=True):
        for panel, images in zip(row, found["images"].values, strict=True):
            values = share.sel(defense=defense, images=images).values
            shown = panel.imshow(values, cmap=drawing.SEQUENTIAL, vmin=0, vmax=100)
            panel.set_facecolor("0.9")  # of a class without images
            drawing.title(panel, f"{defense}, {images}")
            if classes <= 20:
                panel.set(xticks=range(classes), yticks=range(classes))
                drawing.number(panel, values)
        row[0].set_ylabel("true class")
    for panel in panels[-1]:
        panel.set_xlabel("predicted class")
    drawn.colorbar(shown, ax=list(panels.ravel()), label="images of the true class, %", pad=0.01, aspect=40)
    return drawn


CM = Method(CARD, make)
