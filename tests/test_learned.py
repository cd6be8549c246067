"""Training on images alone: which rows a step draws, what it is told, and that it may be cut into calls anywhere."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bdjax.attacks.fitting import learned
from bdjax.keys import root, stream

IMAGE = jnp.arange(10, dtype=jnp.uint8)[:, None, None, None] * jnp.ones((1, 2, 2, 1), jnp.uint8)


def fit(steps: int):
    """The sum of the first pixels of all rows that were drawn, times the rate, and the steps that were told."""

    def gradient(key, params, memory, image, settings, step):
        seen = memory.at[step].set(1 + 255 * image[0, 0, 0, 0])
        return -255 * jnp.sum(image[:, 0, 0, 0]), seen

    def optimizer(settings, step):
        return optax.sgd(settings["rate"] * (step + 1))

    begun = jnp.float32(0), jnp.zeros(8)
    return learned.fit_on_images(root(3), begun, gradient, optimizer, IMAGE, {"rate": jnp.float32(1)}, steps, 4)


def drawn(step: int) -> np.ndarray:
    return np.asarray(jax.random.randint(stream(jax.random.fold_in(root(3), step), "rows"), (4,), 0, len(IMAGE)))


@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 100])
def test_every_step_draws_its_own_rows_however_many_there_are_to_a_call(monkeypatch, chunk):
    monkeypatch.setattr(learned, "CHUNK", chunk)
    params, memory = fit(5)
    np.testing.assert_allclose(params, sum((step + 1) * drawn(step).sum() for step in range(5)), rtol=1e-6)
    np.testing.assert_allclose(memory, [*(1 + drawn(step)[0] for step in range(5)), 0, 0, 0], rtol=1e-6)
