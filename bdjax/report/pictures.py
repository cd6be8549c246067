"""Example images of each attack as data addresses: clean, triggered, and their difference amplified."""

import base64
import io
from typing import NamedTuple

import numpy as np

from bdjax.metrics.stealth import stealth

SHOWN = 4
"""Images an attack."""


class Pictures(NamedTuple):
    """What one attack does to a few test images."""

    columns: list[tuple[str, str, str]]  # data addresses of clean, triggered and difference
    gain: float  # how many times the difference is amplified
    pixels: float  # mean share of pixels that change, fraction
    change: float  # mean absolute change of a changed pixel's value, in levels of 255
    count: int  # images that the figures are of
    stealth: dict[str, float]  # of `stealth.stealth`
    trained: dict[str, float]  # figures of trained parts


def pictures(clean: np.ndarray, triggered: np.ndarray, figures: dict[str, float]) -> Pictures:
    """Pictures of the first images; clean and triggered uint8 (m, height, width, 1 or 3), figures of trained parts."""
    clean, triggered = np.asarray(clean), np.asarray(triggered)
    shift = triggered.astype(float) - clean
    gain = 127 / max(1.0, np.abs(shift[:SHOWN]).max(initial=0))
    amplified = np.round(128 + gain * shift).clip(0, 255).astype(np.uint8)
    changed = np.abs(shift).max(-1) > 0
    columns = [tuple(map(address, images)) for images in zip(clean[:SHOWN], triggered, amplified, strict=False)]
    strength = np.abs(shift).mean(-1)[changed]
    mean = float(strength.mean()) if strength.size else 0.0
    return Pictures(columns, gain, float(changed.mean()), mean, len(clean), stealth(clean, triggered), figures)


def address(image: np.ndarray) -> str:
    """A uint8 image (height, width, 1 or 3) as a PNG in a `data:` address."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(out, "PNG")
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()
