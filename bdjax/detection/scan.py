"""SCAn: the features of a poisoned class are two groups that share one covariance, those of a clean class are one.

Tang, Wang, Tang, Zhang, Demon in the Variant: Statistical Analysis of DNNs for Robust Backdoor Contamination
Detection, USENIX Security 2021, arXiv:1908.00686: features are x = u + e, an identity u ~ N(0, S_u) of the class and a
variation e ~ N(0, S_e) of the image, fitted on clean rows; the likelihood ratio of two identities against one says
which class is a mixture.
"""

import jax
import jax.numpy as jnp

from bdjax.cards import Card, Method, Setting
from bdjax.data import sources
from bdjax.detection.parts import classes as of_classes
from bdjax.keys import stream
from bdjax.models.parts import heads, taps
from bdjax.types import Array, Detector, Key

CARD = Card(
    name="scan",
    title="SCAn",
    citation="Tang, Wang, Tang, Zhang, Demon in the Variant: Statistical Analysis of DNNs for Robust Backdoor "
    "Contamination Detection, USENIX Security 2021, arXiv:1908.00686",
    year=2021,
    version=1,
    kind="two-component model of features",
    stage="pre-training",
    needs=("suspects", "victim", "clean"),
    settings={
        "bound": Setting(of_classes.OUTLYING, "anomaly of a class from which its smaller group is flagged", low=0.0),
        "null_mean": Setting(
            "identity",
            "covariance that scales the mean of an unmixed class: of identities, the posterior mean, or of variations",
            choices=("identity", "variation"),
        ),
        "restarts": Setting(10, "runs of 2-means, of which the tightest is taken", "runs", low=1),
        "rounds": Setting(100, "EM rounds, at most", "rounds", low=1),
        "tolerance": Setting(1e-5, "EM ends when both covariances together change by no more", low=0.0),
        "tap": Setting("", "layer whose output, summed over pixels, is modeled; empty: what the last linear one reads"),
    },
    presets={"paper": {}, "benchmark": {"null_mean": "variation", "restarts": 1}},
    departures=(
        "Clean rows are the defender's share of the training split; the benchmark takes clean test images.",
        "The score is the log-likelihood ratio of a row under the two groups of its class, positive in the group with "
        "fewer clean rows, and 0 in classes that are not flagged; the public versions give a decision alone.",
        "2-means starts from rows of the class as in k-means++; the public versions start once, from a random half.",
        "Where clean rows are too few for a covariance of full rank, directions without variation are left out.",
        "The benchmark sums the output of the last block: tap=layer4_1.add.",
    ),
)


def covariance(feature: Array) -> Array:
    """The sample covariance of rows (n, d), divided by n - 1: (d, d)."""
    centered = feature - jnp.mean(feature, 0)
    return centered.T @ centered / (len(feature) - 1)


def diagonalize(between: Array, within: Array) -> tuple[Array, Array, Array]:
    """(basis B, its inverse, variances v): after x -> x B the covariance within is I and that between diag(v)."""
    variance, axes = jnp.linalg.eigh(within)
    kept = variance > variance[-1] * len(variance) * jnp.finfo(variance.dtype).eps
    deviation = jnp.sqrt(jnp.where(kept, variance, 1))
    half = axes * (kept / deviation)
    found, turn = jnp.linalg.eigh(half.T @ between @ half)
    return half @ turn, turn.T @ (axes * (kept * deviation)).T, jnp.maximum(found, 0)


def fit_components(feature: Array, label: Array, classes: int, rounds: int, tolerance: Array) -> tuple[Array, Array]:
    """The covariances (S_u between classes, S_e within) of clean features float (n, d), by EM from those of means."""
    member = jax.nn.one_hot(label, classes, dtype=feature.dtype)
    centered = feature - jnp.mean(feature, 0)
    count, total = jnp.sum(member, 0)[:, None], member.T @ centered

    def covariances(identity: Array) -> tuple[Array, Array]:
        return covariance(identity[label]), covariance(centered - identity[label])

    def improve(state):
        between, within, _, step = state
        basis, inverse, variance = diagonalize(between, within)
        identity = total @ basis * (variance / (count * variance + 1)) @ inverse  # S_u (n S_u + S_e)^-1 sum of x
        new = covariances(identity)
        change = jnp.linalg.norm(new[0] - between) + jnp.linalg.norm(new[1] - within)
        return *new, change, step + 1

    def goes_on(state) -> Array:
        return (state[2] > tolerance) & (state[3] < rounds)

    start = covariances(total / jnp.maximum(count, 1))
    infinite = jnp.full((), jnp.inf, feature.dtype)
    return jax.lax.while_loop(goes_on, improve, (*start, infinite, 0))[:2]


def split_class(key: Key, place: Array, member: Array, known: Array, shrink: Array, restarts: int):
    """(T float (), llr float (n,)): how much better two groups explain a class than one, and each row's share in it.

    Args:
        key: of 2-means.
        place: float (n, d), features in which variation has covariance I.
        member: bool (n,), the rows of the class.
        known: bool (n,), rows that are known to be clean: llr is negative in the group that has more of them.
        shrink: N -> float (d,), the factor from the sum of N rows to the mean of an unmixed class.
        restarts: runs of 2-means.
    """
    weight, size = member.astype(place.dtype), jnp.sum(member)
    margin, centers = of_classes.two_means(key, place, member, restarts)
    null = weight @ place * shrink(size)
    one, two = jnp.sum((place - null) ** 2, 1), jnp.sum((place - centers[0]) ** 2, 1) - jnp.maximum(margin, 0)
    statistic = jnp.sum(weight * (one - two)) / jnp.maximum(size, 1)
    clean = member & known
    second_is_clean = jnp.sum(clean & (margin > 0)) > jnp.sum(clean & (margin <= 0))
    return statistic, weight * jnp.where(second_is_clean, -margin, margin) / 2


def make(net, shape, classes, *, null_mean, restarts, rounds, tap):
    """Two covariances from clean rows; 2-means and a likelihood ratio in every class."""
    del shape
    tap = taps.checked(net, tap or heads.reads(net, "scan"), "scan")

    def fit(key, net, trained, given):
        def read(rows):
            found = net.apply(trained.weights, rows.image)[2][tap]
            return jnp.sum(found.reshape(len(found), -1, found.shape[-1]), 1), rows.label

        clean, clean_label = sources.each(given.clean, read)
        feature, label = jax.tree.map(
            lambda own, clean: jnp.concatenate([own, clean]), sources.each(given.suspects, read), (clean, clean_label)
        )
        between, within = fit_components(clean, clean_label, classes, rounds, given.settings["tolerance"])
        basis, _, variance = diagonalize(between, within)
        place, known = (feature - jnp.mean(feature, 0)) @ basis, jnp.arange(len(label)) >= given.suspects.size

        def shrink(size: Array) -> Array:  # S_u (N S_u + S_e)^-1; the benchmark has S_e in front
            return (variance if null_mean == "identity" else 1) / (size * variance + 1)

        def of_class(number: Array):
            own = jax.random.fold_in(stream(key, "groups"), number)
            return split_class(own, place, label == number, known, shrink, restarts)

        statistic, ratio = jax.lax.map(of_class, jnp.arange(classes))
        anomaly = of_classes.anomaly(statistic / jnp.max(statistic), 1e-12)
        flagged = anomaly > given.settings["bound"]
        score = jnp.sum(jnp.where(flagged[:, None], ratio, 0), 0)[: given.suspects.size]
        return {"score": score, "statistic": statistic, "anomaly": anomaly}

    def score(_key, _net, _trained, found, rows, _given):
        return found["score"][rows.row]

    def threshold(_found, score, _clean, _given):
        return score > 0

    return Detector(("rows",), score, fit, threshold)


SCAN = Method(CARD, make)
