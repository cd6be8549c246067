"""SSBA: the coder's shapes, the schedule of its loss, a short training, and what is poisoned."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdjax.attacks import ATTACKS
from bdjax.attacks.fitting.learned import averaged, converted, fit_on_images, parted, psnr
from bdjax.attacks.fitting.steganography import NEVER, Pace, agreement, kept
from bdjax.cards import lookup
from bdjax.errors import InvalidInput
from bdjax.keys import root
from bdjax.models.auxiliary.steganography import coder, enlarged
from bdjax.types import POISONED, Data

SMALL = "bits=4,width=4,encoder_steps=3,encoder_batch=4"


def data(count: int = 12, shape=(16, 16, 3)) -> Data:
    image = np.random.default_rng(0).integers(0, 256, (count, *shape), np.uint8)
    return Data(jnp.asarray(image), jnp.arange(count, dtype=jnp.int32) % 3)


def build(name: str = "ssba", settings: str = SMALL, shape=(16, 16, 3)):
    spec = lookup(f"{name}:{settings}", ATTACKS, "attack")
    return ATTACKS[name].make(None, shape, 3, **spec.static), spec.traced


@pytest.fixture(scope="module")
def prepared():
    attack, settings = build()
    return attack, attack.prepare(root(0), None, data(), settings)


@pytest.mark.parametrize(("width", "encoder", "decoder"), [(32, 1_069_315, 441_284)])
def test_full_size_has_as_many_parameters_as_the_benchmarks_networks(width, encoder, decoder):
    params = jax.eval_shape(coder((32, 32, 3), 100, width, "image").init, root(0))
    sizes = {name: sum(leaf.size for leaf in jax.tree.leaves(part)) for name, part in params.items()}
    assert sizes == {"encoder": encoder, "decoder": decoder}


@pytest.mark.parametrize("shape", [(16, 16, 3), (28, 28, 1), (20, 36, 3)])
def test_images_of_any_size_come_back_within_their_range(shape):
    parts = coder(shape, 5, 2, "image")
    params = jax.jit(parts.init)(root(0))
    hidden = jax.jit(parts.hide)(params["encoder"], jnp.full((2, *shape), 0.5), jnp.ones((2, 5)))
    assert hidden.shape == (2, *shape) and hidden.min() > 0 and hidden.max() < 1
    assert jax.jit(parts.read)(params["decoder"], hidden).shape == (2, 5)


def test_planes_are_enlarged_pixel_by_pixel():
    x = jnp.arange(4.0).reshape(1, 2, 2, 1)
    expected = [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]
    np.testing.assert_array_equal(enlarged(x, 4, 4)[0, :, :, 0], expected)


def test_fidelity_waits_for_the_bits_then_holds_then_rises():
    pace = Pace(NEVER, 0.9, hold=1000, ramp=3000)
    started = jnp.int32(200)
    steps = jnp.array([0, 1200, 2700, 4200, 9000])
    np.testing.assert_allclose(pace.share(started, steps), [0, 0, 0.5, 1, 1])
    assert pace.share(jnp.int32(NEVER), jnp.int32(10_000)) == 0


def test_agreement_counts_bits_on_their_side_of_zero():
    assert agreement(jnp.array([[3.0, -1.0, 0.5, -2.0]]), jnp.array([[1.0, 1.0, 1.0, 0.0]])) == 0.75


def test_levels_are_cut_or_rounded():
    image = jnp.array([-0.1, 10.6 / 255, 11 / 255, 1.2])
    np.testing.assert_allclose(kept(image, "truncate") * 255, [0, 10, 11, 255], atol=1e-4)
    np.testing.assert_allclose(kept(image, "round") * 255, [0, 11, 11, 255], atol=1e-4)
    np.testing.assert_allclose(kept(image, "float") * 255, [0, 10.6, 11, 255], atol=1e-4)


def test_psnr_of_one_level_everywhere():
    image = jnp.zeros((1, 4, 4, 3))
    np.testing.assert_allclose(psnr(image, image + 1 / 255), [48.1308], atol=1e-3)
    assert psnr(image, image)[0] == 100


def test_rows_to_measure_on_are_not_learned_from():
    rows, held = parted(root(0), 50)
    assert held.size == 5
    np.testing.assert_array_equal(np.sort(np.concatenate([rows, held])), np.arange(50))
    assert parted(root(0), 60_000)[1].size == 512
    assert [part.size for part in parted(root(0), 1)] == [1, 1]


def test_learning_is_the_same_whatever_the_chunks(monkeypatch):
    import optax

    def gradient(key, params, memory, image, settings, step):
        return params - jnp.mean(image) - jax.random.uniform(key), memory + step

    def run():
        arguments = gradient, lambda settings, step: optax.sgd(settings["rate"]), data().image, {"rate": 0.1}
        return fit_on_images(root(0), (jnp.zeros(()), jnp.int32(0)), *arguments, 7, 4)

    whole = run()
    monkeypatch.setattr("bdjax.attacks.fitting.learned.CHUNK", 3)
    parts = run()
    np.testing.assert_array_equal(whole, parts)
    assert whole[1] == 21  # every step once: 0 + 1 + ... + 6


def test_conversion_changes_every_image():
    image = data(5).image
    np.testing.assert_array_equal(converted(image, lambda pixels: 1 - pixels), 255 - image)


def test_averages_are_over_all_rows_however_many_at_a_time(monkeypatch):
    monkeypatch.setattr("bdjax.attacks.fitting.learned.TOGETHER", 2)
    means = averaged(lambda one, other: {"sum": one + other, "square": one**2}, jnp.arange(5.0), jnp.ones(5))
    np.testing.assert_allclose([means["sum"], means["square"]], [3, 6])


def test_a_query_is_what_the_training_row_holds(prepared):
    attack, assets = prepared
    for row in (0, 11):
        image = data().image[row] / 255
        stamped = attack.stamp(assets, {}, jnp.zeros_like(image), jnp.int32(row))
        np.testing.assert_allclose(jax.jit(attack.query)(assets, {}, image, 0), stamped, atol=1.01 / 255)


def test_every_image_gets_a_change_of_its_own(prepared):
    _, assets = prepared
    change = assets["hidden"].astype(int) - data().image
    assert len(np.unique(np.asarray(change).reshape(12, -1), axis=0)) == 12


def test_figures_and_secret_are_among_the_assets(prepared):
    _, assets = prepared
    assert assets["secret"].shape == (4,) and set(np.unique(assets["secret"])) <= {0.0, 1.0}
    assert 0 <= assets["figures"]["bit_accuracy"] <= 1
    assert assets["hidden"].dtype == jnp.uint8 and np.isfinite(assets["figures"]["psnr"])


def test_poisoned_rows_get_the_target_and_others_keep_their_label(prepared):
    attack, assets = prepared
    label = data().label
    poison = attack.init(root(0), assets, {}, label, jnp.arange(12.0), jnp.int32(4))
    np.testing.assert_array_equal(np.flatnonzero(poison.role == POISONED), [8, 9, 10, 11])
    np.testing.assert_array_equal(poison.label, [0, 1, 2, 0, 1, 2, 0, 1, 0, 0, 0, 0])


def test_a_few_steps_teach_two_bits_on_images_of_one_colour():
    image = np.repeat(np.arange(40, 200, 10, dtype=np.uint8), 768).reshape(16, 16, 16, 3)
    settings = "bits=2,width=4,encoder_steps=60,encoder_batch=16,hold=0,ramp=10,fidelity=1"
    attack, traced = build(settings=settings)
    figures = attack.prepare(root(0), None, Data(jnp.asarray(image), jnp.zeros(16, jnp.int32)), traced)["figures"]
    assert figures["bit_accuracy"] > 0.9


def test_errors():
    with pytest.raises(InvalidInput, match="ssba:bits=0: give a whole number at least 1"):
        build(settings="bits=0")
    with pytest.raises(InvalidInput, match="ssba: target 3 of 3 classes"):
        build(settings="target=3")
