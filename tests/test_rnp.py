"""RNP: the ascent and where it ends, the mask's steps by hand on the unlearned network, and what is pruned of which."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdjax import train
from bdjax.cards import lookup
from bdjax.data.sources import split
from bdjax.defenses import DEFENSES
from bdjax.keys import root, stream
from bdjax.models import MODELS
from bdjax.types import Data, Given, Trained

SHAPE, CLASSES, ROWS = (8, 8, 3), 3, 30


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def network():
    return MODELS["small_cnn"].make(SHAPE, CLASSES, (0.5,) * 3, (0.25,) * 3, width=2)


def data() -> Data:
    label = np.arange(ROWS, dtype=np.int32) % CLASSES
    noise = np.random.default_rng(0).integers(0, 120, (ROWS, *SHAPE))
    return Data(jnp.asarray(noise + 60 * label[:, None, None, None], jnp.uint8), jnp.asarray(label))


def build(settings: str):
    spec = lookup(f"rnp:{settings}", DEFENSES, "defense")
    floats = {name: jnp.asarray(value, float) for name, value in spec.traced.items()}
    net = network()

    def given(operands):
        rows, victim = operands
        return Given(floats, lambda key, image: image, clean=split(rows), victim=victim)

    return DEFENSES["rnp"].make(net, SHAPE, CLASSES, **spec.static), given, net


def trained(net):
    """A network that has learned the rows."""
    settings = {"learning_rate": jnp.array(0.1), "momentum": jnp.array(0.9)}
    stage = train.supervised(net, lambda given: given.clean, epochs=8, batch=15, fresh=True)
    given = Given(settings, lambda key, image: image, clean=split(data()))
    return train.fit(root(3), stage, lambda _: given, ()).weights


def test_unlearning_ascends_with_a_decay_that_shrinks():
    (unlearn, *_), given, net = build(f"batch={ROWS},unlearning_epochs=1,unlearning_rate=0.5,weight_decay=0.1")
    victim = net.init(root(1))
    left = train.fit(root(0), unlearn, given, (data(), victim))
    batch = split(data()).read(jnp.arange(ROWS))
    slope, statistics, _ = train.loss_gradient(net, victim, batch.image, batch)
    expected = jax.tree.map(lambda w, g: w - 0.5 * (-g + 0.1 * w), victim.params, slope)
    unlearned = left.carry["unlearned"]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), unlearned.params, expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), unlearned.batch_stats, statistics)
    jax.tree.map(np.testing.assert_array_equal, left.weights, victim)


def test_unlearning_ends_after_the_pass_that_falls_to_the_bound():
    victim = trained(network())
    after = {}
    for passes in (*range(1, 7), 20):
        (unlearn, *_), given, _ = build(f"batch=15,unlearning_epochs={passes},unlearning_rate=0.2,stop=0.5")
        after[passes] = train.fit(root(0), unlearn, given, (data(), victim)).carry["unlearned"]

    def same(one, two):
        return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True))

    last = next(passes for passes in range(1, 7) if same(after[passes], after[20]))
    assert 1 < last < 6 and all(same(after[passes], after[20]) for passes in range(last, 7))
    assert not same(after[last - 1], after[last])


def test_the_bound_is_one_on_the_rows_of_a_pass_and_not_on_its_steps():
    """A pass of 20 and 10 rows whose accuracies are not alike: at a bound between both means it ends or does not.

    Nothing moves but statistics, so that every pass shows by how often these have moved.
    """
    for seed in range(20):
        (unlearn, *_), given, net = build("batch=20,unlearning_epochs=2,unlearning_rate=0,stop=0")
        known = given((data(), net.init(root(seed))))
        order = unlearn.order(jax.random.fold_in(stream(root(0), "order"), 0), None, 0, known)
        batches = [unlearn.source(known).read(rows) for rows in order]
        right = [float(train.loss_gradient(net, known.victim, rows.image, rows)[2]["accuracy"]) for rows in batches]
        if right[0] < right[1]:
            break
    by_rows, by_steps = (20 * right[0] + 10 * right[1]) / 30, (right[0] + right[1]) / 2
    assert by_rows < by_steps
    left = {}
    for stop in (by_rows - 0.01, by_rows, by_steps - 1e-3):
        (unlearn, *_), given, _ = build(f"batch=20,unlearning_epochs=2,unlearning_rate=0,stop={stop}")
        left[stop] = train.fit(root(0), unlearn, given, (data(), known.victim)).carry["unlearned"].batch_stats
    went_on, *ended = (jax.tree.leaves(one) for one in left.values())
    for one in ended:
        assert not np.array_equal(one[0], went_on[0]) and np.array_equal(one[0], ended[0][0])


def test_the_rate_falls_after_10_passes_and_after_20():
    clock = [train.Clock(jnp.int32(3 * epoch), 3, 40) for epoch in (0, 9, 10, 19, 20, 39)]
    np.testing.assert_allclose([train.falling(10, 20)(one) for one in clock], [1, 1, 0.1, 0.1, 0.01, 0.01])


def test_presets():
    release, benchmark = (lookup(text, DEFENSES, "defense") for text in ("rnp", "rnp:preset=benchmark"))
    assert (release.static["unlearning_epochs"], benchmark.static["unlearning_epochs"]) == (21, 20)


def test_rows_are_a_fixed_random_few():
    (unlearn, recover, _), given, net = build("rows=7")
    known = given((data(), net.init(root(1))))
    sources = [stage.source(known) for stage in (unlearn, recover)]
    assert [source.size for source in sources] == [7, 7]
    images = [source.read(jnp.arange(7)).image for source in sources]
    np.testing.assert_array_equal(*images)
    assert len(set(np.asarray(sources[0].read(jnp.arange(7)).label).tolist())) > 1


def test_a_step_of_the_mask_by_hand():
    text = f"batch={ROWS},recovery_epochs=1,recovery_rate=3,alpha=0.25,momentum=0"
    (_, recover, _), given, net = build(text)
    victim, unlearned = net.init(root(1)), net.init(root(2))
    left = train.fit(root(0), recover, given, (data(), victim), Trained(victim, {"unlearned": unlearned}))
    batch = split(data()).read(jnp.arange(ROWS))
    norms = [layer for layer in net.layers if layer.kind == "norm"]

    def loss(mask):
        params = jax.tree.map(lambda leaf: leaf, unlearned.params)
        for layer in norms:
            place = params
            for name in layer.path[:-1]:
                place = place[name]
            own = place[layer.path[-1]]
            place[layer.path[-1]] = {**own, "scale": own["scale"] * mask[layer.name]}
        logits = net.apply(unlearned.replace(params=params), batch.image, train=True, weight=batch.weight)[0]
        return 0.25 * train.cross_entropy(logits, batch.label, batch.weight)

    ones = {name: jnp.ones_like(value) for name, value in left.carry["mask"].items()}
    expected = jax.tree.map(lambda m, g: jnp.clip(m - 3 * g, 0, 1), ones, jax.grad(loss)(ones))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), left.carry["mask"], expected)
    assert any((value < 1).any() for value in left.carry["mask"].values())
    jax.tree.map(np.testing.assert_array_equal, left.weights, victim)


def test_the_victim_is_pruned_and_not_the_unlearned_network():
    (*_, prune), given, net = build("choose=fixed,threshold=0.7")
    victim = trained(net)
    names = [layer for layer in net.layers if layer.kind == "norm"]
    scale = {layer.name: victim.params[layer.path[0]]["scale"] for layer in names}
    mask = {name: jnp.linspace(0.5, 1, value.size) for name, value in scale.items()}
    after = train.fit(root(0), prune, given, (data(), victim), Trained(victim, {"mask": mask})).weights
    for layer in names:
        expected = jnp.where(mask[layer.name] > 0.7, scale[layer.name], 0)
        np.testing.assert_array_equal(after.params[layer.path[0]]["scale"], expected)
        np.testing.assert_array_equal(after.params[layer.path[0]]["bias"], victim.params[layer.path[0]]["bias"])
    jax.tree.map(np.testing.assert_array_equal, after.batch_stats, victim.batch_stats)


@pytest.mark.parametrize("choose", ["fixed", "valid"])
def test_an_ascent_that_diverged_is_not_hidden(choose):
    """Its masks are no numbers: by them every neuron would be pruned, or none for the accuracy's sake."""
    stages, given, net = build(f"choose={choose},unlearning_rate=1e200,unlearning_epochs=2,recovery_epochs=1,batch=15")
    left = None
    for number, stage in enumerate(stages):
        known = given if choose == "fixed" else lambda operands: given(operands)._replace(valid=split(operands[0]))
        left = train.fit(root(number), stage, known, (data(), net.init(root(1))), left)
    assert any(np.isnan(leaf).any() for leaf in jax.tree.leaves(left.weights))
