"""Facts of ANP: noisy normalisation, the worst perturbation, the step of the mask, and what pruning leaves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdjax import metrics, train
from bdjax.cards import lookup
from bdjax.data import sources
from bdjax.defenses.anp import ANP, Noise, gradient, masked, random_noise, worst
from bdjax.defenses.none import NONE
from bdjax.defenses.parts.pruning import prune_scales
from bdjax.errors import InvalidInput
from bdjax.models import MODELS
from bdjax.types import Batch, Data, Given, Layer, Net, Source, Weights

SHAPE, CLASSES = (8, 8, 3), 3


def one_neuron() -> tuple[Net, Weights]:
    """Logits (scale x + bias, 0) of an image's one pixel x; scale 2, bias 3."""

    def apply(weights, image, train=False, weight=None):
        norm = weights.params["norm"]
        first = norm["scale"] * image[:, 0, 0, 0] + norm["bias"]
        return jnp.stack([first, jnp.zeros_like(first)], axis=1), weights.batch_stats, {}

    params = {"norm": {"scale": jnp.array([2.0]), "bias": jnp.array([3.0])}}
    return Net(None, apply, (Layer("norm", "norm", ("norm",), "norm"),)), Weights(params, {})


def noise(scale: float, bias: float) -> Noise:
    return Noise({"norm": jnp.array([scale])}, {"norm": jnp.array([bias])})


def test_mask_and_noise_by_hand():
    """Out = scale (m + v) x + bias (1 + w): 2 (0.5 + 0.25) = 1.5 and 3 (1 - 0.5) = 1.5; without noise 1 and 3."""
    net, weights = one_neuron()
    found = masked(net, weights, {"norm": jnp.array([0.5])}, noise(0.25, -0.5)).params["norm"]
    np.testing.assert_allclose([found["scale"][0], found["bias"][0]], [1.5, 1.5], rtol=1e-6)
    found = masked(net, weights, {"norm": jnp.array([0.5])}).params["norm"]
    np.testing.assert_allclose([found["scale"][0], found["bias"][0]], [1.0, 3.0], rtol=1e-6)


def test_noisy_normalisation_is_normalisation_with_other_scales():
    """The taps of a norm are scale (m + v) x + bias (1 + w), x normalised by the batch."""
    with jax.enable_x64(True):
        net = MODELS["small_cnn"].make(SHAPE, CLASSES, (0.5,) * 3, (0.25,) * 3, width=2)
        weights = net.init(jax.random.key(0))
        image = jax.random.uniform(jax.random.key(1), (4, *SHAPE))
        ones = {f"bn{number}": jnp.ones(1 << number) for number in (1, 2, 3)}
        weights.params["bn1"]["scale"], weights.params["bn1"]["bias"] = jnp.array([2.0, -1.0]), jnp.array([0.5, 3.0])
        mask = ones | {"bn1": jnp.array([0.5, 1.0])}
        zeros = jax.tree.map(jnp.zeros_like, ones)
        shift = Noise(zeros | {"bn1": jnp.array([0.25, -0.5])}, zeros | {"bn1": jnp.array([0.1, -0.2])})
        taps = net.apply(masked(net, weights, mask, shift), image, train=True)[2]
        x = taps["conv1"]
        normal = (x - x.mean((0, 1, 2))) / jnp.sqrt(x.var((0, 1, 2)) + 1e-5)
        np.testing.assert_allclose(taps["bn1"], normal * jnp.array([1.5, -0.5]) + jnp.array([0.55, 2.4]), rtol=1e-9)


def test_noise_is_within_the_budget_and_differs_from_part_to_part():
    found = random_noise(jax.random.key(0), {"a": jnp.ones(500), "b": jnp.ones(500)}, 0.4)
    values = np.stack(jax.tree.leaves(found))
    assert values.shape == (4, 500) and np.abs(values).max() <= 0.4 and np.abs(values).max() > 0.39
    assert np.abs(np.corrcoef(values) - np.eye(4)).max() < 0.2


@pytest.mark.parametrize(
    ("steps", "project", "expected"),
    [
        (1, False, (0.3 + 0.4, -0.1 - 0.4)),  # past the budget, and not brought back
        (1, True, (0.4, -0.4)),
        (2, False, (0.3 + 2 * 0.2, -0.1 - 2 * 0.2)),  # two steps of half the length
    ],
)
def test_worst_perturbation_steps_by_the_sign(steps, project, expected):
    def cost(noise):
        return 5 * noise.scale["norm"][0] - 0.01 * noise.bias["norm"][0]

    found = worst(cost, noise(0.3, -0.1), 0.4, steps, project)
    np.testing.assert_allclose([found.scale["norm"][0], found.bias["norm"][0]], expected, rtol=1e-6)


def test_gradient_of_the_mask_by_hand():
    """One image x = 1 of class 0, mask 0.5, so logits (a, 0), CE = log(1 + e^-a), dCE/da = -1 / (1 + e^a).

    Clean: a = 2 * 0.5 + 3 = 4. Lowering both scale and bias raises the loss, so noise goes from (0.1, 0.2) by 0.4 to
    (-0.3, -0.2), and a = 2 * 0.2 + 3 * 0.8 = 2.8. da/dm = 2 in both.
    """
    net, weights = one_neuron()
    batch = Batch(jnp.ones((1, 1, 1, 1)), jnp.zeros(1, jnp.int32), jnp.zeros(1, jnp.int32), jnp.ones(1))
    settings = {"budget": 0.4, "alpha": 0.2}
    mask = {"norm": jnp.array([0.5])}
    found, info = gradient(net, weights, mask, noise(0.1, 0.2), batch.image, batch, settings, 1, False)
    slope = 0.2 * -2 / (1 + np.exp(4)) + 0.8 * -2 / (1 + np.exp(2.8))
    np.testing.assert_allclose(found["norm"], [slope], rtol=1e-5)
    np.testing.assert_allclose(info["robust_loss"], np.log1p(np.exp(-2.8)), rtol=1e-5)
    value = 0.2 * np.log1p(np.exp(-4)) + 0.8 * np.log1p(np.exp(-2.8))
    np.testing.assert_allclose(info["loss"], value, rtol=1e-5)


def learnt(text: str, label: int) -> list[float]:
    """The mask of one_neuron after each of two steps on the image 1 of this class."""
    net, weights = one_neuron()
    spec = lookup(text, {"anp": ANP}, "defense")
    stage = ANP.make(net, (1, 1, 1), 2, **spec.static)[0]
    rows = Batch(jnp.ones((1, 1, 1, 1)), jnp.full(1, label), jnp.zeros(1, jnp.int32), jnp.ones(1))
    given = Given(spec.traced, lambda key, image: image, clean=Source(1, lambda row: rows), victim=weights)
    state, seen = stage.init(None, given, None), []
    for number in range(2):
        state, _ = stage.step(jax.random.key(number), state, rows, given)
        left = stage.finish(None, state, given)
        jax.tree.map(np.testing.assert_array_equal, left.weights, weights)
        seen.append(float(left.carry["mask"]["norm"][0]))
    return seen


def test_steps_of_the_mask_by_hand():
    """Class 1, budget 0: dCE/dm = 2 / (1 + e^-(2m + 3)) from m = 1; rate 0.01, momentum 0.9."""
    mask, speed, expected = 1.0, 0.0, []
    for _ in range(2):
        speed = 0.9 * speed + 2 / (1 + np.exp(-2 * mask - 3))
        mask -= 0.01 * speed
        expected.append(mask)
    np.testing.assert_allclose(learnt("anp:learning_rate=0.01,budget=0", 1), expected, rtol=1e-5)


def test_mask_is_clipped_at_both_ends():
    """Of class 0 the loss falls with the mask, of class 1 with its opposite."""
    assert learnt("anp:learning_rate=100", 0) == [1.0, 1.0]
    assert learnt("anp:learning_rate=100", 1) == [0.0, 0.0]


def test_pruning_takes_the_scale_and_keeps_the_bias():
    net = MODELS["preact_resnet18"].make(SHAPE, CLASSES, (0.5,) * 3, (0.25,) * 3, width=2)
    weights = net.init(jax.random.key(0))
    norms = [layer for layer in net.layers if layer.kind == "norm"]
    mask = {layer.name: jnp.ones(weights.params[layer.path[0]][layer.path[1]]["scale"].shape) for layer in norms}
    mask["layer2_0.bn2"] = jnp.array([0.2, 0.21, 0.0, 1.0])
    after = prune_scales(net, weights, mask, jnp.array(0.2))
    # At the threshold counts as below it, and what stays has its scale whole, not times its mask.
    np.testing.assert_array_equal(after.params["layer2_0"]["bn2"]["scale"], [0, 1, 0, 1])
    after.params["layer2_0"]["bn2"]["scale"] = weights.params["layer2_0"]["bn2"]["scale"]
    jax.tree.map(np.testing.assert_array_equal, after, weights)


@pytest.fixture(scope="module")
def trained():
    """A small network that has learnt bright bands, its data, and ANP's stages run on it."""
    net = MODELS["small_cnn"].make(SHAPE, CLASSES, (0.5,) * 3, (0.25,) * 3, width=2)
    label = np.arange(30, dtype=np.int32) % CLASSES
    image = np.random.default_rng(0).integers(0, 100, (30, *SHAPE), np.uint8)
    for number in range(CLASSES):
        image[label == number, 2 * number : 2 * number + 2] += 120
    data = Data(jnp.asarray(image), jnp.asarray(label))
    recipe = lookup("none:epochs=20,batch=10,learning_rate=0.1", {"none": NONE}, "defense")
    (stage,) = NONE.make(net, SHAPE, CLASSES, **recipe.static)
    given = lambda data: Given(recipe.traced, lambda key, image: image, train=sources.split(data))  # noqa: E731
    return net, data, train.fit(jax.random.key(0), stage, given, data).weights


def run(trained, text):
    net, data, victim = trained
    spec = lookup(text, {"anp": ANP}, "defense")
    left = None
    for stage in ANP.make(net, SHAPE, CLASSES, **spec.static):

        def given(operands):
            rows = sources.split(operands[0])
            return Given(spec.traced, lambda key, image: image, clean=rows, valid=rows, victim=operands[1])

        left = train.fit(jax.random.key(1), stage, given, (data, victim), left)
    return left


def test_only_scales_change_and_masks_are_handed_on(trained):
    left = run(trained, "anp:iterations=30,batch=10,choose=fixed")
    masks, victim = left.carry["mask"], trained[2]
    assert set(masks) == {"bn1", "bn2", "bn3"}
    cut = 0
    for name, mask in masks.items():
        assert mask.min() >= 0 and mask.max() <= 1
        expected = np.where(np.asarray(mask) <= np.float32(0.9), 0, victim.params[name]["scale"])
        np.testing.assert_array_equal(left.weights.params[name]["scale"], expected)
        np.testing.assert_array_equal(left.weights.params[name]["bias"], victim.params[name]["bias"])
        cut += int(np.sum(expected == 0))
    assert 0 < cut < 14
    jax.tree.map(np.testing.assert_array_equal, left.weights.batch_stats, victim.batch_stats)


def test_chosen_on_held_out_rows_it_loses_no_more_than_allowed(trained):
    net, data, victim = trained
    rows = sources.split(data)
    before = float(metrics.accuracy(net, victim, rows))
    after = run(trained, "anp:iterations=30,batch=10,threshold=1,choose=valid,allowed=0.2").weights
    assert before > 0.9 and before - float(metrics.accuracy(net, after, rows)) <= 0.2 + 1e-6
    assert any(float(jnp.min(jnp.abs(after.params[name]["scale"]))) == 0 for name in ("bn1", "bn2", "bn3"))


def test_presets():
    paper, benchmark = (lookup(f"anp:preset={preset}", {"anp": ANP}, "defense") for preset in ("paper", "benchmark"))
    assert ANP.card.needs_of(paper.static) == ("clean", "victim", "valid")
    assert set(ANP.card.needs_of(benchmark.static)) == {"clean", "victim", "test", "queries", "target"}
    # 19 thresholds, 0 to 0.9 by 0.05; masks learn at a twentieth of the authors' rate.
    assert (benchmark.static["tried"], benchmark.traced["threshold"]) == (19, 0.9)
    assert (paper.traced["learning_rate"], benchmark.traced["learning_rate"]) == (0.2, 0.01)


def test_a_network_without_norms_is_refused():
    net = Net(None, None, (Layer("linear", "linear", ("linear",), "linear"),))
    with pytest.raises(InvalidInput, match="anp"):
        ANP.make(net, SHAPE, CLASSES, **lookup("anp", {"anp": ANP}, "defense").static)
