"""What a network subtracts from an image and divides it by: a dataset's own figures, or those of somebody's training.

The numbers are those with which the field's tools train: BackdoorBench, Wu et al., NeurIPS 2022, for its datasets, and
torchvision for ImageNet.
"""

from typing import NamedTuple

from bdjax.errors import InvalidInput, choice


class Normalization(NamedTuple):
    """A mean and a deviation a channel, in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


KNOWN = {
    "none": Normalization((0.0,), (1.0,)),
    "half": Normalization((0.5,), (0.5,)),
    "cifar10": Normalization((0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261)),
    "cifar100": Normalization((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "tiny": Normalization((0.4802, 0.4481, 0.3975), (0.2302, 0.2265, 0.2262)),
    "imagenet": Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
"""By name; one number serves all channels."""


def parse(text: str, channels: int) -> Normalization:
    """The normalization that a text names, or `MEAN/STD` with a number, or one for each channel, in either.

    Raises:
        InvalidInput: no such name, other numbers than channels, or a deviation that is not above 0.
    """
    if text in KNOWN:
        found = KNOWN[text]
    else:
        try:
            found = Normalization(*(tuple(map(float, part.split(","))) for part in text.split("/")))
        except (ValueError, TypeError):
            near = choice(text, KNOWN)
            raise InvalidInput(f"normalization {text!r}{near}, or write MEAN/STD such as 0.49,0.48,0.45/0.2") from None
    found = spread(found, channels)
    if {len(found.mean), len(found.std)} != {channels}:
        given = f"normalization {text!r} has {len(found.mean)} means and {len(found.std)} deviations"
        raise InvalidInput(f"{given}; give {channels} of each, or one for all channels")
    if not all(abs(one) < float("inf") for one in found.mean) or not all(0 < one < float("inf") for one in found.std):
        raise InvalidInput(f"normalization {text!r}: give finite means, and deviations above 0")
    return found


def spread(normalization: Normalization, channels: int) -> Normalization:
    """One number in the place of all channels, written out."""
    return Normalization(*(part * channels if len(part) == 1 else part for part in normalization))
