"""The one loop of everything that descends: victims, purified models, masks, generators, perturbations."""

from collections.abc import Callable
from contextvars import ContextVar
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from flax import struct

from bdjax.keys import stream
from bdjax.train.orders import shuffled
from bdjax.types import Array, Batches, FinishFn, Given, Key, Net, PyTree, SourceFn, Stage, identity, real


@struct.dataclass
class State:
    """What a stage made by `descend` carries from step to step."""

    moving: PyTree  # what the optimizer moves: parameters, a mask, a generator
    still: PyTree  # what else a step leaves to the next: statistics, memories
    opt_state: PyTree
    step: Array  # int32 (), steps since the stage began, those over padding alone included
    done: Array | None = None  # bool (); None where nothing ends the stage early


class Clock(NamedTuple):
    """Where a step stands in its stage: epoch * steps + index, whatever rows it reads."""

    step: Array  # int32 (), from 0
    steps: int  # in each epoch
    epochs: int

    @property
    def epoch(self) -> Array:
        """The epoch that the step belongs to, from 0."""
        return self.step // self.steps


class BeginFn(Protocol):
    """What a stage starts with: (moving, still), or (moving, still, opt_state) to go on with an optimizer's state.

    key: of the draws; weights: what the stage before left, None for the first stage.
    """

    def __call__(self, key: Key, given: Given, weights, /) -> tuple: ...


class LossFn(Protocol):
    """What is descended: (value float (), (still, info)); info a flat dict of scalars."""

    def __call__(self, key: Key, moving: PyTree, still: PyTree, rows: Batches, given: Given, /) -> tuple: ...


class GradientFn(Protocol):
    """The same where losses are balanced by hand: (gradient like moving, still, info)."""

    def __call__(self, key: Key, moving: PyTree, still: PyTree, rows: Batches, given: Given, /) -> tuple: ...


class RuleFn(Protocol):
    """The optimizer of a step; its state has the same structure at every step."""

    def __call__(self, given: Given, clock: Clock, /) -> optax.GradientTransformation: ...


class OrderOfFn(Protocol):
    """The rows of an epoch, int32 (steps, b), or a dict of such for a dict of sources; -1 pads.

    It may read the key, the epoch, `given` and of `still` what `renew` has made: nothing that a step changes, for the
    engine calls an epoch in pieces and asks again each time.
    """

    def __call__(self, key: Key, epoch: Array, given: Given, still: PyTree, /) -> Batches: ...


class RenewFn(Protocol):
    """What `still` is for an epoch, before its first step: a new split of the rows, a new pool."""

    def __call__(self, key: Key, moving: PyTree, still: PyTree, given: Given, /) -> PyTree: ...


class ProjectFn(Protocol):
    """(moving, still) after a step of the optimizer, brought back to where they must be; `rows` are the step's."""

    def __call__(self, moving: PyTree, still: PyTree, rows: Batches, given: Given, clock: Clock, /) -> tuple: ...


class UntilFn(Protocol):
    """Asked once an epoch with the means of that epoch's infos: true, bool (), and the stage changes nothing more."""

    def __call__(self, info: dict[str, Array], given: Given, /) -> Array: ...


class AugmentFn(Protocol):
    """The batch as it is trained on; `key` is the step's own, from which `stream(key, name)` draws."""

    def __call__(self, key: Key, rows: Batches, epoch: Array, given: Given, /) -> Batches: ...


watcher: ContextVar[Callable[[str, Callable], Callable] | None] = ContextVar("watcher", default=None)
"""While it is set every hook of a stage made by `descend` is called as `watcher(name, hook)`: see `study.hooks`."""


def _hooked(name: str, hook: Callable | None) -> Callable | None:
    def called(*args, **named):
        watch = watcher.get()
        return (watch(name, hook) if watch else hook)(*args, **named)

    return hook and called


TAKEN = "steps"
"""The reserved info that says whether a step was taken, 1 or 0; where it is missing every step was."""


def dataset_augmentation(key: Key, rows: Batches, _epoch: Array, given: Given) -> Batches:
    """The dataset's own augmentation, a stream of its own for each source."""
    if isinstance(rows, dict):
        return {
            name: batch.replace(image=given.augment(stream(key, f"augment {name}"), batch.image))
            for name, batch in rows.items()
        }
    return rows.replace(image=given.augment(stream(key, "augment"), rows.image))


def descend(
    source: SourceFn,
    *,
    epochs: int,
    batch: int,
    begin: BeginFn,
    rule: RuleFn,
    leave: FinishFn,
    loss: LossFn | None = None,
    gradient: GradientFn | None = None,
    order: OrderOfFn | None = None,
    full: bool = False,
    drop_last: bool = False,
    renew: RenewFn | None = None,
    project: ProjectFn | None = None,
    augment: bool | AugmentFn = True,
    until: UntilFn | None = None,
    wrap: Callable[[Net], Net] = identity,
    takes: tuple[str, ...] = (),
) -> Stage:
    """A stage that follows a gradient over batches.

    Args:
        source: given -> what batches are read from, a `Source` or a dict of them.
        epochs: passes, at most.
        batch: rows a step; the whole source where that is smaller.
        begin, rule, loss, gradient, renew, project, until: see `BeginFn` and so on; one of loss and gradient.
        leave: (key, state, given) -> Trained, of a `State`.
        order: see `OrderOfFn`; None shuffles the source anew in every epoch.
        full: whether no step of `order` is padding alone, so that none has to be skipped.
        drop_last: whether shuffling leaves out the rows that do not fill a batch.
        augment: the dataset's own augmentation, none, or see `AugmentFn`.
        wrap, takes: see `Stage`.

    A step whose rows are all padding, and every step once `until` was true, changes nothing and counts in no mean.
    """
    if (loss is None) == (gradient is None):
        raise TypeError("descend: give one of loss and gradient")
    source, begin, rule, leave = map(_hooked, ("source", "begin", "rule", "leave"), (source, begin, rule, leave))
    order, renew, project, until = map(_hooked, ("order", "renew", "project", "until"), (order, renew, project, until))
    change = _hooked("augment", dataset_augmentation if augment is True else augment or None)
    gradient = _hooked("gradient", gradient) or _differentiate(_hooked("loss", loss))
    skips = (order is not None and not full) or until is not None

    def rows_of(key: Key, state: State, epoch: Array, given: Given) -> Batches:
        if order is not None:
            return order(key, epoch, given, state.still)
        return shuffled(key, source(given).size, batch, drop_last)

    def clock_of(state: State, given: Given) -> Clock:
        shapes = jax.eval_shape(lambda state: rows_of(jax.random.key(0), state, jnp.int32(0), given), state)
        return Clock(state.step, jax.tree.leaves(shapes)[0].shape[0], epochs)

    def init(key: Key, given: Given, weights) -> State:
        moving, still, *held = begin(key, given, weights)
        zero = jnp.zeros((), jnp.int32)
        opt_state = held[0] if held else rule(given, Clock(zero, 1, epochs)).init(moving)
        return State(moving, still, opt_state, zero, None if until is None else jnp.zeros((), bool))

    def move(key: Key, state: State, rows: Batches, given: Given) -> tuple[State, dict[str, Array]]:
        clock = clock_of(state, given)
        if change is not None:
            rows = change(key, rows, clock.epoch, given)
        slope, still, info = gradient(key, state.moving, state.still, rows, given)
        updates, opt_state = rule(given, clock).update(slope, state.opt_state, state.moving)
        moving = optax.apply_updates(state.moving, updates)
        if project is not None:
            moving, still = project(moving, still, rows, given, clock)
        return State(moving, still, opt_state, state.step + 1, state.done), info

    def step(key: Key, state: State, rows: Batches, given: Given) -> tuple[State, dict[str, Array]]:
        if not skips:
            return move(key, state, rows, given)
        taken = jnp.any(jnp.stack([jnp.any(batch.row >= 0) for batch in _batches(rows)]))
        taken = taken if state.done is None else taken & ~state.done
        infos = jax.eval_shape(lambda state: move(key, state, rows, given)[1], state)
        nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), infos)
        state, info = jax.lax.cond(
            taken,
            lambda state: move(key, state, rows, given),
            lambda state: (state.replace(step=state.step + 1), nothing),
            state,
        )
        return state, info | {TAKEN: taken.astype(real())}

    def refresh(key: Key, state: State, sums: dict[str, Array], epoch: Array, given: Given) -> State:
        if until is not None:
            count = jnp.maximum(sums[TAKEN], 1)
            means = {name: value / count for name, value in sums.items() if name != TAKEN}
            state = state.replace(done=state.done | ((epoch > 0) & until(means, given)))
        if renew is None:
            return state
        if state.done is None:
            return state.replace(still=renew(key, state.moving, state.still, given))
        still = jax.lax.cond(state.done, lambda: state.still, lambda: renew(key, state.moving, state.still, given))
        return state.replace(still=still)

    return Stage(source, epochs, init, rows_of, step, leave, wrap, refresh if until or renew else None, takes)


def _differentiate(loss: LossFn) -> GradientFn:
    def gradient(key, moving, still, rows, given):
        slope, (still, info) = jax.grad(lambda moving: loss(key, moving, still, rows, given), has_aux=True)(moving)
        return slope, still, info

    return gradient


def _batches(rows: Batches) -> list:
    return list(rows.values()) if isinstance(rows, dict) else [rows]
