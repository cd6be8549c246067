"""DBD, drafted: that its stages fit the types, with several row streams, strong augmentation and a split every epoch.

Huang, Li, Wu, Qin, Ren, Backdoor Defense via Decoupling the Training Process, ICLR 2022, arXiv:2202.03423. What is here
is the shape of the method on one small network, not the method: schedules, the interleaving of MixMatch's batches and
the parameters of the strong augmentation are missing.
"""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bdjax import train
from bdjax.data import images, sources
from bdjax.keys import root, stream
from bdjax.models import MODELS
from bdjax.types import Data, Given, Trained, Weights

SHAPE, CLASSES, ROWS, BATCH = (8, 8, 3), 3, 24, 6
HEAD = "linear"


def network():
    return MODELS["small_cnn"].make(SHAPE, CLASSES, (0.5,) * 3, (0.25,) * 3, width=2)


def part(params, head: bool):
    return {name: value for name, value in params.items() if (name == HEAD) == head}


def features(net, weights, image, train):
    _, batch_stats, taps = net.apply(weights, image, train=train)
    found = taps["pool"]
    return found.reshape(len(found), -1), batch_stats


def strong(key, image):
    """Crop, mirroring, brightness and noise of each image: what stands here for SimCLR's augmentation."""
    dim, noise = (stream(key, name) for name in ("dim", "noise"))
    image = images.augmentation(2, True)(stream(key, "place"), image)
    factor = jax.random.uniform(dim, (len(image), 1, 1, 1), image.dtype, 0.6, 1.4)
    return jnp.clip(factor * image + 0.05 * jax.random.normal(noise, image.shape, image.dtype), 0, 1)


def two_views(key, rows, _epoch, _given):
    return {name: rows.replace(image=strong(stream(key, name), rows.image)) for name in ("first", "second")}


def symmetric(logits, label):
    """0.1 CE + RCE of each row, float (b,)."""
    chance = jnp.take_along_axis(jax.nn.softmax(logits), label[:, None], axis=1)[:, 0]
    return 0.1 * optax.softmax_cross_entropy_with_integer_labels(logits, label) + 9.2103 * (1 - chance)


def contrasting(net, epochs):
    """Self-supervised: NT-Xent of two views, anchors from the first, and a projection head beside the network."""

    def begin(key, _given, _weights):
        first = net.init(stream(key, "init"))
        projection = 0.1 * jax.random.normal(stream(key, "projection"), (8, 4))
        return {"params": first.params, "projection": projection}, first.batch_stats

    def loss(_key, moving, batch_stats, rows, _given):
        both = jnp.concatenate([rows["first"].image, rows["second"].image])
        found, batch_stats = features(net, Weights(moving["params"], batch_stats), both, True)
        found = found @ moving["projection"][: found.shape[1]]
        found = found / (jnp.linalg.norm(found, axis=1, keepdims=True) + 1e-6)
        alike = found @ found.T / 0.5 - 1e9 * jnp.eye(len(found))
        half = len(found) // 2
        own = jax.nn.log_softmax(alike[:half])[jnp.arange(half), half + jnp.arange(half)]
        value = -train.mean(own, rows["first"].weight)
        return value, (batch_stats, {"loss": value})

    return train.descend(
        lambda given: given.train,
        epochs=epochs,
        batch=BATCH,
        begin=begin,
        loss=loss,
        rule=train.sgd(decay=None),
        leave=lambda key, state, given: Trained(Weights(state.moving["params"], state.still)),
        augment=two_views,
    )


def warming(net, epochs):
    """The head alone: statistics of the network move, its weights do not, and Adam's state is handed on."""

    def begin(_key, _given, weights):
        return part(weights.params, True), {"rest": part(weights.params, False), "batch_stats": weights.batch_stats}

    def loss(_key, head, still, rows, _given):
        weights = Weights(still["rest"] | head, still["batch_stats"])
        logits, batch_stats, _ = net.apply(weights, rows.image, train=True, weight=rows.weight)
        value = train.mean(symmetric(logits, rows.label), rows.weight)
        return value, (still | {"batch_stats": batch_stats}, {"loss": value})

    def leave(_key, state, _given):
        weights = Weights(state.still["rest"] | state.moving, state.still["batch_stats"])
        return Trained(weights, {"adam": state.opt_state})

    return train.descend(
        lambda given: given.train,
        epochs=epochs,
        batch=BATCH,
        begin=begin,
        loss=loss,
        rule=train.adam(),
        leave=leave,
    )


def mixing(net, epochs):
    """Semi-supervised: half of the rows keep their labels, chosen anew by their losses before every epoch."""

    def begin(_key, given, weights):
        moving = {"head": part(weights.params, True), "rest": part(weights.params, False)}
        held = {"head": given.carry["adam"], "rest": optax.adam(0.0).init(moving["rest"])}
        pools = {"labelled": jnp.zeros(ROWS // 2, jnp.int32), "unlabelled": jnp.zeros(ROWS // 2, jnp.int32)}
        return moving, {"batch_stats": weights.batch_stats, "pools": pools}, held

    def whole(moving, still):
        return Weights(moving["rest"] | moving["head"], still["batch_stats"])

    def renew(key, moving, still, given):
        def losses(rows):
            image = given.augment(jax.random.fold_in(key, rows.row[0]), rows.image)
            return symmetric(net.apply(whole(moving, still), image)[0], rows.label)

        ranking = jnp.argsort(sources.each(given.train, losses, BATCH)).astype(jnp.int32)
        return still | {"pools": {"labelled": ranking[: ROWS // 2], "unlabelled": ranking[ROWS // 2 :]}}

    def order(key, _epoch, _given, still):
        return {name: pool[train.shuffled(stream(key, name), pool.size, 3)] for name, pool in still["pools"].items()}

    def views(key, rows, _epoch, given):
        def augmented(name, batch):
            return batch.replace(image=given.augment(stream(key, name), batch.image))

        unlabelled = {name: augmented(name, rows["unlabelled"]) for name in ("one", "other")}
        return {"labelled": augmented("labelled", rows["labelled"])} | unlabelled

    def loss(key, moving, still, rows, _given):
        weights = whole(moving, still)
        guesses = [jax.nn.softmax(net.apply(weights, rows[name].image, train=True)[0]) for name in ("one", "other")]
        sharp = jax.lax.stop_gradient(((guesses[0] + guesses[1]) / 2) ** 2)
        sharp = sharp / jnp.sum(sharp, 1, keepdims=True)
        target = jnp.concatenate([jax.nn.one_hot(rows["labelled"].label, CLASSES), sharp, sharp])
        image = jnp.concatenate([rows[name].image for name in ("labelled", "one", "other")])
        share = jax.random.beta(stream(key, "share"), 0.75, 0.75)
        share, turn = jnp.maximum(share, 1 - share), jax.random.permutation(stream(key, "turn"), len(image))
        image, target = (share * both + (1 - share) * both[turn] for both in (image, target))
        logits, batch_stats, _ = net.apply(weights, image, train=True)
        first = len(rows["labelled"].row)
        known = -jnp.mean(jnp.sum(target[:first] * jax.nn.log_softmax(logits[:first]), 1))
        guessed = jnp.mean((jax.nn.softmax(logits[first:]) - target[first:]) ** 2)
        return known + guessed, (still | {"batch_stats": batch_stats}, {"loss": known, "guessed": guessed})

    def rule(given, clock):
        adam = train.adam()(given, clock)
        return train.each({"head": adam, "rest": adam})

    def leave(_key, state, _given):
        return Trained(whole(state.moving, state.still), dict(state.still["pools"]))

    return train.descend(
        lambda given: {"labelled": given.train, "unlabelled": given.train},
        epochs=epochs,
        batch=3,
        begin=begin,
        loss=loss,
        rule=rule,
        leave=leave,
        order=order,
        full=True,
        renew=renew,
        augment=views,
    )


def data() -> Data:
    label = np.arange(ROWS, dtype=np.int32) % CLASSES
    noise = np.random.default_rng(0).integers(0, 120, (ROWS, *SHAPE))
    return Data(jnp.asarray(noise + 60 * label[:, None, None, None], jnp.uint8), jnp.asarray(label))


def given(data: Data) -> Given:
    settings = {"learning_rate": jnp.float32(0.02), "momentum": jnp.float32(0.9)}
    return Given(settings, images.augmentation(1, True), train=sources.split(data))


@pytest.fixture(scope="module")
def left() -> list[Trained]:
    net, found = network(), [None]
    for stage in (contrasting(net, 2), warming(net, 3), mixing(net, 4)):
        found.append(train.fit(root(len(found)), stage, given, data(), found[-1]))
    return found[1:]


def test_the_head_learns_alone_and_its_optimizer_goes_on(left):
    before, after = left[0].weights, left[1].weights
    jax.tree.map(np.testing.assert_array_equal, part(before.params, False), part(after.params, False))
    assert not np.array_equal(before.params[HEAD]["kernel"], after.params[HEAD]["kernel"])
    assert int(left[1].carry["adam"][0].count) == 3 * (ROWS // BATCH)


def test_the_pools_are_a_split_of_all_rows_made_from_their_losses(left):
    pools = left[2].carry
    assert sorted([*pools["labelled"].tolist(), *pools["unlabelled"].tolist()]) == list(range(ROWS))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(left[2].weights))


def test_an_epoch_in_pieces_splits_and_reads_as_at_once(left):
    stage, known = mixing(network(), 2), given(data())._replace(carry=left[1].carry)

    def run(cuts):
        carry = train.begin(stage, root(3), known, left[1].weights)
        advance = jax.jit(lambda carry, epoch, a, b: train.advance(stage, root(3), carry, known, epoch, a, b))
        for epoch in range(2):
            for start, stop in pairwise(cuts):
                carry = advance(carry, epoch, start, stop)
        return carry

    jax.tree.map(np.testing.assert_array_equal, run([0, 4]), run([0, 1, 3, 4]))
