"""Analyses of single models, on a tiny study: against numbers worked out by hand and from the stored weights."""

import importlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax.flatten_util import ravel_pytree

import bdjax
from bdjax import ANALYSES, InvalidInput
from bdjax.analysis import actdist, cm, frequency, hessian, landscape, lips, quality, tac
from bdjax.analysis.parts import channels, stored
from bdjax.detection.parts import gradcam
from bdjax.io.store.documents import read_json
from bdjax.io.store.store import Store
from bdjax.types import Batch, Layer, Net, Source, Weights

DEFENSES = ("none", "ft:epochs=2,learning_rate=0.3")
WHERE = {"attack": tiny.ATTACK, "ratio": 0.1}
SETTINGS = {
    "cm": {},
    "tac": {"rows": 30},
    "lips": {},
    "actdist": {"rows": 50, "triggered": 20},
    "gradcam": {"rows": 2},
    "quality": {"rows": 10},
    "hessian": {"rows": 20, "steps": 4},
    "landscape": {"points": 3, "rows": 60},
    "frequency": {"rows": 3},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    data = tmp_path_factory.mktemp("data")
    study = tiny.study(data, ratios=(0.1,), defenses=(*DEFENSES, "npd:epochs=1"), model="small_cnn:width=4")
    bdjax.run(study, data / "study")
    return data / "study"


@pytest.fixture(scope="module")
def found(folder):
    """What every analysis says of both seeds."""
    return {
        name: ANALYSES[name].make(folder, **WHERE, defenses=DEFENSES, **settings) for name, settings in SETTINGS.items()
    }


def model(folder, seed=0, defense="none"):
    """The stored network as a function: images -> logits and taps; and its weights."""
    cells = read_json(folder / "study.json")["cells"]
    (name,) = [cell["model"] for cell in cells if (cell["seed"], cell["defense"]) == (seed, defense)]
    weights = Store(folder).load_model(name).weights
    net = stored.opened(folder, **WHERE, defenses=(defense,), seeds=(seed,)).net
    return lambda image: net.apply(weights, jnp.asarray(image))[::2], weights


def pictures():
    """The test images in [0, 1] without and with the trigger, and their labels."""
    data = tiny.arrays()
    image = (data["test_image"] / 255).astype(np.float32)
    white = image.copy()
    white[:, -6:, -6:] = 1
    return image, white, data["test_label"]


@pytest.mark.parametrize("name", SETTINGS)
def test_a_seed_alone_has_the_bits_that_it_has_among_others(folder, found, name):
    alone = ANALYSES[name].make(folder, **WHERE, defenses=DEFENSES[1:], seeds=(1,), **SETTINGS[name])
    among = found[name].sel(seed=[1])
    among = among if name == "quality" else among.sel(defense=list(DEFENSES[1:]))
    assert next(iter(among.sizes)) == "seed" and found[name].sizes["seed"] == 2
    for variable in among:
        np.testing.assert_array_equal(alone[variable], among[variable])


@pytest.mark.parametrize("name", SETTINGS)
def test_a_figure_has_a_panel_a_defense_and_named_axes(found, name):
    figure = importlib.import_module(f"bdjax.analysis.{name}").figure(found[name])
    figure.canvas.draw()
    texts = [axes.get_title() + axes.get_ylabel() for axes in figure.axes]
    for defense in () if name == "quality" else DEFENSES:
        assert any(defense.partition(":")[0] in text for text in texts)
    assert all(axes.get_xlabel() or axes.get_ylabel() for axes in figure.axes[-1:])


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"attack": "blended"}, "nothing of blended at 0.1; it has badnets:size=6 at 0.1"),
        ({"ratio": 0.2}, "nothing of badnets:size=6 at 0.2"),
        ({"defenses": ("nad",)}, "no defense nad; choose from none, ft"),
        ({"seeds": (9,)}, "no seed 9; choose from 0, 1"),
    ],
)
def test_what_is_not_there_is_refused(folder, name, change, words):
    with pytest.raises(InvalidInput, match=words):
        ANALYSES[name].make(folder, **WHERE | change)


def test_a_missing_model_is_named(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "study")
    cells = read_json(folder / "study.json")["cells"]
    name = next(cell["model"] for cell in cells if (cell["seed"], cell["defense"]) == (1, "none"))
    next((tmp_path / "study" / "models").glob(f"{name}*")).unlink()
    with pytest.raises(InvalidInput, match="lacks the model of none at seed 1; run the study again"):
        ANALYSES["lips"].make(tmp_path / "study", **WHERE, defenses=("none",))


def test_confusions_add_up_to_the_rates_of_the_study(folder, found):
    """Two images of class 0, one of class 1 taken for class 2 and one that does not count."""
    counted = cm.count(jnp.array([0, 0, 1, 2]), jnp.array([0, 0, 2, 2]), jnp.array([1, 1, 1, 0]), 3)
    assert counted.tolist() == [[2, 0, 0], [0, 0, 1], [0, 0, 0]]
    count, results = found["cm"]["count"], bdjax.load(folder).sel(WHERE).sel(defense=list(DEFENSES))
    clean, triggered = (count.sel(images=images) for images in ("clean", "triggered"))
    right = sum(clean.sel(true=label, predicted=label) for label in range(tiny.CLASSES))
    np.testing.assert_allclose(right / clean.sum(("true", "predicted")), results.acc, rtol=1e-6)
    assert (triggered.sel(true=0) == 0).all()
    hit = triggered.sel(predicted=0).sum("true") / triggered.sum(("true", "predicted"))
    np.testing.assert_allclose(hit, results.asr, rtol=1e-6)


def test_forms_of_the_change_by_hand():
    """Two images that change a channel of two pixels by (3, 4) and (-3, 4), and a third that does not count."""
    change = jnp.array([[3.0, 4.0], [-3.0, 4.0], [9.0, 9.0]]).reshape(3, 1, 2, 1)
    weight = jnp.array([1.0, 1.0, 0.0])
    by_hand = {"mean_norm": 5.0, "norm_mean": 4.0, "absolute": 7.0}
    for form, value in by_hand.items():
        np.testing.assert_allclose(tac.finished(tac.summed(change, weight, form), 2, form), [value])
    flat = tac.finished(tac.summed(jnp.array([[1.0, -2.0]]), jnp.ones(1), "mean_norm"), 1, "mean_norm")
    np.testing.assert_allclose(flat, [1, 2])


def test_changes_are_those_of_the_stored_network(folder):
    image, white, label = pictures()
    one = ANALYSES["tac"].make(folder, **WHERE, defenses=("none",), seeds=(0,), form="absolute").isel(seed=0, defense=0)
    run, _ = model(folder)
    moved = label != 0
    for layer in ("conv1", "bn2", "linear"):
        change = np.abs(np.asarray(run(white[moved])[1][layer]) - np.asarray(run(image[moved])[1][layer])).mean(0)
        expected = change.reshape(-1, change.shape[-1]).sum(0)
        np.testing.assert_allclose(one.tac[one.layer == layer], expected, rtol=2e-5, atol=1e-6)


def test_bounds_by_hand():
    """A filter of one weight 3; behind it scale 2 and variance 4, so 3 again; a linear unit of weights 3 and 4."""
    layers = tuple(Layer(name, kind, (name,), name) for name, kind in (("c", "conv"), ("n", "norm"), ("l", "linear")))
    kernel = jnp.zeros((3, 3, 2, 1)).at[0, 1, 1, 0].set(-3)
    params = {"c": {"kernel": kernel}, "n": {"scale": jnp.array([-2.0])}, "l": {"kernel": jnp.array([[3.0], [4.0]])}}
    weights = Weights(params, {"n": {"var": jnp.array([4.0])}})
    found = lips.bounds(Net(None, None, layers), weights, layers, False, False)
    assert {name: float(value[0]) for name, value in found.items()} == {"c": 3, "n": 3, "l": 5}
    found = lips.bounds(Net(None, None, layers), weights, layers, True, False)
    np.testing.assert_allclose(found["n"], 6 / np.sqrt(4 + 1e-5), rtol=1e-6)


def test_a_bound_is_the_largest_singular_value_of_the_stored_filter(folder, found):
    _, weights = model(folder, 1, DEFENSES[1])
    one = found["lips"].sel(seed=1, defense=DEFENSES[1])
    kernel = np.asarray(weights.params["conv2"]["kernel"])
    values = [np.linalg.norm(kernel[..., k].reshape(9, -1), 2) for k in range(kernel.shape[-1])]
    np.testing.assert_allclose(one.lips[one.layer == "conv2"], values, rtol=1e-5)


def test_composition_by_hand():
    """Of five images the three with the largest values; of equal ones the first."""
    activation = jnp.array([[5.0, 0.0], [4.0, 0.0], [3.0, 1.0], [2.0, 1.0], [1.0, 2.0]])
    shares = actdist.composition(activation, jnp.array([0, 1, 2, 2, 2]), jnp.int32(3), 3)
    np.testing.assert_allclose(shares, [[1 / 3, 1 / 3, 1 / 3], [0, 0, 1]], rtol=1e-6)


def test_shares_of_labels_are_those_of_mixed_images(found):
    """Ten of 50 images are triggered, so every channel's shares are tenths that add up to 1."""
    share = found["actdist"].share
    np.testing.assert_allclose(share.sum("label"), 1, rtol=1e-6)
    np.testing.assert_allclose(10 * share, np.round(10 * share), atol=1e-5)
    assert share["label"].values.tolist() == ["0", "1", "2", "triggered"]


def test_of_mixed_images_so_many_have_the_trigger(folder, monkeypatch):
    """Of 50 images 20% do, and none of them twice: counts of labels over all images, divided by ten."""

    def histogram(activation, label, count, labels):
        found = jnp.zeros(labels, activation.dtype).at[label].add(1) / count
        return jnp.broadcast_to(found, (activation.shape[1], labels))

    monkeypatch.setattr(actdist, "composition", histogram)
    share = ANALYSES["actdist"].make(folder, **WHERE, defenses=("none",), **SETTINGS["actdist"]).share
    np.testing.assert_allclose(share.sel(label="triggered"), 1)
    np.testing.assert_allclose(share.sum("label"), 5, rtol=1e-6)
    assert (share <= 2).all()  # there are 20 test images of each class


def test_the_map_of_a_network_that_averages_is_its_image():
    """Logits are plus and minus the mean of one channel: weights of the map are 1 / size, so it is the image scaled."""

    def apply(weights, image, train=False, weight=None, edit={}):  # noqa: B006, as Net says
        seen = edit.get("map", lambda x: x)(image)
        pooled = jnp.mean(seen, (1, 2))
        return jnp.concatenate([pooled, -pooled], 1), {}, {"map": seen, "pool": pooled}

    net = Net(None, apply, (Layer("map", "conv", (), "map"), Layer("pool", "pool", (), "pool")))
    image = jnp.array([[0.2, 0.6], [1.0, 0.2]]).reshape(1, 2, 2, 1)
    heat = gradcam.heat(net, Weights({}, {}), image, gradcam.last_map(net))
    np.testing.assert_allclose(heat[0], [[0, 0.5], [1, 0]], atol=1e-6)


def test_maps_come_with_predictions_of_the_stored_network(folder, found):
    one = found["gradcam"].sel(seed=0, defense="none")
    run, _ = model(folder)
    for images in ("clean", "triggered"):
        here = one.sel(images=images)
        chance = np.asarray(jax.nn.softmax(run(here.image.values)[0]))
        np.testing.assert_array_equal(here.predicted, chance.argmax(1))
        np.testing.assert_allclose(here.confidence, chance.max(1), rtol=1e-5)
    assert float(one.heat.min()) == 0 and 0.99 < float(one.heat.max()) <= 1
    assert (one.image.sel(images="triggered")[:, -6:, -6:] == 1).all() and (one.true != 0).all()


@pytest.mark.parametrize(
    ("tap", "words"), [("nowhere", "no tap 'nowhere'; .*conv1"), ("linear", "no height and width")]
)
def test_a_layer_without_a_map_is_refused(folder, tap, words):
    with pytest.raises(InvalidInput, match=f"gradcam: .*{words}"):
        ANALYSES["gradcam"].make(folder, **WHERE, tap=tap)


def test_a_defense_that_replaces_a_layer_is_refused(folder):
    study = stored.opened(folder, **WHERE, defenses=DEFENSES, seeds=())
    models = study.models[DEFENSES[1]]
    net = study.net._replace(layers=study.net.layers[1:])
    models = models._replace(group=type(models.group)(**vars(models.group) | {"net": net}))
    with pytest.raises(InvalidInput, match=r"tac: ft.* changes layer conv1; choose from none"):
        channels.layers(study._replace(models=study.models | {DEFENSES[1]: models}), "tac")


def test_a_defense_that_adds_a_layer_is_looked_at(folder):
    one = ANALYSES["tac"].make(folder, **WHERE, seeds=(0,))
    assert one.tac.sizes["defense"] == 3 and np.isfinite(one.tac).all()


def test_figures_of_pairs_by_hand():
    """A change of 0.1 everywhere is 20 dB; one white pixel among 256 of black gray images 10 log10(256)."""
    black = np.zeros((1, 16, 16, 1))
    found = quality.compare(black, black + 0.1)
    values = {"psnr": 20, "largest": 0.1, "l2": 1.6}
    for name, value in values.items():
        np.testing.assert_allclose(found[name], [value], rtol=1e-9)
    white = black.copy()
    white[0, 0, 0] = 1
    found = quality.compare(black, white, "mirrored")
    np.testing.assert_allclose(found["psnr"], 10 * np.log10(256))
    assert found["ssim"] < 0.99 and quality.compare(black, white)["ssim"] > found["ssim"]
    same = quality.compare(black, black)
    assert same["psnr"] == np.inf and same["ssim"] == 1 and same["perceptual"] < 1e-9
    assert np.isnan(quality.compare(black[:, :8, :8], black[:, :8, :8])["ssim"]).all()


def test_quality_is_that_of_the_white_square(folder, found):
    image, white, label = pictures()
    psnr = quality.compare(image[label != 0], white[label != 0])["psnr"]
    assert found["quality"].sizes["row"] == 10
    distance = np.abs(found["quality"].psnr.values[..., None] - psnr).min(-1)
    np.testing.assert_allclose(distance, 0, atol=1e-4)


def test_a_quadrature_has_the_moments_of_the_spectrum():
    """A symmetric matrix with known eigenvalues; from one vector, v'Av and v'AAv; all of it after as many steps."""
    with jax.enable_x64(True):
        turned = np.linalg.qr(np.random.RandomState(0).normal(size=(6, 6)))[0]
        values = np.array([-2.0, 0.5, 1, 3, 7, 20])
        matrix = jnp.asarray(turned * values @ turned.T)
        start = jnp.array([1.0, -1, 1, 1, -1, 1])
        for steps in (2, 6, 9):
            nodes, weights = hessian.lanczos(lambda vector: matrix @ vector, start, steps)
            np.testing.assert_allclose(jnp.sum(weights), 1)
            np.testing.assert_allclose(jnp.sum(nodes * weights), start @ matrix @ start / 6)
            np.testing.assert_allclose(jnp.sum(nodes**2 * weights), start @ matrix @ matrix @ start / 6)
        np.testing.assert_allclose(nodes[jnp.array([0, -1])], [-2, 20])
        diagonal = jnp.diag(jnp.arange(1.0, 7))
        found = hessian.spectrum(jax.random.key(0), lambda vector: diagonal @ vector, 6, 6, 2)
        np.testing.assert_allclose([found["largest"], found["smallest"], found["trace"]], [6, 1, 21])
        np.testing.assert_allclose(found["trace_error"], 0, atol=1e-12)


def test_curvature_is_the_full_hessian_of_a_tiny_network():
    """One linear layer on four values; of five images one does not count."""
    with jax.enable_x64(True):
        draw = np.random.RandomState(0)
        image, label = jnp.asarray(draw.uniform(size=(5, 2, 2, 1))), jnp.array([0, 1, 2, 1, 0])
        net = tiny._linear((2, 2, 1), 3, (0.0,), (1.0,))
        weights, counts = net.init(jax.random.key(0)), jnp.array([True, True, False, True, True])
        source = Source(5, lambda row: Batch(image[row], label[row], row, (row >= 0) * 1.0))
        flat, tree = ravel_pytree(weights.params)

        def loss(point):
            logits = net.apply(weights.replace(params=tree(point)), image)[0]
            return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(5), label][counts])

        full = jax.hessian(loss)(flat)
        times = hessian.curvature(net, weights, source, counts)
        np.testing.assert_allclose(jax.vmap(times)(jnp.eye(flat.size)), full, atol=1e-12)
        found = hessian.spectrum(jax.random.key(1), times, flat.size, flat.size, 3)
        np.testing.assert_allclose(found["largest"], np.linalg.eigvalsh(full)[-1], rtol=1e-9)


def test_directions_are_as_long_as_filters():
    """Filters (3, 4) and (0, 2) of a linear layer; biases do not move."""
    params = {"kernel": jnp.array([[3.0, 0.0], [4.0, 2.0]]), "bias": jnp.ones(2)}
    found = landscape.normalized({"kernel": jnp.array([[1.0, 1.0], [0.0, 1.0]]), "bias": jnp.ones(2)}, params)
    np.testing.assert_allclose(found["kernel"], [[5, 2**0.5], [0, 2**0.5]], rtol=1e-6)
    np.testing.assert_array_equal(found["bias"], [0, 0])


def test_the_middle_of_a_landscape_is_the_stored_model(folder, found):
    """All 60 test images are looked at."""
    middle = found["landscape"].isel(row=1, column=1)
    results = bdjax.load(folder).sel(WHERE).sel(defense=list(DEFENSES))
    np.testing.assert_allclose(1 - middle.error, results.acc, rtol=1e-6)
    np.testing.assert_allclose(middle.asr, results.asr, rtol=1e-6)
    image, _, label = pictures()
    logits = np.asarray(model(folder)[0](image)[0], float)
    loss = np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(len(label)), label])
    np.testing.assert_allclose(middle.loss.sel(seed=0, defense="none"), loss, rtol=1e-5)
    assert not np.allclose(found["landscape"].loss.isel(seed=0), found["landscape"].loss.isel(seed=1))


def test_a_linear_logit_hangs_on_the_frequencies_of_its_weights():
    """Weights 1, -1, 1, -1 along a row are frequency 1/2 alone; with 3 more in every pixel frequency 0 as well."""
    wave = jnp.tile(jnp.array([1.0, -1, 1, -1]), (4, 1))

    def apply(weights, image):
        return jnp.sum(image[..., 0] * weights, (1, 2))[:, None], {}, {}

    def found(weights):
        return frequency.saliency(Net(None, apply, ()), weights, jnp.zeros((1, 4, 4, 1)))[0]

    first, second = found(wave), found(wave + 3)
    assert first[2, 0] == 1 and (first > 0.5).sum() == 1
    assert second[2, 2] == 1 and (second > 0.5).sum() == 2
    expected = 1 - np.log(3) / (np.log(3) - np.log(1e-30))
    np.testing.assert_allclose(second[2, 0], expected, rtol=0.02)
