"""What a study asks for, in plain values that TOML, the shell and Python share."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import numpy as np

from bdjax.errors import InvalidInput
from bdjax.sweep import DRIVERS


@dataclass(frozen=True)
class Study:
    """What is asked for. Methods are written `name` or `name:setting=value,setting=value`."""

    dataset: str = "digits"  # a registered or prepared TFDS name, a folder of class folders, or an .npz
    model: str = "small_cnn"
    attacks: tuple[str, ...] = ("badnets",)
    ratios: tuple[float | str, ...] = (0.0, 0.05, 0.1)  # of the training set; "sig=0.05": that attack's own
    seeds: Iterable[int] = (0, 1, 2, 3)
    defenses: tuple[str, ...] = ("none",)
    audits: tuple[str, ...] = ()
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
        for name in ("attacks", "ratios", "seeds", "defenses", "audits", "plugins"):
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, str | int | float) else tuple(value))


def config(study: Study) -> str:
    """The study as JSON text."""
    return json.dumps(asdict(study) | {"seeds": [int(seed) for seed in study.seeds]})


def check(study: Study) -> None:
    """Refuse what is wrong whatever the data and methods are.

    Raises:
        InvalidInput: something is missing, given twice or out of range.
    """
    for name in ("attacks", "ratios", "seeds", "defenses"):
        if not getattr(study, name):
            raise InvalidInput(f"no {name}; give at least one")
    for name in ("attacks", "seeds", "defenses", "audits", "ratios"):
        values = getattr(study, name)
        twice = [value for value in values if values.count(value) > 1]
        if twice:
            raise InvalidInput(f"{name}: {twice[0]} is given twice; give it once")
    for seed in study.seeds:
        if not isinstance(seed, int | np.integer) or not 0 <= seed < 2**31:
            raise InvalidInput(f"seed {seed}; give whole numbers from 0 to {2**31 - 1}")
    if study.driver not in ("auto", *DRIVERS):
        raise InvalidInput(f"driver {study.driver!r}; choose from auto, {', '.join(DRIVERS)}")
    if study.clean not in ("any", "reserved"):
        raise InvalidInput(f"clean {study.clean!r}; choose any or reserved")
