"""Purify one suspicious model with a few clean images, and say what became of it."""

import contextlib
import math
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from bdjax import metrics
from bdjax.cards import Spec
from bdjax.data import sources
from bdjax.data.images import check_labeled
from bdjax.engine import compiled
from bdjax.engine import progress as progresses
from bdjax.engine.progress import Progress
from bdjax.engine.run import run_resolved, temporary
from bdjax.errors import InvalidInput
from bdjax.io.datasets.holdings import Holdings, parted
from bdjax.io.store import results
from bdjax.io.store.store import Store
from bdjax.metrics import geometry
from bdjax.study import purifying
from bdjax.study.jobs import plan
from bdjax.study.purifying import Trigger
from bdjax.study.work import Work
from bdjax.types import Array, Data, Net, PyTree, Weights, real

FIGURES = ("acc", "asr", "ra")


class Purified(NamedTuple):
    """A purified model and what became of it."""

    net: Net | Callable[[Any, Array], Array]  # a function where one was given
    weights: PyTree
    figures: dict[str, float]  # see `purify`


class Outcome(NamedTuple):
    """One model of a study of a given victim, the victim itself among them."""

    defense: str
    seed: int
    net: Net
    weights: Weights
    diverged: bool
    figures: dict[str, float]  # acc, asr, ra, valid_acc, moved, seconds; NaN for what is not known


def purify(
    net: Net | Callable[[Any, Array], Array],
    weights: PyTree,
    clean: Data,
    defense: str,
    *,
    valid: Data | None = None,
    test: Data | None = None,
    stamp: Callable[[Array], Array] | None = None,
    goal: Callable[[Array], Array] | None = None,
    seed: int = 0,
    flip: bool = False,
    progress: Progress | bool | None = None,
) -> Purified:
    """Purify a model.

    Args:
        net: a network of `bdjax.MODELS`, made with the mean and deviation that it was trained with, or your own `Net`;
            for methods that read no layers also a function (weights, image float (b, height, width, channels) in
            [0, 1]) -> logits (b, classes).
        weights: whatever `net` takes.
        clean: clean images uint8 (n, height, width, channels) and labels (n,); classes may be uneven or absent.
        defense: `name` or `name:setting=value,...` of `bdjax.DEFENSES`.
        valid: images on which thresholds are chosen; None: a fifth of `clean`, class by class.
        test: images to measure accuracy on; None: accuracy is not known.
        stamp, goal: the trigger, if it is known: one image (height, width, channels) in [0, 1] -> the triggered one,
            and label -> the label that the attacker wants. Both or neither; with `test` they give ASR and RA.
        seed: of the defense.
        flip: whether the defense's training mirrors images.
        progress: as of `bdjax.run`.

    Returns:
        The purified model, and figures before and after, as `acc_before` and `acc`: acc, asr, ra (robust accuracy),
        valid_acc (accuracy on `valid`, on which thresholds are chosen, so it flatters); moved, the distance of the
        weights from what they were by their length; seconds. NaN for what is not known.

    Raises:
        InvalidInput: what is given does not fit together, or the defense needs what there is not; one line says what.
    """
    if (stamp is None) != (goal is None):
        raise InvalidInput("purify: stamp and goal belong together; give both or neither")
    if not isinstance(defense, str):
        raise InvalidInput(f"defense: {defense!r:.80}; give one text, name or name:setting=value")
    for name, one in (("stamp", stamp), ("goal", goal)):
        if one is not None and not callable(one):
            raise InvalidInput(f"{name} is a {type(one).__name__}; give a function")
    trigger = None if stamp is None else Trigger(goal, stamp, "your trigger")
    about = {"valid": valid, "test": test, "trigger": trigger, "seed": seed, "flip": flip}
    with resolved(net, weights, clean, defenses=(defense,), **about) as ready:
        ready.run(progress)
        found = [*outcomes(ready.work, ready.store)]
    before, after = found[0], found[-1]
    if after.diverged:
        raise InvalidInput(f"{defense}: the model became NaN in training; give a smaller learning rate")
    figures = {f"{name}_before": before.figures[name] for name in (*FIGURES, "valid_acc")} | after.figures
    return Purified(after.net if isinstance(net, Net) else net, ready.back(after.weights), figures)


class Ready(NamedTuple):
    """One given model as a study that can be run, in a folder that is soon removed."""

    work: Work
    store: Store
    back: Callable[[Weights], PyTree]  # weights as they were given

    def run(self, progress: Progress | bool | None) -> xr.Dataset:
        """All of it: results."""
        return run_resolved(self.work, self.store, progresses.of(progress))


@contextlib.contextmanager
def resolved(
    net: Any,
    weights: PyTree,
    clean: Data,
    *,
    valid: Data | None = None,
    test: Data | None = None,
    seed: int = 0,
    **about: Any,
) -> Iterator[Ready]:
    """A model and images as Python has them, checked and resolved; about: as of `purifying.resolve`.

    Raises:
        InvalidInput: they do not fit together, or a method cannot be used on them.
    """
    own, held, back = _as_net(net, weights)
    model = Spec("your network", "your network", {}, {}, 1)
    compiled.keep()
    images = _holdings(own, held, clean, valid, test)
    if about.get("trigger"):
        _check_trigger(about["trigger"], images)
    work = purifying.resolve(own, held, images, model=model, name="your images", seeds=(seed,), **about)
    with temporary() as folder:
        yield Ready(work, Store(folder), back)


def outcomes(work: Work, store: Store) -> Iterator[Outcome]:
    """What a finished study of a given victim left: the victim, then every defense, seed by seed."""
    found, victim = results.load(store.folder).isel(attack=0, ratio=0), work.victims[purifying.VICTIM].weights
    held, rows = work.dataset.train, work.scene.rows[1]
    valid = Data(jnp.asarray(held.image[rows]), jnp.asarray(held.label[rows]))
    rate = cache(_rate)  # models of one network share a program
    for cell in plan(work).cells:
        name, seed = cell["defense"], cell["seed"]
        if name == "none" and seed != work.study.seeds[0]:  # the victim is the same for all seeds
            continue
        if not store.has_model(cell["model"]):  # its group failed
            continue
        row = found.sel(defense=name, seed=seed)
        net = work.net if name == "none" else work.net_of(name)
        diverged = int(row["status"]) != results.OK
        weights = store.load_model(cell["model"]).weights
        figures = {figure: float(row[figure]) for figure in (*FIGURES, "seconds")}
        figures["valid_acc"] = math.nan if diverged else float(rate(net)(weights, valid))
        figures["moved"] = moved(victim, weights)
        yield Outcome(name, seed, net, weights, diverged, figures)


def moved(before: Weights, after: Weights) -> float:
    """The Euclidean distance between two models' parameters by the length of the first; NaN where they differ in form.

    A defense that changes the network leaves parameters of another form.
    """
    if jax.tree.structure(before.params) != jax.tree.structure(after.params):
        return math.nan
    apart = jax.tree.map(lambda a, b: jnp.asarray(a) - jnp.asarray(b), before.params, after.params)
    return float(geometry.norm(apart) / geometry.norm(jax.tree.map(jnp.asarray, before.params)))


def _rate(net: Net) -> Callable[[Weights, Data], Array]:
    """The accuracy of weights of a network on images, compiled."""
    return jax.jit(lambda weights, data: metrics.accuracy(net, weights, sources.split(data)))


def _as_net(net: Any, weights: PyTree) -> tuple[Net, Weights, Callable[[Weights], PyTree]]:
    """A network with its weights, and how weights become again what was given.

    A function's weights may be of any form; the library keeps nested dicts.
    """
    if isinstance(net, Net):
        if not isinstance(weights, Weights):
            raise InvalidInput(f"weights are a {type(weights).__name__}; give the bdjax.types.Weights of the net")
        weights = jax.tree.map(_widened, weights)
        return net._replace(init=net.init or (lambda _key: weights)), weights, lambda held: held
    if not callable(net):
        raise InvalidInput(f"net is a {type(net).__name__}; give a Net or a function (weights, image) -> logits")
    leaves, form = jax.tree.flatten(weights)
    held = Weights({str(place): jnp.asarray(leaf) for place, leaf in enumerate(leaves)}, {})

    def back(held: Weights) -> PyTree:
        return jax.tree.unflatten(form, [held.params[str(place)] for place in range(len(leaves))])

    def apply(held: Weights, image: Array, train: bool = False, weight: Array | None = None, edit=()):
        del train, weight, edit
        return net(back(held), image), {}, {}

    return Net(lambda _key: held, apply, ()), held, back


def _widened(leaf: Any) -> Array:
    """Floats in the library's own type; a model may be kept in fewer bits."""
    leaf = jnp.asarray(leaf)
    return leaf.astype(real()) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf


def _holdings(net: Net, weights: Weights, clean: Data, valid: Data | None, test: Data | None) -> Holdings:
    given = {"valid": valid, "test": test}
    arrays = {"clean": _checked("clean", clean)}
    arrays |= {name: _checked(name, data) for name, data in given.items() if data is not None}
    shape = arrays["clean"].image.shape[1:]
    for name, data in arrays.items():
        if data.image.shape[1:] != shape:
            raise InvalidInput(f"{name} images are {data.image.shape[1:]} and clean ones {shape}")
    try:
        logits = jax.eval_shape(lambda weights, image: net.apply(weights, image)[0], weights, np.zeros((2, *shape)))
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise InvalidInput(f"the network does not take these weights and {shape} images: {reason}") from error
    if logits.ndim != 2 or logits.shape[0] != 2:
        raise InvalidInput(f"the network gives {logits.shape} of 2 images; give logits (images, classes)")
    classes = tuple(map(str, range(logits.shape[1])))
    for name, data in arrays.items():
        if not 0 <= data.label.min() <= data.label.max() < len(classes):
            wrong = int(data.label.min() if data.label.min() < 0 else data.label.max())
            raise InvalidInput(f"{name} has the label {wrong}; the network's go from 0 to {len(classes) - 1}")
    if "valid" not in arrays:
        arrays["clean"], arrays["valid"] = parted(arrays["clean"])
    return Holdings(classes, **arrays)


def _check_trigger(trigger: Trigger, held: Holdings) -> None:
    """Refuse a goal that is no class, and a stamp that leaves no image.

    Raises:
        InvalidInput: says which, and what it gave.
    """
    classes = np.arange(len(held.classes), dtype=np.int32)
    some = jnp.asarray(held.clean.image[:8], jnp.float32) / 255
    try:
        wanted = np.asarray(trigger.goal(jnp.asarray(classes)))
    except Exception as error:
        raise InvalidInput(f"goal: {type(error).__name__}: {' '.join(str(error).split())[:120]}") from error
    if wanted.shape != classes.shape or not np.isin(wanted, classes).all():
        raise InvalidInput(f"goal gives {str(wanted.tolist())[:80]} of all labels; give labels from 0 to {classes[-1]}")
    try:
        stamped = np.asarray(jax.vmap(trigger.stamp)(some))
    except Exception as error:
        raise InvalidInput(f"stamp: {type(error).__name__}: {' '.join(str(error).split())[:120]}") from error
    if stamped.shape != some.shape:
        raise InvalidInput(f"stamp leaves images of shape {stamped.shape[1:]} of {some.shape[1:]}; keep the shape")
    if not (np.isfinite(stamped).all() and stamped.min() >= -1e-6 and stamped.max() <= 1 + 1e-6):
        raise InvalidInput(f"stamp leaves pixels from {stamped.min():.3g} to {stamped.max():.3g}; keep them in [0, 1]")


def _checked(name: str, data: Data) -> Data:
    if not isinstance(data, Data):
        raise InvalidInput(f"{name} is a {type(data).__name__}; give a bdjax.types.Data(image, label)")
    image, label = np.asarray(data.image), np.asarray(data.label)
    check_labeled(name, image, label)
    if label.dtype.kind not in "iu":
        raise InvalidInput(f"{name}: labels are {label.dtype}; give whole numbers")
    return Data(image, label.astype(np.int32))
