"""A study is rehearsed before anything is trained: traced, computing nothing, so that what cannot be done is refused.

Of the library's own methods the beginning, which depends on the data; of anybody else's all stages to their end.
"""

import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bdjax import attacks, audits, defenses, detection
from bdjax.cells import functions, memory
from bdjax.cells.functions import Cell, Scene, Shared, Unneeded, scalars
from bdjax.errors import InvalidInput
from bdjax.keys import root
from bdjax.study import Study
from bdjax.study.plugins import owner
from bdjax.types import Audit, Poison, Weights

LIBRARY = Path(__file__).parents[1]


def rehearse(work) -> None:
    """Refuse what cannot be done on the data of a study, and mistakes in methods that are not the library's.

    Raises:
        InvalidInput: a line that says what, and of a method that is not the library's in which stage and line.
    """
    victim = jax.eval_shape(work.net.init, root(0))
    _check_memory(work.study, victim)
    data = Shared(work.dataset.train, work.dataset.test)
    for where, own, trace in _parts(work, victim, data):
        if not own:
            trace()
            continue
        try:
            trace()
        except InvalidInput as error:
            raise InvalidInput(f"{where}: {error}") from error
        except Exception as error:
            raise InvalidInput(f"{where}: {_mistake(error)}; mend it there") from error


def _parts(work, victim: Weights, data: Shared) -> Iterator[tuple[str, bool, Callable[[], Any]]]:
    """What is traced: of which method, whether that is somebody else's, and how."""
    for text, (spec, attack) in work.attacks.items():
        where = owner("ATTACKS", attacks.ATTACKS.get(spec.name), text)
        if where and attack.prepare is None and not attack.train:
            yield where, True, partial(_trace_attack, work, attack, spec.traced, victim, data)
    for text, method in work.defenses.items():
        where = owner("DEFENSES", defenses.DEFENSES[method.spec.name], text)
        yield where, bool(where), partial(_trace, work.scene, method.stages, method, where, victim, data)
    for text, method in work.audits.items():
        where, audit = owner("AUDITS", audits.AUDITS[method.spec.name], text), work.audit_of(text, None)
        yield where, bool(where), partial(_trace, work.scene, audit.stages, method, where, victim, data, audit)
    for text, method in work.detectors.items():
        where = owner("DETECTORS", detection.DETECTORS[method.spec.name], text)
        for judges in method.detector.on:
            scene, stages = work.scene._replace(judges=judges), method.judging(judges)
            yield where, bool(where), partial(_trace, scene, stages, method, where, victim, data)


def _cell(scene: Scene, settings, victim: Weights, data: Shared) -> Cell:
    label = data.train.label
    cell = Cell(
        seed=np.uint32(0),
        count=np.int32(0),
        attack={},
        settings=scalars(settings),
        poison=Poison(np.zeros(label.shape, np.int8), label, {}),
        order=np.arange(label.size, dtype=np.int32),
        clean=np.zeros(scene.classes * scene.clean, np.int32),
        valid=np.zeros(scene.classes * scene.valid, np.int32),
        victim=victim,
        clean_model=victim,
        backdoored=victim,
    )
    if scene.judges:
        suspects, truth = jax.eval_shape(partial(functions.draw_suspects, scene), cell, data)
        cell = cell.replace(suspects=suspects, truth=truth)
    return cell


def _trace(scene: Scene, stages, method, where: str, victim: Weights, data: Shared, audit: Audit | None = None) -> None:
    cell = _cell(scene, method.spec.traced, victim, data)
    if not where:
        if stages:
            functions.steps(scene, stages[0], method.needs, cell, data)
        return
    try:
        _trace_whole(scene, stages, method.needs, cell, data, audit)
    except Exception as error:
        _look_for_unneeded(scene._replace(rehearsed=True), stages, method.needs, cell, data, audit)
        raise error


def _trace_whole(scene: Scene, stages, needs, cell: Cell, data: Shared, audit: Audit | None) -> None:
    numbers = [np.int32(0)] * len(stages)
    stages_of = partial(functions.run_stages, scene, stages, needs, numbers)
    cell = jax.eval_shape(lambda cell, data: stages_of(cell, data)[0], cell, data)
    if audit:
        measure = functions.measure(scene, audit, needs, scene.net)
        jax.eval_shape(lambda cell, data: measure((), cell, data)[1], cell, data)


def _look_for_unneeded(*rehearsed) -> None:
    """Raise what says that a field was read which is not needed, if that was what went wrong."""
    try:
        _trace_whole(*rehearsed)
    except Unneeded:
        raise
    except Exception:
        return


def _trace_attack(work, attack, settings, victim: Weights, data: Shared) -> None:
    scene = work.scene._replace(attack=attack)
    cell = Cell(np.uint32(0), np.int32(1), scalars(settings), {}, victim=victim)

    def through(cell, data):
        drawn = functions.draw(scene, cell, data)[0]
        seen = functions.make_given(scene, ("train",), drawn, data).train.read(np.arange(2, dtype=np.int32))
        return seen.image, functions.score(scene, work.net)((), drawn, data)[1]

    jax.eval_shape(through, cell, data)


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
