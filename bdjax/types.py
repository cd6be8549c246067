"""The types that everything else is written in: data as frozen pytrees, methods as tuples of pure functions.

Images are float in [0, 1] wherever a function sees them and uint8 only inside `Data`. Normalisation belongs to the
network, so every perturbation is measured in pixels. A function that draws random numbers takes `key` first, a typed
threefry key.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

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
    """What is saved, evaluated and audited of a network; optimizer state lives in a stage's own state."""

    params: PyTree
    batch_stats: PyTree


@struct.dataclass
class Poison:
    """All in which a poisoned training set differs from the clean one; no image is copied."""

    role: Array  # int8 (n,): CLEAN, POISONED or COVER
    label: Array  # int32 (n,): the labels that the victim sees
    trigger: PyTree  # nested dict of small arrays that `stamp` and `query` need
    variant: Array | None = None  # int8 (n,): which of several triggers `stamp` puts on a row; None: 0 for all


@struct.dataclass
class Batch:
    """Some rows of a source; rows of weight 0 pad a batch that the source could not fill."""

    image: Array  # float (b, height, width, channels) in [0, 1]
    label: Array  # int32 (b,)
    row: Array  # int32 (b,): the row in its source, -1 for padding
    weight: Array  # float (b,): 1, or 0 for padding


@struct.dataclass
class Trained:
    """What a stage hands on: weights, and whatever else the next stage, the evaluation or the report needs."""

    weights: Weights
    carry: PyTree = struct.field(default_factory=dict)  # nested dict of arrays


class Source(NamedTuple):
    """Rows to read. Closes over the data inside the trace, so what is true about them stays inside."""

    size: int
    read: Callable[[Array], Batch]  # row int32 (b,), -1 pads -> Batch


Batches = Any
"""A `Batch` or int32 rows of a stage with one source; a dict of them, by name, of a stage with several."""


class Given(NamedTuple):
    """Everything a method may read. Fields that its card does not list in `needs` are None."""

    settings: Mapping[str, Array]  # name -> traced float ()
    augment: Callable[..., Array]  # the dataset's own augmentation of a batch of images: see `images.augmentation`
    train: Source | None = None  # the training set as the victim sees it
    suspects: Source | None = None  # the rows of it that a detector judges, numbered from 0; for a defense all of them
    clean: Source | None = None  # the defender's clean rows
    valid: Source | None = None  # further clean rows, on which thresholds are chosen
    victim: Weights | None = None  # the model that is purified or audited
    # What the stage before left besides weights, readable through the whole stage. For the first stage of an attacker
    # who controls training: `trigger`, `count` int32 () of rows to poison and `role` int8 (n,); of a search: `count`,
    # `priority` float (n,), the rank, -inf for rows that must not be poisoned, and `round` int32 (), 0; else nothing.
    carry: Mapping[str, PyTree] = {}
    # For attackers alone.
    whole: Source | None = None  # the clean split, for an attacker who controls training and for a search
    stamped: Source | None = None  # for a search: the rows of `whole` with trigger and wanted label
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


class StampFn(Protocol):
    """One image with the trigger.

    assets: what `prepare` made. trigger: `Poison.trigger`, a dict; for a training row it holds `variant` int8 (), that
    of `Poison.variant`. image: float (height, width, channels) in [0, 1]; so is the result. row: int32 (), its number
    in the split.
    """

    def __call__(self, assets: PyTree, trigger: PyTree, image: Array, row: Array, /) -> Array: ...


class CrossFn(Protocol):
    """One test image with what only resembles the trigger, such as the trigger of `other`, another test image."""

    def __call__(self, assets: PyTree, trigger: PyTree, image: Array, row: Array, other: Array, /) -> Array: ...


class PoisonFn(Protocol):
    """What is poisoned: label int32 (n,), priority float (n,), count int32 () of rows to poison, traced.

    One compile serves every ratio, and count 0 is the clean baseline. settings: name -> float ().
    """

    def __call__(
        self, key: Key, assets: PyTree, settings: Mapping[str, Array], label: Array, priority: Array, count: Array, /
    ) -> Poison: ...


class PrepareFn(Protocol):
    """Assets, a pytree made once per dataset, model and settings and shared by all cells; data: the clean split."""

    def __call__(self, key: Key, net: Net, data: Data, settings: Mapping[str, Array], /) -> PyTree: ...


class LabelFn(Protocol):
    """Of labels int32 (n,) or (): labels, or bool, of the same shape."""

    def __call__(self, label: Array, /) -> Array: ...


class Attack(NamedTuple):
    """A backdoor attack.

    `goal`: label -> what the attacker wants; ASR and RA count only images with goal(label) != label.
    `eligible`: label -> bool, the rows that may be poisoned.
    `cover`: a training image of role COVER; None where there are none.
    `cross`: what must leave a test image's label though it is made as the trigger is; cross accuracy is measured on it.
    None where the attack has none.
    `prepare`: None for assets ().
    `train`: the stages of an attacker who controls training; () for plain training. The last one's `carry` is the
    trigger that queries then use.
    """

    init: PoisonFn
    stamp: StampFn  # a training image
    query: StampFn  # a test image
    goal: LabelFn
    eligible: LabelFn = everything
    cover: StampFn | None = None
    cross: CrossFn | None = None
    prepare: PrepareFn | None = None
    train: tuple["Stage", ...] = ()


class RankFn(Protocol):
    """The priority float (n,) of every training row: rows of higher priority are poisoned first."""

    def __call__(self, key: Key, net: Net, attack: Attack, assets: PyTree, given: Given, /) -> Array: ...


class Selection(NamedTuple):
    """Which rows are poisoned first.

    `search(most) -> stages`: for a selection that trains to find out, done for every seed and count before anything is
    poisoned; None where the rank is the answer. most: the largest count of the cells that are searched for together,
    which may set shapes and must change no result. The last stage's carry has as `priority` the one that is used.
    """

    rank: RankFn
    search: Callable[[int], tuple["Stage", ...]] | None = None


def identity(net: Net) -> Net:
    """The network as it is."""
    return net


class SourceFn(Protocol):
    """Where a stage's batches are read from: a `Source`, or a dict of them by name."""

    def __call__(self, given: Given, /) -> Any: ...


class InitFn(Protocol):
    """The state S before the first step; weights: what the stage before left, None for the first stage."""

    def __call__(self, key: Key, given: Given, weights: Weights | None, /) -> PyTree: ...


class OrderFn(Protocol):
    """Rows of the source in an epoch, int32 (steps, b), -1 pads; a dict of such for a dict of sources.

    The same shape in every epoch. It may read only what steps do not change, for it is asked again whenever the engine
    goes on in the middle of an epoch.
    """

    def __call__(self, key: Key, state: PyTree, epoch: Array, given: Given, /) -> Batches: ...


class StepFn(Protocol):
    """(S, info) after a step on a batch, or on a dict of them; info is a flat dict of scalars."""

    def __call__(self, key: Key, state: PyTree, rows: Batches, given: Given, /) -> tuple[PyTree, dict[str, Array]]: ...


class RefreshFn(Protocol):
    """S for an epoch, before its first step; sums: of the infos of the epoch before."""

    def __call__(self, key: Key, state: PyTree, sums: dict[str, Array], epoch: Array, given: Given, /) -> PyTree: ...


class FinishFn(Protocol):
    """What a stage leaves."""

    def __call__(self, key: Key, state: PyTree, given: Given, /) -> Trained: ...


class Stage(NamedTuple):
    """Everything that changes a model: victim training, a stage of a defense, of an audit or of a search.

    `wrap(net) -> net`: the network that `finish`'s weights belong to, from the one that the stage before left: the
    wraps of a defense's stages compose.
    `renew`: None where epochs need no preparation.
    `sees`: fields of `Given` that the stage reads beside those that the card of its method needs.
    `takes`: names in `given.carry` that `init` takes over into its state: no later call of the stage finds them there,
    so that nothing is held twice.
    """

    source: SourceFn
    epochs: int
    init: InitFn
    order: OrderFn
    step: StepFn
    finish: FinishFn
    wrap: Callable[[Net], Net] = identity
    renew: RefreshFn | None = None
    takes: tuple[str, ...] = ()
    sees: tuple[str, ...] = ()


Defense = tuple[Stage, ...]


class MeasureFn(Protocol):
    """Figures of a model, name -> Array; net: the network that the audited weights belong to."""

    def __call__(self, key: Key, net: Net, trained: Trained, given: Given, /) -> dict[str, Array]: ...


class Audit(NamedTuple):
    """A question put to a model: `stages` change a copy of it, `measure` answers."""

    stages: tuple[Stage, ...]
    measure: MeasureFn


class FitFn(Protocol):
    """What `score` and `threshold` read, a pytree of arrays, made once a cell.

    trained: what the detector's stages left, else the victim. Joint scores, such as clusters, are made here from
    `given.suspects` and looked up by row; where queries are judged it sees none of them.
    """

    def __call__(self, key: Key, net: Net, trained: Trained, given: Given, /) -> PyTree: ...


class ScoreFn(Protocol):
    """How suspect rows are, float (b,), larger is more suspect.

    rows: numbered as in the source that is judged; the label of a training row is the victim's, that of a query -1.
    key: one for all rows; what is drawn for a row comes from `fold_in(key, row)`, so that no batch changes a score.
    """

    def __call__(self, key: Key, net: Net, trained: Trained, found: PyTree, rows: Batch, given: Given, /) -> Array: ...


class DecideFn(Protocol):
    """The method's own decision on all that is judged, bool (n,), from the scores float (n,).

    clean: float (r,), the scores of the rows named by `Detector.calibrate`; of length 0 where it names none.
    """

    def __call__(self, found: PyTree, score: Array, clean: Array, given: Given, /) -> Array: ...


class Detector(NamedTuple):
    """What says of single images how suspect they are, given an undefended victim.

    `on`: what it judges, of "rows" (training images with their labels) and "queries" (test images).
    `fit`: None where nothing is prepared; `threshold`: None where the method decides nothing.
    `stages`: what costs more than a pass over the rows; they see no queries.
    `calibrate`: "clean" or "valid": those rows of `given` are scored as well, for `threshold`; "" for none.
    `batch`: rows that are scored at a time.
    """

    on: tuple[str, ...]
    score: ScoreFn
    fit: FitFn | None = None
    threshold: DecideFn | None = None
    stages: tuple[Stage, ...] = ()
    calibrate: str = ""
    batch: int = 256
