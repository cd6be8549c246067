"""Facts of NAD: attention maps by hand, the layers they are of, the student's gradient, and the two stages."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdjax import train
from bdjax.cards import lookup
from bdjax.data import sources
from bdjax.defenses.ft import FT
from bdjax.defenses.nad import NAD, distilled, repeated_statistics
from bdjax.defenses.parts.attention import attention, distance, resolved, stage_ends
from bdjax.errors import InvalidInput
from bdjax.models import MODELS
from bdjax.types import Batch, Data, Given, Layer, Net, Weights

METHODS = {"nad": NAD, "ft": FT}
SHAPE, CLASSES = (8, 8, 3), 3


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def network(name="small_cnn", shape=SHAPE, **static):
    return MODELS[name].make(shape, CLASSES, (0.5,) * 3, (0.25,) * 3, **static)


ACTIVATION = np.array([[[1.0, -1.0], [2.0, 0.0]], [[0.0, -2.0], [1.0, 1.0]]])  # height, width, channels


@pytest.mark.parametrize(
    ("power", "expected"), [(2.0, np.array([2, 4, 4, 2]) / np.sqrt(40)), (1.0, np.full(4, 0.5)), (3.0, None)]
)
def test_attention_of_two_by_two_positions_by_hand(power, expected):
    """Channels (1, -1), (2, 0), (0, -2), (1, 1): the squares sum to 2, 4, 4, 2, the amounts to 2 everywhere."""
    expected = np.array([2, 8, 8, 2]) / np.sqrt(136) if expected is None else expected
    found = attention(jnp.asarray(ACTIVATION)[None], power)
    np.testing.assert_allclose(found, expected[None], rtol=1e-6)
    np.testing.assert_allclose(jnp.sum(found**2), 1, rtol=1e-5)


def test_distance_is_a_mean_over_positions_and_real_rows():
    """Maps (1, 0) and (1, 1) / sqrt 2 are 1 - 1 / sqrt 2 apart in mean square; the second row counts for nothing."""
    student = jnp.array([[[[1.0], [1.0]]], [[[5.0], [0.0]]]])
    teacher = jnp.array([[[[3.0], [0.0]]], [[[0.0], [5.0]]]])
    np.testing.assert_allclose(distance(student, teacher, jnp.array([1.0, 0.0]), 2.0), 1 - 0.5**0.5, rtol=1e-5)
    np.testing.assert_allclose(distance(student, teacher, jnp.ones(2), 2.0), (2 - 0.5**0.5) / 2, rtol=1e-5)


def test_attention_of_one_position_says_nothing():
    pooled = jnp.array([[1.0, 2.0], [3.0, -4.0]])
    np.testing.assert_allclose(attention(pooled, 2.0), 1, rtol=1e-5)
    np.testing.assert_allclose(jax.grad(lambda x: jnp.sum(attention(x, 2.0)))(pooled), 0, atol=1e-5)


def test_a_silent_layer_has_a_gradient():
    silent = jnp.zeros((1, 2, 2, 3))
    slope = jax.grad(lambda x: distance(x, jnp.ones_like(x), jnp.ones(1), 2.0))(silent)
    np.testing.assert_array_equal(slope, 0)


def test_layers_are_the_ends_of_the_last_stages():
    small, wide = network(width=1), network("preact_resnet18", width=1)
    assert resolved(small, "stages") == ["relu1", "relu2", "relu3"]
    assert resolved(small, "pooled") == ["relu2", "relu3", "pool"]
    assert stage_ends(wide) == ["conv1", "layer1_1.add", "layer2_1.add", "layer3_1.add", "layer4_1.add"]
    assert resolved(wide, "pooled") == ["layer3_1.add", "layer4_1.add", "pool"]
    assert resolved(network("resnet18", width=1), "stages") == ["layer2_1.relu2", "layer3_1.relu2", "layer4_1.relu2"]
    assert resolved(small, "bn1+relu1+linear") == ["bn1", "relu1", "linear"]


@pytest.mark.parametrize("taps", ["relu1", "relu1+relu2+relu9", "relu1+relu2+relu3+pool", ""])
def test_other_taps_are_refused(taps):
    with pytest.raises(InvalidInput, match="three of conv1"):
        resolved(network(width=1), taps)


def toy():
    """Logits are the parameter `w`; every tap is an activation of two positions, the parameter `a`."""
    layers = tuple(Layer(name, "conv", (), name) for name in ("one", "two", "three"))

    def apply(weights, image, train=False, weight=None, edit=None):
        activation = jnp.broadcast_to(weights.params["a"][None, None, :, None], (len(image), 1, 2, 1))
        logits = jnp.broadcast_to(weights.params["w"], (len(image), 2))
        return logits, weights.batch_stats, dict.fromkeys(("one", "two", "three"), activation)

    return Net(None, apply, layers)


def weights(a, w=(1.0, 2.0)):
    return Weights({"a": jnp.asarray(a), "w": jnp.asarray(w)}, {})


def rows(count):
    zeros = jnp.zeros(count, jnp.int32)
    return Batch(jnp.zeros((count, 1, 1, 1)), zeros, zeros, jnp.ones(count))


def test_gradient_of_the_attention_by_hand():
    """With student (1, 1) and teacher (1, 0) the gap is 1 - a² / sqrt(a⁴ + b⁴), of slope (-1, 1) / sqrt 2."""
    settings = {"beta1": 1.0, "beta2": 20.0, "beta3": 300.0, "power": 2.0}
    taps, batch = ["one", "two", "three"], rows(2)
    student, teacher = weights([1.0, 1.0]), weights([1.0, 0.0], [7.0, 7.0])
    found, _, info = distilled(toy(), taps, False, student, teacher, batch.image, batch, Given(settings, None))
    np.testing.assert_allclose(found["a"], 321 * np.array([-1, 1]) / np.sqrt(2), rtol=1e-5)
    chance = 1 / (1 + np.exp(-1))
    np.testing.assert_allclose(found["w"], [-chance, chance], rtol=1e-9)
    np.testing.assert_allclose(info["attention"], 321 * (1 - 0.5**0.5), rtol=1e-5)
    np.testing.assert_allclose(info["loss"], info["attention"] + np.log(1 + np.e), rtol=1e-9)


def run(text, net, data, victim, **settings):
    """What every stage leaves."""
    spec = lookup(text, METHODS, "defense")
    left = [None]

    def given(operands):
        traced = spec.traced | settings
        return Given(traced, lambda key, image: image, clean=sources.split(operands[0]), victim=operands[1])

    for stage in METHODS[spec.name].make(net, SHAPE, CLASSES, **spec.static):
        left.append(train.fit(jax.random.key(2), stage, given, (data, victim), left[-1]))
    return left[1:]


def slope(w):
    chance = np.exp(w) / np.exp(w).sum()
    return chance - np.array([1, 0])


@pytest.mark.parametrize("nesterov", [False, True])
def test_both_stages_by_hand(nesterov):
    """Two teacher epochs, three of the student, who begins as the victim; the rate falls after each."""
    data = Data(jnp.zeros((4, 1, 1, 1), jnp.uint8), jnp.zeros(4, jnp.int32))
    text = f"nad:teacher_epochs=2,epochs=3,batch=4,drop_every=1,nesterov={nesterov},weight_decay=0,learning_rate=0.5"
    first, last = run(text, toy(), data, weights([2.0, 1.0]))
    teacher, student = first.carry["teacher"], last.weights

    def tuned(epochs):
        w, velocity = np.array([1.0, 2.0]), 0.0
        for epoch in range(epochs):
            g = slope(w)
            velocity = 0.9 * velocity + g
            w = w - 0.5 * 0.1**epoch * (g + 0.9 * velocity if nesterov else velocity)
        return w

    np.testing.assert_allclose(teacher.params["w"], tuned(2), rtol=1e-9)
    np.testing.assert_allclose(student.params["w"], tuned(3), rtol=1e-9)
    np.testing.assert_array_equal(student.params["a"], [2, 1])  # the teacher's attention is the victim's


def test_teacher_may_follow_a_cosine():
    """Half period 2 over two epochs: the whole rate, then half of it; the student's stays."""
    data = Data(jnp.zeros((4, 1, 1, 1), jnp.uint8), jnp.zeros(4, jnp.int32))
    text = "nad:teacher_epochs=2,epochs=2,batch=4,drop_every=0,teacher_period=2,weight_decay=0,momentum=0"
    first, last = run(text, toy(), data, weights([2.0, 1.0]))
    for found, rates in ((first.carry["teacher"], [0.1, 0.05]), (last.weights, [0.1, 0.1])):
        w = np.array([1.0, 2.0])
        for rate in rates:
            w = w - rate * slope(w)
        np.testing.assert_allclose(found.params["w"], w, rtol=1e-9)


@pytest.fixture(scope="module")
def data():
    image = np.random.default_rng(0).integers(0, 256, (20, *SHAPE), np.uint8)
    return Data(jnp.asarray(image), jnp.arange(20, dtype=jnp.int32) % CLASSES)


def test_without_attention_it_is_fine_tuning(data):
    net = network(width=2)
    victim = net.init(jax.random.key(1))
    shape = "epochs=2,batch=8,learning_rate=0.05,weight_decay=1e-3"
    text = f"nad:teacher_epochs=1,drop_every=0,nesterov=false,{shape},beta1=0,beta2=0,beta3=0"
    (plain,) = run(f"ft:schedule=constant,{shape}", net, data, victim)
    student = run(text, net, data, victim)[1]
    close = partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-12)
    jax.tree.map(close, student.weights, plain.weights)


def test_gradient_is_that_of_the_loss(data):
    """A short step along it lowers the loss by its length squared, to first order, and brings the attention nearer."""
    net = network(width=2)
    student, teacher = (net.init(jax.random.key(seed)) for seed in (1, 2))
    batch = sources.split(data).read(jnp.array([0, 1, 2, 3, -1]))
    settings = {"beta1": 10.0, "beta2": 20.0, "beta3": 30.0, "power": 2.0}

    @jax.jit
    def found(student):
        taps = resolved(net, "stages")
        gradient, _, info = distilled(net, taps, False, student, teacher, batch.image, batch, Given(settings, None))
        return gradient, info

    gradient, before = found(student)
    square = sum(float(jnp.sum(leaf**2)) for leaf in jax.tree.leaves(gradient))
    step = 1e-3 / square
    _, after = found(student.replace(params=jax.tree.map(lambda w, g: w - step * g, student.params, gradient)))
    np.testing.assert_allclose(before["loss"] - after["loss"], step * square, rtol=0.05)
    assert after["attention"] < before["attention"]


def test_statistics_move_once_more_for_every_tap_behind(data):
    """`pooled` taps relu2, relu3 and pool: bn1 and bn2 lie before all three, bn3 before two."""
    net = network(width=2)
    before = net.init(jax.random.key(1))
    image = sources.split(data).read(jnp.arange(8)).image
    many = [before.batch_stats]
    for _ in range(4):
        many.append(net.apply(before.replace(batch_stats=many[-1]), image, train=True)[1])
    found = repeated_statistics(net, resolved(net, "pooled"), many[0], many[1])
    for name, times in {"bn1": 4, "bn2": 4, "bn3": 3}.items():
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), found[name], many[times][name])
