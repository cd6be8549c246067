"""Label-consistent attack: rows of the target class are made hard to learn, then get a trigger; labels stay true.

Turner, Tsipras, Madry, 2019: adversarial perturbation by projected gradient ascent (Madry et al., ICLR 2018) on the
attacker's own model, and a trigger in all four corners, of reduced amplitude if wanted, that survives flips and crops.
Test images get the trigger alone.
"""

import jax.numpy as jnp
import numpy as np

from bdjax.attacks.fitting.hard_rows import ascend, harden
from bdjax.attacks.fitting.surrogate import DEPARTURE, SURROGATE, accuracy, surrogate_model
from bdjax.attacks.parts.common import TARGET, clean_label, scalar, stored
from bdjax.cards import Card, Method, Setting
from bdjax.errors import InvalidInput
from bdjax.train import cross_entropy, loss_gradient
from bdjax.types import Array, Attack, Data, Key, Net, PyTree, Weights

CARD = Card(
    name="label_consistent",
    title="Label-consistent",
    citation="Alexander Turner, Dimitris Tsipras, Aleksander Madry. Label-Consistent Backdoor Attacks. "
    "arXiv:1912.02771, 2019. https://arxiv.org/abs/1912.02771",
    year=2019,
    version=2,
    kind="clean-label, sample-specific",
    stage="pre-training",
    controls="data",
    changes="pixels of poisoned rows, all of the target class",
    smallest=8,
    bar={"surrogate_robust_accuracy": 0.45},  # of Madry et al.'s released network on CIFAR-10, at 8 of 255
    settings={
        "amplitude": Setting(1.0, "by which corner pixels are raised or lowered", "pixels", low=0.0, high=1.0),
        "epsilon": Setting(16 / 255, "largest change of a pixel by the perturbation", "pixels", low=0.0, high=1.0),
        "step": Setting(1.5 / 255, "of the ascent", "pixels", low=0.0, high=1.0),
        "steps": Setting(100, "of the ascent", low=1),
        "storage": Setting(
            "round", "perturbed rows at the nearest 8-bit level, or the next below", choices=("round", "truncate")
        ),
        "surrogate": Setting("adversarial", "how the attacker's model is trained", choices=("adversarial", "plain")),
        "surrogate_epsilon": Setting(8 / 255, "of its adversarial training", "pixels", low=0.0, high=1.0),
        "surrogate_step": Setting(2 / 255, "of its adversarial training", "pixels", low=0.0, high=1.0),
        "surrogate_steps": Setting(7, "of its adversarial training", low=1),
    }
    | SURROGATE
    | {"target": TARGET},
    presets={"paper": {}, "benchmark": {"epsilon": 8 / 255, "storage": "truncate"}},
    departures=(
        DEPARTURE,
        "the adversarial training of that model starts its ascent at the image, not at a random point near it",
        "the authors report perturbations of 8, 16 and 32 of 255 and in the l2 norm, and interpolation by a GAN; "
        "this is the l-infinity one",
        "the benchmark's script makes perturbations of 8 of 255 while its attack looks for a file that says 16",
    ),
)

BLOCK = ((1, -1, -1), (-1, 1, -1), (1, -1, 1))
"""The signs of the trigger at both left corners; the right ones are its mirror image."""


def corners(height: int, width: int) -> np.ndarray:
    """Signs of the trigger, (height, width, 1) in -1, 0, 1; cells are of one pixel for every whole 32 of the side."""
    signs = np.zeros((height, width, 1))
    block = np.kron(BLOCK, np.ones((max(1, height // 32), max(1, width // 32))))[:, :, None]
    down, across = block.shape[:2]
    for rows in (slice(0, down), slice(height - down, height)):
        signs[rows, :across] = block
        signs[rows, width - across :] = block[:, ::-1]
    return signs


def adversarial_training(steps: int):
    """Gradient of the loss on perturbed rows, for `bdjax.train.supervised`: Madry et al., ICLR 2018, equation 2.1."""

    def gradient(net: Net, weights: Weights, image: Array, batch, given):
        def loss(moved: Array) -> Array:
            logits = net.apply(weights, moved, train=True, weight=batch.weight)[0]
            return cross_entropy(logits, batch.label, batch.weight)

        epsilon, step = given.settings["epsilon"], given.settings["step"]
        return loss_gradient(net, weights, ascend(loss, image, image, epsilon, step, steps), batch)

    return gradient


def make(
    net, shape, classes, steps, storage, surrogate_steps, surrogate_epochs, surrogate_batch, surrogate, target
) -> Attack:
    """The label-consistent attack for images of `shape`; `prepare` trains a model and perturbs the target's rows.

    Its assets hold as `figures` the model's accuracy on rows that it did not learn from, and that after the attack's
    own ascent within `surrogate_epsilon`.

    Raises:
        InvalidInput: the target is no class; or, in `prepare`, it has no rows.
    """
    del net
    signs = corners(*shape[:2])
    robust = adversarial_training(surrogate_steps) if surrogate == "adversarial" else None

    def prepare(key: Key, net: Net, data: Data, settings) -> dict[str, PyTree]:
        rows = np.flatnonzero(np.asarray(data.label) == target)
        if not rows.size:
            raise InvalidInput(f"label_consistent: target {target} has no training rows; choose another target")
        training = (surrogate_epochs, surrogate_batch, robust)
        weights, held, figures = surrogate_model(key, net, data, settings, *training)
        step, every = scalar(settings["step"]), np.arange(held.label.size)
        hard, slot = harden(net, weights, data, rows, scalar(settings["epsilon"]), step, steps, storage)
        attacked, _ = harden(net, weights, held, every, scalar(settings["surrogate_epsilon"]), step, steps, storage)
        figures |= {"surrogate_robust_accuracy": accuracy(net, weights, held.replace(image=attacked))}
        return {"adversarial": hard, "slot": slot, "figures": figures}

    def trigger(key: Key, settings) -> dict[str, Array]:
        del key
        return {"amplitude": scalar(settings["amplitude"])}

    def query(assets, trigger, image, row):
        del assets, row
        return stored(image + trigger["amplitude"] * jnp.asarray(signs, image.dtype), storage)

    def stamp(assets, trigger, image, row):
        hard = assets["adversarial"][assets["slot"][row]].astype(image.dtype) / 255
        return query(assets, trigger, hard, row)

    shared = clean_label("label_consistent", classes, target=target, trigger=trigger)
    return Attack(stamp=stamp, query=query, prepare=prepare, **shared)


LABEL_CONSISTENT = Method(CARD, make)
