"""ActDist: the labels of the images of largest activation that the benchmark's loop over layers finds.

The loop of `analysis/visual_actdist.py` with `get_features` of `analysis/visual_utils.py`, in SCLBD/BackdoorBench at
f02e353.
"""

import jax
import jax.numpy as jnp
import numpy as np

from bdjax.analysis import actdist
from experiments.fidelity import common
from experiments.fidelity.tac import Images, collected, ours_named, patched

ROWS, TRIGGERED = 60, 15


def compare(folder):
    """Relative differences of the shares of all labels in all channels of all layers."""
    figures = {}
    image, label = common.batch(ROWS)
    label = np.arange(ROWS, dtype=np.int32) % common.CLASSES
    flags = (np.arange(ROWS) % (ROWS // TRIGGERED) == 0).astype(int)
    mixed = np.where(flags[:, None, None, None], patched(image), image)
    for network in ("preact_resnet18", "resnet18"):
        made = common.pair(network, 2)
        kept = np.arange(common.CLASSES + 1)
        scope = {"num_image": TRIGGERED, "label_set": kept}
        table = collected(folder, "analysis/visual_actdist.py", made, Images(mixed, image, label, flags), **scope)
        columns = [f"percent_{place}" for place in kept]
        theirs = {ours_named(name): one[columns].to_numpy(float) for name, one in table.groupby("layer", sort=False)}
        images, stamped = common.source(mixed, label), jnp.asarray(flags) == 1

        def ours(weights, net=made.net, images=images, stamped=stamped, names=tuple(theirs)):
            return actdist.compositions(net, weights, images, stamped, {name: name for name in names}, common.CLASSES)

        mine = jax.jit(ours)(made.weights)
        figures[f"{network}: {len(theirs)} layers"] = common.relative(mine, theirs)
    return figures


COMPARISON = common.Comparison(
    "SCLBD/BackdoorBench",
    "f02e3534645f0ee63d6848653062cd6c0d6c400d",
    compare,
    ("Compared on the same mixed images, which ours draws from the test split and theirs from the training set.",),
)
