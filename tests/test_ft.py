"""Facts of fine-tuning: two steps by hand, rows that pad a batch count for nothing, and what its variants leave be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdjax import train
from bdjax.cards import lookup
from bdjax.data import sources
from bdjax.defenses.ft import FT
from bdjax.defenses.ft_sam import FT_SAM
from bdjax.errors import InvalidInput
from bdjax.models import MODELS
from bdjax.types import Data, Given, Layer, Net, Weights

SPEC = lookup("ft", {"ft": FT}, "defense")


def two_numbers():
    """A network whose two logits are its two parameters, whatever the image."""

    def apply(weights, image, train=False, weight=None, edit=None):
        logits = jnp.broadcast_to(weights.params["w"], (len(image), 2))
        return logits, weights.batch_stats, {}

    return Net(lambda key: Weights({"w": jnp.zeros(2)}, {}), apply, ())


def tuned(w, rows, **settings):
    data = Data(jnp.zeros((rows, 1, 1, 1), jnp.uint8), jnp.zeros(rows, jnp.int32))
    static = SPEC.static | {name: settings.pop(name) for name in set(settings) & set(SPEC.static)}
    (stage,) = FT.make(two_numbers(), (1, 1, 1), 2, **static)

    def given(operands):
        return Given(
            SPEC.traced | settings, lambda key, image: image, clean=sources.split(operands[0]), victim=operands[1]
        )

    victim = Weights({"w": jnp.asarray(w)}, {})
    return train.fit(jax.random.key(0), stage, given, (data, victim)).weights.params["w"]


def slope(w, smoothing):
    chance = np.exp(w) / np.exp(w).sum()
    return chance - np.array([1 - smoothing, smoothing])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_two_steps_by_hand(smoothing):
    with jax.enable_x64(True):
        found = tuned([1.0, 2.0], 4, epochs=2, batch=4, schedule="constant", learning_rate=0.1, smoothing=smoothing)
    w = np.array([1.0, 2.0])
    first = slope(w, smoothing) + 5e-4 * w
    w = w - 0.1 * first
    second = 0.9 * first + slope(w, smoothing) + 5e-4 * w
    np.testing.assert_allclose(found, w - 0.1 * second, rtol=1e-12)


def test_padding_counts_for_nothing():
    """Five rows in batches of four are two steps, each of the same mean loss as any other batch of such rows."""
    settings = {"epochs": 1, "batch": 4, "schedule": "constant", "learning_rate": 0.1}
    np.testing.assert_allclose(tuned([1.0, 2.0], 5, **settings), tuned([1.0, 2.0], 8, **settings), rtol=1e-6)


def test_rate_falls_with_the_epochs():
    """The cosine over two epochs: the whole rate in the first, half of it in the second."""
    falling = tuned([1.0, 2.0], 4, epochs=2, batch=4, learning_rate=0.1, momentum=0.0, weight_decay=0.0)
    w = np.array([1.0, 2.0])
    for rate in (0.1, 0.05):
        w = w - rate * slope(w, 0.0)
    np.testing.assert_allclose(falling, w, rtol=1e-6)


SHAPE, CLASSES = (8, 8, 3), 3
RECIPE = "epochs=2,batch=8,learning_rate=0.05"


@pytest.fixture(scope="module")
def net():
    return MODELS["small_cnn"].make(SHAPE, CLASSES, (0.5,) * 3, (0.25,) * 3, width=2)


@pytest.fixture(scope="module")
def data():
    image = np.random.default_rng(0).integers(0, 256, (20, *SHAPE), np.uint8)
    return Data(jnp.asarray(image), jnp.arange(20, dtype=jnp.int32) % CLASSES)


def varied(text, net, data):
    """The victim, what the stage begins with and what it leaves."""
    spec = lookup(text, {"ft": FT}, "defense")
    (stage,) = FT.make(net, SHAPE, CLASSES, **spec.static)
    victim, key = net.init(jax.random.key(1)), jax.random.key(2)

    def given(operands):
        return Given(spec.traced, lambda key, image: image, clean=sources.split(operands[0]), victim=operands[1])

    known = given((data, victim))
    begun = train.finish(stage, key, train.begin(stage, key, known, None)[0], known).weights
    return victim, begun, train.fit(key, stage, given, (data, victim)).weights


def rest(weights):
    return {name: layer for name, layer in weights.params.items() if name != "linear"}


def moved(one, two):
    return min(float(jnp.abs(a - b).max()) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True))


@pytest.mark.parametrize("head", ["kept", "new"])
def test_linear_probing_moves_the_head_alone(net, data, head):
    victim, begun, after = varied(f"ft:trained=head,head={head},{RECIPE}", net, data)
    jax.tree.map(np.testing.assert_array_equal, rest(after), rest(victim))
    assert moved(after.params["linear"], begun.params["linear"]) > 1e-4
    assert moved(after.batch_stats, victim.batch_stats) > 1e-4  # statistics adapt all the same


@pytest.mark.parametrize("head", ["kept", "new"])
def test_extractor_tuning_leaves_the_head_as_it_began(net, data, head):
    victim, begun, after = varied(f"ft:trained=features,head={head},{RECIPE}", net, data)
    jax.tree.map(np.testing.assert_array_equal, after.params["linear"], begun.params["linear"])
    assert moved(rest(after), rest(victim)) > 1e-6
    same = jax.tree.map(np.array_equal, begun.params["linear"], victim.params["linear"])
    assert set(same.values()) == {head == "kept"}


def test_a_new_head_is_where_everything_begins_and_everything_moves(net, data):
    victim, begun, after = varied(f"ft:head=new,{RECIPE}", net, data)
    jax.tree.map(np.testing.assert_array_equal, rest(begun), rest(victim))
    assert moved(begun.params["linear"], victim.params["linear"]) > 1e-3
    assert moved(after.params, begun.params) > 1e-6


def test_parts_of_the_first_step_are_those_of_the_whole(net, data):
    """One step of each: what a variant moves, it moves as fine-tuning does."""
    with jax.enable_x64(True):
        step = "epochs=1,batch=20,schedule=constant"
        _, _, whole = varied(f"ft:{step}", net, data)
        _, _, probed = varied(f"ft:trained=head,{step}", net, data)
        _, _, extracted = varied(f"ft:trained=features,{step}", net, data)
        found = (probed.params["linear"], rest(extracted), probed.batch_stats)
        wanted = (whole.params["linear"], rest(whole), whole.batch_stats)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12), found, wanted)


@pytest.mark.parametrize("trained", ["all", "head", "features"])
def test_rescaled_head_has_the_norm_of_the_victims(net, data, trained):
    victim, begun, after = varied(f"ft:head=new,trained={trained},rescale=true,{RECIPE}", net, data)
    norms = [float(jnp.linalg.norm(each.params["linear"]["kernel"])) for each in (victim, begun, after)]
    np.testing.assert_allclose(norms[2], norms[0], rtol=1e-6)
    assert abs(norms[1] - norms[0]) > 1e-3
    if trained == "features":
        one, two = (each.params["linear"]["kernel"] for each in (begun, after))
        np.testing.assert_allclose(two, one * norms[0] / norms[1], rtol=1e-5)


def test_probing_by_hand():
    """One feature 2 and kernel (1, 0), label 0: the slope is 2 (p - 1, 1 - p), that of the bias (p - 1, 1 - p)."""

    def apply(weights, image, train=False, weight=None, edit=None):
        feature = jnp.broadcast_to(weights.params["body"]["scale"], (len(image), 1))
        head = weights.params["head"]
        return feature @ head["kernel"] + head["bias"][None], weights.batch_stats, {}

    net = Net(None, apply, (Layer("head", "linear", ("head",), "head"),))
    text = "ft:trained=head,epochs=1,batch=4,learning_rate=0.1,weight_decay=0"
    spec = lookup(text, {"ft": FT}, "defense")
    (stage,) = FT.make(net, (1, 1, 1), 2, **spec.static)
    head = {"kernel": jnp.array([[1.0, 0.0]]), "bias": jnp.zeros(2)}
    victim = Weights({"body": {"scale": jnp.array(2.0)}, "head": head}, {})
    data = Data(jnp.zeros((4, 1, 1, 1), jnp.uint8), jnp.zeros(4, jnp.int32))
    given = Given(spec.traced, lambda key, image: image, clean=sources.split(data), victim=victim)
    state = stage.init(jax.random.key(0), given, None)
    state, _ = stage.step(jax.random.key(0), state, given.clean.read(jnp.arange(4)), given)
    found, slope = stage.finish(None, state, given).weights.params, 1 - 1 / (1 + np.exp(-2))
    np.testing.assert_allclose(found["head"]["kernel"][0], [1 + 0.2 * slope, -0.2 * slope], rtol=1e-6)
    np.testing.assert_allclose(found["head"]["bias"], [0.1 * slope, -0.1 * slope], rtol=1e-6)
    np.testing.assert_array_equal(found["body"]["scale"], 2)


@pytest.mark.parametrize("variant", ["head=new", "trained=head", "trained=features", "rescale=true"])
def test_variants_need_a_head(variant):
    spec = lookup(f"ft:{variant}", {"ft": FT}, "defense")
    with pytest.raises(InvalidInput, match="linear"):
        FT.make(two_numbers(), (1, 1, 1), 2, **spec.static)


@pytest.mark.parametrize("variant", ["head=new", "trained=head", "rescale=true"])
def test_ft_sam_has_no_variants(variant):
    with pytest.raises(InvalidInput, match="no setting"):
        lookup(f"ft_sam:{variant}", {"ft_sam": FT_SAM}, "defense")
