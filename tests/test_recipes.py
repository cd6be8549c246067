"""Schedules, rates, slow weights and augmentation of recipes, by hand; and the speed recipe on real images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import bdjax
from bdjax.cards import lookup
from bdjax.data import images, sources
from bdjax.defenses.none import NONE
from bdjax.study import resolve
from bdjax.train import optimizers, recipes
from bdjax.types import Data, Given, Weights

SMALL = "small_cnn:width=2"


def small():
    return tiny.network("small_cnn", (8, 8, 3), 4, (0.5,) * 3, (0.25,) * 3, width=2)


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def test_the_triangle_by_hand():
    """100 steps: 23 up from 0.2, 77 down from 1, and 0.07 where the next would be."""
    steps = jnp.array([0, 10, 23, 61, 100], jnp.int32)
    factors = jax.vmap(lambda step: recipes.rate(step, 25, 4, "triangle", 0))(steps)
    by_hand = [0.2, 0.2 + 0.8 * 10 / 23, 1.0, 1 - 0.93 * 38 / 77, 0.07]
    np.testing.assert_allclose(factors, by_hand, rtol=1e-12)


def test_rates_of_their_own_take_the_same_decay():
    """One step from rest: rate x (factor x gradient + decay x weight), and nothing at all where the factor is 0."""
    weight, gradient = (
        {"a": jnp.array(2.0), "b": jnp.array(2.0), "c": jnp.array(2.0)},
        dict.fromkeys("abc", jnp.array(0.5)),
    )
    factors = {"a": jnp.array(1.0), "b": jnp.array(64.0), "c": jnp.array(0.0)}
    rule = optimizers.sgd(0.1, 0.9, 0.01, False, lambda params: factors)
    state = rule.init(weight)
    first, state = rule.update(gradient, state, weight)
    np.testing.assert_allclose([first[name] for name in "abc"], [-0.052, -0.1 * (32 + 0.02), 0.0], rtol=1e-12)
    second, _ = rule.update(gradient, state, weight)
    np.testing.assert_allclose(second["b"], -0.1 * 1.9 * (32 + 0.02), rtol=1e-12)


def test_factors_are_those_of_normalisation_alone():
    net = small()
    params = jax.eval_shape(net.init, jax.random.key(0)).params
    found = recipes.factors(net, params, {"bias_rate": jnp.array(64.0), "scale_rate": jnp.array(0.0)})
    assert found["bn1"] == {"bias": 64, "scale": 0}
    assert {float(leaf) for name in ("conv1", "linear") for leaf in jax.tree.leaves(found[name])} == {1.0}


def test_slow_weights_by_hand():
    """At step 5 of 12 the slow ones keep 0.95^5 (5/12)^3 of themselves; between nothing moves; at the end they rule."""
    slow, fast = (Weights({"w": jnp.array(value)}, {"m": jnp.array(2 * value)}) for value in (1.0, 3.0))
    share = 0.95**5 * (5 / 12) ** 3
    moved, after = recipes.look_ahead(slow, fast, jnp.int32(5), 12, 5)
    np.testing.assert_allclose([moved.params["w"], after.params["w"]], 3 - 2 * share, rtol=1e-12)
    np.testing.assert_allclose(after.batch_stats["m"], 6 - 4 * share, rtol=1e-12)
    between = recipes.look_ahead(slow, fast, jnp.int32(6), 12, 5)
    assert (between[0].params["w"], between[1].params["w"]) == (1, 3)
    last = recipes.look_ahead(slow, fast, jnp.int32(12), 12, 5)
    assert (last[0].params["w"], last[1].params["w"]) == (1, 1)


def test_a_crop_over_a_reflected_border_shows_pixels_of_the_image():
    image = jnp.arange(1.0, 26.0).reshape(1, 5, 5, 1).repeat(64, 0)
    black, reflected = (images.crop(jax.random.key(0), image, 2, border) for border in ("black", "reflected"))
    assert bool(jnp.any(black == 0)) and not bool(jnp.any(reflected == 0))
    inside = black != 0
    np.testing.assert_array_equal(black[inside], reflected[inside])
    # Row 3 of the padded image is row 1 of the image, and two rows above it lies row 1 again, mirrored at row 0.
    padded = np.pad(np.asarray(image[0, :, :, 0]), 2, mode="reflect")
    assert any(np.array_equal(reflected[0, :, :, 0], padded[r : r + 5, c : c + 5]) for r in range(5) for c in range(5))


def test_the_speed_preset_mirrors_every_second_row_in_every_second_pass():
    """Of rows 0 to 3, rows 1 and 3 in pass 0 and rows 0 and 2 in pass 1; shifted by 2 over a reflected border."""
    net, asked = tiny.network("linear", (8, 8, 3), 4, (0.5,) * 3, (0.25,) * 3), []
    spec = lookup("none:preset=speed,batch=4", {"none": NONE}, "defense")
    (stage,) = NONE.make(net, (8, 8, 3), 4, **spec.static)
    label = jnp.arange(4, dtype=jnp.int32)
    whole = sources.split(Data(jnp.zeros((4, 8, 8, 3), jnp.uint8), label))

    def augment(key, image, *, turned, shift, border):
        assert (shift, border) == (2, "reflected")
        jax.debug.callback(lambda turned: asked.append(turned.tolist()), turned)
        return image

    given = Given({name: jnp.asarray(value) for name, value in spec.traced.items()}, augment, train=whole)
    state = stage.init(jax.random.key(0), given, None)
    step = jax.jit(lambda state: stage.step(jax.random.key(0), state, whole.read(label), given)[0])
    jax.block_until_ready(step(step(state)))
    jax.effects_barrier()
    assert asked == [[False, True] * 2, [True, False] * 2]


@pytest.mark.parametrize("mirrored,first", [(True, [2, 0]), (False, [0, 0])])
def test_images_are_turned_only_where_the_data_may_be(mirrored, first):
    image = jnp.arange(3.0).reshape(1, 1, 3, 1).repeat(2, 0)
    turned = images.augmentation(0, mirrored)(jax.random.key(0), image, turned=jnp.array([True, False]))
    assert turned[:, 0, 0, 0].tolist() == first


def test_who_trains_follows_the_recipe_s_preset(tmp_path):
    """A preset goes before what suits the dataset, the recipe's own words before the preset; attackers follow too."""
    asked = tiny.study(tmp_path, dataset="digits", attacks=("wanet",), recipe="preset=speed,epochs=3", model=SMALL)
    found = resolve.resolve(asked)
    assert found.recipe.spec.static["epochs"] == 3 and found.recipe.spec.static["batch"] == 1024
    assert found.recipe.spec.static["mirror"] == "alternating"
    attack = found.attacks["wanet"][0]
    assert (attack.static["schedule"], attack.static["lookahead"], attack.traced["bias_rate"]) == ("triangle", 5, 64)
    assert attack.static["crop"] == 2  # which suits digits and is no part of a recipe


def test_the_speed_recipe_learns_digits_and_their_backdoor():
    """66 steps of the network made for it, width 4: ACC above 0.6, where chance is 0.1, and ASR above 0.6."""
    with jax.enable_x64(False):
        recipe = "preset=speed,batch=128,epochs=6"
        results = bdjax.run(
            bdjax.Study(model="airbench:width=4", ratios=(0.1,), seeds=(0,), recipe=recipe, driver="map")
        )
    assert float(results.acc.mean()) > 0.6 and float(results.asr.mean()) > 0.6
