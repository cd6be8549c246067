"""The page: one HTML file that needs nothing but itself.

Everything that comes from results, cards or names is escaped; the content security policy allows no source but the
page's own styles, its one script by hash, and pictures within the page.
"""

import base64
import hashlib
import re
from pathlib import Path

import xarray
from markupsafe import Markup, escape

from bdjax.io.files import write_atomically
from bdjax.report import sections, wording
from bdjax.report.headline import headline, remarks, title
from bdjax.report.pictures import pictures
from bdjax.report.statistics import crossed
from bdjax.report.tables import foremost, paired, pairs, ranked, table
from bdjax.report.verdicts import rules

_HERE = Path(__file__).parent
_LINK = re.compile(r"https?://[^\s<>\"']*[^\s<>\"'.,;)]")


def write(folder: Path, results: xarray.Dataset, curves=None, samples=None, cards=()) -> Path:
    """Write `folder`/report.html, whole or not at all, and return its path.

    Args:
        folder: made where it is missing.
        results: a study's results.
        curves: training curves, dims (attack, ratio, seed, defense, epoch), NaN beyond the end; or None.
        samples: {attack: (clean, triggered, figures)}, the first two uint8 (m, height, width, 1 or 3); or None.
        cards: the cards of all methods used.
    """
    text = render(results, curves, samples, cards)
    path = Path(folder) / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda new: new.write_text(text, encoding="utf-8"))
    return path


def render(results: xarray.Dataset, curves=None, samples=None, cards=()) -> str:
    """The page as text; the same arguments as `write`."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(_HERE)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    tools = (wording.percent, wording.points, wording.digits, wording.size, wording.discreet)
    tools += (wording.centre, wording.spread, linked, breakable)
    environment.filters |= {tool.__name__: tool for tool in tools}
    environment.globals |= {tool.__name__: tool for tool in tools}
    shown = _results(results) | _figures(results, curves) | _origin(results, samples, cards)
    return environment.get_template("page.html.j2").render(shown).lstrip()


def linked(text: str) -> Markup:
    """Text with its web addresses as anchors, and everything escaped."""
    parts, start = [], 0
    for found in _LINK.finditer(text):
        url = escape(found.group())
        parts += [escape(text[start : found.start()]), Markup(f'<a href="{url}" rel="noreferrer noopener">{url}</a>')]
        start = found.end()
    return Markup("").join([*parts, escape(text[start:])])


def breakable(text: str) -> Markup:
    """A method's text that may break between its settings."""
    return escape(text).replace(":", Markup(":<wbr>")).replace(",", Markup(",<wbr>"))


def _results(results: xarray.Dataset) -> dict:
    rows = table(results)
    defenses = [str(name) for name in results["defense"].values]
    pair_rows = [row for pair in pairs(defenses) for row in paired(results, *pair)]
    top = foremost(results, rows)
    return {
        "title": title(results),
        "headline": headline(results, rows),
        "remarks": remarks(results),
        "rows": rows,
        "top": top,
        "top_attacks": {attack: row.ratio for (attack, _), row in top.items()},
        "defenses": [name for name in ranked(results, rows) if any(name == defense for _, defense in top)],
        "rules": rules(),
        "oracles": {row.defense for row in rows if row.oracle},
        "pairs": pair_rows,
        "reach": {measure: sections.reach(pair_rows, measure) for measure in ("asr", "acc")},
    }


def _figures(results: xarray.Dataset, curves: xarray.Dataset | None) -> dict:
    defenses = [str(name) for name in results["defense"].values]
    return {
        "legend": lambda place: sections.legend(defenses, place),
        "ratio_figures": sections.ratio_figures(results),
        "curve_figures": sections.curve_figures(curves, defenses),
        "audits": sections.audits(results, defenses),
    }


def _shown(results: xarray.Dataset, samples: dict) -> dict:
    found = {name: samples[name] for name in results["attack"].values.tolist() if name in samples}
    return {name: pictures(*pair, figures | crossed(results, name)) for name, (*pair, figures) in found.items()}


def _origin(results: xarray.Dataset, samples: dict | None, cards) -> dict:
    script = (_HERE / "page.js").read_text(encoding="utf-8")
    return {
        "style": Markup((_HERE / "page.css").read_text(encoding="utf-8")),
        "script": Markup(script),
        "digest": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "facts": sections.facts(results),
        "pictures": _shown(results, samples or {}),
        "cards": list(cards),
        "bars": {card.name: card.bar for card in cards},
        "origin": sections.origin(results),
    }
