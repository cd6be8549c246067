"""PDB: train with a backdoor of the defender's own that outweighs the attacker's, and undo it at inference.

Wei, Zha, Wu, Mitigating Backdoor Attack by Injecting Proactive Defensive Backdoor, NeurIPS 2024, arXiv:2405.16112,
section 4: clean rows stamped with a defensive trigger learn the label h(y) = (y + shift) mod K. At inference every
image is stamped and class i is scored by the logit of class h(i).
"""

import jax
import jax.numpy as jnp

from bdjax import train
from bdjax.cards import Card, Method, Setting
from bdjax.data import sources, warp
from bdjax.defenses.parts.guarding import guarded, mask
from bdjax.errors import InvalidInput
from bdjax.keys import stream
from bdjax.train import recipes
from bdjax.types import Array, Batch, Given, Key, Source

CARD = Card(
    name="pdb",
    title="PDB",
    citation="Wei, Zha, Wu, Mitigating Backdoor Attack by Injecting Proactive Defensive Backdoor, NeurIPS 2024, "
    "arXiv:2405.16112",
    year=2024,
    version=1,
    kind="training with a defensive backdoor",
    stage="training",
    needs=("train", "clean"),
    changes="training rows are added; at inference images are stamped and logits permuted",
    smallest=2,
    settings=recipes.RECIPE
    | {
        "batch": Setting(256, "rows a step; the whole source where that is smaller", "rows", low=1),
        "drop_last": Setting(True, "leave out the rows that do not fill a batch"),
        "trigger": Setting(
            "block",
            "top left block, border, or every other pixel of it",
            choices=("block", "border", "dashes"),
        ),
        "size": Setting(7, "side of the block, or width of the border", "pixels", low=1),
        "value": Setting(2, "of a stamped pixel, where 1 is the brightest that an image can hold", low=0),
        "shift": Setting(1, "from a class to its defensive label", "classes", low=1),
        "copies": Setting(5, "of every defensive row in the training set", low=1),
        "dimmed": Setting(0.2, "chance that a defensive image is multiplied by U(0.5, 1)", low=0.0, high=1.0),
        "turned": Setting(0.5, "chance that a defensive image is turned", low=0.0, high=1.0),
        "angle": Setting(10.0, "largest turn either way", "degrees", low=0.0, high=180.0),
    },
    presets={"paper": {}},
    departures=(
        "Defensive rows are the defender's clean rows, in the share that the study gives every defense. The released "
        "code takes the clean originals of a tenth of the training set, drawn by class of the poisoned labels, and so "
        "knows their true labels.",
        "The released code also adds noise of amplitude 0, which is left out.",
        "The reference benchmark has no PDB.",
    ),
)


def defensive(given: Given, stamp, relabel, copies: int) -> Source:
    """The training set, then every clean row `copies` times, stamped and with its defensive label."""
    rows = jnp.tile(jnp.arange(given.clean.size, dtype=jnp.int32), copies)

    def defend(batch: Batch) -> Batch:
        return batch.replace(image=stamp(batch.image), label=relabel(batch.label))

    return sources.concatenated(given.train, sources.mapped(sources.subset(given.clean, rows), defend))


def disturbed(key: Key, image: Array, settings) -> Array:
    """Images (b, height, width, channels), some of them dimmed, then some of them turned about their centres."""

    def one(key: Key, image: Array) -> Array:
        dim, level, turn, angle = jax.random.split(key, 4)
        factor = jax.random.uniform(level, (), image.dtype, 0.5, 1)
        image = jnp.where(jax.random.bernoulli(dim, settings["dimmed"]), factor, 1) * image
        radians = jnp.deg2rad(settings["angle"]) * jax.random.uniform(angle, (), image.dtype, -1, 1)
        # Bilinear reading at whole pixels is reading the nearest pixel.
        turned = warp.sample(image, jnp.round(warp.rotation(*image.shape[:2], radians)))
        return jnp.where(jax.random.bernoulli(turn, settings["turned"]), turned, image)

    return jax.vmap(one)(jax.random.split(key, len(image)), image)


def make(net, shape, classes, *, trigger, size, value, shift, copies, **recipe):
    """Training from a new initialisation on the training set and the defensive rows.

    Raises:
        InvalidInput: the trigger covers the image, or the defensive label is the true one.
    """
    height, width = shape[:2]
    where = mask(trigger, size, height, width)
    if where.all():
        raise InvalidInput(f"pdb:size={size} covers the whole {height}x{width} image; give a smaller one")
    if shift % classes == 0:
        raise InvalidInput(f"pdb:shift={shift} leaves every label of {classes} classes; give 1 to {classes - 1}")

    def stamp(image):
        return jnp.where(where, jnp.asarray(value, image.dtype), image)

    def rows(given):
        return defensive(given, stamp, lambda label: (label + shift) % classes, copies)

    def augment(key, batch, _epoch, given):
        changed = disturbed(stream(key, "disturb"), batch.image, given.settings)
        own = (batch.row >= given.train.size)[:, None, None, None]
        image = jnp.where(own, changed, batch.image)
        return batch.replace(image=given.augment(stream(key, "augment"), image))

    stage = train.supervised(net, rows, fresh=True, augment=augment, **recipe)
    return (stage._replace(wrap=lambda net: guarded(net, stamp, shift)),)


PDB = Method(CARD, make)
