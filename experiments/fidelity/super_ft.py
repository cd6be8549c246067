"""Super-fine-tuning: the rates and the weights of four epochs of backdoor-toolbox's loop, two of them forgetting.

The loop and `adjust_lr` are those of `super_finetuning.py` in vtu81/backdoor-toolbox at 9d4d909.
"""

import copy
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import torch

import bdjax
from bdjax.cards import lookup
from bdjax.defenses.super_ft import rate
from bdjax.types import Batch, Given
from experiments.fidelity import common

PATH = "other_defenses_tool_box/super_finetuning.py"
STEPS, EACH, EPOCHS, FORGETTING = 4, 16, 100, 40


def rates(folder):
    """All rates of a run of 16 steps an epoch, ours and theirs."""
    adjust = common.pieces(folder, PATH, "adjust_lr").adjust_lr
    optimizer, found = SimpleNamespace(param_groups=[{"lr": 0.03}]), []
    for step in range(EPOCHS * EACH):
        found.append(optimizer.param_groups[0]["lr"])
        adjust(optimizer, step, step // EACH, 0.03, 2.5, 0.05, FORGETTING, 10, 10)
    settings = lookup("super_ft", bdjax.DEFENSES, "defense").traced
    mine = rate(jnp.arange(EPOCHS * EACH), EACH, FORGETTING, 10, settings)
    return mine, np.array(found)


def ours(made, image, label):
    """The weights after each epoch of one batch."""
    spec = lookup("super_ft", bdjax.DEFENSES, "defense")
    (stage,) = bdjax.DEFENSES["super_ft"].make(made.net, image.shape[1:], common.CLASSES, **spec.static)
    rows = Batch(jnp.asarray(image), jnp.asarray(label), jnp.arange(len(label)), jnp.ones(len(label)))
    given = Given(spec.traced, lambda key, image: image, clean=common.source(image, label), victim=made.weights)
    state, found = stage.init(jax.random.key(0), given, None), [made.weights]
    step = jax.jit(lambda state: stage.step(jax.random.key(0), state, rows, given)[0])
    for _ in range(STEPS):
        state = step(state)
        found.append(stage.finish(None, state, given).weights)
    return found


def theirs(folder, made, image, label):
    """The same by their loop over batches."""
    run, module = common.loop(folder, PATH, "detect", "enumerate(self.sub_train_loader)"), copy.deepcopy(made.module)
    loader, found = [(common.to_torch(image), torch.tensor(label).long())], [made.weights]
    model = SimpleNamespace(
        model=module.train(),
        criterion=torch.nn.CrossEntropyLoss(),
        sub_train_loader=loader,
        lr_base=0.03,
        lr_max1=2.5,
        lr_max2=0.05,
    )
    scope = {"self": model, "optimizer": torch.optim.SGD(module.parameters(), lr=0.03)}
    scope["adjust_lr"] = common.pieces(folder, PATH, "adjust_lr").adjust_lr
    for epoch in range(STEPS):
        with common.without_cuda():
            run(scope | {"iteration": epoch, "epoch": epoch})
        found.append(jax.tree.map(jnp.array, common.weights(made.net, module)))
    return found


def compare(folder):
    """Relative differences of rates, and of what each step changes."""
    (image, label), made = common.batch(), common.pair("resnet18")
    figures = {f"rates of {EPOCHS * EACH} steps": common.relative(*rates(folder))}
    mine, other = ours(made, image, label), theirs(folder, made, image, label)
    for number in range(STEPS):
        one, two = (jax.tree.map(jnp.subtract, each[number + 1], each[number]) for each in (mine, other))
        figures[f"parameters, change in step {number + 1}"] = common.relative(one.params, two.params)
        figures[f"statistics, change in step {number + 1}"] = common.relative(one.batch_stats, two.batch_stats)
    return figures


COMPARISON = common.Comparison(
    "vtu81/backdoor-toolbox",
    "9d4d909",
    compare,
    ("The authors' own code is not public.",),
)
