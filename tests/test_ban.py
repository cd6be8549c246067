"""BAN: the mask parts features by hand, the noise keeps within its bounds, and the shares are those of predictions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from bdjax import train
from bdjax.audits import AUDITS
from bdjax.audits.ban import add_noise, feature_map
from bdjax.cards import lookup
from bdjax.data.sources import split
from bdjax.errors import InvalidInput
from bdjax.keys import root
from bdjax.types import Data, Given, Trained

SHAPE, CLASSES, ROWS = (8, 8, 3), 3, 24
NET = tiny.network("small_cnn", SHAPE, CLASSES, (0.5,) * 3, (0.25,) * 3, width=2)


def run(text: str):
    """The audit's settings, its victim, and what each of its stages leaves."""
    spec = lookup(text, AUDITS, "audit")
    audit = AUDITS["ban"].make(NET, SHAPE, CLASSES, **spec.static)
    random = np.random.default_rng(0)
    label = jnp.arange(ROWS, dtype=jnp.int32) % CLASSES
    data = Data(jnp.asarray(random.integers(0, 256, (ROWS, *SHAPE)), jnp.uint8), label)
    victim, settings = NET.init(root(3)), {name: jnp.asarray(value) for name, value in spec.traced.items()}

    def given(data):
        return Given(settings, lambda key, image: image, clean=split(data), victim=victim)

    left = [None]
    for number, stage in enumerate(audit.stages):
        left.append(train.fit(root(number), stage, given, data, left[-1]))
    return audit, given(data), victim, left[1:]


def test_the_feature_map_is_what_pooling_reads():
    assert feature_map(NET) == "relu3"
    with pytest.raises(InvalidInput, match="ban: the network pools no feature map"):
        feature_map(tiny.network("linear", SHAPE, CLASSES, (0.5,) * 3, (0.25,) * 3))


def test_noise_multiplies_scales_and_biases_alone():
    params = NET.init(root(0)).params
    noise = {"scale": {"bn1": jnp.array([0.5, -0.5])}, "bias": {"bn1": jnp.array([1.0, 1.0])}}
    found = add_noise(NET, params | {"bn1": {"scale": jnp.array([2.0, 4.0]), "bias": jnp.array([1.0, -1.0])}}, noise)
    np.testing.assert_allclose(found["bn1"]["scale"], [3, 2])
    np.testing.assert_allclose(found["bn1"]["bias"], [2, -2])
    np.testing.assert_array_equal(found["conv1"]["kernel"], params["conv1"]["kernel"])


def test_the_mask_lies_within_its_bounds_and_the_weights_stay():
    _, _, victim, left = run("ban:epochs=1,batch=24,steps=1,learning_rate=0.01,sparsity=0")
    mask = np.asarray(left[0].carry["mask"])
    assert mask.shape == (2, 2, 8) and mask.min() >= 0 and mask.max() <= 1
    jax.tree.map(np.testing.assert_array_equal, left[0].weights.params, victim.params)
    # Statistics are those of batches, which the victim's are not.
    assert not np.array_equal(left[0].weights.batch_stats["bn1"]["mean"], victim.batch_stats["bn1"]["mean"])


def test_a_large_weight_on_the_mask_empties_it():
    small, large = (run(f"ban:epochs=60,learning_rate=0.1,sparsity={weight},steps=1")[3][0] for weight in (0, 1000))
    assert float(jnp.mean(large.carry["mask"])) < 0.01 < float(jnp.mean(small.carry["mask"]))


@pytest.mark.parametrize("steps", [1, 10])
def test_noise_ascends_the_loss_within_twice_epsilon(steps):
    _, given, victim, left = run(f"ban:epochs=1,steps={steps},epsilon=0.2")
    ratio = np.asarray(left[1].weights.params["bn3"]["scale"]) / np.asarray(victim.params["bn3"]["scale"])
    assert (np.abs(ratio - 1) <= 0.4 + 1e-6).all() and (np.abs(ratio - 1) > 0).all()

    def loss(weights):
        batch = given.clean.read(jnp.arange(ROWS))
        logits = NET.apply(weights, batch.image, train=True)[0]
        return float(train.cross_entropy(logits, batch.label, batch.weight))

    assert loss(left[1].weights) > loss(victim)


def test_shares_are_of_what_the_mask_leaves():
    audit, given, victim, left = run("ban:epochs=1,steps=1")
    # Of features all masked out nothing is left but the bias of the head.
    ones = Trained(victim, {"mask": jnp.ones_like(left[0].carry["mask"])})
    found = audit.measure(None, NET, ones, given)
    bias = int(jnp.argmax(victim.params["linear"]["bias"]))
    assert float(found["largest"]) == 1 and int(found["class"]) == bias and float(found["detected"]) == 1
    plain = audit.measure(None, NET, Trained(victim, {"mask": jnp.zeros_like(left[0].carry["mask"])}), given)
    batch = given.clean.read(jnp.arange(ROWS))
    predicted = np.bincount(np.argmax(NET.apply(victim, batch.image)[0], axis=1), minlength=CLASSES) / ROWS
    np.testing.assert_allclose(plain["share"], predicted, atol=1e-6)
