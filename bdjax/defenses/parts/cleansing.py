"""Cleansing: what a detector flags of the training set is dropped, and a new network is trained on the rest.

It is trained by the study's recipe, as its victims are, wherever the defense's own text is silent.
"""

from dataclasses import replace

from bdjax import train
from bdjax.cards import Card, Method
from bdjax.detection.parts.scoring import score_all
from bdjax.train import recipes
from bdjax.types import Defense, Net, Trained


def describe(card: Card, **changes) -> Card:
    """The card of cleansing by the detector of a card; `changes` are further fields."""
    presets = {name: values | ({"period": 100} if name == "benchmark" else {}) for name, values in card.presets.items()}
    return replace(
        card,
        version=card.version + 1,  # trained anew by the study's recipe since
        kind=f"removal of training rows by {card.kind}",
        stage="pre-training",
        changes="the training set: flagged rows are removed, and a new network is trained on the others",
        settings=recipes.RECIPE | card.settings,
        presets=presets,
        **changes,
    )


def cleanse(method: Method, net: Net, shape: tuple[int, int, int], classes: int, static: dict) -> Defense:
    """The stages of a detector, its pass over the training set, and training anew, which carries `score` and `flagged`.

    Args:
        method: the detector's entry.
        net, shape, classes: see `cards.Method`.
        static: its static settings and those of the recipe.
    """
    own = {name: value for name, value in static.items() if name in method.card.settings}
    recipe = {name: value for name, value in static.items() if name not in own}
    detector = method.make(net, shape, classes, **own)

    def order(key, _epoch, given, _still):
        return train.chosen(key, ~given.carry["flagged"], recipe["batch"])

    def leave(key, state, given):
        # The model file says which rows were dropped.
        return Trained(train.leave_weights(key, state, given).weights, dict(given.carry))

    fresh = {"fresh": True, "order": order, "leave": leave}
    retrain = train.supervised(net, lambda given: given.suspects, **fresh, **recipe)
    return *detector.stages, score_all(net, detector), retrain
