"""What a study asks for, in plain values that TOML, the shell and Python share."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from numbers import Integral, Real
from pathlib import Path

from bdjax.cells import memory
from bdjax.cells.lift import DRIVERS
from bdjax.errors import InvalidInput

TEXTS = ("dataset", "model", "normalization", "selection", "recipe", "clean", "driver", "memory")
LISTS = ("attacks", "victims", "defenses", "audits", "detectors", "plugins")
RATIOS = (0.0, 0.05, 0.1)
"""The ratios of a study that gives none; with victims there are none to give."""

KINDS = dict.fromkeys((*TEXTS, *LISTS), (str, "text")) | {
    "ratios": (Real | str, "fractions, or attack=fraction"),
    "victims": (str, "texts, the paths of files or NAME=PATH"),
    "seeds": (Integral, "whole numbers"),
    "clean_ratio": (Real, "a fraction between 0 and 1"),
    "valid_ratio": (Real, "a fraction between 0 and 1"),
    "suspects": (Integral, "a whole number"),
    "keep_scores": (bool, "true or false"),
    "flip": (bool | None, "true or false"),
}
"""Of what type each field of a study, or each entry of a list, must be."""


@dataclass(frozen=True)
class Study:
    """What is asked for. Methods are written `name` or `name:setting=value,setting=value`.

    With `victims` nobody is trained to be attacked: the models are there, in files, and their attack, if one is given,
    only says under which trigger they are tested.
    """

    dataset: str = "digits"  # a registered or prepared TFDS name, a folder of class folders, or an .npz
    model: str = "small_cnn"
    attacks: tuple[str, ...] | None = None  # None: badnets; with victims, none
    ratios: tuple[float | str, ...] | None = None  # of the training set; "sig=0.05": that attack's own; see RATIOS
    seeds: Iterable[int] = (0, 1, 2, 3)
    victims: Mapping[str, str] | tuple[str, ...] = ()  # name -> file with weights, or texts NAME=PATH
    normalization: str = ""  # what the network subtracts and divides by: "cifar10", "MEAN/STD"; "": the dataset's own
    defenses: tuple[str, ...] = ("none",)
    audits: tuple[str, ...] = ()
    detectors: tuple[str, ...] = ()  # of poisoned training rows or triggered queries, put to undefended victims
    suspects: int = 0  # training rows, or queries, that a detector judges, drawn at random; 0 for all
    keep_scores: bool = False  # whether the score of every suspect is kept
    selection: str = "random"
    recipe: str = ""  # settings of whoever trains the victim: "epochs=15,batch=64"; "" is the dataset's own
    clean: str = "any"  # the defender's clean rows: `any` rows, or `reserved` from the attacker
    clean_ratio: float = 0.05  # of the training set, class-balanced
    valid_ratio: float = 0.01  # further rows, on which thresholds are chosen
    flip: bool | None = None  # whether training mirrors images; None: the dataset's own rule
    driver: str = "auto"  # vmap, map, loop, shard
    memory: str = ""  # what the study may take: "1GB"; "" is 80% of what there is
    plugins: tuple[str, ...] = ()  # modules that register methods

    def __post_init__(self) -> None:
        refuse_lone(self.seeds)
        if isinstance(self.victims, Mapping):
            paths = (path if isinstance(path, str | Path) else "" for path in self.victims.values())
            victims = zip(self.victims, paths, strict=True)
            object.__setattr__(self, "victims", tuple(f"{name}={path}" for name, path in victims))
        for name, usual in (("attacks", ("badnets",)), ("ratios", RATIOS)):
            if getattr(self, name) is None:
                object.__setattr__(self, name, () if self.victims else usual)
        for name in (*LISTS, "ratios", "seeds"):
            value = getattr(self, name)
            several = isinstance(value, Iterable) and not isinstance(value, str)
            object.__setattr__(self, name, tuple(value) if several else (value,))


def refuse_lone(seeds: object) -> None:
    """Refuse one number in the place of seeds, which some mean as how many; 0 can only be a seed.

    Raises:
        InvalidInput: says how to write either.
    """
    if isinstance(seeds, Integral) and not isinstance(seeds, bool) and 0 < seeds < 2**31:
        raise InvalidInput(
            f"seeds {seeds}: one seed or how many? Give {seeds}:{seeds + 1} for seed number {seeds} and 0:{seeds} for "
            f"{seeds} seeds; in Python seeds=({seeds},) and seeds=range({seeds})"
        )


def config(study: Study) -> str:
    """The study as JSON text."""
    return json.dumps(asdict(study) | {"seeds": [int(seed) for seed in study.seeds]}, default=float)


def check(study: Study) -> None:
    """Refuse what is wrong whatever the data and methods are.

    Raises:
        InvalidInput: something is of another type, missing, given twice or out of range.
    """
    _check_types(study)
    if study.victims and study.ratios:
        raise InvalidInput("both victims and ratios; victims that are given have the ratio that they were trained with")
    for name in ("seeds", "defenses") if study.victims else ("attacks", "ratios", "seeds", "defenses"):
        if not getattr(study, name):
            raise InvalidInput(f"no {name}; give at least one")
    for name in (*LISTS, "seeds", "ratios"):
        often = Counter(getattr(study, name)).most_common(1)
        if often and often[0][1] > 1:
            raise InvalidInput(f"{name}: {often[0][0]} is given twice; give it once")
    for seed in study.seeds:
        if not 0 <= seed < 2**31:
            raise InvalidInput(f"seed {seed}; give whole numbers from 0 to {2**31 - 1}")
    if study.driver not in ("auto", *DRIVERS):
        raise InvalidInput(f"driver {study.driver!r}; choose from auto, {', '.join(DRIVERS)}")
    if study.suspects < 0 or study.suspects == 1:
        raise InvalidInput(f"suspects {study.suspects}; give 2 or more, or 0 for all")
    if study.clean not in ("any", "reserved"):
        raise InvalidInput(f"clean {study.clean!r}; choose any or reserved")
    if study.memory:
        memory.size(study.memory)
    if "set:" in study.attacks:
        raise InvalidInput("attack 'set:' names no file; write set:PATH, the path of an .npz with a poisoned set")


def _check_types(study: Study) -> None:
    for name, (kind, allowed) in KINDS.items():
        value = getattr(study, name)
        for one in value if isinstance(value, tuple) and name not in TEXTS else (value,):
            if not isinstance(one, kind) or (isinstance(one, bool) and name not in ("flip", "keep_scores")):
                raise InvalidInput(f"{name}: {one!r}; give {allowed}")
