"""`bdjax list`: what there is, from the registries' cards."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

KINDS = ("attacks", "selections", "defenses", "audits", "detectors", "analyses", "models", "datasets")


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
    """Python modules that register methods."""

    def run(self) -> None:
        """See the class."""
        import importlib

        import bdjax

        for name in self.plugin:
            importlib.import_module(name)
        registry = getattr(bdjax, self.kind.upper())
        if self.json:
            cards = {name: dataclasses.asdict(method.card) for name, method in registry.items()}
            print(json.dumps(cards, indent=1))
            return
        for name, method in registry.items():
            card = method.card
            print(f"{name}  {card.title} ({card.year}), {card.kind}" + ("  [oracle]" if card.oracle else ""))
            for setting, about in card.settings.items():
                unit = f" {about.unit}" if about.unit else ""
                choices = f" ({', '.join(about.choices)})" if about.choices else ""
                print(f"    {setting}={str(about.default).lower()}{unit}{choices}  {about.about}")
        if not registry:
            print(f"no {self.kind} yet")
