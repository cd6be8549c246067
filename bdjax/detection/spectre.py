"""SPECTRE: features of a class are whitened by a covariance that poison cannot move, then scored along what is left.

Hayase, Kong, Somani, Oh, SPECTRE: Defending Against Backdoor Attacks Using Robust Statistics, ICML 2021,
arXiv:2104.11315: algorithms 1 to 3, with the robust covariance of Diakonikolas, Kamath, Kane, Li, Moitra, Stewart,
Being Robust (in High Dimensions) Can Be Practical, ICML 2017, arXiv:1703.00893, and scores by quantum entropy.
"""

import jax
import jax.numpy as jnp

from bdjax.cards import Card, Method, Setting
from bdjax.detection.parts import classes as of_classes
from bdjax.detection.parts import robust, signatures
from bdjax.models.parts import heads, taps
from bdjax.types import Array, Detector

CARD = Card(
    name="spectre",
    title="SPECTRE",
    citation="Hayase, Kong, Somani, Oh, SPECTRE: Defending Against Backdoor Attacks Using Robust Statistics, ICML "
    "2021, arXiv:2104.11315",
    year=2021,
    version=1,
    kind="robust whitening of features",
    stage="pre-training",
    needs=("suspects", "victim"),
    settings={
        "share": Setting(
            0.01, "assumed poisoned rows of a class, as a share of all rows; 0: a tenth of the class", low=0.0, high=1.0
        ),
        "removed": Setting(1.5, "rows flagged in a class, in assumed poisoned rows", low=0.0),
        "alpha": Setting(4.0, "sharpness of quantum entropy; 0 weighs all directions alike", low=0.0),
        "dims": Setting(100, "principal components kept; those tried are squares up to it", "components", low=1),
        "exponential": Setting("matrix", "exponential behind the weights of directions", choices=("matrix", "entries")),
        "trace": Setting(
            "product",
            "product whose trace compares dimensions: of matrices or of entries",
            choices=("product", "entries"),
        ),
        "scan_rule": Setting(
            "rank", "what of a sorted deviation is compared with the tail: i/n or 1 - i/n", choices=("rank", "rest")
        ),
        "every_class": Setting(False, "flag rows of every class, not of that with the largest variance alone"),
        "tap": Setting("", "layer whose output is scored; empty: what the last linear layer reads"),
    },
    presets={
        "paper": {},
        "benchmark": {
            "dims": 64,
            "exponential": "entries",
            "trace": "entries",
            "scan_rule": "rest",
            "every_class": True,
        },
    },
    departures=(
        "The authors are told the target class and the number of poisoned rows; here the class of the largest robust "
        "variance is taken, and a share is assumed.",
        "A dimension in which the robust covariance leaves no row out weighs all directions alike; the benchmark "
        "divides rounding by rounding there.",
        "The benchmark's exponential of entries depends on the signs of principal axes; they are scikit-learn's here.",
        "The benchmark reads the output of the last block: tap=layer4_1.add.",
    ),
)


def assume_poisoned(size: Array, total: int, share: Array) -> Array:
    """How many poisoned rows a class of `size` rows is taken to have, float (), whole: as in the benchmark."""
    count = jnp.where(share > 0, share * total, jnp.round(0.1 * size))
    count = jnp.where(count > 0.33 * size, jnp.round(0.33 * size), count)
    return jnp.floor(jnp.where((size < 500) & (count > 0.1 * size), jnp.round(0.1 * size), count))


def weigh_directions(covariance: Array, alpha: Array, exponential: str) -> Array:
    """exp(alpha (S - I) / (||S|| - 1)) over its trace, (k, k): equation 3 of the paper."""
    identity = jnp.eye(len(covariance), dtype=covariance.dtype)
    excess = jnp.linalg.norm(covariance, 2) - 1
    plain = excess < jnp.finfo(covariance.dtype).eps ** 0.5
    power = alpha * (covariance - identity) / jnp.where(plain, 1, excess)
    if exponential == "matrix":
        value, axes = jnp.linalg.eigh(power)
        found = (axes * jnp.exp(value)) @ axes.T
    else:
        found = jnp.exp(power)
    found = jnp.where(plain, identity, found)
    return found / jnp.trace(found)


def whiten(place: Array, kept: Array, member: Array) -> tuple[Array, Array]:
    """Rows (n, k) whitened by the covariance of the kept ones, and the covariance (k, k) of the members after that."""
    white = place @ robust.inverse_root(robust.covariance(place, kept))
    return white, robust.covariance(white, member)


def score_class(place: Array, member: Array, poisoned: Array, settings, exponential: str, trace: str, scan_rule: str):
    """(score float (n,), flagged bool (n,), variance ()) of a class in the dimension with the largest variance.

    place: float (n, d), principal coordinates; member: bool (n,); poisoned: float (), how many rows are.
    """
    alpha, removed = settings["alpha"], jnp.round(settings["removed"] * poisoned).astype(jnp.int32)
    dimensions = [root**2 for root in range(1, int(place.shape[1] ** 0.5) + 1)]
    tried = []
    for dims in dimensions:
        own = place[:, :dims]
        if dims == 1:
            score = own[:, 0] ** 2
        else:
            kept = robust.keep(own, member, poisoned, scan_rule)
            white, covariance = whiten(own, kept, member)
            score = jnp.sum(white @ weigh_directions(covariance, alpha, exponential) * white, 1)
        flagged = of_classes.largest(score, member, removed)
        covariance = whiten(place, member & ~flagged, member)[1]
        weights = weigh_directions(covariance, alpha, exponential)
        product = jnp.diagonal(covariance) * jnp.diagonal(weights) if trace == "entries" else covariance * weights
        tried.append((score * member, flagged, jnp.sum(product)))
    best = jnp.argmax(jnp.stack([variance for _, _, variance in tried]))
    return jax.tree.map(lambda *leaves: jnp.stack(leaves)[best], *tried)


def make(net, shape, classes, *, dims, exponential, trace, scan_rule, every_class, tap):
    """Robust whitening and quantum entropy in every class."""
    del shape
    tap = taps.checked(net, tap or heads.reads(net, "spectre"), "spectre")

    def fit(_key, net, trained, given):
        feature, label = signatures.features(net, trained.weights, given.suspects, tap)

        def of_class(number: Array):
            member = label == number
            poisoned = assume_poisoned(jnp.sum(member), len(label), given.settings["share"])
            place = of_classes.principal(feature, member, dims)
            return score_class(place, member, poisoned, given.settings, exponential, trace, scan_rule)

        score, flagged, variance = jax.lax.map(of_class, jnp.arange(classes))
        judged = (jnp.arange(classes) == jnp.argmax(variance)) | every_class
        found = {"score": jnp.sum(score * judged[:, None], 0), "flagged": jnp.any(flagged & judged[:, None], 0)}
        return found | {"variance": variance}

    def score(_key, _net, _trained, found, rows, _given):
        return found["score"][rows.row]

    def threshold(found, _score, _clean, _given):
        return found["flagged"]

    return Detector(("rows",), score, fit, threshold)


SPECTRE = Method(CARD, make)
