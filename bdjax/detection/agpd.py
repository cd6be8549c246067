"""AGPD: in a poisoned class the gradients of the label's logit by activations point in two directions.

Yuan, Zhang, Wei, Liu, Wu, Activation Gradient based Poisoned Sample Detection Against Backdoor Attacks, ICLR 2025,
arXiv:2312.06230: dispersion of those directions finds layer and class, and from the row that is least like clean ones
the poisoned rows are absorbed, nearest first, until what is left no longer changes.
"""

import jax
import jax.numpy as jnp
import numpy as np

from bdjax.cards import Card, Method, Setting
from bdjax.data import sources
from bdjax.detection.parts import classes as of_classes
from bdjax.errors import InvalidInput
from bdjax.models.parts import taps
from bdjax.types import Array, Batch, Detector, Net, Weights

CARD = Card(
    name="agpd",
    title="AGPD",
    citation="Yuan, Zhang, Wei, Liu, Wu, Activation Gradient based Poisoned Sample Detection Against Backdoor Attacks, "
    "ICLR 2025, arXiv:2312.06230",
    year=2025,
    version=1,
    kind="gradients of logits by activations",
    stage="pre-training",
    needs=("suspects", "victim", "clean"),
    settings={
        "tau": Setting(0.05, "rows up to that share of the range of rates are absorbed in a round", low=0.0, high=1.0),
        "bound": Setting(of_classes.OUTLYING, "anomaly of a class's dispersion from which it is a target", low=0.0),
        "gap": Setting(0.3, "dispersion from which a class is a target where no anomaly reaches its bound", low=0.0),
        "skipped": Setting(0, "convolutions at the beginning that are not looked at", "layers", low=0),
    },
    presets={"paper": {}, "benchmark": {"skipped": 1}},
    departures=(
        "Clean rows are the defender's share of the training split, drawn once; the benchmark draws clean test images "
        "anew for each layer. Those that are classified right count, or all of a class where none is.",
        "The score is how many rounds before the end of absorption a row was absorbed, at most 0 for rows that are not "
        "flagged and the lowest in classes that are no targets; the benchmark gives a decision alone.",
        "Where there are fewer than ten rounds, all but the last count; the benchmark stops with an error.",
        "Convolutions of 1x1 are not looked at.",
    ),
)

WINDOW, BINS, UNSTEADY = 10, 99, 5


def describe(net: Net, weights: Weights, rows: Batch, layers: list[str]) -> list[Array]:
    """The gradient of each row's logit of its label by each layer's output, its mean over pixels: float (b, c) each."""
    shapes = jax.eval_shape(lambda image: net.apply(weights, image)[2], rows.image)
    moved = {name: jnp.zeros(shapes[name].shape, shapes[name].dtype) for name in layers}

    def total(moved):
        edit = {name: (lambda value, name=name: value + moved[name]) for name in layers}
        logits = net.apply(weights, rows.image, edit=edit)[0]
        return jnp.sum(jnp.take_along_axis(logits, rows.label[:, None], axis=1))

    found = jax.grad(total)(moved)
    return [jnp.mean(found[name], (1, 2)) for name in layers]


def cosine(feature: Array, direction: Array) -> Array:
    """The cosine between rows (n, c) and a direction (c,), float (n,); 0 where one is 0."""
    size = jnp.linalg.norm(feature, axis=1) * jnp.linalg.norm(direction)
    return feature @ direction / jnp.where(size > 0, size, 1)


def seed(feature: Array, reference: Array, member: Array) -> Array:
    """The members least like the reference, bool (n,): one, or all of equal ones."""
    likeness = jnp.where(member, cosine(feature, reference), jnp.inf)
    return member & (likeness == jnp.min(likeness))


def mean_of(feature: Array, member: Array) -> Array:
    """The members' mean, float (c,)."""
    weight = member.astype(feature.dtype)
    return weight @ feature / jnp.maximum(jnp.sum(weight), 1)


def dispersion(feature: Array, reference: Array, member: Array) -> Array:
    """||cosines to clean rows less those to the seed|| / sqrt(rows of the class), float ()."""
    first = seed(feature, reference, member)
    apart = cosine(feature, reference) - cosine(feature, mean_of(feature, first))
    rest = (member & ~first).astype(feature.dtype)
    return jnp.sqrt(jnp.sum(rest * apart**2) / jnp.maximum(jnp.sum(member), 1))


def divergence(one: Array, two: Array, edges: Array) -> Array:
    """The Jensen-Shannon distance between histograms of values in [0, 1]; infinite ones are left out; 1 of nothing."""

    def shares(value: Array) -> Array:
        place = jnp.clip(jnp.searchsorted(edges, value, side="right") - 1, 0, BINS - 1)
        count = jnp.zeros(BINS, value.dtype).at[place].add(jnp.isfinite(value))
        return count / jnp.maximum(jnp.sum(count), 1)

    p, q = shares(one), shares(two)
    middle = (p + q) / 2

    def relative(p: Array) -> Array:
        return jnp.sum(jnp.where(p > 0, p * jnp.log(jnp.where(p > 0, p, 1) / jnp.where(middle > 0, middle, 1)), 0))

    empty = (jnp.sum(p) == 0) | (jnp.sum(q) == 0)
    return jnp.where(empty, 1, jnp.sqrt(jnp.maximum((relative(p) + relative(q)) / 2, 0)))


def absorb(feature: Array, reference: Array, member: Array, tau: Array) -> tuple[Array, Array, Array]:
    """(round int32 (n,) at which each member is absorbed, 0 for the seed; rounds (); distances float (n,) by round)."""
    edges = jnp.asarray(np.linspace(0, 1, BINS + 1), feature.dtype)
    from_clean = 1 - cosine(feature, reference)

    def rates(absorbed: Array) -> Array:  # of those left, infinite of others
        from_poison = 1 - cosine(feature, mean_of(feature, absorbed))
        both = from_poison + from_clean
        return jnp.where(member & ~absorbed, from_poison / jnp.where(both > 0, both, 1), jnp.inf)

    def step(state):
        absorbed, before, when, distances, count = state
        rate = rates(absorbed)
        low, high = jnp.min(rate), jnp.max(jnp.where(jnp.isfinite(rate), rate, -jnp.inf))
        spread = high - low
        new = jnp.isfinite(rate) & jnp.where(spread > 0, rate - low <= tau * spread, True)
        left = jnp.where(new, jnp.inf, rate)
        distances = distances.at[count].set(divergence(before, left, edges))
        return absorbed | new, left, jnp.where(new, count + 1, when), distances, count + 1

    first = seed(feature, reference, member)
    empty = jnp.zeros(len(member), feature.dtype)
    start = first, rates(first), jnp.zeros(len(member), jnp.int32), empty, jnp.int32(0)
    _, _, when, distances, count = jax.lax.while_loop(lambda state: jnp.any(member & ~state[0]), step, start)
    return when, count, distances


def choose_round(distances: Array, count: Array) -> Array:
    """How many additions, the seed's among them, are poison: where ten distances are least and steadiest, int32 ()."""
    size = len(distances)
    padded = jnp.pad(distances, (0, WINDOW))
    window = jnp.stack([padded[shift : shift + size] for shift in range(WINDOW)])
    height = jnp.mean(window, 0) + UNSTEADY * jnp.std(window, 0)
    whole = jnp.arange(size) + WINDOW <= count
    start = jnp.argmin(jnp.where(whole, height, jnp.inf)).astype(jnp.int32)
    return jnp.maximum(jnp.where(count < WINDOW, count, start), 1)


def choose_layer(gaps: Array, bound: Array, gap: Array) -> tuple[Array, Array]:
    """(layer (), targets bool (classes,)) from dispersions (layers, classes): by anomaly, else by their height."""
    anomaly = jax.vmap(of_classes.anomaly)(gaps) * (gaps >= jnp.median(gaps, axis=1, keepdims=True))
    layer = jnp.argmax(jnp.max(anomaly, 1))
    late = range(max(len(gaps) - 4, 0), max(len(gaps) - 1, 1))  # the last three layers but one
    high = jnp.asarray(late)[jnp.argmax(jnp.sum(gaps[late.start : late.stop] > gap, 1))]
    found = jnp.max(anomaly) >= bound
    return jnp.where(found, layer, high), jnp.where(found, anomaly[layer] > bound, gaps[high] > gap)


def make(net, shape, classes, *, skipped):
    """Gradients of all layers in one pass, a layer and classes by dispersion, absorption in those classes."""
    del shape
    layers = taps.convolutions(net, "agpd")[skipped:]
    if not layers:
        raise InvalidInput(f"agpd:skipped={skipped}: no convolution is left; give a smaller number")

    def fit(_key, net, trained, given):
        def read(rows):
            right = jnp.argmax(net.apply(trained.weights, rows.image)[0], axis=1) == rows.label
            return describe(net, trained.weights, rows, layers), rows.label, right

        clean, clean_label, right = sources.each(given.clean, read)
        features, label, _ = sources.each(given.suspects, read)

        def counted(number: Array) -> Array:
            own = clean_label == number
            return own & (right | ~jnp.any(own & right))

        def gaps(feature: Array, clean: Array) -> Array:
            def of_class(number: Array) -> Array:
                return dispersion(feature, mean_of(clean, counted(number)), label == number)

            return jax.lax.map(of_class, jnp.arange(classes))

        found = jnp.stack([gaps(*each) for each in zip(features, clean, strict=True)])
        layer, targets = choose_layer(found, given.settings["bound"], given.settings["gap"])
        width = max(feature.shape[1] for feature in features)

        def chosen(each: list[Array]) -> Array:
            wide = [jnp.pad(feature, ((0, 0), (0, width - feature.shape[1]))) for feature in each]
            return jax.lax.switch(layer, [lambda feature=feature: feature for feature in wide])

        feature, reference = chosen(features), chosen(clean)

        def of_class(number: Array) -> Array:
            member = (label == number) & targets[number]
            own = mean_of(reference, counted(number))
            when, count, distances = absorb(feature, own, member, given.settings["tau"])
            return jnp.where(member, choose_round(distances, count) - when, 0)

        score = jnp.sum(jax.lax.map(of_class, jnp.arange(classes)), 0)
        return {"score": jnp.where(targets[label], score, -len(label)), "gaps": found, "layer": layer}

    def score(_key, _net, _trained, found, rows, _given):
        return found["score"][rows.row]

    def threshold(_found, score, _clean, _given):
        return score > 0

    return Detector(("rows",), score, fit, threshold)


AGPD = Method(CARD, make)
