"""`bdjax list`: what there is, from the registries' cards."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from bdjax.cards import Card, Setting
from bdjax.errors import InvalidInput, choice

KINDS = ("attacks", "selections", "defenses", "audits", "detectors", "analyses", "models", "datasets")


@dataclass(frozen=True)
class List:
    """List the methods of a kind, a line each; or the whole card of some of them."""

    kind: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar=f"{{{','.join(KINDS)}}}")]
    """What to list."""
    names: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[NAME ...]")] = ()
    """Those whose cards to show: paper, needs, settings, presets, departures."""
    json: bool = False
    """The cards, of all of them or of those named, as JSON."""
    plugin: tuple[str, ...] = ()
    """Modules that register methods of your own: installed, or files in the working folder."""

    def run(self) -> None:
        """See the class."""
        import bdjax
        from bdjax.study import plugins

        if self.kind not in KINDS:
            raise InvalidInput(f"no kind {self.kind!r}{choice(self.kind, KINDS)}")
        plugins.load(self.plugin)
        cards = {name: method.card for name, method in getattr(bdjax, self.kind.upper()).items()}
        for name in self.names:
            if name not in cards:
                raise InvalidInput(f"no {self.kind}: {name!r}{choice(name, sorted(cards))}")
        chosen = {name: cards[name] for name in self.names} or cards
        if self.json:
            print(json.dumps({name: dataclasses.asdict(card) for name, card in chosen.items()}, indent=1))
        elif self.names:
            print("\n\n".join(_card(name, card, self.kind) for name, card in chosen.items()))
        else:
            print("\n".join(_lines(cards)))
            if self.kind == "attacks":
                print("set:PATH: a poisoned set of your own, an .npz (see bdjax/io/datasets/poisoned_sets.py)")
            print(f"\nThe card of one: bdjax list {self.kind} {next(iter(cards))}")


def _lines(cards: Mapping[str, Card]) -> list[str]:
    """A line a card: name, title, year, kind, stage, in columns."""
    rows = [
        (name, card.title, str(card.year), card.kind + ("; oracle" if card.oracle else ""), card.stage or "")
        for name, card in cards.items()
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _card(name: str, card: Card, kind: str) -> str:
    """All that there is to say of a method."""
    more_needs = (f"{', '.join(needs)} with {text}" for text, needs in card.more_needs.items())
    said = {
        "paper": card.citation,
        "kind": card.kind,
        "stage": card.stage,
        "version": card.version,
        "needs": ", ".join([*card.needs, *more_needs]),
        "oracle": "it uses what a defender would not have" if card.oracle else "",
        "changes": card.changes,
        "controls": card.controls and f"the attacker controls {card.controls}",
        "smallest": f"{card.smallest} pixels a side" if card.smallest > 1 else "",
        "must reach": ", ".join(f"{figure.replace('_', ' ')} of {least:g}" for figure, least in card.bar.items()),
    }
    lines = [f"{name}  {card.title} ({card.year})"]
    lines += [f"  {about}: {_plain(str(text))}" for about, text in said.items() if text]
    lines += ["  settings:"] if card.settings else []
    lines += [f"    {_setting(setting, about)}" for setting, about in card.settings.items()]
    if len(card.presets) > 1 or any(card.presets.values()):
        lines.append("  presets, written preset=NAME:")
        lines += [f"    {preset}: {_values(values)}" for preset, values in card.presets.items()]
    lines += ["  departures from the paper:"] if card.departures else []
    lines += [f"    - {_plain(text)}" for text in card.departures]
    if kind == "defenses":
        from bdjax.report.reported import sources  # slow to import

        told = "reported by {}, shown beside measured ones"
        lines += [f"  {count} cells {told.format(source)}" for source, count in sources(name).items()]
    return "\n".join(lines)


def _setting(name: str, about: Setting) -> str:
    default = f"{about.default:.6g}" if isinstance(about.default, float) else str(about.default).lower()
    unit = f" {about.unit}" if about.unit else ""
    choices = f" ({', '.join(about.choices)})" if about.choices else ""
    return f"{name}={default}{unit}{choices}  {_plain(about.about)}"


def _plain(text: str) -> str:
    """Without the marks of Markdown."""
    return text.replace("`", "")


def _values(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={str(value).lower()}" for name, value in values.items()) or "the settings above"
