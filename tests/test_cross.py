"""Cross accuracy: what only resembles a trigger must leave an image its label."""

import jax.numpy as jnp
import numpy as np
import tiny

import bdjax
from bdjax import metrics
from bdjax.cells.functions import Cell, Scene, Shared, paired, score
from bdjax.data.poison import NO_ATTACK
from bdjax.data.sources import mapped, split
from bdjax.keys import root
from bdjax.types import Data, Net, Poison, Weights


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
        "known": 2,
        "kept": 2,
        "crossed": 2,
    }
    assert metrics.rates({name: int(value) for name, value in sums.items()})["cross"] == 0.5
    assert "cross" not in metrics.rates(metrics.counts(net, Weights({}, {}), clean, clean, lambda label: label * 0))


def test_every_image_is_paired_with_another_one():
    for size in (2, 7, 30):
        row, walked = 0, []
        other = paired(root(size), size)
        for _ in range(size):
            row = int(other[row])
            walked.append(row)
        assert sorted(walked) == list(range(size)) and walked[-1] == 0  # one cycle through all
    assert not np.array_equal(paired(root(0), 30), paired(root(1), 30))


def test_attacks_get_another_test_image_for_it():
    rows = 6
    test = Data(jnp.arange(rows, dtype=jnp.uint8).reshape(rows, 1, 1, 1), jnp.arange(rows, dtype=jnp.int32))
    net = Net(None, lambda weights, image: (-jnp.abs(image[:, 0, 0] * 255 - jnp.arange(rows)), {}, {}), ())
    cell = Cell(np.uint32(3), np.int32(0), {}, {}, poison=Poison(None, None, {}), victim=Weights({}, {}))

    def crossed(cross) -> int:
        scene = Scene(net, rows, 0, False, None, 0, 0, False, np.zeros(0, bool), NO_ATTACK._replace(cross=cross))
        return int(score(scene, net)((), cell, Shared(None, test))[1]["crossed"])

    assert crossed(lambda assets, trigger, image, row, other: image) == rows
    assert crossed(lambda assets, trigger, image, row, other: other) == 0


def test_results_have_it_where_an_attack_does(tmp_path):
    results = bdjax.run(tiny.study(tmp_path, attacks=("wanet", tiny.ATTACK), ratios=(0.1,), seeds=(0,)))
    found = results.cross.sel(ratio=0.1, seed=0, defense="none")
    assert 0 <= float(found.sel(attack="wanet")) <= 1
    assert np.isnan(found.sel(attack=tiny.ATTACK))
