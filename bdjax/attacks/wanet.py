"""WaNet: a smooth warp as trigger, trained against random warps that keep their label (Nguyen, Tran, 2021).

The warp is section 3.2's: control points, scaled to mean magnitude one, interpolated cubically, times the strength. The
training modes are section 3.3's: in each batch the first rows are warped and relabelled, the next, `cross_ratio` times
as many, get a warp with noise and keep their label.
"""

import jax
import jax.numpy as jnp

from bdjax.attacks.parts.common import GOAL, STORAGE, TARGET, dirty_label, row_key, saved, scalar, stored
from bdjax.attacks.training import batches
from bdjax.attacks.training.batchwise import poison_batches
from bdjax.cards import Card, Method, Setting
from bdjax.data import warp
from bdjax.data.poison import roles
from bdjax.keys import stream
from bdjax.train.recipes import VICTIM
from bdjax.types import Array, Attack, Batch, Given, Key, Net, Poison, PyTree, Stage, everything, real

CARD = Card(
    name="wanet",
    title="WaNet",
    citation="Tuan Anh Nguyen, Anh Tuan Tran. WaNet - Imperceptible Warping-based Backdoor Attack. ICLR 2021. "
    "https://openreview.net/forum?id=eEn8KTtJOx",
    year=2021,
    version=1,
    kind="dirty-label, controls training",
    stage="training",
    controls="training",
    needs=("whole",),
    changes="pixels and labels of some rows of every batch, and the augmentation",
    smallest=8,
    bar={"cross/acc": 0.97},  # the least of the authors' data sets: 76.74 of 78.99 on CelebA
    settings={
        "strength": Setting(0.5, "mean displacement along each axis, in half pixels", low=0.0),
        "points": Setting(4, "control points along each side", low=2),
        "cross_ratio": Setting(2.0, "rows with a noisy warp and their own label, for each poisoned one", low=0.0),
    }
    | batches.BATCHES
    | {"storage": STORAGE, "goal": GOAL, "target": TARGET}
    | VICTIM,
    presets={
        "paper": {},
        "benchmark": {
            "augmentation": "batch",
            "interpolation": "nearest",
            "rounding": "floor",
            "schedule": "constant",
            "storage": "truncate",
        },
    },
    departures=(
        "the authors train 1,000 epochs and divide the rate by 10 after 100, 200, 300 and 400",
        "where authors and benchmark fill with the mean colour of the dataset, this fills with that of the batch",
        "the authors poison floor(ratio x batch) rows of a batch, rounding=stochastic does so on average",
        "storage=truncate cuts exact values; normalising and back, the benchmark also lowers some unmoved ones a level",
        "poisoned and cover rows on record are a fixed set; in training every batch draws its own, as the paper says",
    ),
)


def places(trigger: PyTree, height: int, width: int, noise: Array | float = 0.0) -> Array:
    """Where the warped image reads each pixel, (height, width, 2), row and column in pixels.

    noise: (height, width, 2), or any shape that broadcasts, in [-1, 1]: half pixels added to the warp.
    """
    matrices = warp.bicubic(height, trigger["control"].shape[1]), warp.bicubic(width, trigger["control"].shape[2])
    rows, columns = (jnp.asarray(matrix, real()) for matrix in matrices)
    field = jnp.einsum("rp,apq,cq->rca", rows, trigger["control"], columns, precision="highest")
    last = jnp.array([height - 1, width - 1], real())
    half = last / (2 * (last + 1))  # half a pixel, on a grid whose corners are the centres of the corner pixels
    here = warp.identity(height, width, real())
    smooth = jnp.clip(here + half * trigger["strength"] * field, 0, last)
    return jnp.clip(smooth + half * noise, 0, last)


def make(net, shape, classes, points, storage, goal, target, **training) -> Attack:
    """WaNet for images of `shape` and the training that goes with it.

    Raises:
        InvalidInput: the target is no class.
    """
    height, width, _ = shape

    def trigger(key: Key, settings) -> dict[str, Array]:
        control = jax.random.uniform(stream(key, "control"), (2, points, points), real(), -1, 1)
        control /= jnp.mean(jnp.abs(control))
        return {"control": control, "strength": scalar(settings["strength"]), "key": saved(stream(key, "noise"))}

    def stamp(assets, trigger, image, row):
        del assets, row
        return stored(warp.sample(image, places(trigger, height, width)), storage)

    def cover(assets, trigger, image, row):
        del assets
        noise = jax.random.uniform(row_key(trigger["key"], row), (height, width, 2), real(), -1, 1)
        return stored(warp.sample(image, places(trigger, height, width, noise)), storage)

    def cross(assets, trigger, image, row, other):
        del other
        return cover(assets, trigger, image, row)

    shared = dirty_label("wanet", classes, target=target, goal=goal, sources="any", trigger=trigger)

    def init(key, assets, settings, label, priority, count) -> Poison:
        poison = shared["init"](key, assets, settings, label, priority, count)
        covered = jnp.round(count * settings["cross_ratio"]).astype(jnp.int32)
        return poison.replace(role=roles(priority, everything(label), count, covered))

    train = (_training(net, shape, shared["goal"], **training),)
    return Attack(stamp=stamp, query=stamp, cover=cover, cross=cross, train=train, **(shared | {"init": init}))


def _training(net: Net, shape, goal, **static) -> Stage:
    """Training from scratch on clean rows that each step warps, relabels and augments itself."""
    height, width, _ = shape

    def change(key: Key, rows: Batch, poisoned: Array, given: Given) -> Array:
        cover = jnp.floor(poisoned * given.settings["cross_ratio"] + 1e-4).astype(jnp.int32)
        number = jnp.arange(rows.row.size)[:, None, None, None]
        noise = jax.random.uniform(stream(key, "noise"), (rows.row.size, height, width, 2), real(), -1, 1)
        trigger = given.carry["trigger"]
        fixed, noisy = places(trigger, height, width), places(trigger, height, width, noise)
        unmoved = jnp.where(number < poisoned + cover, noisy, warp.identity(height, width, real()))
        return jax.vmap(warp.sample)(rows.image, jnp.where(number < poisoned, fixed, unmoved))

    return poison_batches(net, goal, change, **static)


WANET = Method(CARD, make)
