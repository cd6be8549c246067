"""`bdjax list`: what there is, from the registries' cards."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from bdjax.cards import Card


@dataclass(frozen=True)
class List:
    """List the methods of a kind with their settings, or everything with --json."""

    kind: Annotated[
        Literal["attacks", "selections", "defenses", "audits", "detectors", "analyses", "models", "datasets"],
        tyro.conf.Positional,
    ]
    """What to list."""
    json: bool = False
    """The whole cards, as JSON."""
    plugin: tuple[str, ...] = ()
    """Modules that register methods of your own: installed, or files in the working folder."""

    def run(self) -> None:
        """See the class."""
        import bdjax
        from bdjax.study import plugins

        plugins.load(self.plugin)
        cards = {name: method.card for name, method in getattr(bdjax, self.kind.upper()).items()}
        if self.json:
            print(json.dumps({name: dataclasses.asdict(card) for name, card in cards.items()}, indent=1))
            return
        for name, card in cards.items():
            _show(name, card)
            if self.kind == "defenses":
                _show_reported(name)
        if self.kind == "attacks":
            print("set:PATH  a poisoned set of your own, an .npz (see bdjax/io/poisoned_sets.py)")
        if not cards:
            print(f"no {self.kind} yet")


def _show_reported(name: str) -> None:
    from bdjax.report.reported import sources  # slow to import

    for source, count in sources(name).items():
        print(f"    {count} cells reported by: {source}; shown beside measured ones")


def _show(name: str, card: Card) -> None:
    print(f"{name}  {card.title} ({card.year}), {card.kind}" + ("  [oracle]" if card.oracle else ""))
    if len(card.presets) > 1:
        print(f"    preset={next(iter(card.presets))} ({', '.join(card.presets)})")
    for figure, least in card.bar.items():
        print(f"    must reach {figure.replace('_', ' ')} of {least:g}")
    for setting, about in card.settings.items():
        default = f"{about.default:.6g}" if isinstance(about.default, float) else str(about.default).lower()
        unit = f" {about.unit}" if about.unit else ""
        choices = f" ({', '.join(about.choices)})" if about.choices else ""
        print(f"    {setting}={default}{unit}{choices}  {about.about}")
