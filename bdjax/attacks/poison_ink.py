"""Poison Ink: every image's edges, inked in one colour, hidden in it by a network trained here (Zhang et al., 2022).

An injector hides ink of any colour, an extractor finds it again after crops and flips and finds none in clean images
(section IV, with the weights and the colours of the authors' released code). Then one colour is the trigger.
"""

import jax
import jax.numpy as jnp

from bdjax.attacks.fitting.ink_training import Inking, measured, trained
from bdjax.attacks.fitting.learned import averaged, converted, parted
from bdjax.attacks.fitting.steganography import EIGHT_BITS, kept
from bdjax.attacks.parts.common import GOAL, SOURCES, TARGET, dirty_label, scalar
from bdjax.attacks.parts.edges import LUMA, edges, inked
from bdjax.cards import Card, Method, Setting
from bdjax.keys import stream
from bdjax.models.auxiliary.ink import extractor, injector
from bdjax.types import Array, Attack, Data, Key, PyTree, Weights, real

CARD = Card(
    name="poison_ink",
    title="Poison Ink",
    citation="Jie Zhang, Dongdong Chen, Qidong Huang, Jing Liao, Weiming Zhang, Huamin Feng, Gang Hua, Nenghai Yu. "
    "Poison Ink: Robust and Invisible Backdoor Attack. IEEE Transactions on Image Processing 31, 2022. "
    "https://arxiv.org/abs/2108.02488",
    year=2022,
    version=1,
    kind="dirty-label, sample-specific",
    stage="pre-training",
    controls="data",
    changes="pixels and labels of poisoned rows",
    smallest=16,
    settings={
        "red": Setting(80 / 255, "of the ink", "pixels", low=0.0, high=1.0),
        "green": Setting(160 / 255, "of the ink", "pixels", low=0.0, high=1.0),
        "blue": Setting(80 / 255, "of the ink", "pixels", low=0.0, high=1.0),
        "edge_threshold": Setting(28 / 255, "strength above which a pixel is on an edge", "pixels", low=0.0, high=1.0),
        "width": Setting(16, "channels of the injector's first block", low=1),
        "extractor_width": Setting(16, "channels of the extractor", low=1),
        "ink_steps": Setting(800, "steps that train both", low=1),
        "ink_batch": Setting(32, "images a step of that training", "images", low=1),
        "ink_learning_rate": Setting(1e-3, "of that training (Adam); a tenth from 2/5 on, and from 4/5", low=0.0),
        "fidelity": Setting(30.0, "weight of the mean squared change of the image", low=0.0),
        "edge": Setting(13.0, "weight of the mean squared error of the ink that is extracted", low=0.0),
        "paper": Setting(1.0, "weight of the same beside the edges", low=0.0),
        "clean": Setting(100.0, "weight of the mean squared ink that is found in clean images", low=0.0),
        "storage": EIGHT_BITS,
        "goal": GOAL,
        "target": TARGET,
        "sources": SOURCES,
    },
    presets={
        "paper": {},
        "benchmark": {
            "fidelity": 1.0,
            "width": 64,
            "extractor_width": 128,
            "ink_steps": 937_500,
            "ink_learning_rate": 2e-4,
            "storage": "truncate",
        },
    },
    departures=(
        "the authors' networks have widths 64 and 128 and learn in stages of 200 passes, with rotations, crops, flips "
        "and an adversary in turn; here they learn at once on crops and flips, by default narrow and for minutes on "
        "two cores of a CPU, with a change of the image that weighs 30 times as much",
        "preset=benchmark has the full widths and, counted in steps for CIFAR-10, the passes of its three stages; "
        "it has no adversary, and its rotations turn nothing in the authors' code either",
        "authors and benchmark join to every batch of clean rows one of poisoned rows that is not augmented; here "
        "poisoned rows are rows of the training set like others",
        "images that have not three channels get ink of the colour's brightness; the authors have colour images alone",
        "the networks are trained once for all cells of a study: intervals over seeds are for one trigger",
    ),
)

FLOATS = ("edge_threshold", "ink_learning_rate", "fidelity", "edge", "paper", "clean")


def make(net, shape, classes, width, extractor_width, ink_steps, ink_batch, storage, **labels) -> Attack:
    """Poison Ink for images of `shape`; `prepare` trains both networks and inks every training image.

    Raises:
        InvalidInput: target or sources are no classes.
    """
    del net
    inking = Inking(injector(shape, width), extractor(shape, extractor_width))

    def hide(assets: PyTree, image: Array) -> Array:
        ink = inked(edges(image, assets["edge_threshold"]), assets["colour"].astype(image.dtype))
        return kept(inking.inject(Weights(**assets["injector"]), image[None], ink[None])[0], storage)

    def prepare(key: Key, net, data: Data, settings) -> dict[str, PyTree]:
        del net
        rows, held = parted(stream(key, "held"), data.label.size)
        floats = {name: scalar(settings[name]) for name in FLOATS}
        params, memory = trained(stream(key, "train"), inking, data.image[rows], floats, ink_steps, ink_batch)
        weights = {"params": params["injector"], "batch_stats": memory["batch_stats"]}
        assets = {"injector": weights, "colour": colour(settings, shape[2]), "edge_threshold": floats["edge_threshold"]}

        def use(assets: PyTree, params: PyTree, image: Array, held: Array) -> dict[str, PyTree]:
            def one(pixels: Array) -> dict[str, Array]:
                plain = pixels.astype(real()) / 255
                edge = edges(plain, assets["edge_threshold"])
                return measured(inking, params["extractor"], plain, hide(assets, plain), edge, assets["colour"])

            figures = averaged(one, held)
            return {"figures": figures, "hidden": converted(image, lambda image: hide(assets, image))}

        return assets | jax.jit(use)(assets, params, data.image, data.image[held])

    def stamp(assets, trigger, image, row):
        del trigger
        return assets["hidden"][row].astype(image.dtype) / 255

    def query(assets, trigger, image, row):
        del trigger, row
        return hide(assets, image)

    return Attack(stamp=stamp, query=query, prepare=prepare, **dirty_label("poison_ink", classes, **labels))


def colour(settings, channels: int) -> Array:
    """The ink, (channels,): red, green and blue, or where there are not three channels its brightness in each."""
    parts = jnp.stack([scalar(settings[name]) for name in ("red", "green", "blue")])
    return parts if channels == 3 else jnp.full(channels, jnp.sum(parts * jnp.asarray(LUMA, parts.dtype)))


POISON_INK = Method(CARD, make)
