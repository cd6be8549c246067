"""A suspicious model out of files, with what its owner holds, found to belong together before anything is trained."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bdjax import metrics
from bdjax.cards import Spec
from bdjax.data import sources
from bdjax.errors import InvalidInput
from bdjax.io.datasets import decode, holdings, normalization
from bdjax.io.datasets.holdings import Holdings
from bdjax.io.datasets.normalization import Normalization
from bdjax.io.files import read_regular
from bdjax.io.foreign import model_folder, weights
from bdjax.study import given
from bdjax.study.building import lookup
from bdjax.types import Array, Batch, Data, Net, PyTree, Weights

SHOWN = 3
"""Images of which the logits are shown."""

LARGEST = 10**6
"""Bytes of a file with class names."""


class Suspect(NamedTuple):
    """A suspicious model and what its owner holds."""

    model: Spec
    net: Net
    weights: Weights
    state: dict[str, PyTree]  # as it was in its file
    normalization: Normalization
    held: Holdings
    accuracy: float  # on clean images

    @property
    def is_torch(self) -> bool:
        """Whether the file had PyTorch's names."""
        return "params" not in self.state


def open_suspect(
    path: Path,
    model: str | None,
    clean: Path,
    *,
    valid: Path | None = None,
    test: Path | None = None,
    triggered: Path | None = None,
    names: Path | None = None,
    normal: str | None = None,
) -> Suspect:
    """Read a model and its owner's images and try one on the other.

    Args:
        path: a file with weights (see `weights.load_weights`), or a model folder, which says the next two itself.
        model: the network as `--model` of a study.
        clean, valid, test, triggered: folders, as of `holdings.read`.
        names: a file with the class names in the model's order, a line each.
        normal: what the network subtracts and divides by, as of `normalization.parse`.

    Raises:
        InvalidInput: something is missing or does not fit; where that can be told, the line says what would.
    """
    if path.is_dir():
        config = model_folder.read_config(path)
        if "defense" in config:
            raise InvalidInput(f"{path}: {config['defense']} has changed its network; give the model before it")
        model = model or config["architecture"]
        own = tuple(config["classes"]) if names is None else ()
        normal = normal or "/".join(",".join(map(repr, config[name])) for name in ("mean", "std"))
        path = path / model_folder.FILE
    elif model is None:
        raise InvalidInput(f"{str(path)!r} does not say of which network it is; give --model; see `bdjax list models`")
    else:
        own = ()
    spec, state = lookup(model, "model"), weights.read_weights(path)
    shape = decode.image(holdings.first(clean)).shape

    def make(count: int, shape: tuple[int, int, int] = shape, by: Normalization = normalization.KNOWN["none"]) -> Net:
        return model_folder.make(spec, shape, count, *normalization.spread(by, shape[2]))

    with _named(f"{str(path)!r} as {spec.text}"):
        count = weights.count_classes(state, make)
    held = holdings.read(clean, valid, test, triggered, count=count, classes=own or _lines(names))
    if held.clean.image.shape[3] == 1 and not _fits(state, make(count, held.clean.image.shape[1:])):
        held = held.colored()  # gray images for a network of colored ones
    shape = held.clean.image.shape[1:]
    with _named(f"{str(path)!r} as {spec.text}"):
        loaded = weights.as_weights(state, make(count, shape))
    given.victim(loaded, repr(str(path)))  # which refuses what is not finite
    tried = given.sample(held.clean)
    bare = make(count, shape)

    @jax.jit
    def rate(data: Data, mean: Array, std: Array) -> Array:
        def change(batch: Batch) -> Batch:
            return batch.replace(image=(batch.image - mean) / std)

        return metrics.accuracy(bare, loaded, sources.mapped(sources.split(data), change))

    def accuracy(by: Normalization) -> float:
        return float(rate(tried, *map(jnp.asarray, by)))

    if normal is None:
        raise InvalidInput(f"{str(path)!r}: which normalization was it trained with? {_rates(accuracy, shape[2])}")
    by = normalization.parse(normal, shape[2])
    net, right = make(count, shape, by), accuracy(by)
    if given.is_chance(right, count):
        raise InvalidInput(_misfit(str(path), net, loaded, tried, count, right, accuracy))
    return Suspect(spec, net, loaded, state, by, held, right)


@contextlib.contextmanager
def _named(where: str) -> Iterator[None]:
    try:
        yield
    except InvalidInput as error:
        raise InvalidInput(f"{where}: {error}") from error


def _fits(state: dict[str, PyTree], net: Net) -> bool:
    try:
        weights.as_weights(state, net)
    except InvalidInput:
        return False
    return True


def logits(suspect: Suspect) -> list[str]:
    """The logits of a few clean images, in lines: a person sees at once whether they mean anything."""
    rows = np.linspace(0, len(suspect.held.clean.label) - 1, SHOWN).astype(int)
    image = jnp.asarray(suspect.held.clean.image[rows]).astype(jnp.float32) / 255
    values = np.asarray(suspect.net.apply(suspect.weights, image)[0])
    lines = []
    for label, found in zip(suspect.held.clean.label[rows], values, strict=True):
        name = suspect.held.classes[label]
        texts = " ".join(f"{value:.1f}" for value in found[:12]) + (" ..." if found.size > 12 else "")
        lines.append(f"  {name}: {texts}; largest for {suspect.held.classes[int(np.argmax(found))]}")
    return lines


def _lines(path: Path | None) -> tuple[str, ...]:
    if path is None:
        return ()
    try:
        text = read_regular(path, LARGEST).decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidInput(f"{str(path)!r}: no text; give a file with a class name a line") from None
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def _rates(accuracy, channels: int) -> str:
    """On how many clean images the model is right under each of the usual normalizations."""
    usual = {name: one for name, one in normalization.KNOWN.items() if len(one.mean) in (1, channels)}
    found = {name: accuracy(normalization.spread(one, channels)) for name, one in usual.items()}
    ranked = sorted(found, key=found.get, reverse=True)
    rates = ", ".join(f"{name} {found[name]:.1%}" for name in ranked)
    return f"It is right on so many clean images with: {rates}; give --normalization {ranked[0]}, another, or MEAN/STD"


def _misfit(path: str, net: Net, held: Weights, data: Data, count: int, right: float, accuracy) -> str:
    """What most likely is wrong where a model is hardly ever right: the order of classes, or the normalization."""
    from scipy.optimize import linear_sum_assignment

    size = int(data.label.size)
    text = f"{path!r}: right on {right:.1%} of {size} clean images, which is chance"
    said = jax.jit(lambda data: sources.each(sources.split(data), lambda rows: net.apply(held, rows.image)[0]))(data)
    answer = np.argmax(said, axis=1)
    met = np.zeros((count, count), int)
    np.add.at(met, (np.asarray(data.label), answer), 1)
    permuted = met[linear_sum_assignment(-met)].sum() / size
    if permuted > max(0.5, 1.5 * right):
        return f"{text}, and on {permuted:.1%} with its classes in another order; give --classes, names in its order"
    return f"{text}. {_rates(accuracy, data.image.shape[-1])}; or another network or size of images"
