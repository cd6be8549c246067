"""Facts of D3: its gradient by hand, and that the kernel of the head stays on the victim's sphere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from bdjax import train
from bdjax.cards import lookup
from bdjax.defenses.d3 import D3, detoxifying
from bdjax.types import Batch, Given, Source, Weights

IMAGE = jnp.asarray([[1.0, 0.0], [0.0, 1.0]]).reshape(2, 1, 2, 1)
ROWS = Batch(IMAGE, jnp.asarray([0, 1]), jnp.arange(2), jnp.ones(2))


def head(kernel) -> Weights:
    return Weights({"linear": {"kernel": jnp.asarray(kernel, float), "bias": jnp.zeros(2)}}, {})


@pytest.fixture
def net():
    return tiny.network("linear", (1, 2, 1), 2, (0.0,), (1.0,))


@pytest.mark.parametrize("weight", [0.5, 10.0])
def test_the_gradient_by_hand(net, weight):
    """Identity against the victim's zeros: D = sqrt 2, so W / sqrt 2 is its slope.

    Each row's logits are (1, 0) for its label: CE = log(1 + e^-1) = .3133, above the tolerance of .3; the slope of CE
    for the kernel is x (p - y), of which a row of two has half: -.2689 / 2 on the diagonal. Above 1, lambda divides.
    """
    settings = {"clean_weight": jnp.float32(weight), "tolerance": jnp.float32(0.3)}
    given = Given(settings, None, victim=head(jnp.zeros((2, 2))))
    slope, _, info = detoxifying(net, head(jnp.eye(2)), IMAGE, ROWS, given)
    other, divisor = 1 / (1 + np.e), weight + 1 if weight > 1 else 1
    cross = np.asarray([[-other / 2, other / 2], [other / 2, -other / 2]])
    wanted = (weight * cross - np.eye(2) / np.sqrt(2)) / divisor
    np.testing.assert_allclose(slope["linear"]["kernel"], wanted, rtol=1e-5)
    np.testing.assert_allclose(info["distance"], np.sqrt(2), rtol=1e-6)
    value = (weight * (np.log(1 + np.exp(-1)) - 0.3) - np.sqrt(2)) / divisor
    np.testing.assert_allclose(info["loss"], value, rtol=1e-5)


def test_rows_within_the_tolerance_do_not_pull(net):
    given = Given(
        {"clean_weight": jnp.float32(10), "tolerance": jnp.float32(0.4)}, None, victim=head(jnp.zeros((2, 2)))
    )
    slope = detoxifying(net, head(jnp.eye(2)), IMAGE, ROWS, given)[0]
    np.testing.assert_allclose(slope["linear"]["kernel"], -np.eye(2) / np.sqrt(2) / 11, rtol=1e-5)


def test_the_kernel_keeps_its_norm_and_leaves_the_victim_while_the_bias_begins_as_it_was(net):
    victim = head([[3.0, 0.0], [0.0, 4.0]])
    spec = lookup("d3:epochs=1,batch=2", {"d3": D3}, "defense")
    (stage,) = D3.make(net, (1, 2, 1), 2, **spec.static)
    source = Source(2, lambda row: Batch(IMAGE[row], jnp.asarray([0, 1])[row], row, (row >= 0) * 1.0))
    given = lambda victim: Given(spec.traced, lambda key, image: image, clean=source, victim=victim)  # noqa: E731
    first = stage.init(jax.random.key(0), given(victim), None).moving["linear"]
    np.testing.assert_array_equal(first["bias"], 0)
    np.testing.assert_allclose(jnp.linalg.norm(first["kernel"]), 5, rtol=1e-6)
    after = train.fit(jax.random.key(0), stage, given, victim).weights.params["linear"]["kernel"]
    np.testing.assert_allclose(jnp.linalg.norm(after), 5, rtol=1e-6)
    assert jnp.linalg.norm(after - victim.params["linear"]["kernel"]) > 1
