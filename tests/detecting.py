"""A detector run on a few images as a study runs it, and networks whose answers can be worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import tiny

from bdjax import train
from bdjax.cards import lookup
from bdjax.detection import DETECTORS
from bdjax.detection.parts.scoring import score_all
from bdjax.keys import root
from bdjax.types import Batch, Given, Net, Source, Weights

SHAPE, CLASSES = (8, 8, 3), 3
"""Of the images and the network below."""


def network() -> Net:
    """A small network."""
    return tiny.network("small_cnn", SHAPE, CLASSES, (0.4,) * 3, (0.3,) * 3, width=2)


def images(count: int, seed: int = 0) -> np.ndarray:
    """Noise, float (count, *SHAPE) in [0, 1)."""
    return np.random.default_rng(seed).uniform(size=(count, *SHAPE))


def source(image, label=None) -> Source:
    """Images float (n, height, width, channels) as a source; without labels as queries are, all labelled -1."""
    image = jnp.asarray(image)
    label = jnp.full(len(image), -1) if label is None else jnp.asarray(label)
    return Source(len(image), lambda row: Batch(image[row], label[row].astype(jnp.int32), row, (row >= 0) * 1.0))


def build(text: str, net: Net, shape, classes: int):
    """The detector that a text asks for, and its float settings."""
    spec = lookup(text, DETECTORS, "detector")
    return DETECTORS[spec.name].make(net, shape, classes, **spec.static), spec.traced


def detect(text: str, net: Net, judged: Source, classes: int, *, victim=None, seed: int = 0, **sources) -> dict:
    """What a detector says of a source: `score` and, where it decides, `flagged`, each (n,)."""
    shape = judged.read(jnp.arange(1)).image.shape[1:]
    made, settings = build(text, net, shape, classes)
    victim = net.init(root(9)) if victim is None else victim
    given = Given(settings, lambda key, image: image, suspects=judged, victim=victim, **sources)
    left = None
    for number, stage in enumerate((*made.stages, score_all(net, made))):
        left = train.fit(jax.random.fold_in(root(seed), number), stage, lambda _, given=given: given, (), left)
    return left.carry


def by_hand(logits) -> Net:
    """A network without weights whose logits (b, classes) are a function of its images."""

    def apply(weights, image, train=False, weight=None, edit=None):
        return logits(image), {}, {}

    return Net(lambda key: Weights({}, {}), apply, ())
