"""Which training rows are surely clean and which surely poisoned, by how sensitive their features are.

Chen, Wu, Wang, Effective Backdoor Defense by Exploiting Sensitivity of Poisoned Samples, NeurIPS 2022: the rows whose
features change least under a transformation are taken for clean, those whose features change most for poisoned, and
what lies between is uncertain.
"""

import jax.numpy as jnp

from bdjax import train
from bdjax.cards import Setting
from bdjax.detection import fct
from bdjax.detection.parts import sensitivity
from bdjax.detection.parts.scoring import score_all
from bdjax.models.parts import heads
from bdjax.types import Array, Batch, Defense, Detector, Given, Net, Trained

_SCORE = fct.CARD.settings

SETTINGS = {
    "split_epochs": Setting(2, "passes of a new network over all rows, without augmentation", "epochs", low=1),
    "split_tuning_epochs": Setting(10, "passes afterwards that push its class centers apart", "epochs", low=0),
    "split_batch": Setting(128, "rows a step in both; all of them where there are fewer", "rows", low=1),
    "split_rate": Setting(0.01, "SGD learning rate in both, at the start", low=0.0),
    "split_decay": Setting(5e-4, "weight decay in both, coupled L2 on every parameter", low=0.0),
    "split_period": Setting(100, "half period of the cosine of that rate", "epochs", low=1),
    "turn": _SCORE["turn"],
    "shift": _SCORE["shift"],
    "clean_share": Setting(0.2, "share of rows taken for clean, those of lowest score", low=0.0, high=1.0),
    "poisoned_share": Setting(0.05, "share of rows taken for poisoned, those of highest score", low=0.0, high=1.0),
    "redraw": Setting(False, "whether bounds of the two come from the scores of other views than rows do"),
    "momentum": Setting(0.9, "SGD momentum, in every stage", low=0.0, high=1.0),
}
"""What `stages` reads from `given.settings`, and its counts."""


def bounds(score: Array, clean_share: Array, poisoned_share: Array) -> tuple[Array, Array]:
    """Up to which score float (n,) a row is clean, and from which on it is poisoned: float (), float ().

    With s the sorted scores and n of them s[floor(n clean_share)] and s[n - floor(n poisoned_share)].
    """
    ordered = jnp.append(jnp.sort(score), jnp.inf)
    count = [jnp.floor(score.size * share).astype(jnp.int32) for share in (clean_share, poisoned_share)]
    return ordered[count[0]], ordered[score.size - count[1]]


def balance(logits: Array, rows: Batch, given: Given, poisoned_weight: Array | float = 1.0) -> Array:
    """Mean cross-entropy of the clean rows less that of the poisoned ones times a weight; no rows give 0."""
    clean, poisoned = (
        train.cross_entropy(logits, rows.label, rows.weight * given.carry[name][rows.row])
        for name in ("clean", "poisoned")
    )
    return clean - poisoned_weight * poisoned


def stages(
    net: Net,
    method: str,
    classes: int,
    *,
    split_epochs: int,
    split_tuning_epochs: int,
    split_batch: int,
    split_period: int,
    redraw: bool,
) -> Defense:
    """Stages that carry `score` float (n,), `clean` bool (n,) and `poisoned` bool (n,); the network is of no more use.

    method: who asks, for an error.
    """
    tap = heads.reads(net, method)

    learned = sensitivity.learn(
        net,
        tap,
        lambda given: given.train,
        classes,
        train.sgd("split_rate", decay="split_decay", schedule=train.cosine(split_period)),
        epochs=split_epochs,
        tuning_epochs=split_tuning_epochs,
        batch=split_batch,
    )
    scored = score_all(net, Detector(("rows",), sensitivity.scored(tap)))

    def separate(key, state, given):
        left, settings = scored.finish(key, state, given), given.settings
        score = left.carry["score"]
        # Where views are drawn again the stage before has left the scores of the others.
        low, high = bounds(given.carry.get("score", score), settings["clean_share"], settings["poisoned_share"])
        return Trained(left.weights, {"score": score, "clean": score <= low, "poisoned": score >= high})

    return learned, *((scored,) if redraw else ()), scored._replace(finish=separate)
