"""TrojanNN: a small picture is fitted to drive chosen neurons of a clean model, then rows are poisoned with it.

Liu, Ma, Aafer, Lee, Zhai, Wang, Zhang, 2018, section IV and algorithm 1: gradient descent, inside a mask alone, brings
well connected neurons to a large value. Here they are features before the head, those with the largest weights to it.
"""

from functools import reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bdjax.attacks.fitting.surrogate import DEPARTURE, SURROGATE, surrogate_model
from bdjax.attacks.parts.common import GOAL, SOURCES, STORAGE, TARGET, dirty_label, scalar, stored
from bdjax.attacks.parts.patches import BASE
from bdjax.attacks.parts.spectral import OVERFLOW, cast
from bdjax.cards import Card, Method, Setting
from bdjax.errors import InvalidInput
from bdjax.keys import stream
from bdjax.types import Array, Attack, Data, Key, Net, PyTree, Weights, real

CARD = Card(
    name="trojannn",
    title="TrojanNN",
    citation="Yingqi Liu, Shiqing Ma, Yousra Aafer, Wen-Chuan Lee, Juan Zhai, Weihang Wang, Xiangyu Zhang. Trojaning "
    "Attack on Neural Networks. NDSS 2018. https://doi.org/10.14722/ndss.2018.23291",
    year=2018,
    version=2,
    kind="dirty-label, static",
    stage="pre-training",
    controls="data",
    changes="pixels and labels of poisoned rows",
    smallest=8,
    settings={
        "outline": Setting("apple", "of the picture, 7% of the image", choices=("apple", "square")),
        "neurons": Setting(1, "features that are driven", low=1),
        "head": Setting("trained", "whose weights choose the features", choices=("trained", "random")),
        "value": Setting(100.0, "that they are driven to"),
        "start": Setting("noise", "of the descent: grey noise, or white", choices=("noise", "white")),
        "descent": Setting("gradient", "along the gradient, or its signs", choices=("gradient", "sign")),
        "step": Setting(0.1, "mean change of a pixel in a step", "pixels", low=0.0),
        "steps": Setting(1000, "most steps of the descent", low=1),
        "tolerance": Setting(1e-3, "squared distance to the value at which it stops", low=0.0),
        "radius": Setting(1.0, "largest change of a pixel from the start", "pixels", low=0.0, high=1.0),
        "mixing": Setting("blend", "picture blended into the image, or added", choices=("blend", "add")),
        "alpha": Setting(0.3, "share of the picture in the blend", low=0.0, high=1.0),
    }
    | SURROGATE
    | {"storage": STORAGE, "overflow": OVERFLOW, "goal": GOAL, "target": TARGET, "sources": SOURCES},
    presets={
        "paper": {},
        "benchmark": {
            "neurons": 2,
            "head": "random",
            "start": "white",
            "descent": "sign",
            "radius": 0.3,
            "mixing": "add",
            "storage": "truncate",
            "overflow": "wrap",
        },
    },
    departures=(
        DEPARTURE,
        "rows of the victim's training data are poisoned, as in the benchmark; the authors retrain a model that they "
        "have, on images that they invert from it",
        "the features before the head are driven; the authors choose a layer for each model",
        "features are chosen by their weights to the next layer, as in the authors' script; the paper's equation 2 has "
        "those from the layer before",
        "value and alpha are the paper's example and its transparency of 70%, the noise is the script's; the paper "
        "gives no size of a step, number of steps or tolerance, and those here are the benchmark's",
        "a step goes along the gradient and has one mean size; algorithm 1 does not scale the gradient, and the "
        "authors' script, which climbs without a value to reach, takes 970 scaled steps of falling size and smooths "
        "the picture by total variation after each",
        "the apple is drawn here, with the place and the area of the authors'",
        "the network normalises its images; the benchmark's, which does not, is fitted on images that it should have",
    ),
)

RANDOM_OUTPUTS = 1000
"""Outputs of the head under head=random: the benchmark's model has them, so that the trained head does not fit it."""
GREY, NOISE = 175 / 255, 8 / 255
"""Mean and deviation of the noise that the descent starts from, in pixels."""
FINE = 8
"""Points along each side of a pixel at which outlines are looked up."""


def inside(outline: str, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Whether points of an image 32 wide and high lie within an outline, bool."""
    if outline == "square":
        return (np.abs(y - 24.86) < 4.29) & (np.abs(x - 24.86) < 4.29)

    def ellipse(down: float, across: float, tall: float, wide: float, turn: float = 0.0) -> np.ndarray:
        along, aside = y - down + turn * (x - across), x - across
        return (along / tall) ** 2 + (aside / wide) ** 2 < 1

    body = ellipse(24.5, 21.4, 4.4, 3.2) | ellipse(24.5, 24.5, 4.4, 3.1)
    leaf = ellipse(18.5, 24.2, 1.1, 1.3, turn=1.0)
    return (body & ~ellipse(23.5, 28.3, 2.2, 2.2)) | leaf


def coverage(outline: str, height: int, width: int) -> np.ndarray:
    """How much of each pixel the outline holds, float64 (height, width, 1)."""
    y, x = ((np.arange(FINE * side) + 0.5) * BASE / (FINE * side) for side in (height, width))
    points = inside(outline, y[:, None], x[None, :]).reshape(height, FINE, width, FINE)
    return points.mean(axis=(1, 3))[:, :, None]


class Descent(NamedTuple):
    """Where the descent stands: the picture, its cost before the last step, the steps."""

    picture: Array
    cost: Array
    taken: Array


def fitted(net: Net, weights: Weights, start: Array, mask: Array, chosen: Array, settings, descent, steps) -> Descent:
    """Algorithm 1: the picture (height, width, channels) in `mask` that brings features `chosen` to `value`."""
    tap = net.layers[_head(net)[0] - 1].tap

    def cost(picture: Array) -> Array:
        features = net.apply(weights, (picture * mask)[None])[2][tap]
        return jnp.sum((features[0, chosen] - settings["value"]) ** 2)

    def body(state: Descent) -> Descent:
        value, slope = jax.value_and_grad(cost)(state.picture)
        mean = jnp.sum(jnp.abs(slope)) / (jnp.sum(mask) * slope.shape[-1])
        along = jnp.sign(slope) if descent == "sign" else slope / jnp.where(mean > 0, mean, 1)
        moved = state.picture - settings["step"] * along
        near = jnp.clip(moved, start - settings["radius"], start + settings["radius"])
        return Descent(jnp.clip(near, 0, 1), value, state.taken + 1)

    def unfinished(state: Descent) -> Array:
        return (state.cost >= settings["tolerance"]) & (state.taken < steps)

    begin = Descent(start, jnp.full((), jnp.inf, start.dtype), jnp.int32(0))
    return jax.lax.while_loop(unfinished, body, begin)


def _head(net: Net) -> tuple[int, tuple[str, ...]]:
    """The last linear layer: its place among the layers and its path into params."""
    place = max(number for number, layer in enumerate(net.layers) if layer.kind == "linear")
    return place, net.layers[place].path


def heaviest(key: Key, net: Net, weights: Weights, head: str, count: int) -> Array:
    """The features with the largest sum of absolute weights to the next layer, int32 (count,).

    Raises:
        InvalidInput: the network has fewer.
    """
    kernel = reduce(lambda tree, name: tree[name], _head(net)[1], weights.params)["kernel"]
    if count > len(kernel):
        raise InvalidInput(f"trojannn: neurons {count}; the network has {len(kernel)} features, choose at most those")
    if head == "random":
        kernel = jax.random.uniform(key, (len(kernel), RANDOM_OUTPUTS), kernel.dtype, -1, 1)
    return jnp.argsort(-jnp.sum(jnp.abs(kernel), axis=1))[:count]


def make(net, shape, classes, storage, overflow, mixing, **static) -> Attack:
    """TrojanNN for images of `shape`; `prepare` trains a clean model and fits the picture to it.

    Raises:
        InvalidInput: target or sources are no classes; or, in `prepare`, the network has fewer features than `neurons`.
    """
    del net
    cover = coverage(static["outline"], *shape[:2])

    def prepare(key: Key, net: Net, data: Data, settings) -> dict[str, PyTree]:
        training = (static["surrogate_epochs"], static["surrogate_batch"])
        weights, _, figures = surrogate_model(key, net, data, settings, *training)
        chosen = heaviest(stream(key, "head"), net, weights, static["head"], static["neurons"])
        mask = jnp.asarray(cover > 0, real())
        noise = GREY + NOISE * jax.random.normal(stream(key, "start"), shape, real())
        start = jnp.clip(noise, 0, 1) * mask if static["start"] == "noise" else jnp.broadcast_to(cover, shape)
        floats = {name: scalar(settings[name]) for name in ("value", "step", "tolerance", "radius")}

        def run(weights: Weights, start: Array, chosen: Array, floats) -> Descent:
            return fitted(net, weights, start, mask, chosen, floats, static["descent"], static["steps"])

        picture = jax.jit(run)(weights, jnp.asarray(start, real()), chosen, floats).picture
        return {"picture": picture, "figures": figures}

    def trigger(key: Key, settings) -> dict[str, Array]:
        del key
        return {"alpha": scalar(settings["alpha"])}

    def stamp(assets, trigger, image, row):
        del row
        if mixing == "add":
            return added(image, assets["picture"], storage, overflow)
        share = trigger["alpha"] * jnp.asarray(cover, image.dtype)
        return stored(image + share * (assets["picture"] - image), storage)

    labels = {name: static[name] for name in ("goal", "target", "sources")}
    shared = dirty_label("trojannn", classes, trigger=trigger, **labels)
    return Attack(stamp=stamp, query=stamp, prepare=prepare, **shared)


def added(image: Array, picture: Array, storage: str, overflow: str) -> Array:
    """The picture added to the image; under storage=truncate both in whole levels."""
    if storage == "float":
        return jnp.clip(image + picture, 0, 1)
    return cast(jnp.round(image * 255) + cast(picture * 255, "clip"), overflow) / 255


TROJANNN = Method(CARD, make)
