"""Activation Clustering: the features of a poisoned class fall into two clusters, and the smaller one is the poison.

Chen, Carvalho, Baracaldo, Ludwig, Edwards, Lee, Molloy, Srivastava, Detecting Backdoor Attacks on Deep Neural Networks
by Activation Clustering, 2018, arXiv:1811.03728, algorithm 1, with the comparison of sizes of its section on analysis.
"""

import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from bdjax.cards import Card, Method, Setting
from bdjax.detection.parts import classes as of_classes
from bdjax.detection.parts import signatures
from bdjax.host import call_on_host
from bdjax.keys import stream
from bdjax.models.parts import heads, taps
from bdjax.types import Array, Detector, Key

CARD = Card(
    name="ac",
    title="Activation Clustering",
    citation="Chen, Carvalho, Baracaldo, Ludwig, Edwards, Lee, Molloy, Srivastava, Detecting Backdoor Attacks on Deep "
    "Neural Networks by Activation Clustering, SafeAI 2019, arXiv:1811.03728 (2018)",
    year=2018,
    version=1,
    kind="clusters in feature space",
    stage="pre-training",
    needs=("suspects", "victim"),
    settings={
        "projection": Setting(
            "ica", "how features are reduced: independent or principal components", choices=("ica", "pca")
        ),
        "dims": Setting(10, "components that are clustered; fewer where a class has fewer", "components", low=1),
        "restarts": Setting(10, "runs of 2-means, of which the tightest is taken", "runs", low=1),
        "share": Setting(0.35, "the smaller cluster is flagged if its share of the class is below", low=0.0, high=0.5),
        "tap": Setting("", "layer whose output is clustered; empty: what the last linear layer reads"),
    },
    presets={"paper": {}, "benchmark": {"restarts": 1}, "backdoor_toolbox": {"projection": "pca", "restarts": 1}},
    departures=(
        "Of the paper's three ways to judge a pair of clusters this is the comparison of sizes, with the bound of "
        "35% of the class that public versions use; no silhouette is asked for and nothing is retrained.",
        "The score is the signed distance to the plane between the clusters, positive on the smaller one's side, and 0 "
        "in a class that is not flagged; the public versions give a decision alone.",
        "k-means draws its starts from the cell's key; the benchmark's depend on what ran before it.",
        "Independent components are found on the host by scikit-learn; projection=pca needs no host.",
    ),
)


def independent_components(feature: Array, label: Array, seed: Array, *, classes: int, dims: int) -> np.ndarray:
    """Each class's features on its own independent components of unit variance, float (n, dims), on the host.

    feature: float (n, d); label: int32 (n,); seed: int32 (). A class of lower rank leaves the last components 0.
    """
    from sklearn.decomposition import FastICA

    feature, label = np.asarray(feature), np.asarray(label)
    found = np.zeros((len(feature), dims), feature.dtype)
    for number in range(classes):
        rows = label == number
        centered = feature[rows] - feature[rows].mean(0) if rows.any() else feature[rows]
        kept = min(dims, int(np.linalg.matrix_rank(centered.T @ centered, hermitian=True)))
        if kept:
            ica = FastICA(kept, random_state=int(seed), whiten="unit-variance")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it may use up its 200 rounds, as it does elsewhere
                found[rows, :kept] = ica.fit_transform(centered)
    return found


def separate(key: Key, place: Array, member: Array, restarts: int, share: Array) -> Array:
    """The signed distance to the plane between a class's clusters, float (n,), positive on the smaller one's side.

    place: float (n, dims); member: bool (n,); share: float (), 0 for all where the smaller cluster has that share of
    the class or more.
    """
    margin, centers = of_classes.two_means(key, place, member, restarts)
    size, second = jnp.sum(member), jnp.sum(member & (margin > 0))
    distance = margin / (2 * jnp.maximum(jnp.linalg.norm(centers[1] - centers[0]), 1e-30))
    signed = jnp.where(2 * second < size, distance, -distance)
    return jnp.where(member & (jnp.minimum(second, size - second) < share * size), signed, 0)


def make(net, shape, classes, *, projection, dims, restarts, tap):
    """Two clusters a class, in a few components."""
    del shape
    tap = taps.checked(net, tap or heads.reads(net, "ac"), "ac")

    def fit(key, net, trained, given):
        feature, label = signatures.features(net, trained.weights, given.suspects, tap)
        place = None
        if projection == "ica":
            like = jax.ShapeDtypeStruct((len(feature), dims), feature.dtype)
            reduce = partial(independent_components, classes=classes, dims=dims)
            seed = jax.random.randint(stream(key, "components"), (), 0, 2**31 - 1)
            place = call_on_host(reduce, like, feature, label, seed)

        def of_class(number: Array) -> Array:
            member = label == number
            reduced = of_classes.principal(feature, member, dims) if place is None else place
            own = jax.random.fold_in(stream(key, "clusters"), number)
            return separate(own, reduced, member, restarts, given.settings["share"])

        return {"score": jnp.sum(jax.lax.map(of_class, jnp.arange(classes)), 0)}

    def score(_key, _net, _trained, found, rows, _given):
        return found["score"][rows.row]

    def threshold(_found, score, _clean, _given):
        return score > 0

    return Detector(("rows",), score, fit, threshold)


AC = Method(CARD, make)
