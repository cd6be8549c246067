"""Facts of FT-SAM: the adaptive perturbation by hand, its length, and fine-tuning as its limit."""

import jax
import jax.numpy as jnp
import numpy as np

from bdjax import train
from bdjax.cards import lookup
from bdjax.data import sources
from bdjax.defenses.ft import FT
from bdjax.defenses.ft_sam import FT_SAM, gradient, perturbation
from bdjax.models import MODELS
from bdjax.types import Batch, Data, Given, Net, Weights

METHODS = {"ft": FT, "ft_sam": FT_SAM}


def test_perturbation_of_two_weights_by_hand():
    """w = (1, 2), g = (3, 1): T g = (3, 2) of length sqrt 13, and e = 2 (3, 4) / sqrt 13."""
    found = perturbation({"a": jnp.array(1.0), "b": jnp.array(2.0)}, {"a": jnp.array(3.0), "b": jnp.array(1.0)}, 2.0)
    np.testing.assert_allclose([found["a"], found["b"]], np.array([6, 8]) / np.sqrt(13), rtol=1e-6)


def test_length_in_the_scaled_norm_is_rho():
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(0), 4)
        params = {"kernel": jax.random.normal(keys[0], (3, 4)), "scale": jax.random.normal(keys[1], (4,))}
        slope = {"kernel": jax.random.normal(keys[2], (3, 4)), "scale": jax.random.normal(keys[3], (4,))}
        found = perturbation(params | {"bias": jnp.zeros(4)}, slope | {"bias": jnp.ones(4)}, 2.0)
        scaled = [found[name] / jnp.abs(params[name]) for name in params]
        np.testing.assert_allclose(jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in scaled)), 2.0, rtol=1e-12)
        np.testing.assert_array_equal(found["bias"], 0)  # a weight of 0 is not moved


def test_gradient_of_two_logits_by_hand():
    """Logits (1, 2), label 0, rho 1: g = (-p, p), p = 1 / (1 + 1/e), T g is sqrt(5) p long, e = (-1, 4) / sqrt 5."""

    def apply(weights, image, train=False, weight=None, edit=None):
        return weights.params["w"][None], {"passes": weights.params["w"]}, {}

    rows = Batch(jnp.zeros((1, 1, 1, 1)), jnp.zeros(1, jnp.int32), jnp.zeros(1, jnp.int32), jnp.ones(1))
    given = Given({"smoothing": jnp.array(0.0), "rho": jnp.array(1.0)}, None)
    weights = Weights({"w": jnp.array([1.0, 2.0])}, {})
    found, batch_stats, info = gradient(Net(None, apply, ()), weights, rows.image, rows, given)
    gap = (2 + 4 / np.sqrt(5)) - (1 - 1 / np.sqrt(5))
    chance = 1 / (1 + np.exp(-gap))
    np.testing.assert_allclose(found["w"], [-chance, chance], rtol=1e-6)
    # Moving statistics and figures are those of the first pass.
    np.testing.assert_array_equal(batch_stats["passes"], [1, 2])
    np.testing.assert_allclose(info["loss"], np.log(1 + np.e), rtol=1e-6)


def tuned(text, net, data, victim):
    spec = lookup(text, METHODS, "defense")
    (stage,) = METHODS[spec.name].make(net, (8, 8, 3), 3, **spec.static)

    def given(operands):
        return Given(spec.traced, lambda key, image: image, clean=sources.split(operands[0]), victim=operands[1])

    return train.fit(jax.random.key(2), stage, given, (data, victim)).weights


def test_without_perturbation_it_is_fine_tuning():
    with jax.enable_x64(True):
        net = MODELS["small_cnn"].make((8, 8, 3), 3, (0.5,) * 3, (0.25,) * 3, width=2)
        image = np.random.default_rng(0).integers(0, 256, (10, 8, 8, 3), np.uint8)
        data = Data(jnp.asarray(image), jnp.arange(10, dtype=jnp.int32) % 3)
        victim = net.init(jax.random.key(1))
        shape = "epochs=2,batch=4,smoothing=0.1"
        plain = tuned(f"ft:{shape}", net, data, victim)
        still = tuned(f"ft_sam:{shape},rho=0", net, data, victim)
        sharp = tuned(f"ft_sam:{shape},rho=2", net, data, victim)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12), still, plain)
        gap = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), sharp, plain)
        assert max(jax.tree.leaves(gap)) > 1e-3
