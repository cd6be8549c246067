"""FT: fine-tune on the defender's clean rows, with augmentation and BatchNorm in training mode; and its variants.

Liu, Dolan-Gavitt, Garg, Fine-Pruning, RAID 2018, section 4 (fine-tuning as a defense); the settings are those of
Zhu et al., ICCV 2023, section 4.1, and of BackdoorBench: SGD, rate 0.01, batch 256, 100 epochs. The variants are those
of Min, Qin, Shen, Cheng, Towards Stable Backdoor Purification through Feature Shift Tuning, NeurIPS 2023,
arXiv:2310.01875, where the head is the last linear layer:

- linear probing (LP): `trained=head`;
- FE-tuning, the other layers under a new head that stays: `head=new,trained=features`;
- FT-init, everything from a new head on: `head=new`.
"""

import jax
import jax.numpy as jnp

from bdjax import train
from bdjax.cards import Card, Method, Setting
from bdjax.keys import stream
from bdjax.models.parts import heads
from bdjax.train import recipes
from bdjax.types import Net, PyTree, Stage

SETTINGS = recipes.RECIPE | {
    "batch": Setting(256, "rows a step; the whole clean set where that is smaller", "rows", low=1),
    "smoothing": Setting(0.0, "label smoothing: this share is spread over the other classes", low=0.0, high=0.999),
}

VARIANTS = {
    "head": Setting("kept", "whether the last linear layer begins as the victim's or anew", choices=("kept", "new")),
    "trained": Setting(
        "all", "all weights, those of the head alone or all others", choices=("all", "head", "features")
    ),
    "rescale": Setting(False, "after every step bring the head's kernel back to the norm of the victim's"),
}

CARD = Card(
    name="ft",
    title="Fine-tuning",
    citation="Liu, Dolan-Gavitt, Garg, Fine-Pruning: Defending Against Backdooring Attacks on Deep Neural Networks, "
    "RAID 2018, arXiv:1805.12185",
    year=2018,
    version=1,
    kind="fine-tuning",
    stage="post-training",
    needs=("clean", "victim"),
    changes="all weights, or those that `trained` names; moving statistics always",
    settings=SETTINGS | VARIANTS,
    presets={"paper": {}, "benchmark": {"period": 100}},
    departures=(
        "The reference benchmark runs it in half precision; this computes in single precision.",
        "The variants keep the settings of fine-tuning. Those who named them tune for 10 epochs of batch 128 without "
        "weight decay, and their released code rescales the head in all of them.",
    ),
)


def stage(
    net: Net,
    *,
    head: str,
    trained: str,
    rescale: bool,
    new_bias: bool = True,
    scaled_start: bool = False,
    **recipe,
) -> Stage:
    """Fine-tuning on the clean rows, of the whole network or of a part of it.

    Args:
        net: the network.
        head, trained, rescale: see VARIANTS.
        new_bias: whether a new head has a new bias, too.
        scaled_start: whether a new head's kernel has the norm of the victim's before the first step.
        recipe: the rest of what `train.supervised` takes.

    Raises:
        InvalidInput: a variant was asked for and the network has no linear layer.
    """
    if (head, trained, rescale) == ("kept", "all", False):
        return train.supervised(net, lambda given: given.clean, **recipe)
    path = heads.place(net)

    def project(params, still, _rows, given, _clock):
        victim = heads.at(given.victim.params, path)
        return heads.put(params, path, heads.scaled(heads.at(params, path), victim)), still

    def factors(params):
        ones = jax.tree.map(jnp.ones_like, params)
        return chosen(ones, jax.tree.map(jnp.zeros_like, params), path, trained)

    hooks = {"project": project if rescale else None, "factors": None if trained == "all" else factors}
    plain = train.supervised(_train_partly(net, path, trained), lambda given: given.clean, **hooks, **recipe)

    def init(key, given, weights):
        state = plain.init(key, given, weights)
        if head == "kept":
            return state
        old = heads.at(state.moving, path)
        new = heads.drawn(stream(key, "head"), old)
        new = new if new_bias else {**new, "bias": old["bias"]}
        new = heads.scaled(new, old) if scaled_start else new
        return state.replace(moving=heads.put(state.moving, path, new))

    return plain._replace(init=init)


def chosen(moving: PyTree, still: PyTree, path: tuple[str, ...], trained: str) -> PyTree:
    """The parameters of which those that `trained` names are taken from `moving`, all others from `still`."""
    if trained == "head":
        return heads.put(still, path, heads.at(moving, path))
    return heads.put(moving, path, heads.at(still, path)) if trained == "features" else moving


def _train_partly(net: Net, path: tuple[str, ...], trained: str) -> Net:
    """The network with gradients for what is trained alone, so that no others are computed."""

    def apply(weights, *args, **kwargs):
        params = chosen(weights.params, jax.lax.stop_gradient(weights.params), path, trained)
        return net.apply(weights.replace(params=params), *args, **kwargs)

    return net._replace(apply=apply)


def make(net, shape, classes, **static):
    """Fine-tuning on the clean rows."""
    del shape, classes
    return (stage(net, **static),)


FT = Method(CARD, make)
