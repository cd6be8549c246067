"""Cards: what a method is, what it needs and what can be set; and the text form `name:setting=value,setting=value`."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, get_args

from bdjax.errors import InvalidInput, choice, meant

ORACLE = frozenset({"clean_model", "target", "backdoored", "triggered", "queries", "poisoned", "test"})
"""What a defender would not have: a method that needs one of these is an oracle."""

ATTACKER = frozenset({"whole", "stamped"})
"""What only an attacker who controls training, and a search for rows to poison, are given."""

NEEDS = ORACLE | ATTACKER | {"train", "suspects", "clean", "valid", "victim"}
"""Fields of Given, which a method may need."""

LifeStage = Literal["pre-training", "training", "post-training", "deployment", "inference"]
"""The stages of a model's life in Wu et al., Defenses in Adversarial Machine Learning: A Survey, arXiv:2312.08890."""

OF_DATASET = frozenset({"covariance"})
"""What a network may need of a dataset beside mean and deviation."""

LARGEST = 2**31 - 1
"""The largest whole number that reaches a program."""


@dataclass(frozen=True)
class Setting:
    """One thing that can be set. A float is traced and may be swept; an int, bool or str is static."""

    default: float | int | bool | str
    about: str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()

    @property
    def traced(self) -> bool:
        """Whether the value reaches the program as an argument instead of shaping it."""
        return isinstance(self.default, float)

    def parse(self, value: Any, where: str) -> float | int | bool | str:
        """The value in the setting's own type, from text or from a Python value.

        Raises:
            InvalidInput: it is of another type, outside [low, high] or not among the choices.
        """
        kind = type(self.default)
        try:
            if kind is bool:
                parsed = {"true": True, "false": False}[str(value).lower()]
            elif kind is int:
                parsed = int(str(value))
            elif kind is float:
                parsed = float(value)
            else:
                parsed = str(value)
        except (KeyError, ValueError, TypeError):
            raise InvalidInput(f"{where}={value}: {self._expected()}") from None
        if kind in (int, float):
            low = -float("inf") if self.low is None else self.low
            high = float("inf") if self.high is None else self.high
            if kind is int and abs(parsed) > LARGEST:  # and it may be too large for a float
                raise InvalidInput(f"{where}={value}: {self._expected()}, at most {LARGEST}")
            if not (math.isfinite(parsed) and low <= parsed <= high):
                raise InvalidInput(f"{where}={value}: {self._expected()}")
        if self.choices and parsed not in self.choices:
            raise InvalidInput(f"{where}={value}: {self._expected()}")
        return parsed

    def _expected(self) -> str:
        if self.choices:
            return "choose " + " or ".join(self.choices)
        kind = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}[type(self.default)]
        bounds = [f"at least {self.low:g}"] if self.low is not None else []
        bounds += [f"at most {self.high:g}"] if self.high is not None else []
        return "give " + " ".join([kind, " and ".join(bounds)]).strip()


@dataclass(frozen=True)
class Card:
    """What a reader must know of a method before using or comparing it."""

    name: str
    title: str  # the method's own name, as its authors write it
    citation: str  # authors, title, venue and year, link
    year: int
    version: int  # raised when what it computes changes, so that stored results are made anew
    kind: str  # e.g. "dirty-label, static"; "fine-tuning"; "convolutional network"
    stage: LifeStage | None = None  # of the life cycle of a model, in which the method acts; None for a network
    needs: tuple[str, ...] = ()  # of NEEDS; of OF_DATASET for a network
    more_needs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # "setting=value" -> further ones
    changes: str = ""  # what of the data or the model it changes
    controls: Literal["", "data", "training"] = ""  # what the attacker controls; "" for what is no attack
    smallest: int = 1  # pixels: the smallest height and width that it works on
    bar: Mapping[str, float] = field(default_factory=dict)  # least figures of trained parts; or of cross/acc
    settings: Mapping[str, Setting] = field(default_factory=dict)
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"paper": {}})
    departures: tuple[str, ...] = ()  # from the paper, each said as one

    def __post_init__(self) -> None:
        unknown = set(self.needs).union(*self.more_needs.values()) - NEEDS - OF_DATASET
        if unknown:
            raise ValueError(f"card {self.name}: unknown needs {sorted(unknown)}")
        if self.stage not in (None, *get_args(LifeStage)):
            raise ValueError(f"card {self.name}: stage {self.stage!r}; choose from {', '.join(get_args(LifeStage))}")
        for preset, values in self.presets.items():
            for name, value in values.items():
                self.settings[name].parse(value, f"{self.name}:preset={preset}: {name}")

    def needs_of(self, settings: Mapping[str, Any]) -> tuple[str, ...]:
        """The fields of Given that the method needs under these settings, name -> value."""
        more = [needs for text, needs in self.more_needs.items() if _holds(text, settings)]
        return tuple(dict.fromkeys([*self.needs, *(name for needs in more for name in needs)]))

    @property
    def oracle(self) -> bool:
        """Whether the method, as its paper has it, uses what a defender would not have."""
        return is_oracle(self.needs)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> "Card":
        """The card that `dataclasses.asdict` took apart, also after a passage through JSON."""
        settings = {name: Setting(**_tuples(setting)) for name, setting in values["settings"].items()}
        return Card(**_tuples(values) | {"settings": settings, "more_needs": _tuples(values["more_needs"])})


def is_oracle(needs: Iterable[str]) -> bool:
    """Whether some of the fields of Given are what a defender would not have."""
    return bool(ORACLE & set(needs))


def _holds(text: str, settings: Mapping[str, Any]) -> bool:
    name, _, value = text.partition("=")
    return str(settings[name]) == value


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


class Method(NamedTuple):
    """A registry's entry: the card, and `make(...)` that builds the method from its static settings.

    Attacks, defenses, selections, audits and detectors: `make(net, shape, classes, **static)`, shape (height, width,
    channels).
    Models: `make(shape, classes, mean, std, **static)`, mean and std tuples a channel in [0, 1]; one whose card needs
    it is also given `covariance`, that of `Dataset`.
    Datasets: `make(**static)`.
    """

    card: Card
    make: Callable[..., Any]


@dataclass(frozen=True)
class Spec:
    """A method as somebody asked for it: every setting has its value."""

    text: str  # as it was written: the coordinate in the results
    name: str
    static: Mapping[str, Any]
    traced: Mapping[str, float]
    version: int
    said: frozenset[str] = frozenset()  # the settings that the text values
    preset: str = "paper"

    def fill(self, card: Card, values: Mapping[str, Any]) -> "Spec":
        """The same with the settings that the text leaves open valued by `values`; names that the card lacks are none.

        Raises:
            InvalidInput: a value that its setting does not allow.
        """
        open_ones = {name: value for name, value in values.items() if name in card.settings and name not in self.said}
        static, traced = _parse(card, {**self.static, **self.traced, **open_ones}, card.name)
        return replace(self, static=static, traced=traced)

    def identity(self) -> dict[str, Any]:
        """What the results depend on, whatever way it was written."""
        return {"name": self.name, "version": self.version, **self.static, **self.traced}


def split(text: str, called: str = "") -> tuple[str, dict[str, str]]:
    """`name:a=1,b=2` as a name and a dict of texts; called: what errors show in the place of the text.

    Raises:
        InvalidInput: the text is not of that form.
    """
    name, _, rest = text.strip().partition(":")
    given: dict[str, str] = {}
    for part in filter(None, (piece.strip() for piece in rest.split(","))):
        key, equals, value = part.partition("=")
        if not equals or not key.strip() or not value.strip():
            raise InvalidInput(
                f"{called or text!r}: {part!r} is not setting=value; write name:setting=value,setting=value"
            )
        if key.strip() in given:
            raise InvalidInput(f"{called or text!r}: {key.strip()} is given twice; give it once")
        given[key.strip()] = value.strip()
    return name.strip(), given


def lookup(text: str, registry: Mapping[str, Method], what: str, called: str = "") -> Spec:
    """The method that `text` asks for, with every setting valued: from the text, else the preset, else by default.

    Args:
        text: `name` or `name:setting=value,...`; `preset=NAME` is among the settings.
        registry: name -> Method.
        what: what the registry holds, in one word, for the error.
        called: what errors call the method by; "" for its name.

    Raises:
        InvalidInput: no such method, setting or preset, or a value that its setting does not allow.
    """
    name, given = split(text, called and f"{called} {text.partition(':')[2]}")
    if name not in registry:
        raise InvalidInput(f"no {what} {name!r}{choice(name, sorted(registry))}")
    card, called = registry[name].card, called or name
    preset = given.pop("preset", "paper")
    if preset not in card.presets:
        raise InvalidInput(f"{called} has no preset {preset!r}{choice(preset, card.presets)}")
    unknown = sorted(set(given) - set(card.settings))
    if unknown:
        allowed = ", ".join(card.settings) or "nothing"
        near = meant(unknown[0], card.settings)
        raise InvalidInput(f"{called} has no setting {unknown[0]!r}{near}; it has {allowed}")
    values = {key: setting.default for key, setting in card.settings.items()}
    static, traced = _parse(card, values | card.presets[preset] | given, called)
    return Spec(text.strip(), name, static, traced, card.version, frozenset(given), preset)


def _parse(card: Card, values: Mapping[str, Any], called: str) -> tuple[dict[str, Any], dict[str, float]]:
    """Static and traced settings, in their own types and in the card's order."""
    parsed = {key: one.parse(values[key], f"{called}:{key}") for key, one in card.settings.items()}
    static = {key: value for key, value in parsed.items() if not card.settings[key].traced}
    return static, {key: value for key, value in parsed.items() if card.settings[key].traced}
