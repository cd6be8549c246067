"""The page: one HTML file that needs nothing but itself.

Everything that comes from results, cards or names is escaped; the content security policy allows no source but the
page's own styles, its one script by hash, and pictures within the page. What the script draws from is JSON in an
element that is never run; the script puts it into the page as text alone.
"""

import base64
import hashlib
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType

import xarray
from markupsafe import Markup, escape

from bdjax.io.files import write_atomically
from bdjax.report import sections, wording
from bdjax.report.content import content
from bdjax.report.headline import headline, remarks, title, unfinished
from bdjax.report.names import addresses
from bdjax.report.pictures import pictures
from bdjax.report.statistics import crossed
from bdjax.report.studies import Shown, labels, named_cards
from bdjax.report.tables import Row, table
from bdjax.report.verdicts import BOUND, rules

_ASSETS = Path(__file__).parent / "assets"
SCRIPTS = ("data", "choices", "chart", "tables", "overview", "details", "detectors", "page")
"""The script's parts, in the order in which they build on each other."""


def write(
    folder: Path,
    results: xarray.Dataset,
    curves=None,
    samples=None,
    cards=MappingProxyType({}),
    suspects=None,
    scores=None,
    bound: float = BOUND,
) -> Path:
    """Write `folder`/report.html, whole or not at all, and return its path.

    Args:
        folder: made where it is missing.
        results: a study's results.
        curves: training curves, dims (attack, ratio, seed, defense, epoch), NaN beyond the end; or None.
        samples: {attack: (clean, triggered, figures)}, the first two uint8 (m, height, width, 1 or 3); or None.
        cards: the cards of all methods used, by what they are: {"attacks": [...], "defenses": [...], ...}.
        suspects: {(attack, detector, on): (images, poisoned, score)}, uint8 (m, height, width, 1 or 3), bool (m,) and
            float (m,): the most suspect of a cell; or None.
        scores: {(attack, ratio, seed, detector, on): {"score": float (n,), "truth": int8 (n,), "flagged": bool (n,)}},
            truth 1 poisoned, 0 clean, -1 not judged; or None.
        bound: the loss of accuracy, a fraction, beyond which a defense is not compared.
    """
    return write_several(folder, [Shown(results, curves, samples, cards, suspects, scores)], bound)


def write_several(folder: Path, studies: Sequence[Shown], bound: float = BOUND) -> Path:
    """Write `folder`/report.html of several studies, told apart by data set, model and recipe, and return its path."""
    text = render_several(studies, bound)
    path = Path(folder) / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda new: new.write_text(text, encoding="utf-8"))
    return path


def render(
    results: xarray.Dataset, curves=None, samples=None, cards=MappingProxyType({}), suspects=None, scores=None
) -> str:
    """The page as text; the same arguments as `write`."""
    return render_several([Shown(results, curves, samples, cards, suspects, scores)])


def render_several(studies: Sequence[Shown], bound: float = BOUND) -> str:
    """The page of several studies as text."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(_ASSETS)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    tools = (wording.percent, wording.size, wording.discreet, wording.plain, linked, breakable)
    environment.filters |= {tool.__name__: tool for tool in tools}
    rows = [table(study.results, bound=bound) for study in studies]
    shown = _numbers(list(studies), rows, bound) | _words(list(studies), rows, bound)
    return environment.get_template("page.html.j2").render(shown).lstrip()


def linked(text: str) -> Markup:
    """Text with its web addresses and arXiv numbers as anchors, and everything escaped."""
    anchor = Markup('<a href="{}" rel="noreferrer noopener">{}</a>')
    parts = (anchor.format(address, piece) if address else escape(piece) for piece, address in addresses(text))
    return Markup("").join(parts)


def breakable(text: str) -> Markup:
    """A method's text that may break between its settings."""
    return escape(text).replace(":", Markup(":<wbr>")).replace(",", Markup(",<wbr>"))


def _numbers(studies: list[Shown], rows: list[list[Row]], bound: float) -> dict:
    """What the script draws from, and which sections it fills."""
    found = content(studies, rows, bound)
    text = json.dumps(found, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    script = "\n".join(['"use strict";', *((_ASSETS / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS)])
    return {
        "data": Markup(re.sub("[<>&]", lambda one: f"\\u{ord(one.group()):04x}", text)),
        "script": Markup(script),
        "digest": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "cells": bool(found["rows"]),
        "traded": any(row.measures["acc"].count and row.measures["asr"].count for own in rows for row in own),
        "swept": any(math.isfinite(row.ratio) for own in rows for row in own),
        "pairs": bool(found["pairs"]),
        "audits": any(one.get("rows") or one.get("lines") for one in found["audits"]),
        "training": bool(found["curves"]),
        "detection": any(found["detection"][name] for name in ("rows", "histograms", "suspects")),
    }


def _words(studies: list[Shown], rows: list[list[Row]], bound: float) -> dict:
    kinds = dict.fromkeys(kind for study in studies for kind in study.cards)
    cards = [card for kind in kinds for card in named_cards(studies, kind).values()]
    called = labels([study.results for study in studies]) if len(studies) > 1 else [""]
    attacks = [str(name) for study in studies for name in study.results["attack"].values]
    return {
        "title": title([study.results for study in studies]),
        "leads": [_lead(study.results, *told, bound) for study, *told in zip(studies, called, rows, strict=True)],
        "style": Markup((_ASSETS / "page.css").read_text(encoding="utf-8")),
        "bound": f"{100 * bound:g}",
        "rules": rules(bound),
        "attacks": list(dict.fromkeys(attacks)),
        "pictures": [
            (name, label, one) for study, label in zip(studies, called, strict=True) for name, one in _pictures(study)
        ],
        "cards": sorted(cards, key=lambda card: card.title.lower()),
        "bars": {name: card.bar for name, card in named_cards(studies, "attacks").items()},
        "origins": [
            {"label": label} | sections.origin(study.results)._asdict()
            for study, label in zip(studies, called, strict=True)
        ],
    }


def _lead(results: xarray.Dataset, label: str, rows: list[Row], bound: float) -> dict:
    begun = unfinished(results)
    sentences = headline(results, rows, bound)
    return {
        "label": label,
        "unfinished": begun,
        "sentences": sentences[bool(begun) :],
        "remarks": remarks(results, rows),
        "facts": sections.facts(results),
    }


def _pictures(study: Shown) -> list[tuple]:
    samples = study.samples or {}
    found = {name: samples[name] for name in study.results["attack"].values.tolist() if name in samples}
    return [(name, pictures(*pair, own | crossed(study.results, name))) for name, (*pair, own) in found.items()]
