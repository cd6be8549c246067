"""One cell of a study as pure functions: what is drawn for it, what a method is given, and the steps of its stages."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from bdjax import metrics, train
from bdjax.data import images, poison, sources
from bdjax.errors import InvalidInput
from bdjax.keys import root, stream
from bdjax.types import (
    COVER,
    POISONED,
    Array,
    Attack,
    Audit,
    Batches,
    Data,
    Given,
    Key,
    Net,
    Poison,
    PyTree,
    Selection,
    Stage,
    Trained,
    Weights,
    real,
)


@struct.dataclass
class Shared:
    """What all cells of a group read."""

    train: Data
    test: Data
    assets: PyTree = ()
    queries: Data | None = None  # test images that have the trigger already; None: the attack stamps those of `test`


@struct.dataclass
class Cell:
    """What is a cell's own; None where it has none or needs none."""

    seed: Array  # uint32 ()
    count: Array  # int32 (): rows to poison
    attack: dict[str, Array]  # the attack's float settings
    settings: dict[str, Array]  # the running method's float settings
    priority: Array | None = None  # float (n,): of rows for poisoning, as a search left it or finds it
    poison: Poison | None = None
    order: Array | None = None  # int32 (n,): rows in the order in which the attack poisons them
    suspects: Array | None = None  # int32 (m,): what a detector judges; see `draw_suspects`
    truth: Array | None = None  # int8 (m,) of it: 1 has the trigger, 0 has not, -1 does not count
    clean: Array | None = None  # int32: rows of the defender's clean set
    valid: Array | None = None  # int32: rows on which thresholds are chosen
    victim: Weights | None = None
    clean_model: Weights | None = None
    backdoored: Weights | None = None
    left: Trained | None = None  # what the stage before left; its weights only until the next has begun


class Scene(NamedTuple):
    """What is static in a group: the network, the attack, and how data are drawn and augmented."""

    net: Net
    classes: int
    padding: int
    flip: bool
    select: Selection
    clean: int  # rows a class in the defender's clean set
    valid: int  # rows a class for thresholds
    reserved: bool  # whether the defender's rows are kept out of the attacker's reach
    barred: np.ndarray  # bool (n,): rows that the defender does not get
    attack: Attack = poison.NO_ATTACK
    own: bool = False  # whether the running stages are the attacker's own training
    searching: bool = False  # whether that is a search for the rows to poison
    judges: str = ""  # what a detector judges: "rows", "queries" or nothing
    suspects: int = 0  # how many of them; 0 for all
    rehearsed: bool = False  # whether a method that reads what it does not need is told so
    given: bool = False  # whether victims are given, so that nobody knows what they were trained on
    rows: tuple[np.ndarray, np.ndarray] | None = None  # the defender's clean rows and those for thresholds, if given


def scalars(settings: Mapping[str, float]) -> dict[str, np.ndarray]:
    """A method's float settings as arrays () of the library's float type."""
    return {name: np.asarray(value, real()) for name, value in settings.items()}


def draw(scene: Scene, cell: Cell, shared: Shared) -> tuple[Cell, Array]:
    """The cell with its rows and poison; and the overlap, the share of clean rows whose copies are poisoned."""
    key, label = root(cell.seed), shared.train.label
    clean, valid = _defenders_rows(scene, key, label)
    given = Given(cell.attack, images.augmentation(scene.padding, scene.flip), train=sources.split(shared.train))
    attack = scene.attack
    priority = scene.select.rank(stream(key, "select"), scene.net, attack, shared.assets, given)
    if cell.priority is not None:
        priority = jnp.where(cell.count > 0, cell.priority, priority)  # nothing is searched for where none is poisoned
    if scene.reserved:
        priority = priority.at[jnp.concatenate([clean, valid])].set(-jnp.inf)
    eligible = attack.eligible(label)
    order = jnp.argsort(poison.rank(priority, eligible)).astype(jnp.int32)
    drawn = attack.init(stream(key, "poison"), shared.assets, cell.attack, label, priority, cell.count)
    # Where an attacker poisons batch by batch, the roles on record are those of no row that was trained on.
    unknown = bool(attack.train) or scene.given
    overlap = jnp.full((), jnp.nan) if unknown else jnp.mean((drawn.role[clean] == POISONED).astype(real()))
    kept = jnp.where(eligible, priority, -jnp.inf) if scene.searching else None
    cell = cell.replace(poison=drawn, order=order, clean=clean, valid=valid, priority=kept)
    if scene.judges:
        suspects, truth = draw_suspects(scene, cell, shared)
        cell = cell.replace(suspects=suspects, truth=truth)
    return cell, overlap


def _defenders_rows(scene: Scene, key: Key, label: Array) -> tuple[Array, Array]:
    if scene.rows is not None:
        return tuple(jnp.asarray(rows, jnp.int32) for rows in scene.rows)
    free = jnp.where(scene.barred, scene.classes, label)
    return sources.balanced_rows(stream(key, "clean"), free, scene.classes, (scene.clean, scene.valid))


def draw_suspects(scene: Scene, cell: Cell, shared: Shared) -> tuple[Array, Array]:
    """What a detector judges, int32 (m,), and its truth, int8 (m,): 1 has the trigger, 0 has not, -1 does not count.

    Of "rows": random rows of the training set, in its order; cover samples do not count. Of "queries", half of them
    random test images, half random ones with the trigger, shuffled: a number from the size t of the test set on means
    the triggered image of row number - t. Those that the attack would not move do not count, nor any without poison.
    """
    key, rows = stream(root(cell.seed), "suspects"), jnp.arange(shared.train.label.size, dtype=jnp.int32)
    if scene.judges == "rows":
        chosen = jnp.sort(jax.random.permutation(key, rows)[: scene.suspects or rows.size])
        role = cell.poison.role[chosen]
        return chosen, jnp.where(role == COVER, -1, role == POISONED).astype(jnp.int8)
    label = shared.test.label
    half = min(-(-scene.suspects // 2) or label.size, label.size)
    clean = jax.random.permutation(stream(key, "clean"), jnp.arange(label.size, dtype=jnp.int32))[:half]
    moved = poison.counted(label, scene.attack.goal)
    lots = jax.random.uniform(stream(key, "triggered"), label.shape, real())
    triggered = jnp.lexsort((lots, ~moved))[:half].astype(jnp.int32)
    counts = jnp.where(moved[triggered] & (cell.count > 0), 1, -1)
    order = jax.random.permutation(stream(key, "order"), jnp.arange(2 * half))
    truth = jnp.concatenate([jnp.zeros(half, jnp.int8), counts.astype(jnp.int8)])
    return jnp.concatenate([clean, label.size + triggered])[order], truth[order]


class Unneeded(InvalidInput):
    """A method reads a field of `Given` that its card's needs do not name."""


@jax.tree_util.register_static
@dataclass(frozen=True)
class Absent:
    """In the place of a field of `Given` that a card's needs do not name: says so when it is used."""

    field: str

    def _refuse(self, *_args, **_kwargs):
        raise Unneeded(f"it reads given.{self.field}, which its card's needs do not name; add {self.field!r} there")

    __call__ = __iter__ = __len__ = __getitem__ = _refuse

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        self._refuse()


def make_given(scene: Scene, needs: Iterable[str], cell: Cell, shared: Shared) -> Given:
    """What a method is given: the fields that its card needs and no others."""
    whole, attack, needs = sources.split(shared.train), scene.attack, set(needs)
    trigger = None if cell.poison is None else cell.poison.trigger

    def wanted():
        return sources.wanted(shared.train, cell.poison, attack, shared.assets)

    def queried(data: Data):
        if data is shared.test and shared.queries is not None:
            return sources.split(shared.queries)
        return sources.stamped(data, trigger, attack.query, shared.assets)

    def seen():
        return sources.poisoned(shared.train, cell.poison, attack, shared.assets)

    def judged():
        if not scene.judges:  # a defense that cleanses the training set
            return seen()
        if scene.judges == "rows":
            return sources.subset(seen(), cell.suspects)
        asked = sources.concatenated(sources.split(shared.test), queried(shared.test))
        hidden = sources.mapped(asked, lambda batch: batch.replace(label=jnp.full_like(batch.label, -1)))
        return sources.subset(hidden, cell.suspects)

    offers = {
        "train": seen,
        "suspects": judged,
        "clean": lambda: sources.subset(whole, cell.clean),
        "valid": lambda: sources.subset(whole, cell.valid),
        "victim": lambda: cell.victim,
        "whole": lambda: whole,
        "stamped": wanted,
        "clean_model": lambda: cell.clean_model,
        "target": lambda: attack.goal,
        "backdoored": lambda: cell.backdoored,
        "triggered": lambda: sources.subset(queried(shared.train), cell.clean),
        "queries": lambda: queried(shared.test),
        "poisoned": lambda: sources.subset(wanted(), cell.order),
        "test": lambda: sources.split(shared.test),
    }
    fields = {name: offer() for name, offer in offers.items() if name in needs}
    if scene.rehearsed:
        fields |= {name: Absent(name) for name in offers if name not in needs}
    carry = {} if cell.left is None else cell.left.carry
    return Given(cell.settings, images.augmentation(scene.padding, scene.flip), carry=carry, **fields)


def left_before(scene: Scene, cell: Cell) -> Trained:
    """What the first stage finds: for an attacker's own training the poison on record, for a search where it starts."""
    if scene.searching:
        return Trained(None, {"priority": cell.priority, "count": cell.count, "round": jnp.zeros_like(cell.count)})
    if scene.own:
        poison = cell.poison
        return Trained(None, {"trigger": poison.trigger, "count": cell.count, "role": poison.role})
    return Trained(None, {})


class StageFunctions(NamedTuple):
    """A stage as cell functions for `lift.Program`."""

    begin: Any  # ((), cell, shared, number) -> ((), carry)
    advance: Any  # (carry, cell, shared, number, epoch, start, stop) -> (carry, sums)
    finish: Any  # (carry, cell, shared, number) -> (carry, (Trained, finite))


def stage(scene: Scene, running: Stage, needs: tuple[str, ...]) -> StageFunctions:
    """The cell functions of one stage.

    They take the `keys.number` of its random streams, so that equal stages of a method share their programs.
    """
    needs = (*needs, *running.sees)

    def key(cell: Cell, number: Array) -> Key:
        return stream(root(cell.seed), number)

    def begin(state, cell: Cell, shared: Shared, number: Array):
        given = make_given(scene, needs, cell, shared)
        return state, train.begin(running, key(cell, number), given, cell.left and cell.left.weights)

    def advance(carry, cell: Cell, shared: Shared, number: Array, epoch: Array, start: Array, stop: Array):
        given = make_given(scene, needs, cell, shared)
        carry = train.advance(running, key(cell, number), carry, given, epoch, start, stop)
        return carry, carry[1]

    def finish(carry, cell: Cell, shared: Shared, number: Array):
        trained = train.finish(running, key(cell, number), carry[0], make_given(scene, needs, cell, shared))
        return carry, (trained, finite(trained.weights))

    return StageFunctions(begin, advance, finish)


def begun(running: Stage, cell: Cell) -> Cell:
    """The cell once a stage has begun: of what the stage before left, the carry without what this one takes over."""
    if cell.left is None:
        return cell
    carry = {name: value for name, value in cell.left.carry.items() if name not in running.takes}
    return cell.replace(left=Trained(None, carry))


def _batches(scene: Scene, running: Stage, needs: tuple[str, ...], cell: Cell, shared: Shared) -> tuple[int, ...]:
    """The shape of a stage's order of rows, (steps, rows a step), for cells of these shapes; nothing is computed."""

    def order(cell: Cell, shared: Shared) -> Batches:
        given = make_given(scene, (*needs, *running.sees), cell, shared)
        state = running.init(root(cell.seed), given, cell.left and cell.left.weights)
        return running.order(root(cell.seed), state, jnp.int32(0), given)

    return jax.tree.leaves(jax.eval_shape(order, cell, shared))[0].shape


def steps(scene: Scene, running: Stage, needs: tuple[str, ...], cell: Cell, shared: Shared) -> int:
    """Steps in each epoch of a stage for cells of these shapes."""
    return _batches(scene, running, needs, cell, shared)[0]


def rows(scene: Scene, running: Sequence[Stage], needs: tuple[str, ...], cell: Cell, shared: Shared) -> int:
    """Rows that all steps of all stages take for cells of these shapes; nothing is computed."""
    found, number = 0, np.int32(0)
    for one in running:
        lifted = stage(scene, one, needs)
        found += one.epochs * int(np.prod(_batches(scene, one, needs, cell, shared)[:2]))
        carry, held = jax.eval_shape(lifted.begin, (), cell, shared, number)[1], begun(one, cell)
        cell = held.replace(left=jax.eval_shape(lifted.finish, carry, held, shared, number)[1][0])
    return found


def run_stages(
    scene: Scene, running: Sequence[Stage], needs: tuple[str, ...], numbers: Sequence[Array], cell: Cell, shared: Shared
) -> tuple[Cell, dict[str, Array]]:
    """All stages of a method in one program: the cell with what the last one left, and sums of its last infos.

    numbers: of the random streams of each stage.
    """
    sums = {}
    for one, number in zip(running, numbers, strict=True):
        lifted, count = stage(scene, one, needs), steps(scene, one, needs, cell, shared)
        carry, held = lifted.begin((), cell, shared, number)[1], begun(one, cell)

        def epoch(index, carry, lifted=lifted, number=number, count=count, held=held):
            return lifted.advance(carry, held, shared, number, index, 0, count)[0]

        carry = jax.lax.fori_loop(0, one.epochs, epoch, carry)
        left, sums = lifted.finish(carry, held, shared, number)[1][0], carry[1]
        cell = cell.replace(left=left)
    return cell, sums


def finite(weights: Weights) -> Array:
    """Whether a model has not diverged."""
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(weights)]))


def wrapped(net: Net, running: Iterable[Stage]) -> Net:
    """The network that the last stage's weights belong to; where it is another one, its `plain` is `net`."""
    changed = net
    for each in running:
        changed = each.wrap(changed)
    return net if changed is net else changed._replace(plain=net)


def paired(key: Key, size: int) -> Array:
    """For every row another one, int32 (size,): a random cycle through all of them."""
    order = jax.random.permutation(key, jnp.arange(size, dtype=jnp.int32))
    return jnp.zeros(size, jnp.int32).at[order].set(jnp.roll(order, 1))


def score(scene: Scene, net: Net):
    """Cell function: sums of `metrics.counts` of `cell.victim`, weights of `net`, on the test images."""

    def function(state, cell: Cell, shared: Shared):
        test, attack = shared.test, scene.attack
        others = paired(stream(root(cell.seed), "cross"), test.label.size)

        def cross(assets, trigger, image, row):
            return attack.cross(assets, trigger, image, row, test.image[others[row]].astype(image.dtype) / 255)

        def under(stamp):
            return sources.stamped(test, cell.poison.trigger, stamp, shared.assets)

        crossed = None if attack.cross is None else under(cross)
        triggered = under(attack.query) if shared.queries is None else sources.split(shared.queries)
        return state, metrics.counts(net, cell.victim, sources.split(test), triggered, attack.goal, crossed)

    return function


def measure(scene: Scene, audit: Audit, needs: tuple[str, ...], net: Net):
    """Cell function: what an audit measures; `cell.left` is what its stages left."""

    def function(state, cell: Cell, shared: Shared):
        key = stream(root(cell.seed), "audit")
        trained = cell.left if audit.stages else Trained(cell.victim)
        return state, audit.measure(key, net, trained, make_given(scene, needs, cell, shared))

    return function
