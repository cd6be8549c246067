"""D3: fine-tune while the head moves as far from the victim's as a sphere allows.

Wei, Liu, Zha, Backdoor Mitigation by Distance-Driven Detoxification, ICCV 2025, arXiv:2411.09585: the loss is
(lambda mean relu(CE - epsilon) - |W - W'|) / (lambda + 1), W the kernel of the head and W' the victim's. After every
step W is brought back to the norm of W'. W begins anew, the bias and all else as the victim's.
"""

import jax
import jax.numpy as jnp
import optax

from bdjax import train
from bdjax.cards import Card, Method, Setting
from bdjax.defenses import ft
from bdjax.models.parts import heads
from bdjax.train import recipes

CARD = Card(
    name="d3",
    title="D3",
    citation="Wei, Liu, Zha, Backdoor Mitigation by Distance-Driven Detoxification, ICCV 2025, arXiv:2411.09585",
    year=2025,
    version=1,
    kind="fine-tuning",
    stage="post-training",
    needs=("clean", "victim"),
    changes="all weights; the head's kernel begins anew",
    settings=recipes.RECIPE
    | {
        "batch": Setting(256, "rows a step; the whole clean set where that is smaller", "rows", low=1),
        "weight_decay": Setting(0.0, "coupled L2 on every parameter, those of BatchNorm included", low=0.0),
        "clean_weight": Setting(
            10.0, "lambda, weight of the cross-entropy; above 1 the loss is divided by lambda + 1", low=0.0
        ),
        "tolerance": Setting(0.1, "epsilon, cross-entropy of a row up to which it counts as 0", low=0.0),
    },
    presets={"paper": {}, "released": {"clean_weight": 0.5}},
    departures=(
        "The kernel of the head alone is driven away; the released code can take other layers and other starts.",
        "The reference benchmark has no D3; its authors' code, `released`, is built on that benchmark.",
    ),
)


def detoxifying(net, weights, image, batch, given):
    """The gradient of lambda relu(CE - epsilon) - |W - W'|, and the distance beside the figures."""
    path, settings = heads.place(net), given.settings
    victim = heads.at(given.victim.params, path)["kernel"]

    def loss(params):
        logits, batch_stats, _ = net.apply(weights.replace(params=params), image, train=True, weight=batch.weight)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.label)
        excess = train.mean(jax.nn.relu(losses - settings["tolerance"]), batch.weight)
        distance = jnp.linalg.norm(heads.at(params, path)["kernel"] - victim)
        factor = settings["clean_weight"]
        value = (factor * excess - distance) / jnp.where(factor > 1, factor + 1, 1)
        accuracy = train.accuracy(logits, batch.label, batch.weight)
        return value, (batch_stats, {"loss": value, "distance": distance, "accuracy": accuracy})

    gradients, (batch_stats, info) = jax.grad(loss, has_aux=True)(weights.params)
    return gradients, batch_stats, info


def make(net, shape, classes, **static):
    """Fine-tuning of all weights from a new head, whose norm stays the victim's."""
    del shape, classes
    # A uniform kernel that is brought to a norm is the same whatever the width that it was drawn with.
    start = {"head": "new", "new_bias": False, "scaled_start": True}
    return (ft.stage(net, trained="all", rescale=True, gradient=detoxifying, **start, **static),)


D3 = Method(CARD, make)
