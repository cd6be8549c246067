"""Attacks whose trigger is a secret of some bits, hidden in every image by a network trained here.

Li, Li, Wu, Li, He, Lyu, Invisible Backdoor Attack with Sample-Specific Triggers, ICCV 2021,
https://arxiv.org/abs/2012.03816, section 4: an encoder and a decoder learn together to pass random bits through an
image that hardly changes; then the encoder hides one and the same secret in every image.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from bdjax.attacks.fitting.learned import averaged, converted, fit_on_images, parted, psnr
from bdjax.attacks.parts.common import GOAL, SOURCES, TARGET, dirty_label, scalar, stored
from bdjax.cards import LARGEST, Setting
from bdjax.keys import stream
from bdjax.models.auxiliary.steganography import Coder
from bdjax.train.recipes import rate
from bdjax.types import Array, Attack, Data, Key, PyTree, real

NEVER = LARGEST
"""A step that does not come."""

DEPARTURES = (
    "the networks are trained here, once for all cells of a study, which share the secret too: intervals over seeds "
    "are for one trigger",
    "the secret is random bits, where the authors and the benchmark hide a short text and its BCH parity bits",
    "weights begin as in StegaStamp's own code (He et al., uniform), biases at 0; with PyTorch's defaults, which the "
    "benchmarks' ports have, the networks do not begin to learn in so few steps",
)


def coding(bits: int, width: int, steps: int, fidelity: float) -> dict[str, Setting]:
    """The settings that both attacks have, with defaults of their own, for cards."""
    return {
        "bits": Setting(bits, "length of the secret", "bits", low=1),
        "width": Setting(width, "channels of the first layers of encoder and decoder", low=1),
        "encoder_steps": Setting(steps, "steps that train them", low=1),
        "encoder_batch": Setting(32, "images a step of that training", "images", low=1),
        "encoder_learning_rate": Setting(1e-3, "of that training (Adam), at the start", low=0.0),
        "encoder_schedule": Setting("step", "cosine to 0 at its end, or constant", choices=("step", "constant")),
        "fidelity": Setting(fidelity, "weight of the mean squared change against the bits' cross-entropy", low=0.0),
        "hold": Setting(50, "further steps on bits alone once a batch's are read", "steps", low=0),
        "ramp": Setting(250, "steps after those in which the fidelity's weight rises to its full", "steps", low=1),
    }


EIGHT_BITS = Setting(
    "float",
    "queries exact and training rows at the nearest 8-bit level; or both cut down to, or at the nearest level",
    choices=("float", "truncate", "round"),
)

LABELS = {"storage": EIGHT_BITS, "goal": GOAL, "target": TARGET, "sources": SOURCES}


class Pace(NamedTuple):
    """When the change of the image begins to count: `hold` steps after `start`, in full `ramp` steps later.

    `start` also comes as soon as the decoder reads more than a share `accuracy` of a batch's bits.
    """

    start: int
    accuracy: float
    hold: int
    ramp: int

    def share(self, started: Array, step: Array) -> Array:
        """Of the weight at a step; started: int32 (), the step of the start, NEVER where it has not come."""
        return jnp.clip(((step - started).astype(real()) - self.hold) / self.ramp, 0, 1)


def kept(image: Array, storage: str) -> Array:
    """An image cut to [0, 1] and, unless storage is `float`, to 8-bit levels."""
    image = jnp.clip(image, 0, 1)
    return jnp.round(image * 255) / 255 if storage == "round" else stored(image, storage)


def drawn(key: Key, *shape: int) -> Array:
    """Random bits as numbers 0 and 1."""
    return jax.random.bernoulli(key, 0.5, shape).astype(real())


def agreement(logits: Array, bits: Array) -> Array:
    """The share of bits that are read as they are."""
    return jnp.mean(((logits > 0) == (bits > 0.5)).astype(real()))


def lesson(coder: Coder, bits: int, pace: Pace):
    """The gradient for `fit_on_images`: the loss is the bits' cross-entropy and the weighted change of the image."""

    def gradient(key: Key, params: PyTree, memory: PyTree, image: Array, settings: PyTree, step: Array):
        secret = drawn(key, len(image), bits)
        weight = settings["fidelity"] * pace.share(memory["started"], step)

        def loss(params: PyTree):
            hidden = coder.hide(params["encoder"], image, secret)
            logits = coder.read(params["decoder"], jnp.clip(hidden, 0, 1))
            lost = jnp.mean(optax.sigmoid_binary_cross_entropy(logits, secret))
            return lost + weight * jnp.mean((hidden - image) ** 2), logits

        gradients, logits = jax.grad(loss, has_aux=True)(params)
        started = jnp.where(agreement(logits, secret) > pace.accuracy, step + 1, NEVER)
        return gradients, {"started": jnp.minimum(memory["started"], started).astype(jnp.int32)}

    return gradient


def measured(key: Key, coder: Coder, params: PyTree, image: Array, bits: int, storage: str) -> dict[str, Array]:
    """Means over images uint8 (n, height, width, channels), each with bits of its own, as `storage` has them.

    Returns:
        `bit_accuracy`, the share of bits read again, and `psnr` in dB.
    """

    def one(pixels: Array, secret: Array) -> dict[str, Array]:
        image, secret = pixels[None].astype(real()) / 255, secret[None]
        hidden = kept(coder.hide(params["encoder"], image, secret), storage)
        read = agreement(coder.read(params["decoder"], hidden), secret)
        return {"bit_accuracy": read, "psnr": psnr(image, hidden)[0]}

    return averaged(one, image, drawn(key, len(image), bits))


def steganographic(
    name: str,
    classes: int,
    coder: Coder,
    pace: Pace,
    *,
    bits: int,
    encoder_steps: int,
    encoder_batch: int,
    encoder_schedule: str,
    storage: str,
    **labels,
) -> Attack:
    """The attack; `prepare` trains the networks and hides the secret in every training image.

    Assets: `encoder`, its parameters; `secret` float (bits,); `hidden` uint8 (n, height, width, channels); `figures`,
    see `measured`, of training images that the networks did not learn from.

    Raises:
        InvalidInput: target or sources are no classes.
    """

    def hide(encoder: PyTree, secret: Array, image: Array) -> Array:
        return kept(coder.hide(encoder, image[None], secret[None].astype(image.dtype))[0], storage)

    def optimizer(settings: PyTree, step: Array) -> optax.GradientTransformation:
        return optax.adam(settings["encoder_learning_rate"] * rate(step, encoder_steps, 1, encoder_schedule, 0))

    def prepare(key: Key, net, data: Data, settings) -> dict[str, PyTree]:
        del net
        rows, held = parted(stream(key, "held"), data.label.size)
        floats = {name: scalar(settings[name]) for name in ("encoder_learning_rate", "fidelity")}
        begun = jax.jit(coder.init)(stream(key, "init")), {"started": jnp.int32(pace.start)}
        lessons = lesson(coder, bits, pace), optimizer, data.image[rows], floats
        params, _ = fit_on_images(stream(key, "train"), begun, *lessons, encoder_steps, encoder_batch)
        secret = drawn(stream(key, "secret"), bits)

        def use(params: PyTree, secret: Array, image: Array, held: Array) -> dict[str, PyTree]:
            measure = measured(stream(key, "measure"), coder, params, held, bits, storage)
            hidden = converted(image, lambda image: hide(params["encoder"], secret, image))
            return {"figures": measure, "hidden": hidden}

        used = jax.jit(use)(params, secret, data.image, data.image[held])
        return {"encoder": params["encoder"], "secret": secret} | used

    def stamp(assets, trigger, image, row):
        del trigger
        return assets["hidden"][row].astype(image.dtype) / 255

    def query(assets, trigger, image, row):
        del trigger, row
        return hide(assets["encoder"], assets["secret"], image)

    return Attack(stamp=stamp, query=query, prepare=prepare, **dirty_label(name, classes, **labels))
