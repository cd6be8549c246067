"""What people call methods and variables: titles instead of identifiers, each figure with its unit."""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import xarray

from bdjax.report.wording import discreet

TITLES = {
    **{"acc": "ACC", "asr": "ASR", "ra": "RA", "der": "DER"},
    **{"straight": "straight path:", "bend": "bent path:", "error": "clean error", "loss": "loss"},
}
SHARES = ("acc", "asr", "ra", "der", "error", "barrier", "share", "activation", "accuracy")
"""Words of which the name of a fraction has one."""

AXES = {"connectivity": "from the purified model (0) to the backdoored one (1)", "epoch": "epoch"}
"""What lies along the own axis of a variable, by the audit or by the axis."""

BY_CLASS = ("nc", "mm_bd", "ban")
"""Audits whose figures are a number for each class."""

_LINK = re.compile(r"https?://[^\s<>\"']*[^\s<>\"'.,;)]")
_ARXIV = re.compile(r"(?<![\w/])arXiv:(\d{4}\.\d{4,5})(?!\w)")


class Named(NamedTuple):
    """A method as a reader knows it."""

    text: str  # its coordinate in the results
    title: str
    year: int | None
    stage: str
    needs: str
    link: str  # of its paper
    oracle: bool


class Described(NamedTuple):
    """A variable as a reader knows it."""

    title: str
    unit: str  # "%" for fractions; "" for plain numbers
    scale: float  # from the variable's numbers to that unit


def named(text: str, cards: Mapping, oracle: bool | None = None) -> Named:
    """The method `text`, by the card of its name where there is one; oracle: what the results say, if they do."""
    card = cards.get(text.partition(":")[0])
    shown = discreet(text)
    if card is None:
        return Named(shown, shown, None, "", "", "", bool(oracle))
    is_oracle = card.oracle if oracle is None else oracle
    needs = ", ".join(need.replace("_", " ") for need in card.needs)
    return Named(shown, card.title, card.year, card.stage or "", needs, paper(card.citation), is_oracle)


def described(variable: xarray.DataArray, cards: Mapping) -> Described:
    """The title and the unit of a variable: its own where it has them, else by the words of its name."""
    words = str(variable.name).split(":")[-1].split("_")
    share = bool(set(SHARES) & set(words)) or variable.attrs.get("units") in ("1", "fraction")
    unit, scale = ("%", 100.0) if share else ("", 1.0)
    if "long_name" in variable.attrs:
        return Described(str(variable.attrs["long_name"]), unit, scale)
    rest = words[1:] if words[0] in cards and len(words) > 1 else words
    title = " ".join(TITLES.get(word, word) for word in rest)
    return Described(title[:1].upper() + title[1:], unit, scale)


def audit_of(name: str, cards: Mapping) -> str:
    """The audit that a variable is of, as it is called: `retuning` of retuning_asr, with settings where it has some."""
    method, colon, rest = name.partition(":")
    if colon:
        return f"{method}:{rest.rpartition('_')[0]}"
    return next((card for card in cards if name.startswith(f"{card}_")), name.partition("_")[0])


def paper(citation: str) -> str:
    """The first web address of a citation, or that of its arXiv number; "" where there is neither."""
    found = _LINK.search(citation)
    number = _ARXIV.search(citation)
    return found.group() if found else f"https://arxiv.org/abs/{number.group(1)}" if number else ""


def addresses(text: str) -> Iterable[tuple[str, str]]:
    """The pieces of a text, each with the address that it links to, or with ""."""
    start = 0
    for found in re.finditer(f"{_LINK.pattern}|{_ARXIV.pattern}", text):
        yield text[start : found.start()], ""
        yield found.group(), f"https://arxiv.org/abs/{found.group(1)}" if found.group(1) else found.group()
        start = found.end()
    yield text[start:], ""
