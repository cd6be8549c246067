"""`bdjax export DIR --to FOLDER`: models of a study as folders that other tools read, and its poisoned sets."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from bdjax.errors import InvalidInput

_NOT_GIVEN = {"help_behavior_hint": ""}


@dataclass(frozen=True)
class Export:
    """Write models of a study as folders with safetensors, config, card and, where torch is installed, a .pt file.

    A model goes to FOLDER/DATASET/NETWORK/ATTACK/RATIO/DEFENSE/SEED. DIR may be a place in an object store.
    """

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """A study's folder."""
    to: Annotated[Path, tyro.conf.arg(metavar="FOLDER")]
    """Where they go."""
    attack: Annotated[str | None, tyro.conf.arg(metavar="ATTACK", **_NOT_GIVEN)] = None
    """Of this attack alone, written as in the results. Else: all."""
    ratio: Annotated[float | None, tyro.conf.arg(metavar="RATIO", **_NOT_GIVEN)] = None
    """Of this ratio alone. Else: all."""
    seed: Annotated[int | None, tyro.conf.arg(metavar="SEED", **_NOT_GIVEN)] = None
    """Of this seed alone. Else: all."""
    defense: Annotated[str | None, tyro.conf.arg(metavar="DEFENSE", **_NOT_GIVEN)] = None
    """Of this defense alone, written as in the results; none: the undefended victims. Else: all."""
    poison: Annotated[
        Literal["npz", "png", "record"] | None, tyro.conf.arg(metavar="{npz,png,record}", **_NOT_GIVEN)
    ] = None
    """Write the poisoned sets too: as .npz, as class folders of PNG files, or as records of BackdoorBench."""

    def run(self) -> None:
        """See the class."""
        from bdjax.engine import exports
        from bdjax.study.stored import find

        if self.to.exists() and not self.to.is_dir():
            raise InvalidInput(f"--to {self.to}: no folder; give one")
        wanted = {"attack": self.attack, "ratio": self.ratio, "seed": self.seed, "defense": self.defense}
        found = find(self.folder, **wanted)
        sets = exports.export_poison(found, self.to, self.poison) if self.poison else ()
        for path, note in sets:
            print(f"{path}: {note}" if note else path)
        count = sum(1 for _ in exports.export_models(found, self.to))
        missing = len(found.cells) - count
        print(f"{count} models in {self.to}" + (f"; {missing} not trained yet" if missing else ""))
