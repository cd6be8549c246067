"""Facts of exact purification: which rows of a batch carry the trigger, under which labels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdjax import train
from bdjax.cards import lookup
from bdjax.data import sources
from bdjax.defenses.exact_purification import CARD, EXACT_PURIFICATION, rows
from bdjax.defenses.ft import FT
from bdjax.models import MODELS
from bdjax.types import Data, Given

METHODS = {"ft": FT, "exact_purification": EXACT_PURIFICATION}


def clean_and_triggered(count=10, size=4):
    image = np.full((count, size, size, 3), 100, np.uint8)
    image[:, 0] = 10 * np.arange(count)[:, None, None]
    clean = sources.split(Data(jnp.asarray(image), jnp.arange(count, dtype=jnp.int32) % 3))
    return clean, sources.mapped(clean, lambda batch: batch.replace(image=batch.image.at[:, -1].set(1.0)))


def door(share, **fields):
    clean, triggered = clean_and_triggered()
    return Given({"triggered": share}, None, clean=clean, triggered=triggered, **fields)


def test_it_is_an_oracle():
    assert CARD.oracle


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (0.2, 1), (0.4, 2), (1.0, 5)])
def test_share_of_a_batch(share, expected):
    batch = jax.jit(lambda share: rows(door(share)).read(jnp.array([7, 3, 9, 0, -1])))(share)
    stamped = np.asarray(batch.image[:, -1] == 1.0).all((1, 2))
    np.testing.assert_array_equal(stamped, np.arange(5) < expected)
    np.testing.assert_allclose(batch.image[:4, 0, 0, 0], np.array([70, 30, 90, 0]) / 255, rtol=1e-6)
    np.testing.assert_array_equal(batch.label[:4], [1, 0, 0, 0])
    np.testing.assert_array_equal(batch.weight, [1, 1, 1, 1, 0])


def test_without_triggers_it_is_fine_tuning():
    recipe = "epochs=2,batch=4,weight_decay=0,schedule=constant"

    def tuned(net, text):
        spec = lookup(text, METHODS, "defense")
        (stage,) = METHODS[spec.name].make(net, (4, 4, 3), 3, **spec.static)

        def given(victim):
            return door(0.0, victim=victim)._replace(settings=spec.traced, augment=lambda key, image: image)

        return train.fit(jax.random.key(0), stage, given, net.init(jax.random.key(1))).weights

    def gap(one, other):
        return max(jax.tree.leaves(jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), one, other)))

    with jax.enable_x64(True):
        net = MODELS["small_cnn"].make((4, 4, 3), 3, (0.5,) * 3, (0.25,) * 3, width=2)
        plain = tuned(net, f"ft:{recipe}")
        assert gap(tuned(net, f"exact_purification:{recipe},triggered=0"), plain) < 1e-12
        assert gap(tuned(net, f"exact_purification:{recipe}"), plain) > 1e-4
