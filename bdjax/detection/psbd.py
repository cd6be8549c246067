"""PSBD: under dropout a clean image loses confidence in its label, a poisoned one keeps it.

Li, Chen, Li, Wu, Hong, Wang, Prediction Shift Backdoor Detection, CVPR 2025, arXiv:2406.05826. Dropout follows the sum
of every residual block, at inference alone. The score is the loss of confidence p(x) - mean p'(x) in the predicted
label over a few passes; the rate is that at which labels of clean rows move most beyond those of training rows.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from bdjax.cards import Card, Method, Setting
from bdjax.data import sources
from bdjax.detection.parts.passes import summed
from bdjax.errors import InvalidInput
from bdjax.keys import stream
from bdjax.types import Array, Detector, Key, Net, Weights, real

CARD = Card(
    name="psbd",
    title="PSBD",
    citation="Li, Chen, Li, Wu, Hong, Wang, Prediction Shift Backdoor Detection, CVPR 2025, arXiv:2406.05826",
    year=2025,
    version=1,
    kind="confidence under dropout",
    stage="pre-training",
    needs=("suspects", "victim", "clean"),
    settings={
        "passes": Setting(3, "passes under dropout for each row and rate", low=1),
        "rates": Setting(9, "dropout rates that are tried, evenly spaced between 0 and 1", low=1),
        "moved": Setting(
            0.8, "share of clean labels that must change at a rate for it to be chosen", low=0.0, high=1.0
        ),
        "quantile": Setting(
            0.25, "of clean rows' losses of confidence, below which a row is flagged", low=0.0, high=1.0
        ),
    },
    presets={"paper": {}},
    departures=(
        "The authors judge by the model of an earlier epoch, 95 of 100 by default; here it is the victim.",
        "A network without residual sums has dropout after each of its rectifiers.",
        "Where the rates that move enough clean labels are not consecutive, the released code takes another rate than "
        "it found.",
    ),
)


def places(net: Net) -> list[str]:
    """The taps that dropout follows.

    Raises:
        InvalidInput: the network has neither residual sums nor rectifiers.
    """
    for kind in ("add", "relu"):
        found = [layer.tap for layer in net.layers if layer.kind == kind]
        if found:
            return found
    raise InvalidInput("psbd drops outputs of residual sums or rectifiers; choose a network that has some")


def drop(key: Key, row: Array, rate: Array, activation: Array) -> Array:
    """The activation (b, ...) with entries at 0 with probability `rate` and the others divided by 1 - rate."""

    def lots(row: Array) -> Array:
        return jax.random.uniform(jax.random.fold_in(key, row), activation.shape[1:])

    return jnp.where(jax.vmap(lots)(row) < rate, 0, activation / (1 - rate))


def shift(net: Net, weights: Weights, key: Key, image: Array, row: Array, rate: Array, passes: int):
    """What dropout does to images: confidence lost in the predicted label, and the share of passes with another one.

    row: int32 (b,), from which masks are drawn. Both are float (b,).
    """

    def ask(edit) -> Array:
        return jax.nn.softmax(net.apply(weights, image, edit=edit)[0])

    plain = ask({})
    label = jnp.argmax(plain, axis=1)

    def once(number: Array) -> tuple[Array, Array]:
        own = jax.random.fold_in(key, number)
        found = ask({tap: partial(drop, stream(own, tap), row, rate) for tap in places(net)})
        return _of(found, label), (jnp.argmax(found, axis=1) != label).astype(found.dtype)

    kept, moved = jax.lax.map(once, jnp.arange(passes))
    return _of(plain, label) - jnp.mean(kept, axis=0), jnp.mean(moved, axis=0)


def _of(share: Array, label: Array) -> Array:
    return jnp.take_along_axis(share, label[:, None], axis=1)[:, 0]


def choose(clean: Array, suspect: Array, moved: Array) -> Array:
    """Which rate is taken, int32 (): the largest clean - suspect among rates with clean >= moved, else among all.

    clean, suspect: float (r,), shares of labels that move at each rate.
    """
    enough = clean >= moved
    return jnp.argmax(jnp.where(enough | ~jnp.any(enough), clean - suspect, -jnp.inf))


def make(net, shape, classes, *, passes, rates):
    """The confidence that a row keeps under dropout."""
    del shape, classes
    places(net)
    tried = np.arange(1, rates + 1) / (rates + 1)

    def both(given):
        return sources.concatenated(given.suspects, given.clean)

    def measure(key, weights, rows, given):
        late = rows.row >= given.suspects.size

        def at(rate: Array) -> Array:
            moved = shift(net, weights, key, rows.image, rows.row, rate, passes)[1] * rows.weight
            return jnp.stack([jnp.sum(jnp.where(late, 0, moved)), jnp.sum(jnp.where(late, moved, 0))])

        return {"moved": jax.lax.map(at, jnp.asarray(tried, real()))}

    def fit(_key, _net, _trained, given):
        suspect, clean = given.carry["moved"].T / jnp.array([[given.suspects.size], [given.clean.size]])
        return {"rate": jnp.asarray(tried, real())[choose(clean, suspect, given.settings["moved"])]}

    def score(key, net, trained, found, rows, _given):
        return -shift(net, trained.weights, key, rows.image, rows.row, found["rate"], passes)[0]

    def threshold(_found, score, clean, given):
        return score > jnp.quantile(clean, 1 - given.settings["quantile"])

    return Detector(("rows",), score, fit, threshold, (summed(both, measure),), calibrate="clean")


PSBD = Method(CARD, make)
