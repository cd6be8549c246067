"""A study is rehearsed before anything is trained: traced, computing nothing, so that what cannot be done is refused.

Of the library's own methods the beginning, which depends on the data; of anybody else's all to the end, with what every
hook returns (see `hooks`). Where what an attack prepares cannot be traced, it is rehearsed once that is there.
"""

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from bdjax import attacks, audits, defenses, detection, models, selections
from bdjax.cells import functions, memory
from bdjax.cells.functions import Cell, Scene, Shared, Unneeded, scalars
from bdjax.data.poison import NO_ATTACK
from bdjax.detection.parts.scoring import score_all
from bdjax.errors import InvalidInput
from bdjax.keys import root, stream
from bdjax.study import Study, hooks
from bdjax.study.plugins import owner
from bdjax.study.wants import ARRAYS, DICT, array, holding, like, of
from bdjax.types import Array, Audit, Data, Net, Poison, PyTree, Stage, Trained, Weights, real

LIBRARY = Path(__file__).parents[1]


def rehearse(work) -> None:
    """Refuse what cannot be done on the data of a study, and mistakes in methods that are not the library's.

    Raises:
        InvalidInput: a line that says what, and of a method that is not the library's in which hook and line.
    """
    where = owner("MODELS", models.MODELS.get(work.model.name), work.model.text)
    with _blamed(where):
        victim = _trace_network(work) if where else jax.eval_shape(work.net.init, root(0))
    _check_memory(work.study, victim)
    data = work.dataset
    shared = Shared(data.train, data.test, queries=data.queries)
    for where, whole, beginning in _parts(_Rehearsal(work, victim, shared)):
        with _blamed(where):
            (whole if where else beginning)()


def prepare(work, text: str, data: Data) -> PyTree:
    """What an attack of a study prepares; one that is not the library's is then rehearsed with it.

    text: how the study writes the attack; data: the clean split.

    Raises:
        InvalidInput: as of `rehearse`.
    """
    spec, attack = work.attacks[text]
    where = owner("ATTACKS", attacks.ATTACKS.get(spec.name), text)
    make = hooks.watched(attack).prepare if where else attack.prepare
    with _blamed(where):
        assets = make(stream(root(0), "prepare"), work.net, data, scalars(spec.traced))
        if where:
            victim = jax.eval_shape(work.net.init, root(0))
            _trace_attack(_Rehearsal(work, victim, Shared(data, work.dataset.test, assets)), text)
    return assets


class _Rehearsal(NamedTuple):
    """What a rehearsal has in the place of what a run has."""

    work: Any  # a `work.Work`
    victim: Weights  # shapes alone
    data: Shared


def _parts(at: _Rehearsal) -> Iterator[tuple[str, Callable[[], Any], Callable[[], Any]]]:
    """Whose each method is, "" the library's; how it is traced to its end; and how its beginning is."""
    work = at.work
    for text, (spec, attack) in work.attacks.items():
        trace = _trace_attack if attack.prepare is None else _trace_prepared
        yield owner("ATTACKS", attacks.ATTACKS.get(spec.name), text), partial(trace, at, text), _nothing
    whose = owner("SELECTIONS", selections.SELECTIONS[work.selection.name], work.selection.text)
    yield whose, partial(_trace_selection, at), _nothing
    for text, method in work.defenses.items():
        whose = owner("DEFENSES", defenses.DEFENSES[method.spec.name], text)
        yield whose, partial(_trace_defense, at, method), partial(_begin, at, work.scene, method, method.stages)
    for text, method in work.audits.items():
        whose, audit = owner("AUDITS", audits.AUDITS[method.spec.name], text), work.audit_of(text, None)
        yield whose, partial(_trace_audit, at, method, audit), partial(_begin, at, work.scene, method, audit.stages)
    for text, method in work.detectors.items():
        whose = owner("DETECTORS", detection.DETECTORS[method.spec.name], text)
        for judges in method.detector.on:
            scene, stages = work.scene._replace(judges=judges), method.judging(judges)
            yield whose, partial(_trace_detector, at, scene, method), partial(_begin, at, scene, method, stages)


def _nothing() -> None:
    """Nothing of the library's attacks and selections depends on the data in a way that a study could get wrong."""


def _trace_network(work) -> Weights:
    """The shapes of a network's weights."""
    net = hooks.network(work.net, work.dataset.count)
    weights = jax.eval_shape(net.init, root(0))
    for training in (False, True):
        _trace_apply(net, weights, work.dataset.shape, training)
    return weights


def _trace_apply(net: Net, weights: Weights, shape: tuple[int, int, int], train: bool = False) -> None:
    image, weight = (jax.ShapeDtypeStruct(size, real()) for size in ((2, *shape), (2,)))

    def apply(weights: Weights, image: Array, weight: Array):
        return net.apply(weights, image, train=True, weight=weight) if train else net.apply(weights, image)

    jax.eval_shape(apply, weights, image, weight)


def _trace_attack(at: _Rehearsal, text: str) -> None:
    """An attack to the score of its queries; of one with its own training also its stages."""
    (spec, attack), scene = at.work.attacks[text], at.work.scene
    traced, left = scalars(spec.traced), of(Trained, weights=like(at.victim, "the network's weights"), carry=DICT)
    scene = scene._replace(attack=hooks.watched(attack), own=bool(attack.train))
    stages = hooks.watched_stages(_fewer(attack.train), left)

    def through(cell: Cell, data: Shared):
        drawn = functions.draw(scene, cell, data)[0]
        seen = functions.make_given(scene, ("train",), drawn, data).train.read(np.arange(2, dtype=np.int32))
        if stages:
            begun = drawn.replace(left=functions.left_before(scene, drawn), victim=None)
            trained = _run(scene, stages, ("train", "whole"), begun, data).left
            drawn = drawn.replace(poison=drawn.poison.replace(trigger=trained.carry), victim=trained.weights)
        return seen.image, functions.score(scene, at.work.net)((), drawn, data)[1]

    jax.eval_shape(through, Cell(np.uint32(0), np.int32(1), traced, traced, victim=at.victim), at.data)


def _trace_prepared(at: _Rehearsal, text: str) -> None:
    """An attack with what it prepares, where that can be traced; else it is traced once that is there: `prepare`."""
    spec, attack = at.work.attacks[text]
    make, key = hooks.watched(attack).prepare, stream(root(0), "prepare")
    try:
        assets = jax.eval_shape(lambda data: make(key, at.work.net, data, scalars(spec.traced)), at.data.train)
    except (jax.errors.JAXTypeError, jax.errors.JAXIndexError):  # it computes with numbers, as it may
        return
    _trace_attack(at._replace(data=at.data.replace(assets=assets)), text)


def _trace_selection(at: _Rehearsal) -> None:
    """A selection's rank, and its search to the priority that the last stage leaves."""
    work, size = at.work, at.data.train.label.size
    spec, attack = next((one for one in work.attacks.values() if one[1].prepare is None), (None, NO_ATTACK))
    select = hooks.watched(work.scene.select)
    scene = work.scene._replace(select=select, attack=attack, own=bool(select.search), searching=bool(select.search))
    priority = holding("a dict with priority, float (n,)", priority=array("float", (size,)))

    def through(cell: Cell, data: Shared):
        drawn = functions.draw(scene, cell, data)[0]
        if not select.search:
            return drawn.order
        stages = hooks.watched_stages(_fewer(select.search(1)), of(Trained, weights=ARRAYS, carry=priority))
        begun = drawn.replace(left=functions.left_before(scene, drawn))
        return _run(scene, stages, ("whole", "stamped"), begun, data).left

    traced = {} if spec is None else scalars(spec.traced)
    jax.eval_shape(through, Cell(np.uint32(0), np.int32(1), traced, scalars(work.selection.traced)), at.data)


def _trace_defense(at: _Rehearsal, method) -> None:
    """A defense's stages, and the network that they leave on an image."""
    net = at.work.net
    wrapped = functions.wrapped(net, hooks.watched_stages(method.stages))
    whole = of(Trained, weights=like(at.victim, "the network's weights"), carry=DICT)
    stages = hooks.watched_stages(_fewer(method.stages), whole if wrapped is net else hooks.TRAINED)

    def through(scene: Scene) -> None:
        left = _traced(at, scene, method, stages).left
        if wrapped is not net:
            _trace_apply(hooks.network(wrapped, scene.classes, wrapped=True), left.weights, at.work.dataset.shape)

    _try(through, at.work.scene)


def _trace_audit(at: _Rehearsal, method, audit: Audit) -> None:
    audit = hooks.watched(audit)._replace(stages=hooks.watched_stages(_fewer(audit.stages)))

    def through(scene: Scene) -> None:
        measure = functions.measure(scene, audit, method.needs, scene.net)
        cell = _traced(at, scene, method, audit.stages)
        jax.eval_shape(lambda cell, data: measure((), cell, data)[1], cell, at.data)

    _try(through, at.work.scene)


def _trace_detector(at: _Rehearsal, scene: Scene, method) -> None:
    detector = hooks.watched(method.detector)
    stages = (*hooks.watched_stages(_fewer(detector.stages)), score_all(scene.net, detector, scene.judges == "queries"))
    _try(lambda scene: _traced(at, scene, method, stages), scene)


def _begin(at: _Rehearsal, scene: Scene, method, stages: tuple[Stage, ...]) -> None:
    """Trace how the first stage begins."""
    cell = _cell(at, scene, method)
    if stages:
        functions.steps(scene, stages[0], method.needs, cell, at.data)


def _cell(at: _Rehearsal, scene: Scene, method) -> Cell:
    """A cell for a method that meets a model: nothing is poisoned."""
    label, victim = at.data.train.label, at.victim
    drawn = [np.zeros(scene.classes * count, np.int32) for count in (scene.clean, scene.valid)]
    clean, valid = drawn if scene.rows is None else scene.rows
    cell = Cell(
        seed=np.uint32(0),
        count=np.int32(0),
        attack={},
        settings=scalars(method.spec.traced),
        poison=Poison(np.zeros(label.shape, np.int8), label, {}),
        order=np.arange(label.size, dtype=np.int32),
        clean=clean,
        valid=valid,
        victim=victim,
        clean_model=victim,
        backdoored=victim,
    )
    if scene.judges:
        suspects, truth = jax.eval_shape(partial(functions.draw_suspects, scene), cell, at.data)
        cell = cell.replace(suspects=suspects, truth=truth)
    return cell


def _fewer(stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
    """Of a stage that comes many times in turn the first two: the others begin with the shapes of the second."""
    return tuple(one for place, one in enumerate(stages) if place < 2 or stages[place - 2 : place] != (one, one))


def _run(scene: Scene, stages: tuple[Stage, ...], needs, cell: Cell, data: Shared) -> Cell:
    return functions.run_stages(scene, stages, needs, [np.int32(0)] * len(stages), cell, data)[0]


def _traced(at: _Rehearsal, scene: Scene, method, stages: tuple[Stage, ...]) -> Cell:
    """The cell after all stages of a method, in shapes alone."""
    run = partial(_run, scene, stages, method.needs)
    return jax.eval_shape(run, _cell(at, scene, method), at.data)


def _try(through: Callable[[Scene], Any], scene: Scene) -> None:
    """Trace; of what fails because a field was read that is not needed, say that."""
    try:
        through(scene)
    except Exception:
        _look_for_unneeded(through, scene._replace(rehearsed=True))
        raise


def _look_for_unneeded(through: Callable[[Scene], Any], scene: Scene) -> None:
    try:
        through(scene)
    except Unneeded:
        raise
    except Exception:
        return


@contextmanager
def _blamed(whose: str) -> Iterator[None]:
    """Errors of a method that is not the library's become one line that says whose it is, in which hook and line."""
    try:
        yield
    except (Exception, SystemExit) as error:
        if not whose:
            raise
        line = str(error) if isinstance(error, InvalidInput) else f"{_mistake(error)}; mend it there"
        raise InvalidInput(": ".join(filter(None, [whose, getattr(error, "hook", ""), line]))) from error


def _mistake(error: Exception) -> str:
    """What went wrong, in which line of the file that is not the library's or JAX's."""
    text = " ".join(str(error).split()).partition(" The error occurred while tracing")[0][:200]  # JAX says more
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_foreign(frame.filename)]
    at = f" in {Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}: {text}{at}"


def _is_foreign(name: str) -> bool:
    path = Path(name)
    return not path.is_relative_to(LIBRARY) and "site-packages" not in path.parts and path.exists()


def _check_memory(asked: Study, victim: Weights) -> None:
    held = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(victim))
    if held > memory.budget(asked.memory):
        needed = (held + memory.resident() * (jax.default_backend() == "cpu")) // 10**6
        given = f"{asked.model}: with its weights alone {needed} MB are held, more than the memory allowed"
        raise InvalidInput(f"{given}; give more --memory or a narrower model")
