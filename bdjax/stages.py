"""One cell of a study as pure functions: what is drawn for it, what a method is given, and the steps of its stages."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from bdjax import images, metrics, poison, sources, train
from bdjax.keys import root, stream
from bdjax.types import (
    POISONED,
    Array,
    Attack,
    Audit,
    Data,
    Given,
    Key,
    Net,
    Poison,
    Procedure,
    PyTree,
    Selection,
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
    clean: Array | None = None  # int32: rows of the defender's clean set
    valid: Array | None = None  # int32: rows on which thresholds are chosen
    victim: Weights | None = None
    clean_model: Weights | None = None
    backdoored: Weights | None = None
    previous: Any = None  # what the stage before left


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


def scalars(settings: Mapping[str, float]) -> dict[str, np.ndarray]:
    """A method's float settings as arrays () of the library's float type."""
    return {name: np.asarray(value, real()) for name, value in settings.items()}


def draw(scene: Scene, cell: Cell, shared: Shared) -> tuple[Cell, Array]:
    """The cell with its rows and its poison, and the share of clean rows whose copies are poisoned."""
    key, label = root(cell.seed), shared.train.label
    free = jnp.where(scene.barred, scene.classes, label)
    clean, valid = sources.balanced_rows(stream(key, "clean"), free, scene.classes, (scene.clean, scene.valid))
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
    overlap = jnp.mean((drawn.role[clean] == POISONED).astype(real()))
    kept = jnp.where(eligible, priority, -jnp.inf) if scene.searching else None
    return cell.replace(poison=drawn, order=order, clean=clean, valid=valid, priority=kept), overlap


def door(scene: Scene, needs: Iterable[str], cell: Cell, shared: Shared) -> Given:
    """What a method is given: the fields that its card needs and no others."""
    whole, attack, needs = sources.split(shared.train), scene.attack, set(needs)
    trigger = None if cell.poison is None else cell.poison.trigger

    def wanted():
        stamped = sources.stamped(shared.train, trigger, attack.stamp, shared.assets)
        return sources.mapped(stamped, lambda batch: batch.replace(label=attack.goal(batch.label)))

    def queried(data: Data):
        return sources.stamped(data, trigger, attack.query, shared.assets)

    def seen():
        return sources.poisoned(shared.train, cell.poison, attack, shared.assets)

    offers = {
        "train": lambda: sources.concatenated(whole, wanted()) if scene.searching else seen(),
        "clean": lambda: whole if scene.own else sources.subset(whole, cell.clean),
        "valid": lambda: sources.subset(whole, cell.valid),
        "victim": lambda: cell.victim,
        "clean_model": lambda: cell.clean_model,
        "target": lambda: attack.goal,
        "backdoored": lambda: cell.backdoored,
        "triggered": lambda: sources.subset(queried(shared.train), cell.clean),
        "queries": lambda: queried(shared.test),
        "poisoned": lambda: sources.subset(wanted(), cell.order),
        "test": lambda: sources.split(shared.test),
    }
    fields = {name: offer() for name, offer in offers.items() if name in needs}
    return Given(cell.settings, images.augmentation(scene.padding, scene.flip), **fields)


class StageFunctions(NamedTuple):
    """A stage as cell functions for `sweep.Program`."""

    begin: Any  # ((), cell, shared, number) -> ((), carry)
    advance: Any  # (carry, cell, shared, number, epoch, start, stop) -> (carry, sums)
    finish: Any  # (carry, cell, shared, number) -> (carry, (Trained, finite))


def stage(scene: Scene, procedure: Procedure, needs: tuple[str, ...]) -> StageFunctions:
    """The cell functions of one stage.

    They take the `keys.number` of its random streams, so that equal stages of a method share their programs.
    """

    def key(cell: Cell, number: Array) -> Key:
        return stream(root(cell.seed), number)

    def begin(state, cell: Cell, shared: Shared, number: Array):
        given = door(scene, needs, cell, shared)
        return state, train.begin(procedure, key(cell, number), given, cell.previous)

    def advance(carry, cell: Cell, shared: Shared, number: Array, epoch: Array, start: Array, stop: Array):
        given = door(scene, needs, cell, shared)
        carry = train.advance(procedure, key(cell, number), carry, given, epoch, start, stop)
        return carry, carry[1]

    def finish(carry, cell: Cell, shared: Shared, number: Array):
        trained = train.finish(procedure, key(cell, number), carry[0], door(scene, needs, cell, shared))
        return carry, (trained, finite(trained.weights))

    return StageFunctions(begin, advance, finish)


def steps(scene: Scene, procedure: Procedure, needs: tuple[str, ...], cell: Cell, shared: Shared) -> int:
    """Steps in each epoch of a stage for cells of these shapes."""

    def order(cell: Cell, shared: Shared) -> Array:
        given = door(scene, needs, cell, shared)
        state = procedure.init(root(cell.seed), given, cell.previous)
        return procedure.order(root(cell.seed), state, jnp.int32(0), given)

    return jax.eval_shape(order, cell, shared).shape[0]


def finite(weights: Weights) -> Array:
    """Whether a model has not diverged."""
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(weights)]))


def wrapped(net: Net, procedures: Iterable[Procedure]) -> Net:
    """The network that the last stage's weights belong to; where it is another one, its `plain` is `net`."""
    changed = net
    for procedure in procedures:
        changed = procedure.wrap(changed)
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
        return state, metrics.counts(net, cell.victim, sources.split(test), under(attack.query), attack.goal, crossed)

    return function


def measure(scene: Scene, audit: Audit, needs: tuple[str, ...], net: Net):
    """Cell function: what an audit measures; `cell.previous` is what its stages left."""

    def function(state, cell: Cell, shared: Shared):
        key = stream(root(cell.seed), "audit")
        trained = cell.previous if audit.stages else Trained(cell.victim)
        return state, audit.measure(key, net, trained, door(scene, needs, cell, shared))

    return function
