"""The types that everything else is written in: data as frozen pytrees, methods as tuples of pure functions.

Images are float in [0, 1] wherever a function sees them and uint8 only inside `Data`. Normalisation belongs to the
network, so every perturbation is measured in pixels. A function that draws random numbers takes `key` first, a typed
threefry key.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

Array = jax.Array
Key = jax.Array
PyTree = Any

CLEAN, POISONED, COVER = 0, 1, 2
"""What a training row is: untouched, stamped with the trigger, or stamped as a cover sample that keeps its label."""


def real() -> jnp.dtype:
    """The floating type that the library computes in: float32, or float64 where `jax_enable_x64` is set."""
    return jnp.result_type(float)


@struct.dataclass
class Data:
    """One split, whole, on the device, shared by every cell of a study."""

    image: Array  # uint8 (n, height, width, channels)
    label: Array  # int32 (n,)


@struct.dataclass
class Weights:
    """What is saved, evaluated and audited of a network; optimizer state lives in a procedure's own state."""

    params: PyTree
    batch_stats: PyTree


@struct.dataclass
class Poison:
    """All in which a poisoned training set differs from the clean one; no image is copied."""

    role: Array  # int8 (n,): CLEAN, POISONED or COVER
    label: Array  # int32 (n,): the labels that the victim sees
    trigger: PyTree  # nested dict of small arrays that `stamp` and `query` need


@struct.dataclass
class Batch:
    """Some rows of a source; rows of weight 0 pad a batch that the source could not fill."""

    image: Array  # float (b, height, width, channels) in [0, 1]
    label: Array  # int32 (b,)
    row: Array  # int32 (b,): the row in its source, -1 for padding
    weight: Array  # float (b,): 1, or 0 for padding


@struct.dataclass
class Trained:
    """What a procedure hands on: weights, and whatever else the next stage, the evaluation or the report needs."""

    weights: Weights
    carry: PyTree = struct.field(default_factory=dict)  # nested dict of arrays


class Source(NamedTuple):
    """Rows to read. Closes over the data inside the trace, so what is true about them stays inside."""

    size: int
    read: Callable[[Array], Batch]  # row int32 (b,), -1 pads -> Batch


class Given(NamedTuple):
    """The one door to data. Fields that are None were not given: a method's card names what it needs."""

    settings: Mapping[str, Array]  # name -> traced float ()
    augment: Callable[..., Array]  # the dataset's own augmentation of a batch of images: see `images.augmentation`
    # The training set as the victim sees it; for a search, its clean rows and then all of them stamped, wanted label.
    train: Source | None = None
    clean: Source | None = None  # the defender's clean rows; for an attacker that controls training, the clean split
    valid: Source | None = None  # further clean rows, on which thresholds are chosen
    victim: Weights | None = None  # the model that is purified or audited
    # What a defender would not have; a method that needs one of these is an oracle and the results say so.
    clean_model: Weights | None = None  # the victim of the same seed at ratio 0
    target: Callable[[Array], Array] | None = None  # the attack's goal: label -> wanted label
    backdoored: Weights | None = None  # the victim that a defense began with, for audits
    triggered: Source | None = None  # the rows of `clean` with the trigger and their true labels
    queries: Source | None = None  # the rows of `test` with the trigger and their true labels
    poisoned: Source | None = None  # training rows in the order in which the attack poisons them, stamped, wanted label
    test: Source | None = None


class Layer(NamedTuple):
    """One layer of a network: where its parameters are and under which name its output can be tapped."""

    name: str
    kind: str  # conv, norm, relu, add, pool, linear
    path: tuple[str, ...]  # into params; () where the layer has none
    tap: str
    momentum: float = 0.1  # of a norm: the share of a batch's statistics that its moving ones take


class Net(NamedTuple):
    """A network as two pure functions and a list.

    `init(key) -> Weights`.
    `apply(weights, image, train=False, weight=None, edit={}) -> (logits, batch_stats, taps)`: image float
    (b, height, width, channels) in [0, 1]; logits float (b, classes); with `train` the batch's own statistics are used,
    counted over rows of `weight` 1 alone, and the moving ones are returned updated; `edit` maps a tap's name to a
    function of its activation; taps map every name to its activation, after the edit.
    `plain`: the network as it was before a defense changed it; None where none has.
    """

    init: Callable[[Key], Weights]
    apply: Callable[..., tuple[Array, PyTree, dict[str, Array]]]
    layers: tuple[Layer, ...]
    plain: "Net | None" = None


def everything(label: Array) -> Array:
    """Every row may be poisoned."""
    return jnp.ones_like(label, bool)


class Attack(NamedTuple):
    """A backdoor attack.

    `init(key, assets, settings, label, priority, count) -> Poison`: label int32 (n,), priority float (n,), count
    int32 () of rows to poison, traced: one compile serves every ratio, and count 0 is the clean baseline.
    `stamp(assets, trigger, image, row) -> image`: one training image (height, width, channels), row int32 ().
    `query(assets, trigger, image, row) -> image`: the same for a test image.
    `goal(label) -> label`: what the attacker wants; ASR and RA count only images with goal(label) != label.
    `eligible(label) -> bool`: the rows that may be poisoned.
    `cover(assets, trigger, image, row) -> image`: a training image of role COVER; None where there are none.
    `cross(assets, trigger, image, row, other) -> image`: a test image with what must leave its label though it is made
    as the trigger is, such as the trigger of `other`, another test image; cross accuracy is measured on it. None where
    the attack has none.
    `prepare(key, net, data, settings) -> assets`: pytree made once per dataset, model and settings and shared by all
    cells; None for ().
    `train`: the stages of an attacker who controls training; () for plain training. The last one's `carry` is the
    trigger that queries then use.
    """

    init: Callable[..., Poison]
    stamp: Callable[[PyTree, PyTree, Array, Array], Array]
    query: Callable[[PyTree, PyTree, Array, Array], Array]
    goal: Callable[[Array], Array]
    eligible: Callable[[Array], Array] = everything
    cover: Callable[[PyTree, PyTree, Array, Array], Array] | None = None
    cross: Callable[[PyTree, PyTree, Array, Array, Array], Array] | None = None
    prepare: Callable[..., PyTree] | None = None
    train: tuple["Procedure", ...] = ()


class Selection(NamedTuple):
    """Which rows are poisoned first.

    `rank(key, net, attack, assets, given) -> priority float (n,)`: rows of higher priority are poisoned first.
    `search(most) -> stages`: for a selection that trains to find out, done for every seed and count before anything is
    poisoned; None where the rank is the answer. most: the largest count of the cells that are searched for together,
    which may set shapes and must change no result. The first stage finds as `previous` a `Trained` without weights
    whose carry has `count` int32 () of rows to poison and `priority` float (n,), the rank, -inf for rows that must not
    be poisoned; the last one's carry has as `priority` the one that is used.
    """

    rank: Callable[..., Array]
    search: Callable[[int], tuple["Procedure", ...]] | None = None


def unchanged(net: Net) -> Net:
    """The network as it is."""
    return net


class Procedure(NamedTuple):
    """Everything that changes a model: victim training, a stage of a defense, a stage of an audit.

    `source(given) -> Source`: what its batches are read from.
    `init(key, given, previous) -> S`: previous is what the stage before it left, a `Trained`, or for the first stage
    None (for the first stage of an attack's own training: its `Poison`).
    `order(key, S, epoch, given) -> int32 (steps, batch)`: rows of the source, -1 pads; the same shape in every epoch.
    `step(key, S, batch, given) -> (S, info)`: pure; info is a flat dict of scalars.
    `finish(key, S, given) -> Trained`.
    `wrap(net) -> net`: the network that `finish`'s weights belong to, from the one that the stage before left: the
    wraps of a defense's stages compose.
    """

    source: Callable[[Given], Source]
    epochs: int
    init: Callable[..., PyTree]
    order: Callable[..., Array]
    step: Callable[..., tuple[PyTree, dict[str, Array]]]
    finish: Callable[..., Trained]
    wrap: Callable[[Net], Net] = unchanged


Defense = tuple[Procedure, ...]


class Audit(NamedTuple):
    """A question put to a model: `stages` change a copy of it, `measure(key, net, trained, given)` answers.

    measure returns a dict of name -> Array; net is the network that the audited weights belong to.
    """

    stages: tuple[Procedure, ...]
    measure: Callable[..., dict[str, Array]]
