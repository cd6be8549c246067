"""MSPC: under a mask that all images share, a poisoned row keeps its prediction when it is amplified, a clean one not.

Pal, Yao, Wang, Shen, Liu, Backdoor Secrets Unveiled: Identifying Backdoor Data with Optimized Scaled Prediction
Consistency, ICLR 2024, arXiv:2403.10717. Two levels: the mask is the smallest under which suspected rows keep their
predictions (equation 4), and suspected are the rows that mostly keep theirs under the mask (equation 3).
"""

import jax
import jax.numpy as jnp
import numpy as np

from bdjax import train
from bdjax.cards import Card, Method, Setting
from bdjax.data import sources
from bdjax.errors import InvalidInput
from bdjax.types import Array, Detector, Net, Trained, Weights, real

CARD = Card(
    name="mspc",
    title="MSPC",
    citation="Pal, Yao, Wang, Shen, Liu, Backdoor Secrets Unveiled: Identifying Backdoor Data with Optimized Scaled "
    "Prediction Consistency, ICLR 2024, arXiv:2403.10717",
    year=2024,
    version=1,
    kind="consistency under amplification, masked",
    stage="pre-training",
    needs=("suspects", "victim"),
    settings={
        "rounds": Setting(4, "times that the mask is learned and rows are suspected anew", low=1),
        "epochs": Setting(10, "passes over the rows in each round", "epochs", low=1),
        "batch": Setting(1000, "rows a step; the whole source where that is smaller", "rows", low=1),
        "smallest": Setting(2, "smallest factor on the pixels", low=1),
        "largest": Setting(12, "largest factor; all whole numbers between are used", low=1),
        "shift": Setting(0.2, "what is subtracted from pixels before they are amplified", "pixels in [0, 1]", low=0.0),
        "mask_rate": Setting(0.1, "learning rate of the mask", low=0.0),
        "momentum": Setting(0.9, "SGD momentum on the mask", low=0.0, high=1.0),
        "weight_decay": Setting(5e-4, "coupled L2 on the mask", low=0.0),
        "sparsity": Setting(0.01, "weight of the norm of the mask", low=0.0),
    },
    presets={"paper": {}},
    departures=("The released code computes in half precision on a GPU; here it is the library's float type.",),
)


def amplify(image: Array, mask: Array, shift: Array, factor: Array) -> Array:
    """Images (b, height, width, channels) as clip(factor (image - shift) mask); mask float (height, width)."""
    return jnp.clip(factor * (image - shift) * mask[..., None], 0, 1)


def consistency(net: Net, weights: Weights, image: Array, mask: Array, shift: Array, factors: Array) -> Array:
    """The mean over factors of 1 where the prediction is kept and -1 where it is not, float (b,): equation 3."""

    def predict(image: Array) -> Array:
        return jnp.argmax(net.apply(weights, image)[0], axis=1)

    label = predict(image)
    kept = jax.lax.map(lambda factor: predict(amplify(image, mask, shift, factor)) == label, factors)
    return 2 * jnp.mean(kept, axis=0, dtype=image.dtype) - 1


def make_gradient(net: Net, factors: np.ndarray):
    """The gradient of the mask for `train.descend`, factor by factor, so that memory stays that of one."""

    def gradient(_key, mask, still, rows, given):
        settings, image = given.settings, rows.image
        plain = jax.nn.log_softmax(net.apply(given.victim, image)[0])
        suspected = still["suspected"][jnp.maximum(rows.row, 0)]

        def apart(mask: Array, factor: Array) -> Array:
            found = jax.nn.log_softmax(net.apply(given.victim, amplify(image, mask, settings["shift"], factor))[0])
            divergence = jnp.sum(jnp.exp(plain) * (plain - found), axis=1)
            return train.mean(suspected * divergence, rows.weight) / factors.size

        def add(total, factor: Array):
            value, slope = jax.value_and_grad(apart)(mask, factor)
            return (total[0] + value, total[1] + slope), ()

        zero = jnp.zeros((), mask.dtype), jnp.zeros_like(mask)
        (value, slope), _ = jax.lax.scan(add, zero, jnp.asarray(factors, mask.dtype))
        slope += settings["sparsity"] * jnp.sign(mask)
        return slope, still, {"divergence": value, "norm": jnp.sum(mask)}

    return gradient


def make(net, shape, classes, *, rounds, epochs, batch, smallest, largest):
    """The consistency of rows under the last mask."""
    del classes
    if largest < smallest:
        raise InvalidInput(f"mspc:largest={largest} is below smallest={smallest}; give factors in order")
    factors = np.arange(smallest, largest + 1)

    def judge(image: Array, mask: Array, weights: Weights, given) -> Array:
        return consistency(net, weights, image, mask, given.settings["shift"], jnp.asarray(factors, image.dtype))

    def begin(_key, given, _weights):
        nobody = jnp.zeros(given.suspects.size, real())
        return jnp.ones(shape[:2], real()), {"suspected": nobody, "epoch": jnp.zeros((), jnp.int32)}

    def renew(_key, mask, still, given):
        def suspect() -> Array:
            found = sources.each(given.suspects, lambda rows: judge(rows.image, mask, given.victim, given))
            return (found > 0).astype(real())

        suspected = jax.lax.cond(still["epoch"] % epochs == 0, suspect, lambda: still["suspected"])
        return {"suspected": suspected, "epoch": still["epoch"] + 1}

    stage = train.descend(
        lambda given: given.suspects,
        epochs=rounds * epochs,
        batch=batch,
        begin=begin,
        gradient=make_gradient(net, factors),
        rule=train.sgd("mask_rate"),
        order=lambda _key, _epoch, given, _still: sources.in_turn(given.suspects.size, batch),
        full=True,
        renew=renew,
        project=lambda mask, still, _rows, _given, _clock: (jnp.clip(mask, 0, 1), still),
        augment=False,
        leave=lambda _key, state, given: Trained(given.victim, {"mask": state.moving}),
    )

    def score(_key, _net, trained, _found, rows, given):
        return judge(rows.image, given.carry["mask"], trained.weights, given)

    return Detector(("rows",), score, None, lambda _found, score, _clean, _given: score > 0, (stage,))


MSPC = Method(CARD, make)
