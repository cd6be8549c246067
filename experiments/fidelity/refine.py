"""REFINE: the U-Net after steps at all three learning rates, in the authors' own training loop.

Chen et al., ICLR 2025; their code is `refine.py` with `utils/unet.py` and `utils/losses.py`.
"""

import os
import tempfile
import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import torch

import bdjax
from bdjax import train
from bdjax.cards import lookup
from bdjax.defenses.refine import OWN
from bdjax.types import Batch, Given, Source, Weights
from experiments.fidelity import common

SIZE, WIDTH, HALVINGS = 20, 3, 4
"""Sides of 20, 10, 5, 2 and 1 pixels: an odd one is padded on the way up."""
BLOCKS = {"input": "inc.double_conv"}
BLOCKS |= {f"down{number}": f"down{number}.maxpool_conv.1.double_conv" for number in range(1, HALVINGS + 1)}
BLOCKS |= {f"up{number}": f"up{number}.conv.double_conv" for number in range(1, HALVINGS + 1)}


class Sometimes:
    """A loader that gives one batch in some epochs and nothing in the others."""

    def __init__(self, image, label, epochs):
        self.batch = common.to_torch(image), torch.tensor(label).long()
        self.epochs, self.epoch = epochs, -1

    def __iter__(self):
        self.epoch += 1
        return iter([self.batch] if self.epoch in self.epochs else [])

    def __len__(self):
        return 1


def unbiased(code):
    """Their U-Net, whose normalized convolutions begin without the bias that normalization takes away again."""
    unet = code.UNetLittle(None, 3, 3, first_channels=WIDTH)
    for name, value in unet.named_parameters():
        if name.endswith("bias") and "double_conv" in name and name.split(".")[-2] in ("0", "3"):
            torch.nn.init.zeros_(value)
    return unet


def read(unet) -> Weights:
    """Their U-Net as ours."""
    state = {name: value.detach().numpy().copy() for name, value in unet.state_dict().items()}
    params, statistics = {}, {}
    for block, path in BLOCKS.items():
        params[block], statistics[block] = {}, {}
        for number, (conv, norm) in enumerate(((0, 1), (3, 4)), 1):
            params[block][f"conv{number}"] = {"kernel": state[f"{path}.{conv}.weight"].transpose(2, 3, 1, 0)}
            scale, bias = state[f"{path}.{norm}.weight"], state[f"{path}.{norm}.bias"]
            params[block][f"norm{number}"] = {"scale": scale, "bias": bias}
            mean, var = state[f"{path}.{norm}.running_mean"], state[f"{path}.{norm}.running_var"]
            statistics[block][f"norm{number}"] = {"mean": mean, "var": var}
    kernel = state["outc.conv.weight"].transpose(2, 3, 1, 0)
    params["output"] = {"conv": {"kernel": kernel}, "bias": state["outc.conv.bias"]}
    return Weights(params, statistics)


def ours(made, start: Weights, shuffled, image, label, text: str, epochs) -> Weights:
    """Weights of the defended network after a step in each of these epochs, from a U-Net and an order of classes.

    shuffled: the class that each output of the network counts for, as theirs has it.
    """
    spec = lookup(f"refine:width={WIDTH},{text}", bdjax.DEFENSES, "defense")
    (stage,) = bdjax.DEFENSES["refine"].make(made.net, image.shape[1:], common.CLASSES, **spec.static)
    rows = Batch(jnp.asarray(image), jnp.asarray(label), jnp.arange(len(label)), jnp.ones(len(label)))
    source = Source(len(label), lambda row: rows)
    given = Given(spec.traced, lambda key, image: image, clean=source, victim=made.weights)
    state = train.begin(stage, jax.random.key(0), given, None)[0]
    wanted = {"unet": start.batch_stats, "order": jnp.asarray(np.argsort(shuffled), jnp.int32)}
    moving = jax.tree.map(jnp.asarray, start.params)
    state = state.replace(moving=moving, still=wanted)
    step = jax.jit(lambda state: stage.step(jax.random.key(0), state, rows, given)[0])
    for epoch in epochs:
        state = step(state.replace(step=jnp.int32(epoch)))
    return stage.wrap(made.net), stage.finish(None, state, given).weights


def figures(made, image, start: Weights, mine, other: Weights, predict) -> dict[str, float]:
    """Relative differences of what the steps changed, and of the outputs in inference mode.

    mine: the defended network and its weights; predict: theirs, images -> probabilities.
    """
    net, weights = mine
    own = weights.params[OWN], weights.batch_stats[OWN]["unet"]
    one, two = (
        jax.tree.map(
            lambda after, before: np.asarray(after) - np.asarray(before), each, (start.params, start.batch_stats)
        )
        for each in (own, (other.params, other.batch_stats))
    )
    with torch.no_grad():
        expected = predict(common.to_torch(image)).numpy()
    chance = jax.nn.softmax(net.apply(weights, jnp.asarray(image))[0])
    return {
        "U-Net, change": common.relative(one[0], two[0]),
        "statistics, change": common.relative(one[1], two[1]),
        "probabilities of other images": common.relative(chance, expected),
    }


def settings():
    """The batch, other images, and a network that tells them apart."""
    image, label = common.batch(size=SIZE)
    made = common.keen(common.pair(size=SIZE), image)
    return made, image, label, common.batch(size=SIZE, seed=2)[0]


EPOCHS, LENGTH = (0, 1, 2, 31, 32), 51
"""A run of 51 epochs lowers its rate at epochs 1 and 31."""


def compare(folder):
    """Relative differences after steps at all three rates of the released SGD."""
    made, image, label, unseen = settings()
    blocks = common.pieces(folder, "utils/unet.py", "DoubleConv", "Down", "Up", "OutConv", "UNetLittle")
    losses = common.pieces(folder, "utils/losses.py", "SupConLoss")
    torch.manual_seed(3)
    unet = unbiased(blocks)
    start = read(unet)
    with tempfile.TemporaryDirectory() as place, common.without_cuda():
        args = SimpleNamespace(dataset="d", model="m", attack="a", refine_res=place, optim="SGD", lr=0.01, decay=0.8)
        args.sup, args.epoch, args.batch_size = 0.1, LENGTH, len(label)
        code = common.pieces(
            folder,
            "refine.py",
            "Adv_Program",
            "Adversarial_Reprogramming",
            args=args,
            num_classes=common.CLASSES,
            first_channel=WIDTH,
            GetModel=lambda *_: SimpleNamespace(get_model=lambda: made.module),
            UNetLittle=lambda **_: unet,
            SupConLoss=losses.SupConLoss,
            Log=lambda _path: lambda _text: None,
            os=os,
            time=time,
        )
        np.random.seed(0)
        run = object.__new__(code.Adversarial_Reprogramming)
        run.program = code.Adv_Program()
        run.init_mode()
        run.train_loader, run.test = Sometimes(image, label, EPOCHS), lambda: None
        run.train()
        text = "first_drop=1,second_drop=31"
        mine = ours(made, start, args.arr_shuffle, image, label, text, EPOCHS)
        return figures(made, unseen, start, mine, read(unet), run.program.eval())


COMPARISON = common.Comparison(
    "WhitolfChen/REFINE",
    "a49e7e59a99c5d49ed79ddae0f34d4934a04c937",
    compare,
    (
        "Convolutions that are normalized have no bias; theirs begins at 0, where normalization keeps it.",
        "Where a probability is below 1e-12 theirs loses its gradient.",
    ),
)
