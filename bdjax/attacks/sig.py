"""SIG: a horizontal sinusoid on rows of the target class, labels unchanged (Barni, Kallas, Tondi, 2019, section 2)."""

import jax.numpy as jnp
import numpy as np

from bdjax.attacks.parts.common import STORAGE, TARGET, clean_label, stamp_with_gain, truncated
from bdjax.cards import Card, Method, Setting
from bdjax.types import Attack

CARD = Card(
    name="sig",
    title="SIG",
    citation="Mauro Barni, Kassem Kallas, Benedetta Tondi. A New Backdoor Attack in CNNs by Training Set Corruption "
    "Without Label Poisoning. ICIP 2019. https://arxiv.org/abs/1902.11237",
    year=2019,
    version=1,
    kind="clean-label, static",
    stage="pre-training",
    controls="data",
    changes="pixels of poisoned rows, all of the target class",
    smallest=8,
    settings={
        "delta": Setting(40 / 255, "amplitude on training rows", "pixels", low=0.0, high=1.0),
        "gain": Setting(1.0, "amplitude on test images over that on training rows", low=0.0),
        "frequency": Setting(6, "periods across the image", low=1),
        "storage": STORAGE,
        "target": TARGET,
    },
    presets={"paper": {}, "benchmark": {"storage": "truncate"}},
    departures=(
        "columns are counted from 0, as in the benchmark; the authors count from 1",
        "the authors also train and test at different amplitudes, here by `gain`",
        "storage=truncate loses a level where float64 puts sin(k pi) a hair below zero, as the benchmark does",
    ),
)


def make(net, shape, classes, frequency, storage, target) -> Attack:
    """SIG for images of `shape`: v(r, c) = delta sin(2 pi c frequency / width).

    Raises:
        InvalidInput: the target is no class.
    """
    del net
    sine = np.sin(2 * np.pi * np.arange(shape[1]) * frequency / shape[1])[None, :, None]
    # Images are whole levels, so cutting the sum is cutting the wave; a hair below zero then costs a whole level.
    slip = (sine > -1e-9) & (sine < 0)

    def add(image, amplitude):
        wave = amplitude * jnp.asarray(sine, image.dtype)
        if storage == "truncate":
            wave = truncated(wave) - slip / 255
        return jnp.clip(image + wave, 0, 1)

    trigger, stamp, query = stamp_with_gain("delta", add)
    return Attack(stamp=stamp, query=query, **clean_label("sig", classes, target=target, trigger=trigger))


SIG = Method(CARD, make)
