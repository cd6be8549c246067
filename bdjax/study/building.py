"""Methods by their texts, built for a network and for the images that it reads."""

from bdjax import attacks, audits, cards, defenses, detection, models, selections
from bdjax.cards import Card, Spec
from bdjax.detection.parts.scoring import score_all
from bdjax.errors import InvalidInput
from bdjax.study.work import Method
from bdjax.types import Net

ASKED = {
    "model": ("--model", models.MODELS),
    "attack": ("--attacks", attacks.ATTACKS),
    "selection": ("--selection", selections.SELECTIONS),
    "defense": ("--defenses", defenses.DEFENSES),
    "audit": ("--audits", audits.AUDITS),
    "detector": ("--detectors", detection.DETECTORS),
}
"""What a study names: the option of the command for it, and what there is."""


def lookup(text: str, what: str) -> Spec:
    """A method of a kind in ASKED by its text.

    Raises:
        InvalidInput: it is not known, or of another kind, or a setting of it is wrong.
    """
    name, known = cards.split(text)[0], ASKED[what][1]
    others = {other: option for other, (option, registry) in ASKED.items() if name in registry}
    if others and name not in known:
        where, options = " and ".join(f"{other}s" for other in others), " or ".join(others.values())
        raise InvalidInput(f"{name} is not among the {what}s, but among the {where}; give it with {options}")
    return cards.lookup(text, known, what)


def check_size(card: Card, shape: tuple[int, int, int]) -> None:
    """Refuse images that are too small for a method.

    Raises:
        InvalidInput: they are.
    """
    if min(shape[:2]) < card.smallest:
        size = f"{shape[0]}x{shape[1]}"
        raise InvalidInput(f"{card.name} on {size} images; it needs {card.smallest} pixels a side; use larger images")


def build_defense(spec: Spec, net: Net, shape, classes: int) -> Method:
    """A defense for a network that reads images of a shape (height, width, channels).

    Raises:
        InvalidInput: it cannot be put to this network.
    """
    method = defenses.DEFENSES[spec.name]
    check_size(method.card, shape)
    return Method(spec, method.card, method.card.needs_of(spec.static), method.make(net, shape, classes, **spec.static))


def build_audit(spec: Spec, shape) -> Method:
    """An audit of networks that read images of a shape.

    Raises:
        InvalidInput: the images are too small.
    """
    card = audits.AUDITS[spec.name].card
    check_size(card, shape)
    return Method(spec, card, card.needs_of(spec.static))


def build_detector(spec: Spec, net: Net, shape, classes: int) -> Method:
    """A detector for a network that reads images of a shape.

    Raises:
        InvalidInput: it cannot be put to this network.
    """
    method = detection.DETECTORS[spec.name]
    check_size(method.card, shape)
    detector = method.make(net, shape, classes, **spec.static)
    scoring = {judges: score_all(net, detector, judges == "queries") for judges in detector.on}
    return Method(spec, method.card, method.card.needs_of(spec.static), detector=detector, scoring=scoring)
