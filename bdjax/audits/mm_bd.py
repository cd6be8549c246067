"""MM-BD: does one class reach a far larger margin than the others on images of no content at all?

Wang, Xiang, Miller, Kesidis, MM-BD: Post-Training Detection of Backdoor Attacks with Arbitrary Backdoor Pattern Types
Using a Maximum Margin Statistic, IEEE S&P 2024, arXiv:2205.06900, section 3: for every class the largest margin that
gradient ascent finds from random images, and the tail of a gamma distribution fitted to all but the largest of them.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bdjax import train
from bdjax.audits.parts import common
from bdjax.cards import Card, Method, Setting
from bdjax.data import sources
from bdjax.host import call_on_host
from bdjax.keys import stream
from bdjax.types import Array, Audit, Trained, real

CARD = Card(
    name="mm_bd",
    title="MM-BD",
    citation="Wang, Xiang, Miller, Kesidis, MM-BD: Post-Training Detection of Backdoor Attacks with Arbitrary Backdoor "
    "Pattern Types Using a Maximum Margin Statistic, IEEE S&P 2024, arXiv:2205.06900",
    year=2024,
    version=1,
    kind="detection of backdoored models by maximum margins",
    stage="post-training",
    needs=("victim",),
    changes="nothing; images are learned from noise",
    settings={
        "images": Setting(30, "random images that the ascent starts from, a class", "images", low=1),
        "steps": Setting(300, "steps of ascent, at most", "steps", low=1),
        "learning_rate": Setting(0.01, "constant learning rate of the ascent, of the sum over images", low=0.0),
        "tolerance": Setting(1e-5, "relative change of a class's objective that ends its ascent", low=0.0),
        "significance": Setting(0.05, "probability under the null below which a model is called backdoored", low=0.0),
    },
    departures=(
        "The authors' momentum of 0.2 has no effect, for they make their optimizer anew at every step: plain descent.",
    ),
)


def margins(logits: Array, number: Array) -> Array:
    """The logit of a class less the largest of the others, float (b,); logits: float (b, classes)."""
    own = jnp.arange(logits.shape[1]) == number
    return logits[:, number] - jnp.max(jnp.where(own, -jnp.inf, logits), axis=1)


def p_value(margin: np.ndarray) -> np.ndarray:
    """The probability that the largest of K margins, float (K,), is as large if all are gamma distributed as the rest.

    NaN where no gamma distribution fits.
    """
    from scipy.stats import gamma

    last = int(np.argmax(margin))
    try:
        fitted = gamma.fit(np.delete(margin, last))
    except Exception:  # scipy has errors of its own for what cannot be fitted
        return np.asarray(np.nan, margin.dtype)
    return np.asarray(1 - gamma.cdf(margin[last], *fitted) ** margin.size, margin.dtype)


def make(net, shape, classes, *, images, steps):
    """Ascent of all classes' images, then the test."""
    common.check_classes(classes, "mm_bd")

    def begin(key, _given, _weights):
        image = jax.random.uniform(stream(key, "images"), (classes, images, *shape), real())
        zero = jnp.zeros(classes, real())
        return image, {"objective": zero + 1000, "margin": zero, "stopped": jnp.zeros(classes, bool)}

    def gradient(_key, moving, still, _rows, given):
        def of_class(one):
            image, number = one

            def loss(image):
                margin = margins(net.apply(given.victim, jnp.clip(image, 0, 1))[0], number)
                return -jnp.sum(margin), jnp.max(margin)

            (value, margin), slope = jax.value_and_grad(loss, has_aux=True)(image)
            return slope, value, margin

        slope, value, margin = jax.lax.map(of_class, (moving, jnp.arange(classes)))
        moves = ~still["stopped"]
        slope = jnp.where(moves[:, None, None, None, None], slope, 0)
        settled = jnp.abs(still["objective"] - value) / jnp.abs(still["objective"]) < given.settings["tolerance"]
        after = {"objective": value, "margin": margin, "stopped": still["stopped"] | settled}
        after = jax.tree.map(lambda old, new: jnp.where(moves, new, old), still, after)
        return slope, after, {"margin": jnp.mean(after["margin"]), "running": jnp.mean(moves.astype(real()))}

    stage = train.descend(
        lambda given: sources.numbers(1),
        epochs=steps,
        batch=1,
        begin=begin,
        gradient=gradient,
        rule=lambda given, clock: optax.sgd(given.settings["learning_rate"]),
        leave=lambda key, state, given: Trained(given.victim, {"margin": state.still["margin"]}),
        augment=False,
    )

    def measure(_key, _net, trained, given):
        margin = trained.carry["margin"]
        probability = call_on_host(p_value, jax.ShapeDtypeStruct((), margin.dtype), margin)
        detected = jnp.where(jnp.isnan(probability), probability, probability <= given.settings["significance"])
        return {"margin": margin, "p": probability, "detected": detected, "class": jnp.argmax(margin).astype(real())}

    return Audit((stage,), measure)


MM_BD = Method(CARD, make)
