"""Facts of EP: entropies by hand and as a loop over bins counts them, and that a channel of two values goes."""

import jax
import jax.numpy as jnp
import numpy as np

from bdjax.cards import lookup
from bdjax.defenses.ep import EP, entropy, standardized


def test_entropies_by_hand():
    """Bins of width 1 from the least value 0, which counts nowhere, to 4, whose own bin is beyond the last whole one.

    Channel 1: four rows, 0.5 and 0.6 in one bin, 2.5 in another, 0 nowhere: -(1/2) ln(1/2) - (1/4) ln(1/4). Channel 2:
    1.5 and 3.5 alone, 1.25 beside the first, 4 nowhere: the same.
    """
    value = jnp.asarray([[0.0, 0.5, 0.6, 2.5], [1.5, 1.25, 3.5, 4.0]])
    np.testing.assert_allclose(entropy(value, 1.0), [0.5 * np.log(2) + 0.25 * np.log(4)] * 2, rtol=1e-6)


def test_entropies_are_those_of_a_loop_over_bins():
    with jax.enable_x64(True):
        value = np.random.default_rng(0).standard_normal((5, 40))
        for width in (0.1, 0.01, 0.7):
            bins, wanted = int((value.max() - value.min()) / width), np.zeros(5)
            for number in range(bins):
                low = value.min() + number * width
                share = ((value > low) & (value < low + width)).mean(1)
                wanted -= np.where(share > 0, share * np.log(np.where(share > 0, share, 1)), 0)
            np.testing.assert_allclose(entropy(jnp.asarray(value), width), wanted, rtol=1e-12)


def test_two_values_have_less_entropy_than_many():
    two = jnp.where(jnp.arange(64) < 8, 5.0, 0.0) + 1e-3 * jnp.linspace(0, 1, 64)
    many = jax.random.normal(jax.random.key(0), (7, 64))
    found = entropy(standardized(jnp.concatenate([two[None], many])), 0.1)
    assert found[0] < 0.5 and jnp.all(found[1:] > 2)


def test_a_constant_channel_is_no_trouble():
    found = standardized(jnp.asarray([[2.0, 2, 2], [1, 2, 3]]))
    np.testing.assert_allclose(found, [[0, 0, 0], [-1, 0, 1]], atol=1e-6)


def test_presets():
    paper, benchmark = (lookup(f"ep:preset={preset}", {"ep": EP}, "defense") for preset in ("paper", "benchmark"))
    assert EP.card.needs_of(paper.static) == EP.card.needs_of(benchmark.static) == ("train", "victim")
    np.testing.assert_allclose((paper.traced["bin_width"], benchmark.traced["bin_width"]), (0.01, 0.1))
