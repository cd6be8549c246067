"""PAM: unlearn inverted triggers by the gradient at weights that are moved back towards the backdoored ones.

Min, Qin, Zhang, Shen, Cheng, Uncovering, Explaining, and Mitigating the Superficial Safety of Backdoor Defense, NeurIPS
2024, arXiv:2410.09838, Path-Aware Minimization, as the authors' released code has it: with d = w_backdoored - w, one
norm over all parameters, the gradient at w + rho d / ||d|| is applied at w. Moving statistics are those of the pass at
the moved weights. Inversion is BTI-DBF's.
"""

import jax
import optax

from bdjax import train
from bdjax.cards import Card, Method, Setting
from bdjax.defenses.parts import inversion, inversion_stages
from bdjax.defenses.parts.inversion import inverter
from bdjax.types import Net

CARD = Card(
    name="pam",
    title="PAM",
    citation="Min, Qin, Zhang, Shen, Cheng, Uncovering, Explaining, and Mitigating the Superficial Safety of Backdoor "
    "Defense, NeurIPS 2024, arXiv:2410.09838",
    year=2024,
    version=1,
    kind="trigger inversion and unlearning",
    stage="post-training",
    needs=("clean", "victim"),
    changes="all weights",
    smallest=4,
    settings=inversion_stages.SETTINGS
    | {
        "rounds": Setting(3, "of inversion and unlearning", "rounds", low=1),
        "inversions": Setting(0, "rounds, from the first on, that invert anew; 0: all", "rounds", low=0),
        "learning_rate": Setting(0.01, "of the model, constant", low=0.0),
        "momentum": Setting(0.1, "of SGD, without weight decay", low=0.0, high=1.0),
        "reversed": Setting(
            0.2, "share of a batch that the generator makes; and one row more", "fraction", low=0.0, high=1.0
        ),
        "rho": Setting(0.5, "how far the weights are moved, in the Euclidean norm of all parameters", low=0.0),
    },
    presets={"paper": {}, "released": {"agreement": "swapped", "inversions": 1}},
    departures=(
        *inversion.DEPARTURES,
        "The released code freezes the generator for good at the first unlearning, so that later rounds go on with the "
        "first inversion: `released`; `paper` inverts anew in every round.",
        "Settings are those of the released command for ResNet-18. rho is a length in the space of all weights, so it "
        "means another thing for a network of another size.",
        "The reference benchmark has no PAM.",
    ),
)


def towards(params, backdoored, rho):
    """Params moved by rho (backdoored - params) / (||backdoored - params|| + 1e-12), and that norm ()."""
    direction = jax.tree.map(lambda old, new: old - new, backdoored, params)
    length = optax.tree.norm(direction)
    factor = rho / (length + 1e-12)
    return jax.tree.map(lambda w, d: w + factor * d, params, direction), length


def path_aware(net: Net):
    """Cross-entropy on the mixed images, its gradient at the moved weights."""

    def gradient(weights, mixed, rows, given):
        moved, length = towards(weights.params, given.victim.params, given.settings["rho"])
        gradients, batch_stats, info = train.loss_gradient(net, weights.replace(params=moved), mixed, rows)
        return gradients, batch_stats, info | {"distance": length}

    return gradient


def make(net, shape, classes, *, tap, width, blocks, rounds, inversions, **static):
    """Pretraining of the generator, then rounds of inversion and path-aware unlearning by SGD."""
    del classes
    found = inverter(net, shape, tap, width, blocks)
    often = min(inversions or rounds, rounds)
    return inversion_stages.stages(
        found, train.sgd(decay=None), path_aware(net), rounds=rounds, inversions=often, **static
    )


PAM = Method(CARD, make)
