"""Facts of NFT: its loss by hand, the bounds of the mask, who is mixed with whom, and the rate of each round."""

import jax
import jax.numpy as jnp
import numpy as np

from bdjax import train
from bdjax.cards import lookup
from bdjax.defenses.nft import NFT, bounded, mixed
from bdjax.models import MODELS
from bdjax.models.parts.norms import norms
from bdjax.types import Batch, Given, Layer, Source, Weights

SHAPE, CLASSES = (8, 8, 3), 3


def network():
    return MODELS["small_cnn"].make(SHAPE, CLASSES, (0.5,) * 3, (0.25,) * 3, width=2)


def given_for(text, victim, rows):
    spec = lookup(text, {"nft": NFT}, "defense")
    source = Source(
        len(rows.label), lambda row: Batch(rows.image[row], rows.label[row], row, (row >= 0).astype(rows.weight.dtype))
    )
    return spec, Given(spec.traced, lambda key, image: image, clean=source, victim=victim)


def rows(count=6):
    image = jax.random.uniform(jax.random.key(1), (count, *SHAPE))
    return Batch(image, jnp.arange(count) % CLASSES, jnp.arange(count), jnp.ones(count))


def test_the_loss_is_that_of_the_mixture_and_of_the_mask():
    """Mask .5 on bn1 of two channels and 1 elsewhere, six rows of three classes: .001 * (2 * .5) / 2."""
    net, batch = network(), rows()
    victim = net.init(jax.random.key(0))
    _, given = given_for("nft", victim, batch)
    ones = {layer.name: jnp.ones(2 << number) for number, layer in enumerate(norms(net, "nft"))}
    mask, partner = ones | {"bn1": jnp.full(2, 0.5)}, jnp.asarray([1, 0, 3, 2, 5, 4])
    value, (_, info) = mixed(net, mask, victim.batch_stats, batch, given, 0.75, partner, CLASSES)
    bn1 = victim.params["bn1"]
    halved = Weights(victim.params | {"bn1": bn1 | {"scale": 0.5 * bn1["scale"]}}, victim.batch_stats)
    logits = net.apply(halved, 0.75 * batch.image + 0.25 * batch.image[partner], train=True)[0]
    one, two = (train.cross_entropy(logits, label, batch.weight) for label in (batch.label, batch.label[partner]))
    np.testing.assert_allclose(value, 0.75 * one + 0.25 * two + 0.0005, rtol=1e-6)
    np.testing.assert_allclose(info["distance"], 1)


def test_a_mask_of_ones_is_not_pulled():
    """At 1 the distance has slope 0: a heavier penalty leaves the gradient of the first step as it is."""
    net, batch = network(), rows()
    victim = net.init(jax.random.key(0))
    ones = {layer.name: jnp.ones(2 << number) for number, layer in enumerate(norms(net, "nft"))}

    def slope(text):
        _, given = given_for(text, victim, batch)
        return jax.grad(
            lambda mask: mixed(net, mask, victim.batch_stats, batch, given, 0.5, jnp.arange(6), CLASSES)[0]
        )(ones)

    jax.tree.map(np.testing.assert_array_equal, slope("nft:penalty=0"), slope("nft:penalty=100"))


def test_bounds_fall_with_depth():
    """In layer 2, .8 e^-1 = .2943."""
    layers = tuple(Layer(name, "norm", (name,), name) for name in ("one", "two"))
    found = bounded(
        {"one": jnp.asarray([-1.0, 2]), "two": jnp.asarray([0.0, 0.5])}, layers, {"floor": 0.8, "fall": 0.5}
    )
    np.testing.assert_allclose(found["one"], [0.8 * np.exp(-0.5), 1], rtol=1e-6)
    np.testing.assert_allclose(found["two"], [0.8 * np.exp(-1), 0.5], rtol=1e-6)


def test_no_row_is_mixed_with_padding():
    for seed in range(20):
        partner = train.drawn_partners(jax.random.key(seed), jnp.asarray([1.0, 1, 1, 0, 0]))
        assert set(np.asarray(partner[:3])) == {0, 1, 2} and set(np.asarray(partner[3:])) == {3, 4}


def test_scales_alone_are_masked_and_the_mask_is_carried():
    net, batch = network(), rows()
    victim = net.init(jax.random.key(0))
    spec, given = given_for("nft:epochs=2,steps=3,batch=6,learning_rate=1", victim, batch)
    (stage,) = NFT.make(net, SHAPE, CLASSES, **spec.static)
    left = train.fit(jax.random.key(0), stage, lambda victim: given._replace(victim=victim), victim)
    for layer in norms(net, "nft"):
        scale, mask = left.weights.params[layer.name]["scale"], left.carry["mask"][layer.name]
        np.testing.assert_allclose(scale, victim.params[layer.name]["scale"] * mask)
    assert any(bool(jnp.any(mask < 1)) for mask in left.carry["mask"].values())
    np.testing.assert_array_equal(left.weights.params["conv2"]["kernel"], victim.params["conv2"]["kernel"])
    np.testing.assert_array_equal(left.weights.params["bn2"]["bias"], victim.params["bn2"]["bias"])


def test_presets():
    paper, benchmark = (lookup(f"nft:preset={preset}", {"nft": NFT}, "defense") for preset in ("paper", "benchmark"))
    assert (paper.static["epochs"], paper.static["steps"], benchmark.static["steps"]) == (5, 200, 0)
    np.testing.assert_allclose((paper.traced["learning_rate"], benchmark.traced["learning_rate"]), (0.05, 0.1))
