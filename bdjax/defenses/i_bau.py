"""I-BAU: unlearn the worst universal perturbation, with the gradient that knows how it depends on the weights.

Zeng, Chen, Park, Mao, Jin, Jia, Adversarial Unlearning of Backdoors via Implicit Hypergradient, ICLR 2022,
arXiv:2110.03735, section 3 and algorithm 1: a round looks for one perturbation of all clean rows that raises their loss
most, then lowers the loss of perturbed rows by the hypergradient, whose implicit half is a truncated Neumann series of
Hessian products. The network runs in inference mode throughout. Steps and constants are those of the authors' released
code. One step of the stage is a whole round, which the curves show as an epoch.
"""

import jax
import jax.numpy as jnp
import optax
from flax import struct

from bdjax import train
from bdjax.cards import Card, Method, Setting
from bdjax.keys import stream
from bdjax.train import optimizers
from bdjax.types import Array, Batch, Key, Net, PyTree, Stage, Trained, Weights, real

CARD = Card(
    name="i_bau",
    title="I-BAU",
    citation="Zeng, Chen, Park, Mao, Jin, Jia, Adversarial Unlearning of Backdoors via Implicit Hypergradient, ICLR "
    "2022, arXiv:2110.03735",
    year=2022,
    version=1,
    kind="adversarial unlearning",
    stage="post-training",
    needs=("clean", "victim"),
    changes="all parameters; moving statistics stay those of the victim",
    settings={
        "rounds": Setting(5, "of a new perturbation and a pass of unlearning", "rounds", low=1),
        "batch": Setting(100, "rows a step; the whole clean set where that is smaller", "rows", low=1),
        "learning_rate": Setting(1e-3, "of the optimizer of the weights, constant", low=0.0),
        "optimizer": Setting("adam", "of the weights", choices=("adam", "amsgrad")),
        "inner_rate": Setting(10.0, "learning rate of the perturbation, one pass of SGD without momentum", low=0.0),
        "regularizer": Setting(1e-3, "of the perturbation's squared length in both inner problems", low=0.0),
        "radius": Setting(10.0, "longest perturbation, Euclidean, in its unit; 0: no bound", low=0.0),
        "unit": Setting(1.0, "what a value 1 of the perturbation adds to a pixel", "pixels in [0, 1]", low=0.0),
        "terms": Setting(5, "of the Neumann series", low=1),
        "implicit_rate": Setting(0.1, "step of the gradient map whose fixed point the series differentiates", low=0.0),
        "one_in": Setting(100, "one row of a batch in so many is perturbed while unlearning, rounded down", low=1),
        "least": Setting(1, "rows of a batch that are perturbed at least", "rows", low=0),
        "augment": Setting(False, "augment clean rows: once for all unlearning, anew for every perturbation"),
    },
    presets={
        "paper": {},
        "benchmark": {
            "batch": 256,
            "learning_rate": 1e-4,
            "optimizer": "amsgrad",
            "radius": 0.0,
            "unit": 0.25,
            "least": 0,
            "augment": True,
        },
    },
    departures=(
        "The paper's objective perturbs all rows; the authors' released code perturbs one in a hundred while it "
        "unlearns, as is the default here. That rounds to none in batches under 100; here one row is always perturbed.",
        "The Hessian of the series is that of the first batch, as in the released code, not that of all clean rows.",
        "The radius is that of the authors' CIFAR-10 notebook; their script leaves it out, as the benchmark does. What "
        "their GTSRB notebook does besides, cutting images to [0, 1] and Adam for the perturbation, is left out.",
        "Clean rows are the defender's training rows; the authors take 5,000 test images. Batches are drawn at random, "
        "once for unlearning and anew for each perturbation, as in the benchmark; the authors take rows as stored.",
        "The benchmark's perturbation is one of normalised values. That is the same as a unit of the dataset's own "
        "deviation a channel, for which 0.25 stands: CIFAR-10's are 0.247, 0.243 and 0.261.",
    ),
)


def hypergradient(outer, inner, delta: Array, params: PyTree, rate, terms: int) -> tuple[Array, PyTree]:
    """The value of `outer` and its gradient in params where delta is a minimiser of `inner` that follows them.

    With the map F(delta, params) = delta - rate d inner / d delta, H the Hessian of inner and g = d outer / d delta:
    v = sum over k < terms of (I - rate H)^k g, and the gradient is d outer / d params + (dF / d params)^T v. As terms
    grow it tends to the implicit one where rate H is positive and below 2. Reverse mode twice, no forward mode.

    Args:
        outer, inner: (delta, params) -> ().
        delta: the minimiser, or near it.
        params: any tree.
        rate: of the map.
        terms: of the series.
    """
    value, (slope, direct) = jax.value_and_grad(outer, argnums=(0, 1))(delta, params)
    _, pull = jax.vjp(lambda delta, params: delta - rate * jax.grad(inner)(delta, params), delta, params)
    series = jax.lax.fori_loop(0, terms, lambda _, v: pull(v)[0] + slope, jnp.zeros_like(delta))
    return value, jax.tree.map(jnp.add, direct, pull(series)[1])


def marked(key: Key, weight: Array, one_in: int, least: int) -> Array:
    """The rows of a batch to perturb, float (b,): random ones of weight 1, one in `one_in` and at least `least`."""
    count = jnp.maximum(jnp.sum(weight).astype(jnp.int32) // one_in, least)
    place = jnp.argsort(jnp.argsort(jnp.where(weight > 0, jax.random.uniform(key, weight.shape, weight.dtype), 2)))
    return (place < count) * weight


def perturbed(delta: Array, batch: Batch, settings, mark: Array | None = None) -> Array:
    """Images with delta (height, width, channels) added, in its unit; with mark (b,) to the rows where that is 1."""
    moved = settings["unit"] * delta[None]
    return batch.image + (moved if mark is None else moved * mark[:, None, None, None])


def inner_loss(net: Net, weights: Weights, delta: Array, batch: Batch, label: Array, settings) -> Array:
    """What the perturbation descends: minus the cross-entropy of perturbed rows, plus its regulariser."""
    logits = net.apply(weights, perturbed(delta, batch, settings))[0]
    return -train.cross_entropy(logits, label, batch.weight) + settings["regularizer"] * jnp.sum(delta**2)


def ascended(net: Net, weights: Weights, delta: Array, batch: Batch, settings) -> Array:
    """The perturbation after one more step away from what the network says of the clean images."""
    label = jnp.argmax(net.apply(weights, batch.image)[0], axis=1)
    slope = jax.grad(inner_loss, argnums=2)(net, weights, delta, batch, label, settings)
    return delta - settings["inner_rate"] * slope


def bounded(delta: Array, radius: Array) -> Array:
    """The perturbation, scaled to be `radius` long at most; as it is where radius is 0."""
    length = jnp.sqrt(jnp.sum(delta**2))
    return delta * jnp.where(radius > 0, jnp.minimum(1, radius / jnp.maximum(length, 1e-12)), 1)


def unlearning_gradient(net, weights: Weights, delta, first: Batch, batch: Batch, mark, settings, terms: int):
    """The outer loss on `batch`, of which rows `mark` are perturbed, and its hypergradient in params.

    The inner problem is that of the batch `first` under its true labels.
    """

    def outer(delta, params):
        logits = net.apply(weights.replace(params=params), perturbed(delta, batch, settings, mark))[0]
        return train.cross_entropy(logits, batch.label, batch.weight)

    def inner(delta, params):
        return inner_loss(net, weights.replace(params=params), delta, first, first.label, settings)

    return hypergradient(outer, inner, delta, weights.params, settings["implicit_rate"], terms)


@struct.dataclass
class State:
    """What is carried from round to round."""

    weights: Weights
    opt_state: PyTree
    rows: Array  # int32 (batches, batch): those of unlearning, the same in every round
    frozen: Array  # uint32 (2,): the key of their augmentation


def make(net, shape, classes, *, rounds, batch, optimizer, terms, one_in, least, augment):
    """Rounds of one perturbation pass and one unlearning pass over the clean rows."""
    del classes
    rule = {"adam": optax.adam, "amsgrad": optimizers.amsgrad}[optimizer]

    def read(key, rows, given):
        found = given.clean.read(rows)
        return found.replace(image=given.augment(key, found.image)) if augment else found

    def init(key, given, weights):
        weights = train.start(given, weights)
        rows = train.shuffled(stream(key, "rows"), given.clean.size, batch)
        return State(weights, rule(0.0).init(weights.params), rows, jax.random.key_data(stream(key, "augment")))

    def order(key, _state, _epoch, given):
        return train.shuffled(key, given.clean.size, batch).reshape(1, -1)

    def perturb(key, state, rows, given):
        def ascend(index, delta):
            fresh = read(jax.random.fold_in(key, index), rows[index], given)
            return ascended(net, state.weights, delta, fresh, given.settings)

        return bounded(jax.lax.fori_loop(0, len(rows), ascend, jnp.zeros(shape, real())), given.settings["radius"])

    def unlearn(key, delta, state, given):
        frozen = jax.random.wrap_key_data(state.frozen, impl="threefry2x32")
        first = read(jax.random.fold_in(frozen, 0), state.rows[0], given)

        def body(index, carry):
            weights, kept, total = carry
            rows = read(jax.random.fold_in(frozen, index), state.rows[index], given)
            mark = marked(jax.random.fold_in(key, index), rows.weight, one_in, least)
            value, slope = unlearning_gradient(net, weights, delta, first, rows, mark, given.settings, terms)
            updates, kept = rule(given.settings["learning_rate"]).update(slope, kept)
            return weights.replace(params=optax.apply_updates(weights.params, updates)), kept, total + value

        start = state.weights, state.opt_state, jnp.zeros((), real())
        weights, kept, total = jax.lax.fori_loop(0, len(state.rows), body, start)
        return state.replace(weights=weights, opt_state=kept), total / len(state.rows)

    def step(key, state, rows, given):
        delta = perturb(stream(key, "perturb"), state, rows.row.reshape(state.rows.shape), given)
        state, loss = unlearn(stream(key, "mark"), delta, state, given)
        return state, {"loss": loss, "length": jnp.sqrt(jnp.sum(delta**2))}

    def finish(_key, state, _given):
        return Trained(state.weights)

    return (Stage(lambda given: given.clean, rounds, init, order, step, finish),)


I_BAU = Method(CARD, make)
