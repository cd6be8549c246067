"""FT-SAM: fine-tune on clean rows with adaptive sharpness-aware minimisation, which moves large weights most.

Zhu, Wei, Shen, Fan, Wu, Enhancing Fine-Tuning Based Backdoor Defense with Sharpness-Aware Minimization, ICCV 2023,
arXiv:2304.11823, equations 3 to 6: with T = diag(|w|), e = rho T^2 g / ||T g||, one norm over all parameters, those of
BatchNorm included; the gradient at w + e is applied at w. Moving statistics are those of the first pass.
"""

import jax
import jax.numpy as jnp
import optax

from bdjax import train
from bdjax.cards import Card, Method, Setting
from bdjax.defenses import ft

CARD = Card(
    name="ft_sam",
    title="FT-SAM",
    citation="Zhu, Wei, Shen, Fan, Wu, Enhancing Fine-Tuning Based Backdoor Defense with Sharpness-Aware Minimization, "
    "ICCV 2023, arXiv:2304.11823",
    year=2023,
    version=1,
    kind="fine-tuning",
    stage="post-training",
    needs=("clean", "victim"),
    changes="all weights",
    settings=ft.SETTINGS
    | {"rho": Setting(2.0, "length of the adaptive perturbation; 8 for GTSRB and Tiny ImageNet in the paper", low=0.0)},
    presets={"paper": {}, "benchmark": {"smoothing": 0.1, "schedule": "step", "period": 100}},
    departures=(
        "The paper does not say how the rate is annealed; `paper` takes the field's cosine once an epoch. The released "
        "code advances a cosine of half period 100 at every step, so that the rate rises and falls: `benchmark`.",
        "The released code smooths labels by 0.1, which the paper does not mention: `benchmark` alone does.",
    ),
)


def perturbation(params, gradients, rho):
    """The adaptive perturbation rho w^2 g / (|| |w| g || + 1e-12), equation 5, as a tree like params."""
    length = optax.tree.norm(jax.tree.map(lambda w, g: jnp.abs(w) * g, params, gradients))
    return jax.tree.map(lambda w, g: rho * w**2 * g / (length + 1e-12), params, gradients)


def gradient(net, weights, image, batch, given):
    """The gradient at the perturbed weights, with the first pass's moving statistics and figures."""
    smoothing, rho = given.settings["smoothing"], given.settings["rho"]
    first, batch_stats, info = train.loss_gradient(net, weights, image, batch, smoothing)
    moved = jax.tree.map(jnp.add, weights.params, perturbation(weights.params, first, rho))
    second, _, _ = train.loss_gradient(net, weights.replace(params=moved), image, batch, smoothing)
    return second, batch_stats, info


def make(net, shape, classes, **recipe):
    """Fine-tuning of all weights on the clean rows by the gradient at the perturbed weights."""
    del shape, classes
    return (train.supervised(net, lambda given: given.clean, gradient=gradient, **recipe),)


FT_SAM = Method(CARD, make)
