"""`bdjax run`: a study from a TOML file, from options, or from both, options winning."""

import dataclasses
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from bdjax.errors import InvalidInput


@dataclass(frozen=True)
class Run:
    """Run what is missing of a study and write its table and page.

    Methods are written name or name:setting=value,setting=value.
    """

    study: Annotated[Path | None, tyro.conf.Positional] = None
    """A TOML file with the fields of a study; options below win over it."""
    dataset: str | None = None
    """A registered or prepared TFDS name, a folder of train/<class>/* and test/<class>/*, or an .npz."""
    model: str | None = None
    """A network, e.g. preact_resnet18:width=16."""
    attacks: tuple[str, ...] | None = None
    """Attacks, e.g. badnets blended:alpha=0.1 set:PATH."""
    ratios: tuple[str, ...] | None = None
    """Fractions of the training set to poison; sig=0.05 gives an attack its own."""
    seeds: tuple[str, ...] | None = None
    """Seed numbers, or ranges such as 0:8."""
    defenses: tuple[str, ...] | None = None
    """Defenses, e.g. none ft ft_sam:rho=2."""
    audits: tuple[str, ...] | None = None
    """Audits, e.g. retuning."""
    selection: str | None = None
    """Which rows are poisoned first."""
    recipe: str | None = None
    """Settings of whoever trains the victim, e.g. epochs=15,batch=64."""
    clean: str | None = None
    """The defender's clean rows: any, or reserved from the attacker."""
    clean_ratio: float | None = None
    """The defender's share of the training set."""
    valid_ratio: float | None = None
    """The share on which thresholds are chosen."""
    flip: bool | None = None
    """Whether training mirrors images."""
    driver: str | None = None
    """auto, vmap, map, loop or shard."""
    memory: str | None = None
    """What the study may take, e.g. 1GB."""
    plugin: tuple[str, ...] | None = None
    """Python modules that register methods."""
    out: Path = Path("runs/study")
    """The study's folder; what is finished there is not done again."""

    def run(self) -> None:
        """See the class."""
        from bdjax.study import Study

        values = _from_toml(self.study) if self.study else {}
        given = {
            name: value for name, value in vars(self).items() if value is not None and name not in ("study", "out")
        }
        if "plugin" in given:
            given["plugins"] = given.pop("plugin")
        values |= given
        if "seeds" in values:
            values["seeds"] = seeds(values["seeds"])
        conduct(Study(**values), self.out)


def _from_toml(path: Path) -> dict[str, Any]:
    from bdjax.study import Study

    try:
        values = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path}: {getattr(error, 'strerror', None) or 'no text'}; give a TOML file") from None
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput(f"{path}: {error}") from None
    known = {field.name: field.type for field in dataclasses.fields(Study)}
    for name, value in values.items():
        if name not in known:
            raise InvalidInput(f"{path}: no field {name!r}; a study has {', '.join(known)}")
        if isinstance(value, dict):
            raise InvalidInput(f"{path}: {name} is a table; give a value or a list")
    return values


def seeds(texts: Any) -> tuple[int, ...]:
    """Seed numbers from numbers and ranges `first:after`.

    Raises:
        InvalidInput: an entry is neither, or a range is empty.
    """
    found: list[int] = []
    for text in [texts] if isinstance(texts, str | int) else texts:
        first, colon, after = str(text).partition(":")
        try:
            entry = range(int(first or 0), int(after)) if colon else [int(first)]
        except ValueError:
            raise InvalidInput(f"seeds {text!r}; give numbers, or a range such as 0:8") from None
        if not entry:
            raise InvalidInput(f"seeds {text!r} is an empty range; give the first and the one after the last, as 0:8")
        found += entry
    return tuple(found)


def conduct(study, out: Path) -> None:
    """Run a study with its progress shown, then print its table and write its page and exports."""
    from bdjax import engine, progress
    from bdjax.cli.report import present

    engine.run(study, out, progress.automatic())
    present(out)
