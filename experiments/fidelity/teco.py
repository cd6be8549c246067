"""TeCo: the package's deterministic corruptions, and the deviations of the benchmark's loop over stored predictions.

Liu et al., CVPR 2023. `imagecorruptions` 1.1.2 makes the images; it needs three names that newer libraries lack. The
loop over predictions stands in the middle of a script, and its last lines are repeated here.
"""

import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import skimage.filters

from bdjax.data.corruptions import CORRUPTIONS, LEVELS
from bdjax.detection.teco import first_flip
from experiments.fidelity import common

EXACT = "defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression"


def package():
    """`corrupt` of imagecorruptions, with what it misses."""
    import scipy.ndimage

    gaussian = skimage.filters.gaussian
    skimage.filters.gaussian = lambda *args, multichannel=None, **named: gaussian(*args, channel_axis=-1, **named)
    np.float_ = np.float64
    sys.modules["pkg_resources"] = types.SimpleNamespace(resource_filename=None)
    sys.modules["scipy.ndimage.interpolation"] = scipy.ndimage
    from imagecorruptions import corrupt

    return corrupt


def compare(folder):
    """Shares of levels that are more than one apart, and relative differences of deviations of random predictions."""
    if "np.std(indexs)" not in (folder / "detection_infer/teco.py").read_text():
        raise SystemExit(f"{folder}: no TeCo with np.std(indexs); give the revision that is named")
    corrupt = package()
    coarse = np.random.RandomState(0).uniform(size=(4, 32, 8, 3))
    image = np.uint8(np.clip(255 * np.repeat(coarse, 4, axis=2).cumsum(1) / np.arange(1, 33)[:, None, None], 0, 255))
    figures = {}
    for name in EXACT:
        ours = jax.jit(jax.vmap(CORRUPTIONS[name], (None, 0, None)))
        pairs = []
        for level in range(LEVELS):
            found = np.floor(255 * np.asarray(ours(jax.random.key(0), jnp.asarray(image / 255), level)) + 1e-3)
            pairs.append((found, np.stack([corrupt(one, corruption_name=name, severity=level + 1) for one in image])))
        found, expected = (np.stack(one).astype(float) for one in zip(*pairs, strict=True))
        if name == "jpeg_compression":
            print(f"  on purpose: {name}: {np.abs(found - expected).mean():.2f} levels, chroma between pixels")
            continue
        equal = np.mean(found == expected)
        figures[f"{name}, {equal:.1%} of levels equal: more than one level apart"] = np.mean(abs(found - expected) > 1)
    label = np.random.RandomState(1).randint(3, size=(200, 15, 6))
    label[..., 0] = label[:, :1, 0]
    deviations = []
    for one in label:
        indices = [next((i for i in range(6) if row[i] != row[0]), 6) for row in one]
        deviations.append(np.std(indices))
    changed = np.moveaxis(label[..., 1:] != label[..., :1], 0, -1)
    figures["deviations"] = common.relative(np.std(first_flip(jnp.asarray(changed)), axis=0), np.array(deviations))
    return figures


COMPARISON = common.Comparison(
    "SCLBD/BackdoorBench",
    "f02e353",
    compare,
    (
        "The package computes in float32 and cuts off what is between two levels, so that some are one apart.",
        "Noise, glass and motion blur, snow, fog and elastic transform draw numbers of their own; frost is another "
        "texture. Means and deviations of such images agree, except those of frost.",
    ),
)
