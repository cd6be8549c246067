"""What something should be, in words and as a check: the language of the table in `hooks`."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bdjax.types import PyTree

KINDS = {
    "float": (jnp.floating,),
    "int": (jnp.integer,),
    "int8": (jnp.int8,),
    "bool": (jnp.bool_,),
    "numbers": (jnp.number, jnp.bool_),
}
"""Kinds of arrays by their types."""


class Want(NamedTuple):
    """What something should be.

    `wrong(made, at)`: what it is instead, "" where nothing is wrong; at: its place in what was returned, as in "[1]".
    """

    words: str
    wrong: Callable[[Any, str], str]


def array(kind: str, shape: tuple[int, ...]) -> Want:
    """An array, or a Python number, of a kind of KINDS and of this shape."""

    def wrong(made: Any, at: str) -> str:
        found = _typed(made)
        fits = found is not None and found.shape == shape
        fits = fits and any(jnp.issubdtype(found.dtype, one) for one in KINDS[kind])
        return "" if fits else _shown(made, at)

    return Want(f"{kind} {shape}", wrong)


def like(wanted: PyTree, called: str) -> Want:
    """A pytree of the structure, shapes and types of another one."""

    def wrong(made: Any, at: str) -> str:
        found, known = _leaves(made), _leaves(wanted)
        if jax.tree.structure(made) != jax.tree.structure(wanted):
            less, more = [name for name in known if name not in found], [name for name in found if name not in known]
            apart = [f"without {name}" for name in less] + [f"with {name} added" for name in more]
            return " ".join([_shown(made, at), *apart[:1]])
        for path, leaf in found.items():
            here, there = _typed(leaf), _typed(known[path])
            if here is None or (here.shape, here.dtype) != (there.shape, there.dtype):
                return f"{_shown(leaf, at + path)} in place of {_shown(known[path])}"
        return ""

    return Want(f"{called} with structure, shapes and types unchanged", wrong)


def each(*wants: Want) -> Want:
    """A tuple, of one thing each."""

    def wrong(made: Any, at: str) -> str:
        if not isinstance(made, tuple | list) or len(made) != len(wants):
            return _shown(made, at)
        parts = enumerate(zip(wants, made, strict=True))
        return _first(want.wrong(part, f"{at}[{place}]") for place, (want, part) in parts)

    return Want(f"({', '.join(want.words for want in wants)})", wrong)


def holding(words: str, **entries: Want) -> Want:
    """A dict that has these entries and may have others."""

    def wrong(made: Any, at: str) -> str:
        if not isinstance(made, Mapping):
            return _shown(made, at)
        for name in entries:
            if name not in made:
                return f"{_shown(made, at)} without {name!r}"
        return _first(want.wrong(made[name], f"{at}[{name!r}]") for name, want in entries.items())

    return Want(words, wrong)


def of(kind: type, **fields: Want) -> Want:
    """An instance of a type of `bdjax.types`, with these fields."""

    def wrong(made: Any, at: str) -> str:
        if not isinstance(made, kind):
            return _shown(made, at)
        return _first(want.wrong(getattr(made, name), f"{at}.{name}") for name, want in fields.items())

    inside = ", ".join(f"{name} {want.words}" for name, want in fields.items())
    return Want(f"a {kind.__name__}" + (f" of {inside}" if inside else ""), wrong)


def that(holds: Callable[[Any], bool], words: str) -> Want:
    """Whatever this holds of."""
    return Want(words, lambda made, at: "" if holds(made) else _shown(made, at))


def _arrays(made: PyTree, at: str) -> str:
    return _first("" if _typed(leaf) else _shown(leaf, at + path) for path, leaf in _leaves(made).items())


def _dict(wrong: Callable[[Any, str], str]) -> Callable[[Any, str], str]:
    """A check of a dict each of whose values has to pass another one."""

    def each_wrong(made: Any, at: str) -> str:
        if not isinstance(made, Mapping):
            return _shown(made, at)
        return _first(wrong(value, f"{at}[{name!r}]") for name, value in made.items())

    return each_wrong


ARRAYS = Want("a pytree of arrays", _arrays)
DICT = Want("a dict of arrays", _dict(_arrays))
FIGURES = Want("a dict of numbers or arrays", _dict(lambda made, at: "" if _typed(made) else _shown(made, at)))
SCALARS = Want("a dict of scalars", _dict(array("numbers", ()).wrong))
ANY = that(lambda made: True, "anything")


def _first(found: Iterator[str]) -> str:
    return next(filter(None, found), "")


def _leaves(tree: PyTree) -> dict[str, Any]:
    """The leaves of a pytree by their places, as in "['conv1'].kernel"."""
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _typed(leaf: Any):
    """What has the shape and type of an array or a Python number; None of what is neither."""
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf
    try:
        return jax.typeof(leaf)
    except TypeError:
        return None


def _shown(made: Any, at: str = "") -> str:
    """Something in a few words, and where it is."""
    found = _typed(made)
    if found is not None:
        text = f"{found.dtype} {found.shape}"
    elif made is None:
        text = "None"
    elif isinstance(made, Mapping):
        text = f"a dict of {', '.join(map(repr, made)) or 'nothing'}"
    elif type(made) in (tuple, list):
        text = f"a {type(made).__name__} of {len(made)}"
    else:
        text = f"a {type(made).__name__}"
    return f"{text[:120]} at {at}" if at else text[:120]
