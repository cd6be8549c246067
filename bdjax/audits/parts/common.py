"""What audits share."""

from bdjax.errors import InvalidInput
from bdjax.types import Net

FEWEST = 3
"""Classes among which one can stand out."""


def original(net: Net) -> Net:
    """The network as it was before a defense changed it; the clean and the backdoored model are of that one."""
    return net.plain or net


def check_classes(classes: int, audit: str) -> None:
    """Refuse data whose classes are too few for one of them to stand out.

    Raises:
        InvalidInput: there are fewer than three.
    """
    if classes < FEWEST:
        raise InvalidInput(f"audit {audit} looks for a class that stands out; give data with {FEWEST} or more classes")
