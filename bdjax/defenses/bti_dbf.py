"""BTI-DBF: invert the trigger by decoupling benign features, then unlearn what the inverted images do.

Xu, Huang, Li, Qin, Ren, Towards Reliable and Efficient Backdoor Trigger Inversion via Decoupling Benign Features, ICLR
2024, https://openreview.net/forum?id=Tw9wemV6cb: the unlearning form, BTI-DBF (U). The model learns the true labels of
a batch in which some images are the generator's, and that its features there are those of the clean batch.
"""

import jax

from bdjax import train
from bdjax.cards import Card, Method
from bdjax.defenses.parts import inversion, inversion_stages
from bdjax.defenses.parts.inversion import Inverter, change, inverter

CARD = Card(
    name="bti_dbf",
    title="BTI-DBF (U)",
    citation="Xu, Huang, Li, Qin, Ren, Towards Reliable and Efficient Backdoor Trigger Inversion via Decoupling Benign "
    "Features, ICLR 2024, https://openreview.net/forum?id=Tw9wemV6cb",
    year=2024,
    version=1,
    kind="trigger inversion and unlearning",
    stage="post-training",
    needs=("clean", "victim"),
    changes="all weights",
    smallest=4,
    settings=inversion_stages.SETTINGS,
    presets={"paper": {}, "released": {"agreement": "swapped"}},
    departures=(
        *inversion.DEPARTURES,
        "The purification form, which puts a second generator before the model, is left out.",
        "Settings are those of the authors' released code; the code of PAM sets `reversed` to 0.2 for this method too.",
        "The reference benchmark has no BTI-DBF.",
    ),
)


def unlearned(found: Inverter):
    """Cross-entropy on the mixed images and the change of features against the clean ones, both in training mode."""

    def gradient(weights, mixed, rows, given):
        del given

        def loss(params):
            at = weights.replace(params=params)
            clean, _, batch_stats = found.features(at, rows.image, True, rows.weight)
            after, logits, batch_stats = found.features(at.replace(batch_stats=batch_stats), mixed, True, rows.weight)
            value = train.cross_entropy(logits, rows.label, rows.weight)
            moved = change(clean, after, rows.weight)
            accuracy = train.accuracy(logits, rows.label, rows.weight)
            return value + moved, (batch_stats, {"loss": value, "features": moved, "accuracy": accuracy})

        gradients, (batch_stats, info) = jax.grad(loss, has_aux=True)(weights.params)
        return gradients, batch_stats, info

    return gradient


def make(net, shape, classes, *, tap, width, blocks, rounds, **static):
    """Pretraining of the generator, then rounds of inversion and unlearning by Adam."""
    del classes
    found = inverter(net, shape, tap, width, blocks)
    return inversion_stages.stages(found, train.adam(), unlearned(found), rounds=rounds, inversions=rounds, **static)


BTI_DBF = Method(CARD, make)
