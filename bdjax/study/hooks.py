"""What the hooks of a method should return and what its plain fields should be: one table of each.

A new check is a line of `RETURNS`, of `DESCENT` where the hook is one of `train.descend`, or of `FIELDS`. A method that
is `watched` checks its hooks whenever they are called, and its errors know the hook that they come from.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from numbers import Integral
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from optax import GradientTransformation

from bdjax.cards import NEEDS
from bdjax.cells.functions import Absent
from bdjax.errors import InvalidInput
from bdjax.study.wants import ANY, ARRAYS, DICT, FIGURES, SCALARS, Want, array, each, holding, like, of, that
from bdjax.train.descend import descend, watcher
from bdjax.types import (
    Array,
    Attack,
    Audit,
    Batch,
    Detector,
    Layer,
    Net,
    Poison,
    Selection,
    Source,
    Stage,
    Trained,
    Weights,
)

Watched = TypeVar("Watched", Attack, Selection, Audit, Detector)


def _is_order(made: Any) -> bool:
    """Whether it is int (steps, b), or a dict of such with the same steps."""
    leaves = jax.tree.leaves(made)
    fits = [isinstance(leaf, Array) and leaf.ndim == 2 and jnp.issubdtype(leaf.dtype, jnp.integer) for leaf in leaves]
    return bool(leaves) and all(fits) and len({leaf.shape[0] for leaf in leaves}) == 1


def _is_source(made: Any) -> bool:
    """Whether it is a source or a dict of them; what stands for a field that is not needed says so once it is read."""
    return all(isinstance(one, Source | Absent) for one in (made.values() if isinstance(made, dict) else [made]))


def _is_tuple(made: Any, holds: Callable[[Any], bool]) -> bool:
    return isinstance(made, tuple) and all(map(holds, made))


ORDER = that(_is_order, "a jax.Array of int (steps, b), or a dict of such")
SOURCE = that(_is_source, "a Source, or a dict of them")
BATCHES = that(
    lambda made: all(isinstance(one, Batch) for one in (made.values() if isinstance(made, dict) else [made])),
    "a Batch, or a dict of them",
)
STAGES = that(lambda made: _is_tuple(made, lambda one: isinstance(one, Stage)), "a tuple of types.Stage")
FLOATS = that(
    lambda made: all(
        hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(made)
    ),
    "a pytree of float arrays",
)
BEGINNING = that(lambda made: isinstance(made, tuple) and len(made) in (2, 3), "(moving, still)")
TRAINED = of(Trained, weights=ARRAYS, carry=DICT)


def _image(_assets, _trigger, image, *_) -> Want:
    return array("float", image.shape)


RETURNS: dict[type, dict[str, Callable[..., Want]]] = {
    Attack: {
        "init": lambda _key, _assets, _settings, label, *_: of(
            Poison, role=array("int8", label.shape), label=array("int", label.shape), trigger=DICT
        ),
        "prepare": lambda *_: DICT,
        "stamp": _image,
        "query": _image,
        "cover": _image,
        "cross": _image,
        "goal": lambda label: array("int", label.shape),
        "eligible": lambda label: array("bool", label.shape),
    },
    Selection: {
        "rank": lambda _key, _net, _attack, _assets, given: array("float", (given.train.size,)),
        "search": lambda most: STAGES,
    },
    Stage: {
        "source": lambda *_: SOURCE,
        "init": lambda *_: ARRAYS,
        "order": lambda *_: ORDER,
        "step": lambda _key, state, *_: each(like(state, "the state"), SCALARS),
        "renew": lambda _key, state, *_: like(state, "the state"),
        "finish": lambda *_: TRAINED,
        "wrap": lambda net: of(Net),
    },
    Audit: {"measure": lambda *_: FIGURES},
    Detector: {
        "fit": lambda *_: ARRAYS,
        "score": lambda _key, _net, _trained, _found, rows, _given: array("numbers", rows.label.shape),
        "threshold": lambda _found, score, *_: array("bool", score.shape),
    },
}
"""Of every hook of a method, from its arguments, what it should return; see `network` for those of a network."""

DESCENT: dict[str, Callable[..., Want]] = {
    "source": lambda *_: SOURCE,
    "begin": lambda *_: BEGINNING,
    "leave": lambda *_: TRAINED,
    "augment": lambda *_: BATCHES,
    "loss": lambda _key, _moving, still, *_: each(array("float", ()), each(like(still, "still"), SCALARS)),
    "gradient": lambda _key, moving, still, *_: each(like(moving, "moving"), like(still, "still"), SCALARS),
    "rule": lambda *_: of(GradientTransformation),
    "order": lambda *_: ORDER,
    "renew": lambda _key, _moving, still, *_: like(still, "still"),
    "project": lambda moving, still, *_: each(like(moving, "moving"), like(still, "still")),
    "until": lambda *_: array("bool", ()),
}
"""The same of hooks of `train.descend`, by the names that it has for them."""

DESCENDED = {"init": "begin", "finish": "leave"}
"""What users know parts of a stage by that `train.descend` made."""

FIELDS: dict[type, dict[str, Want]] = {
    Stage: {
        "epochs": that(lambda made: isinstance(made, Integral) and made >= 0, "a whole number, at least 0"),
        "sees": that(lambda made: _is_tuple(made, NEEDS.__contains__), f"a tuple of {', '.join(sorted(NEEDS))}"),
        "takes": that(lambda made: _is_tuple(made, lambda one: isinstance(one, str)), "a tuple of names"),
    },
    Detector: {
        "on": that(
            lambda made: made != () and _is_tuple(made, ("rows", "queries").__contains__),
            "a tuple of 'rows', 'queries' or both",
        ),
        "calibrate": that(("", "clean", "valid").__contains__, "clean or valid"),
    },
    Net: {
        "layers": that(lambda made: _is_tuple(made, lambda one: isinstance(one, Layer)), "a tuple of types.Layer"),
    },
}
"""What plain fields should be."""


def misfit(made: Any) -> str:
    """Which plain field of a method, or of a stage of it, is not what it should be, in words; "" where all are."""
    for name, want in FIELDS.get(type(made), {}).items():
        if want.wrong(value := getattr(made, name), ""):
            return f"a {type(made).__name__} whose {name} is {value!r:.80}; let it be {want.words}"
    return next(filter(None, map(misfit, _stages(made))), "")


def _stages(method: Any) -> tuple:
    """The stages that a method comes with; a defense is a tuple of them."""
    if type(method) is tuple:
        return method
    return getattr(method, "train", ()) if isinstance(method, Attack) else getattr(method, "stages", ())


def watched(method: Watched) -> Watched:
    """An attack, selection, audit or detector whose hooks are checked when they are called."""
    return method._replace(**_watched_hooks(method, RETURNS[type(method)]))


def watched_stages(stages: tuple[Stage, ...], left: Want = TRAINED) -> tuple[Stage, ...]:
    """Stages whose hooks are checked when they are called; left: what the last one should leave."""
    wants, last = RETURNS[Stage], len(stages) - 1
    return tuple(
        stage._replace(**_watched_hooks(stage, wants | ({"finish": lambda *_: left} if place == last else {})))
        for place, stage in enumerate(stages)
    )


def network(net: Net, classes: int, wrapped: bool = False) -> Net:
    """A network whose functions are checked when they are called; wrapped: whether it is what a stage's `wrap` gave."""
    taps = {layer.tap: ANY for layer in net.layers}

    def applied(weights: Weights, image: Array, *_, **__) -> Want:
        logits, stats = array("float", (image.shape[0], classes)), like(weights.batch_stats, "batch_stats")
        return each(logits, stats, holding("a dict of taps, one of every layer", **taps))

    init = _watch("init", net.init, lambda key: of(Weights, params=FLOATS, batch_stats=ARRAYS))
    return net._replace(init=init, apply=_watch("apply of wrap's network" if wrapped else "apply", net.apply, applied))


def _watched_hooks(method: Any, wants: dict[str, Callable[..., Want]]) -> dict[str, Callable]:
    descended = getattr(getattr(method, "step", None), "__module__", "") == descend.__module__
    optional = {name for name, default in method._field_defaults.items() if default is None}
    return {
        name: _watch(DESCENDED.get(name, name) if descended else name, hook, want)
        for name, want in wants.items()
        if (hook := getattr(method, name)) is not None or name not in optional
    }


def _watch(hook: str, function: Callable, want: Callable[..., Want]) -> Callable:
    def watching(*args, **named):
        with inside(hook), _inner_watched():
            made = function(*args, **named)
            asked = want(*args, **named)
            if wrong := asked.wrong(made, ""):
                raise InvalidInput(f"it returned {wrong}; let it return {asked.words}")
        return made

    return watching


@contextmanager
def _inner_watched() -> Iterator[None]:
    """Hooks of `train.descend` that are called here are checked too."""
    token = watcher.set(lambda name, hook: _watch(name, hook, DESCENT[name]))
    try:
        yield
    finally:
        watcher.reset(token)


@contextmanager
def inside(hook: str) -> Iterator[None]:
    """Whatever is raised here has as `hook` the name of the innermost hook that it came from."""
    try:
        yield
    except (Exception, SystemExit) as error:
        error.hook = getattr(error, "hook", hook)
        raise
