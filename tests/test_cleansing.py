"""Cleansing by a detector: what is flagged is never trained on, and all else is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from bdjax import train
from bdjax.cards import Card, Method, Setting
from bdjax.data.sources import split
from bdjax.defenses import DEFENSES
from bdjax.defenses.parts import cleansing
from bdjax.detection import DETECTORS
from bdjax.keys import root
from bdjax.types import Data, Detector, Given

SHAPE, CLASSES, ROWS = (8, 8, 3), 3, 30
NET = tiny.network("small_cnn", SHAPE, CLASSES, (0.5,) * 3, (0.25,) * 3, width=2)
CARD = Card(
    name="every",
    title="Every so many rows",
    citation="none",
    year=2026,
    version=1,
    kind="numbers",
    stage="pre-training",
    needs=("suspects", "victim"),
    settings={"every": Setting(3, "one row in so many is flagged", low=1)},
)


def make(net, shape, classes, *, every):
    def score(_key, _net, _trained, _found, rows, _given):
        return (rows.row % every == 0) * 1.0

    return Detector(("rows",), score, None, lambda found, score, clean, given: score > 0)


EVERY = Method(CARD, make)


@pytest.mark.parametrize("every", [1, 3])
def test_flagged_rows_alone_are_left_out(every):
    card = cleansing.describe(CARD)
    static = {name: about.default for name, about in card.settings.items() if not about.traced}
    static |= {"epochs": 1, "batch": 8, "every": every}
    score, retrain = cleansing.cleanse(EVERY, NET, SHAPE, CLASSES, static)
    traced = {name: jnp.asarray(about.default) for name, about in card.settings.items() if about.traced}
    random, label = np.random.default_rng(0), jnp.arange(ROWS, dtype=jnp.int32) % CLASSES
    data = Data(jnp.asarray(random.integers(0, 256, (ROWS, *SHAPE)), jnp.uint8), label)
    victim = NET.init(root(1))

    def given(data):
        return Given(traced, lambda key, image: image, suspects=split(data), victim=victim)

    left = train.fit(root(0), score, given, data)
    flagged = np.asarray(left.carry["flagged"])
    np.testing.assert_array_equal(flagged, np.arange(ROWS) % every == 0)

    def trained(changed):
        image = jnp.where(changed[:, None, None, None], 255 - data.image, data.image)
        return train.fit(root(0), retrain, given, data.replace(image=image), left).weights.params

    nothing = np.zeros(ROWS, bool)
    jax.tree.map(np.testing.assert_array_equal, trained(nothing), trained(flagged))
    if every > 1:
        one = nothing.copy()
        one[1] = True  # a row that is kept
        assert not np.array_equal(trained(nothing)["linear"]["kernel"], trained(one)["linear"]["kernel"])


@pytest.mark.parametrize("name", ["spectral", "ac", "scan", "spectre"])
def test_cards_of_cleansing_are_those_of_the_detector_and_a_recipe(name):
    own, card = DETECTORS[name].card, DEFENSES[name].card
    assert set(card.settings) > set(own.settings) and {"epochs", "learning_rate"} <= set(card.settings)
    assert card.citation == own.citation and card.needs == own.needs and card.departures == own.departures
    assert card.stage == "pre-training" and "removed" in card.changes
