"""`bdjax run`: a study from a TOML file, from options, or from both, options winning."""

import dataclasses
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from bdjax.errors import InvalidInput
from bdjax.io.files import read_regular

MOST_SEEDS = 10**6
LARGEST_TOML = 10**6
"""Bytes of a study's TOML file."""


def _option(kind: type, metavar: str):
    """An option that is None where it is not given; its help shows `metavar` and no default."""
    return Annotated[kind | None, tyro.conf.arg(metavar=metavar, help_behavior_hint="")]


@dataclass(frozen=True)
class Run:
    """Run what is missing of a study and write its table and page."""

    study: Annotated[_option(Path, "[STUDY.toml]"), tyro.conf.Positional] = None
    """A TOML file with the fields of bdjax.Study; options win over it."""
    dataset: _option(str, "NAME_OR_PATH") = None
    """A registered or prepared TFDS name, a folder of train/<class>/* and test/<class>/*, or an .npz. Else: digits."""
    model: _option(str, "MODEL") = None
    """A network, e.g. preact_resnet18:width=16. Else: small_cnn."""
    attacks: _option(tuple[str, ...], "ATTACK ...") = None
    """Each name or name:setting=value,setting=value, e.g. badnets blended:alpha=0.1 set:PATH. Else: badnets."""
    ratios: _option(tuple[str, ...], "RATIO ...") = None
    """Fractions of the training set to poison; sig=0.05 gives an attack its own. Else: 0 0.05 0.1."""
    victims: _option(tuple[str, ...], "NAME=FILE ...") = None
    """Weights that you have, in the place of victims to be trained; the attack then says how they are tested."""
    normalization: _option(str, "NAME_OR_MEAN/STD") = None
    """What the network subtracts and divides by: cifar10, imagenet, half, none, or numbers. Else: the dataset's own."""
    seeds: _option(tuple[str, ...], "SEED ...") = None
    """Seed numbers, or ranges such as 0:8. Else: 0:4."""
    defenses: _option(tuple[str, ...], "DEFENSE ...") = None
    """Written as attacks are, e.g. none ft ft_sam:rho=2. Else: none."""
    audits: _option(tuple[str, ...], "AUDIT ...") = None
    """Written as attacks are, e.g. retuning. Else: no audit."""
    detectors: _option(tuple[str, ...], "DETECTOR ...") = None
    """Written as attacks are, e.g. spectral strip:overlays=20; they judge undefended victims. Else: no detector."""
    suspects: _option(int, "N") = None
    """Training rows, and queries, that a detector judges, drawn at random. Else: all."""
    keep_scores: Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help_behavior_hint="")] = False
    """Keep the score of every suspect, for histograms and `bdjax.load_scores`."""
    selection: _option(str, "SELECTION") = None
    """Which rows are poisoned first. Else: random."""
    recipe: _option(str, "SETTINGS") = None
    """Of whoever trains the victim, e.g. epochs=15,batch=64. Else: the dataset's own."""
    clean: _option(str, "any|reserved") = None
    """The defender's clean rows: any, or such as are reserved from the attacker. Else: any."""
    clean_ratio: _option(float, "RATIO") = None
    """The defender's share of the training set. Else: 0.05."""
    valid_ratio: _option(float, "RATIO") = None
    """The further share on which thresholds are chosen. Else: 0.01."""
    flip: Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help_behavior_hint="")] = False
    """Mirror images in training, whatever the dataset's own rule."""
    no_flip: Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help_behavior_hint="")] = False
    """Do not mirror images in training, whatever the dataset's own rule."""
    driver: _option(str, "auto|vmap|map|loop|shard") = None
    """How cells are batched. Else: auto."""
    memory: _option(str, "SIZE") = None
    """What the study may take, e.g. 1GB. Else: 80% of what there is."""
    plugin: _option(tuple[str, ...], "MODULE ...") = None
    """Modules that register methods of your own: installed, or files in the working folder."""
    trust: Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help_behavior_hint="")] = False
    """Import the plugins that STUDY.toml names: they are code, and whoever wrote it has it run as you."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("runs/study")
    """The study's folder; what is finished there is not done again."""
    dry_run: Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help_behavior_hint="")] = False
    """Say what would be done, how much of it is there, and about how long the rest takes; train nothing."""
    share: Annotated[str, tyro.conf.arg(metavar="K/N")] = "1/1"
    """Do the K-th of N shares of the work, which are always the same ones: one for each task of a scheduler."""

    def run(self) -> None:
        """See the class."""
        from bdjax.cli.conduct import conduct, preview
        from bdjax.study import Study

        if self == Run():
            raise InvalidInput(
                "nothing is asked for; give a STUDY.toml or options, as in "
                "`bdjax run --attacks badnets --ratios 0 0.1 --seeds 0:4 --defenses none ft`; see `bdjax run --help`"
            )
        read = _from_toml(self.study) if self.study else {}
        if read.get("plugins") and not self.trust and not self.plugin:
            raise InvalidInput(f"{self.study} runs the code of {read['plugins']}; look at it and give --trust")
        values = read | self._given()
        if "seeds" in values:
            values["seeds"] = seeds(values["seeds"])
        (preview if self.dry_run else conduct)(Study(**values), self.out, share(self.share))

    def _given(self) -> dict[str, Any]:
        """The fields of a study that options give."""
        if self.flip and self.no_flip:
            raise InvalidInput("both --flip and --no-flip; give one of them")
        own = ("study", "out", "share", "dry_run", "plugin", "trust", "flip", "no_flip", "keep_scores")
        given = {name: value for name, value in vars(self).items() if value is not None and name not in own}
        given |= {"plugins": self.plugin} if self.plugin else {}
        given |= {"keep_scores": True} if self.keep_scores else {}
        return given | ({"flip": self.flip} if self.flip or self.no_flip else {})


def _from_toml(path: Path) -> dict[str, Any]:
    from bdjax.study import Study

    try:
        values = tomllib.loads(read_regular(path, LARGEST_TOML).decode("utf-8"))
    except UnicodeDecodeError:
        raise InvalidInput(f"{path}: no text; give a TOML file") from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, InvalidInput):
            raise
        reason = "nested too deep" if isinstance(error, RecursionError) else error
        raise InvalidInput(f"{path}: {reason}; mend it there") from None
    known = {field.name: field.type for field in dataclasses.fields(Study)}
    for name, value in values.items():
        if name not in known:
            raise InvalidInput(f"{path}: no field {name!r}; a study has {', '.join(known)}")
        if isinstance(value, dict) and name != "victims":
            raise InvalidInput(f"{path}: {name} is a table; give a value or a list")
    return values


def share(text: str) -> tuple[int, int]:
    """(3, 16) from `3/16`.

    Raises:
        InvalidInput: it is something else.
    """
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise InvalidInput(f"share {text[:40]!r}; give K/N such as 3/16, K from 1 to N")
    return int(found[1]), int(found[2])


def seeds(texts: Any) -> tuple[int, ...]:
    """Seed numbers from numbers and ranges `first:after`.

    Raises:
        InvalidInput: an entry is neither, a range is empty or of more than MOST_SEEDS, or one number stands alone.
    """
    from bdjax.study.study import refuse_lone

    alone = texts[0] if isinstance(texts, tuple) and len(texts) == 1 else texts  # a tuple is the shell's, a list TOML's
    refuse_lone(int(alone) if re.fullmatch(r"\d{1,18}", str(alone)) else alone)
    found: list[int] = []
    for text in texts if isinstance(texts, list | tuple) else [texts]:
        first, colon, after = str(text).partition(":")
        try:
            begin = int(first or 0) if colon else int(first)
            end = int(after) if colon else begin + 1
        except ValueError:
            raise InvalidInput(f"seeds {text!r}; give numbers, or a range such as 0:8") from None
        if not 0 < end - begin <= MOST_SEEDS:
            raise InvalidInput(
                f"seeds {text!r}: {max(0, end - begin)} seeds; give the first and the one after the last, as 0:8"
            )
        found += range(begin, end)
    return tuple(found)
