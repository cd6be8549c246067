"""What every network promises, and batch normalisation, initialisation and taps by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from bdjax.errors import InvalidInput
from bdjax.io import datasets
from bdjax.io.datasets.splits import Splits
from bdjax.models import MODELS
from bdjax.models.airbench import whitening
from bdjax.models.parts.batch_norm import batch_norm, moments, standardize
from bdjax.models.parts.layers import BatchNorm, Pass, pad_to_multiple

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
SMALL = {name: {"width": 2} for name in ("small_cnn", "preact_resnet18", "resnet18", "airbench")}
COUNTS = {"small_cnn": 6_418, "preact_resnet18": 11_171_146, "resnet18": 11_173_962, "airbench": 1_972_514}
IMAGES = np.random.default_rng(0).uniform(size=(5, 9, 9, 3))


def small(name, mean=MEAN, std=STD, **settings):
    return tiny.network(name, (9, 9, 3), 4, mean, std, **SMALL[name], **settings)


@pytest.fixture
def _float64():
    with jax.enable_x64(True):
        yield


def close(ours, theirs):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11), ours, theirs)


@pytest.mark.parametrize("name", SMALL)
def test_parameters_are_as_many_as_published(name):
    net = tiny.network(name, (32, 32, 3), 10, MEAN, STD)
    params = jax.eval_shape(net.init, jax.random.key(0)).params
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == COUNTS[name]


@pytest.mark.parametrize("name", SMALL)
def test_card(name):
    card = MODELS[name].card
    static = {key: setting.default for key, setting in card.settings.items()}
    net = tiny.network(name, (card.smallest, card.smallest, 1), 3, (0.5,), (0.25,), **static)
    logits = jax.eval_shape(
        lambda key: net.apply(net.init(key), jnp.zeros((2, card.smallest, card.smallest, 1)))[0], jax.random.key(0)
    )
    assert logits.shape == (2, 3)
    assert card.name == name and not any(setting.traced for setting in card.settings.values())


@pytest.mark.parametrize("name", SMALL)
def test_layers_name_the_parameters_and_the_taps_in_forward_order(name):
    net = small(name)
    weights = jax.jit(net.init)(jax.random.key(0))
    _, _, taps = jax.jit(net.apply)(weights, IMAGES.astype(np.float32))
    assert sorted(taps) == sorted(layer.tap for layer in net.layers)
    assert [layer.kind for layer in net.layers[-2:]] == ["pool", "linear"]
    kinds = {"conv", "norm", "relu", "gelu", "whiten", "add", "pool", "linear"}
    assert {layer.kind for layer in net.layers} <= kinds
    found = {layer.path for layer in net.layers if layer.path}
    paths = {tuple(entry.key for entry in path[:-1]) for path, _ in jax.tree_util.tree_leaves_with_path(weights.params)}
    assert found == paths
    assert all(bool(layer.path) == (layer.kind in ("conv", "norm", "linear", "whiten")) for layer in net.layers)


def test_the_input_of_the_last_block_s_first_convolution_can_be_tapped():
    names = [layer.tap for layer in small("preact_resnet18").layers]
    place = names.index("layer4_1.conv1")
    assert names[place - 2 : place] == ["layer4_1.bn1", "layer4_1.relu1"]


@pytest.mark.parametrize("name", SMALL)
def test_edits(name, _float64):
    net = small(name)
    weights = jax.jit(net.init)(jax.random.key(0))
    logits, _, taps = net.apply(weights, IMAGES)
    edited, _, seen = net.apply(weights, IMAGES, edit={"pool": lambda x: 0 * x})
    close(edited, np.broadcast_to(weights.params["linear"]["bias"], (5, 4)))
    assert not np.any(seen["pool"])
    again = net.apply(weights, IMAGES, edit={layer.tap: lambda x: x for layer in net.layers})[0]
    close(again, logits)
    close(taps["linear"], logits)
    first = net.layers[0].tap
    swapped = net.apply(weights, IMAGES, edit={first: lambda x: x[::-1]})[0]
    close(swapped, logits[::-1])
    with pytest.raises(InvalidInput, match=r"no tap 'relu99'.*conv1, .*linear"):
        net.apply(weights, IMAGES, edit={"relu99": lambda x: x})


@pytest.mark.parametrize("name", SMALL)
def test_initialisation_is_torch_s(name):
    net = tiny.network(name, (9, 9, 3), 10, MEAN, STD, width=16)
    weights = jax.jit(net.init)(jax.random.key(3))
    assert type(weights.params) is dict and type(weights.batch_stats) is dict
    for layer in net.layers:
        place = weights.params
        for part in layer.path:
            place = place[part]
        if layer.kind == "norm":
            assert np.all(place["scale"] == 1) and np.all(place["bias"] == 0)
        elif layer.kind == "whiten":
            assert list(place) == ["bias"] and not np.any(place["bias"])
        elif layer.path:
            kernel = np.asarray(place["kernel"])
            limit = np.prod(kernel.shape[:-1]) ** -0.5
            if name == "airbench" and layer.kind == "conv":
                kernel = without_identity(kernel)
            assert np.abs(kernel).max(initial=0) <= limit
            # The mean square of n uniform draws is limit^2/3 with standard error limit^2 sqrt(4/45/n).
            assert kernel.size == 0 or abs(np.mean(kernel**2) / limit**2 - 1 / 3) < 5 * np.sqrt(4 / 45 / kernel.size)
            assert np.abs(place.get("bias", np.zeros(1))).max() <= limit
    assert np.any(weights.params["linear"]["bias"] != 0)
    other = jax.jit(net.init)(jax.random.key(4))
    assert np.any(other.params["linear"]["kernel"] != weights.params["linear"]["kernel"])


def without_identity(kernel):
    """The output channels beyond those that begin as input channels handed on."""
    kept = min(kernel.shape[2:])
    identity = np.zeros((*kernel.shape[:2], kernel.shape[2], kept))
    identity[1, 1, range(kept), range(kept)] = 1
    np.testing.assert_array_equal(kernel[..., :kept], identity)
    return kernel[..., kept:]


def test_whitening_gives_variance_one_along_every_axis_and_its_opposite():
    """Of patches with the covariance that it was made for; where the variance is far above what is added to it."""
    mixing = np.random.default_rng(0).normal(size=(8, 8))
    patches = np.random.default_rng(1).normal(size=(200, 8)) @ mixing
    kernel = whitening(patches.T @ patches / len(patches)).reshape(8, 16)
    seen = patches @ kernel
    np.testing.assert_allclose(seen[:, :8], -seen[:, 8:], rtol=1e-12)
    covariance = seen[:, :8].T @ seen[:, :8] / len(seen)
    np.testing.assert_allclose(covariance, np.diag(np.diag(covariance)), atol=1e-9)
    spread = np.linalg.eigvalsh(patches.T @ patches / len(patches))[::-1]
    np.testing.assert_allclose(np.diag(covariance), spread / (spread + 5e-4), rtol=1e-9)


def test_whitening_of_a_dataset_is_of_its_own_2x2_pixels(tmp_path):
    """By hand for one training image of 3x3 grey pixels, normalised by its own mean and deviation."""
    pixels = np.arange(9, dtype=np.uint8).reshape(1, 3, 3, 1)
    image, label = np.concatenate([pixels, pixels]), np.arange(2, dtype=np.int32)
    found = datasets.dataset(Splits(("a", "b"), image, label, image, label), "pixels", "1")
    normal = (np.arange(9).reshape(3, 3) - 4) / np.std(np.arange(9))
    patches = np.array([normal[r : r + 2, c : c + 2].ravel() for r in range(2) for c in range(2)])
    np.testing.assert_allclose(found.covariance, patches.T @ patches / 4, rtol=1e-5)


def test_kernels_share_no_numbers():
    weights = small("preact_resnet18").init(jax.random.key(0))
    drawn = np.concatenate([np.abs(leaf).ravel() for leaf in jax.tree.leaves(weights.params) if leaf.ndim > 1])
    assert len(np.unique(drawn)) > 0.99 * drawn.size


def norm(x, weight=None, train=True):
    x = jnp.asarray(x, float)
    run = Pass(train, weight)
    variables = BatchNorm(name="bn").init(jax.random.key(0), x, Pass())
    value, changed = BatchNorm(name="bn").apply(variables, x, run, mutable=["batch_stats"])
    return value, changed["batch_stats"]


@pytest.mark.parametrize("weight,rows", [(None, 2), ((1.0, 1.0, 0.0), 3)])
def test_batch_normalisation_by_hand(weight, rows, _float64):
    x = np.array([1.0, 3.0, 100.0])[:rows, None]
    value, stats = norm(x, None if weight is None else jnp.array(weight))
    close(value[:2, 0], np.array([-1, 1]) / np.sqrt(1 + 1e-5))
    close(stats, {"mean": [0.9 * 0 + 0.1 * 2], "var": [0.9 * 1 + 0.1 * 2]})


def test_the_derivatives_of_batch_normalisation_are_those_that_tracing_finds(_float64):
    """First and second ones, by every result, with two of five rows that do not count."""
    keys = jax.random.split(jax.random.key(0), 5)
    shapes = {"x": (5, 3, 2, 4), "scale": (4,), "bias": (4,)}
    given = {name: jax.random.normal(key, shape) for key, (name, shape) in zip(keys, shapes.items(), strict=False)}
    weight, mix = jnp.array([1.0, 1, 0, 1, 0]), jax.random.normal(keys[3], shapes["x"])

    def traced(x, weight, scale, bias):
        mean, variance, count = moments(x, weight)
        return standardize(x, mean, variance, scale, bias), mean, variance, count

    def loss(function, given):
        value, mean, variance, _ = function(given["x"], weight, given["scale"], given["bias"])
        return jnp.sum(jnp.sin(mix * value)) + jnp.sum(mean**2) + jnp.sum(jnp.exp(variance))

    def second(function, given):
        slope = jax.grad(functools.partial(loss, function))(given)
        return sum(jnp.sum(jnp.cos(leaf) * leaf) for leaf in jax.tree.leaves(slope))

    for derivative in (loss, second):
        found, wanted = (jax.grad(functools.partial(derivative, function))(given) for function in (batch_norm, traced))
        close(found, wanted)


def test_batch_normalisation_counts_pixels(_float64):
    x = np.arange(8.0).reshape(2, 2, 2, 1)
    _, stats = norm(x)
    close(stats, {"mean": [0.35], "var": [0.9 + 0.1 * np.var(np.arange(8), ddof=1)]})


def test_a_batch_of_padding_changes_nothing(_float64):
    value, stats = norm(np.array([[2.0], [4.0]]), jnp.zeros(2))
    close(stats, {"mean": [0.0], "var": [1.0]})
    assert np.all(np.isfinite(value))


@pytest.mark.parametrize("name", SMALL)
def test_padding_does_not_count(name, _float64):
    net = small(name)
    weights = jax.jit(net.init)(jax.random.key(0))
    padded, stats, _ = net.apply(weights, IMAGES, train=True, weight=jnp.array([1.0, 1, 1, 0, 0]))
    alone, expected, _ = net.apply(weights, IMAGES[:3], train=True)
    close((padded[:3], stats), (alone, expected))


@pytest.mark.parametrize("name", SMALL)
def test_evaluation_changes_no_statistics_and_mixes_no_rows(name, _float64):
    net = small(name)
    weights = jax.jit(net.init)(jax.random.key(0))
    logits, batch_stats, _ = net.apply(weights, IMAGES)
    assert batch_stats is weights.batch_stats
    close(net.apply(weights, IMAGES[1:2])[0], logits[1:2])


def test_sides_are_padded_below_and_to_the_right_to_a_multiple():
    padded = pad_to_multiple(jnp.ones((2, 5, 8, 3)), 4)
    assert padded.shape == (2, 8, 8, 3)
    assert (padded[:, :5] == 1).all() and (padded[:, 5:] == 0).all()


def test_images_are_normalised_inside(_float64):
    inside, outside = small("small_cnn"), small("small_cnn", (0.0,) * 3, (1.0,) * 3)
    weights = inside.init(jax.random.key(0))
    by_hand = (IMAGES - np.array(MEAN)[None, None, None]) / np.array(STD)[None, None, None]
    close(inside.apply(weights, IMAGES)[0], outside.apply(weights, by_hand)[0])


@pytest.mark.parametrize("lift", [jax.vmap, lambda one: functools.partial(jax.lax.map, one)])
def test_many_models_are_each_alone(lift, _float64):
    """A training gradient with padding, through convolutions, normalisation and initialisation."""
    net = small("small_cnn")
    weight = jnp.array([1.0, 1, 1, 1, 0])

    def gradient(key):
        weights = net.init(key)

        def loss(params):
            logits, batch_stats, _ = net.apply(weights.replace(params=params), IMAGES, train=True, weight=weight)
            return jnp.sum(weight[:, None] * logits**2), batch_stats

        return jax.grad(loss, has_aux=True)(weights.params)

    keys = jax.random.split(jax.random.key(0), 2)
    many = jax.jit(lift(gradient))(keys)
    assert {leaf.dtype for leaf in jax.tree.leaves(many)} == {jnp.dtype("float64")}
    alone = jax.jit(gradient)
    for place, key in enumerate(keys):
        close(jax.tree.map(lambda leaf, place=place: leaf[place], many), alone(key))


@pytest.mark.parametrize("name", ["small_cnn", "preact_resnet18"])
def test_bfloat16_is_between_layers_alone(name):
    """Logits differ by the rounding of some 20 layers to 8 bits, and nothing that is kept is rounded."""
    net, rounded = small(name), small(name, precision="bfloat16")
    weights, images = jax.jit(net.init)(jax.random.key(0)), IMAGES[:, :8, :8].astype(np.float32)
    logits, _, taps = net.apply(weights, images)
    near, _, near_taps = rounded.apply(weights, images)
    difference = np.linalg.norm(near - logits) / np.linalg.norm(logits)
    assert 1e-5 < difference < 0.05
    kinds = {layer.tap: layer.kind for layer in net.layers}
    assert {near_taps[tap].dtype.name for tap in taps if kinds[tap] in ("conv", "norm", "relu", "add")} == {"bfloat16"}
    assert {near_taps[tap].dtype for tap in taps if kinds[tap] in ("pool", "linear")} == {logits.dtype}

    def loss(params):
        found, batch_stats, _ = rounded.apply(weights.replace(params=params), images, train=True)
        return jnp.sum(found**2), batch_stats

    gradients, statistics = jax.grad(loss, has_aux=True)(weights.params)
    assert {leaf.dtype for leaf in jax.tree.leaves((gradients, statistics))} == {logits.dtype}
