"""Facts of PAM: where the weights are moved, the gradient there, momentum, and how often the trigger is inverted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdjax import train
from bdjax.cards import lookup
from bdjax.defenses.pam import PAM, path_aware, towards
from bdjax.models import MODELS
from bdjax.types import Batch, Given, Net, Source, Weights

ROWS = Batch(jnp.zeros((1, 1, 1, 1)), jnp.zeros(1, jnp.int32), jnp.zeros(1, jnp.int32), jnp.ones(1))


def _apply(weights, image, train=False, weight=None, edit=None):
    """Logits are the weights; statistics tell which weights made them."""
    logits = jnp.stack([weights.params["a"], weights.params["b"]])[None]
    return logits, {"seen": weights.params["b"]}, {"logits": logits}


def weights(a, b):
    return Weights({"a": jnp.array(a), "b": jnp.array(b)}, {"seen": jnp.array(0.0)})


NET = Net(lambda key: weights(1.0, 2.0), _apply, ())


@pytest.mark.parametrize(("rho", "expected"), [(0.0, (1, 2)), (1.0, (1.6, 2.8)), (5.0, (4, 6)), (10.0, (7, 10))])
def test_weights_move_by_rho_along_one_line_and_beyond_its_end(rho, expected):
    """From (1, 2) towards (4, 6), which is 5 away: one norm over all weights, and rho 10 is twice as far."""
    moved, length = towards({"a": jnp.array(1.0), "b": jnp.array(2.0)}, {"a": 4.0, "b": 6.0}, rho)
    np.testing.assert_allclose([moved["a"], moved["b"]], expected, rtol=1e-6)
    np.testing.assert_allclose(length, 5, rtol=1e-6)


def test_weights_stay_where_they_began():
    moved, length = towards(weights(1.0, 2.0).params, weights(1.0, 2.0).params, 0.5)
    assert (float(moved["a"]), float(moved["b"]), float(length)) == (1, 2, 0)


def test_gradient_is_that_of_the_moved_weights():
    """From (1, 2) towards (1, 0) by 0.5 it is (1, 1.5), where label 0 has the chance 1 / (1 + e^0.5)."""
    given = Given({"rho": jnp.array(0.5)}, None, victim=weights(1.0, 0.0))
    found, batch_stats, info = path_aware(NET)(weights(1.0, 2.0), ROWS.image, ROWS, given)
    away = 1 / (1 + np.exp(-0.5))
    np.testing.assert_allclose([found["a"], found["b"]], [-away, away], rtol=1e-6)
    np.testing.assert_allclose(batch_stats["seen"], 1.5)
    np.testing.assert_allclose(info["distance"], 2)


def unlearned(settings, steps):
    """Weights after so many steps of round 0 from (1, 2), which is where the backdoor is too."""
    text = f"pam:tap=logits,width=1,blocks=0,batch=1,pretraining_epochs=1,unlearning_epochs={steps}"
    spec = lookup(text, {"pam": PAM}, "defense")
    pretrain, _, _, unlearn, *_ = PAM.make(NET, (1, 1, 1), 2, **spec.static)

    def given(operands):
        settings, victim = operands
        known = spec.traced | settings
        return Given(known, lambda key, image: image, clean=Source(1, lambda row: ROWS), victim=victim)

    operands = settings, weights(1.0, 2.0)
    left = train.fit(jax.random.key(0), pretrain, given, operands)
    left = left.replace(carry=left.carry | {"target": jnp.int32(1)})
    left = train.fit(jax.random.key(0), unlearn, given, operands, left)
    assert left.carry["round"] == 1 and left.carry["target"] == 1
    return float(left.weights.params["a"]), float(left.weights.params["b"])


def expected(rate, momentum, rho, steps):
    """The same from the equations."""
    start = np.array([1.0, 2.0])
    w, v = start.copy(), np.zeros(2)
    for _ in range(steps):
        away = start - w
        at = w + rho * away / (np.linalg.norm(away) + 1e-12)
        chance = 1 / (1 + np.exp(at[0] - at[1]))
        v = momentum * v + np.array([-chance, chance])
        w = w - rate * v
    return w


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_steps_are_those_of_the_equations(steps):
    with jax.enable_x64(True):
        settings = {"learning_rate": 0.3, "momentum": 0.1, "rho": 0.5, "reversed": 0.2}
        settings = {name: jnp.array(value) for name, value in settings.items()}
        np.testing.assert_allclose(unlearned(settings, steps), expected(0.3, 0.1, 0.5, steps), rtol=1e-9)
        plain = unlearned(settings | {"rho": jnp.array(0.0)}, steps)
        # The first step is a plain one, for the weights are still the backdoored ones.
        assert np.allclose(plain, expected(0.3, 0.1, 0.5, steps), rtol=1e-9) == (steps == 1)


def test_one_program_serves_every_rho():
    traced = []

    @jax.jit
    def step(rho):
        traced.append(rho)
        given = Given({"rho": rho}, None, victim=weights(1.0, 0.0))
        return path_aware(NET)(weights(1.0, 2.0), ROWS.image, ROWS, given)[0]["b"]

    assert float(step(0.5)) != float(step(0.9))
    assert len(traced) == 1


@pytest.mark.parametrize(
    ("settings", "inverted"),
    [("", 3), ("inversions=2", 2), ("preset=released", 1), ("rounds=1", 1), ("rounds=1,inversions=2", 1)],
)
def test_rounds_that_invert(settings, inverted):
    spec = lookup(f"pam:width=1,blocks=0,{settings}", {"pam": PAM}, "defense")
    net = MODELS["small_cnn"].make((4, 4, 1), 2, (0.5,), (0.2,), width=1)
    stages = PAM.make(net, (4, 4, 1), 2, **spec.static)
    rounds = spec.static["rounds"]
    again = [30] * (rounds - inverted)
    assert [stage.epochs for stage in stages] == [50, *(20, 30, 30) * inverted, *again]
