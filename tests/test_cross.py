"""Cross accuracy: what only resembles a trigger must leave an image its label."""

import jax.numpy as jnp
import numpy as np
import tiny

import bdjax
from bdjax import metrics
from bdjax.sources import mapped, split
from bdjax.types import Data, Net, Weights


def test_it_counts_all_images_under_what_resembles_the_trigger():
    image = jnp.arange(4, dtype=jnp.uint8)[:, None, None, None]
    clean = split(Data(image, jnp.array([0, 1, 2, 0])))
    # The prediction is the level itself, so the last image is wrong, and the second one a level higher.
    net = Net(None, lambda weights, image: (jnp.abs(image[:, 0, 0] * 255 - jnp.arange(5)) * -1, {}, {}), ())
    higher = jnp.array([0, 1, 0, 0])[:, None, None, None] / 255
    crossed = mapped(clean, lambda batch: batch.replace(image=batch.image + higher[batch.row]))
    sums = metrics.counts(net, Weights({}, {}), clean, clean, lambda label: label * 0, crossed, batch=3)
    assert {name: int(value) for name, value in sums.items()} == {
        "images": 4,
        "correct": 3,
        "counted": 2,
        "hit": 0,
        "kept": 2,
        "crossed": 2,
    }
    assert metrics.rates({name: int(value) for name, value in sums.items()})["cross"] == 0.5
    assert "cross" not in metrics.rates(metrics.counts(net, Weights({}, {}), clean, clean, lambda label: label * 0))


def test_results_have_it_where_an_attack_does(tmp_path):
    results = bdjax.run(tiny.study(tmp_path, attacks=("wanet", tiny.ATTACK), ratios=(0.1,), seeds=(0,)))
    found = results.cross.sel(ratio=0.1, seed=0, defense="none")
    assert 0 <= float(found.sel(attack="wanet")) <= 1
    assert np.isnan(found.sel(attack=tiny.ATTACK))
