"""How Poison Ink's injector and extractor learn together (Zhang et al., IEEE TIP 2022, section IV)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from bdjax.attacks.fitting.learned import fit_on_images, psnr
from bdjax.attacks.parts.edges import edges, inked
from bdjax.keys import stream
from bdjax.types import Array, Key, Net, PyTree, Weights

TONES, TONE = 5, 40 / 255
"""Inks in training have multiples of `TONE`, 1 to `TONES` of them, in every channel, from the released code."""

CUT = 8
"""Crops take one part in so many off every side's length."""

BETA = 0.5
"""Of Adam's first moment."""


class Inking(NamedTuple):
    """Both networks."""

    injector: Net
    extractor: Net

    def inject(self, weights: Weights, image: Array, ink: Array) -> Array:
        """Images (b, height, width, channels) with their ink in them, of any range."""
        return self.injector.apply(weights, jnp.concatenate([image, ink], -1))[0]

    def extract(self, params: PyTree, image: Array) -> Array:
        """The ink found in images, of the same shape."""
        return self.extractor.apply(Weights(params, {}), image)[0]


def augmented(key: Key, first: Array, second: Array) -> tuple[Array, Array]:
    """Two batches (b, height, width, channels) cropped and flipped alike, each with probability one half."""
    both = jnp.concatenate([first, second], -1)
    count, height, width, channels = both.shape
    sides = height - height // CUT, width - width // CUT
    where = jax.random.randint(stream(key, "place"), (2,), 0, jnp.array([height - sides[0], width - sides[1]]) + 1)
    crop = jax.lax.dynamic_slice(both, (0, where[0], where[1], 0), (count, *sides, channels))
    crop = jax.image.resize(crop, both.shape, "bilinear")
    both = jnp.where(jax.random.bernoulli(stream(key, "crop")), crop, both)
    both = jnp.where(jax.random.bernoulli(stream(key, "flip")), both[:, :, ::-1], both)
    return both[..., : channels // 2], both[..., channels // 2 :]


def lesson(inking: Inking):
    """What `fit_on_images` wants as `gradient`; memory holds the injector's batch statistics."""

    def gradient(key: Key, params: PyTree, memory: PyTree, image: Array, settings: PyTree, step: Array):
        del step
        tones = jax.random.randint(stream(key, "colour"), (len(image), image.shape[-1]), 1, TONES + 1)
        colour = TONE * tones.astype(image.dtype)
        drawn = jax.vmap(edges, (0, None))
        ink = jax.vmap(inked)(drawn(image, settings["edge_threshold"]), colour)

        def loss(params: PyTree):
            weights = Weights(params["injector"], memory["batch_stats"])
            hidden, batch_stats, _ = inking.injector.apply(weights, jnp.concatenate([image, ink], -1), train=True)
            seen, clean = augmented(stream(key, "augment"), hidden, image)
            edge = drawn(clean, settings["edge_threshold"])
            off = (inking.extract(params["extractor"], seen) - jax.vmap(inked)(edge, colour)) ** 2
            blank = jnp.mean((inking.extract(params["extractor"], clean) - 1) ** 2)
            value = settings["fidelity"] * jnp.mean((hidden - image) ** 2) + settings["clean"] * blank
            value += settings["edge"] * jnp.mean(off * edge) + settings["paper"] * jnp.mean(off * (1 - edge))
            return value, batch_stats

        gradients, batch_stats = jax.grad(loss, has_aux=True)(params)
        return gradients, {"batch_stats": batch_stats}

    return gradient


def trained(key: Key, inking: Inking, image: Array, settings: PyTree, steps: int, batch: int) -> tuple[PyTree, PyTree]:
    """Parameters of `injector` and `extractor`, and the memory with the injector's `batch_stats`.

    Args:
        key: of the training.
        inking: the networks.
        image: uint8 (n, height, width, channels).
        settings: the attack's floats.
        steps, batch: how many, and images in each.
    """

    def begin(key: Key) -> tuple[PyTree, PyTree]:
        first, second = (net.init(stream(key, name)) for name, net in inking._asdict().items())
        return {"injector": first.params, "extractor": second.params}, {"batch_stats": first.batch_stats}

    def optimizer(settings: PyTree, step: Array) -> optax.GradientTransformation:
        tenths = (5 * step >= 2 * steps).astype(int) + (5 * step >= 4 * steps)
        return optax.adam(settings["ink_learning_rate"] * 0.1**tenths, BETA)

    begun = jax.jit(begin)(stream(key, "init"))
    return fit_on_images(key, begun, lesson(inking), optimizer, image, settings, steps, batch)


def measured(
    inking: Inking, params: PyTree, image: Array, hidden: Array, edge: Array, colour: Array
) -> dict[str, Array]:
    """How an image (height, width, channels) fares with ink of `colour` (channels,) on its edges (height, width, 1).

    Args:
        inking, params: the networks, and the extractor's parameters.
        image, hidden: without the ink and with it.
        edge, colour: where it is, and which.

    Returns:
        `psnr` in dB; `ink_error`, the root mean square error of the colour that is extracted on edges, 0 where there
        are none; `clean_error`, that of the white that is extracted from the clean image. Both in pixels.
    """
    found, blank = inking.extract(params, hidden[None])[0], inking.extract(params, image[None])[0]
    off = jnp.mean((found - colour) ** 2, -1, keepdims=True)
    ink = jnp.sqrt(jnp.sum(off * edge) / jnp.maximum(jnp.sum(edge), 1))
    clean = jnp.sqrt(jnp.mean((blank - 1) ** 2))
    return {"psnr": psnr(image[None], hidden[None])[0], "ink_error": ink, "clean_error": clean}
