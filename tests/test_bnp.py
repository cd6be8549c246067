"""Facts of BNP: the divergence by hand, what a normalization reads, and that a channel of other statistics goes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdjax import train
from bdjax.cards import lookup
from bdjax.defenses.bnp import BNP, divergence
from bdjax.models import MODELS
from bdjax.models.parts.norms import inputs, norms
from bdjax.types import Batch, Given, Source, Weights

SHAPE, CLASSES = (8, 8, 3), 3


def test_divergences_by_hand():
    """Equal: 0. Mean 1 apart under variance 1: 1/2. Variance 1 against 4: ln 2 + 1/8 - 1/2; without the 1/2, ln 4."""
    found = divergence(*(jnp.asarray(each) for each in ([0.0, 1, 0], [1.0, 1, 1], [0.0, 0, 0], [1.0, 1, 4])), 0.5)
    np.testing.assert_allclose(found, [0, 0.5, np.log(2) - 0.375], rtol=1e-6)
    one = jnp.ones(1)
    np.testing.assert_allclose(divergence(0 * one, one, 0 * one, 4 * one, 1.0), np.log(4) - 0.375, rtol=1e-6)


@pytest.mark.parametrize("name", ["small_cnn", "preact_resnet18", "resnet18", "airbench"])
def test_a_normalization_reads_what_its_batch_statistics_are_of(name):
    """Where the first normalization stands, training mode moves statistics by what inference mode reads."""
    with jax.enable_x64(True):
        net = MODELS[name].make((16, 16, 3), CLASSES, (0.5,) * 3, (0.25,) * 3, **_needs(name))
        weights = net.init(jax.random.key(0))
        weights = weights.replace(batch_stats=jax.tree.map(lambda leaf: 0.3 + 2 * leaf, weights.batch_stats))
        image = jax.random.uniform(jax.random.key(1), (4, 16, 16, 3))
        layers = norms(net, "bnp")
        seen = inputs(net, layers, weights, image)
        assert set(seen) == {layer.name for layer in layers}
        first, share = layers[0], layers[0].momentum
        moved, stats = net.apply(weights, image, train=True)[1], weights.batch_stats
        for key in first.path:
            moved, stats = moved[key], stats[key]
        mean = (moved["mean"] - (1 - share) * stats["mean"]) / share
        np.testing.assert_allclose(jnp.mean(seen[first.name], (0, 1, 2)), mean, rtol=1e-9, atol=1e-12)
        # The last one shows that what lies behind every edit is the network as it is.
        last = layers[-1]
        at = net.apply(weights, image)[2][last.tap]
        path = weights.params, weights.batch_stats
        for key in last.path:
            path = path[0][key], path[1][key]
        rate = path[0]["scale"] / jnp.sqrt(path[1]["var"] + 1e-5)
        np.testing.assert_allclose((seen[last.name] - path[1]["mean"]) * rate + path[0]["bias"], at, atol=1e-9)


def _needs(name):
    return {"width": 2} if name != "airbench" else {"covariance": jnp.eye(12)}


def test_a_channel_of_other_statistics_loses_its_scale():
    """The running mean of channel 5 of eight is put far off: its divergence is 2.47 deviations above the mean."""
    net = MODELS["small_cnn"].make(SHAPE, CLASSES, (0.5,) * 3, (0.25,) * 3, width=2)
    image = jax.random.uniform(jax.random.key(1), (12, *SHAPE))
    source = Source(12, lambda row: Batch(image[row], jnp.zeros_like(row), row, (row >= 0) * 1.0))
    victim = net.init(jax.random.key(0))
    seen = inputs(net, norms(net, "bnp"), victim, image)
    stats = {name: {"mean": jnp.mean(x, (0, 1, 2)), "var": jnp.var(x, (0, 1, 2), ddof=1)} for name, x in seen.items()}
    # Statistics of inference mode differ from layer to layer once those below them are put right: only the last is.
    far = stats["bn3"]["mean"].at[5].add(100 * jnp.sqrt(stats["bn3"]["var"][5]))
    params = victim.params | {"bn3": victim.params["bn3"] | {"bias": jnp.ones(8)}}
    batch_stats = victim.batch_stats | {"bn3": stats["bn3"] | {"mean": far}}
    for text, bias in (("bnp:u=2.4", 1), ("bnp:u=2.4,biases=true", 0)):
        spec = lookup(text, {"bnp": BNP}, "defense")
        (stage,) = BNP.make(net, SHAPE, CLASSES, **spec.static)
        given = lambda victim, spec=spec: Given(spec.traced, None, clean=source, victim=victim)  # noqa: E731
        after = train.fit(jax.random.key(0), stage, given, Weights(params, batch_stats)).weights
        np.testing.assert_array_equal(after.params["bn3"]["scale"], np.arange(8) != 5)
        assert after.params["bn3"]["bias"][5] == bias and jnp.all(after.params["bn3"]["bias"][:5] == 1)
        np.testing.assert_array_equal(after.params["bn1"]["scale"], 1)


def test_presets():
    paper, benchmark = (lookup(f"bnp:preset={preset}", {"bnp": BNP}, "defense") for preset in ("paper", "benchmark"))
    assert BNP.card.needs_of(paper.static) == ("clean", "victim")
    assert BNP.card.needs_of(benchmark.static) == ("clean", "victim", "train")
    assert (paper.traced["log_weight"], benchmark.traced["log_weight"]) == (0.5, 1)
