"""FT-SAM: one step of the authors' optimizer, with its moving statistics, and a second one at the schedule's next rate.

Zhu et al., ICCV 2023; their code is `defense/ft-sam.py` and `utils/defense_utils/sam` of BackdoorBench.
"""

import copy
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import torch

import bdjax
from bdjax import train
from bdjax.cards import lookup
from bdjax.types import Batch, Given, Source
from experiments.fidelity import common

STEPS, RHO = 2, 2.0


def ours(made, image, label):
    """The weights after each step."""
    spec = lookup(f"ft_sam:preset=benchmark,rho={RHO}", bdjax.DEFENSES, "defense")
    (stage,) = bdjax.DEFENSES["ft_sam"].make(made.net, image.shape[1:], common.CLASSES, **spec.static)
    rows = Batch(jnp.asarray(image), jnp.asarray(label), jnp.arange(len(label)), jnp.ones(len(label)))
    source = Source(len(label), lambda row: rows)
    given = Given(spec.traced, lambda key, image: image, clean=source, victim=made.weights)
    state, step = (
        train.begin(stage, jax.random.key(0), given, None)[0],
        jax.jit(lambda state: stage.step(jax.random.key(0), state, rows, given)[0]),
    )
    found = []
    for _ in range(STEPS):
        state = step(state)
        found.append(stage.finish(None, state, given).weights)
    return found


def theirs(folder, made, image, label):
    """The same from the authors' training loop, an epoch of one batch at a time."""
    code, module = common.module(folder, "defense/ft-sam.py"), copy.deepcopy(made.module)
    base = torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(base, T_max=100)
    length = code.ProportionScheduler(schedule, max_lr=0.01, min_lr=0.0, max_value=RHO, min_value=RHO)
    rule = code.SAM(module.parameters(), base, module, 0.0, length, adaptive=True)
    (trainer,) = (each for each in vars(code).values() if hasattr(each, "_train_sam"))
    args = SimpleNamespace(device="cpu", label_smoothing=0.1, print_freq=100)
    loader = [(common.to_torch(image), torch.tensor(label).long())]
    found = []
    for epoch in range(STEPS):
        trainer._train_sam(None, args, loader, module, rule, schedule, None, epoch)
        found.append(jax.tree.map(jnp.array, common.weights(made.net, module)))  # a copy: training goes on in place
    return found


def compare(folder):
    """Relative differences of what each step changes."""
    image, label = common.batch()
    made = common.pair()
    before = [made.weights]
    mine, other = before + ours(made, image, label), before + theirs(folder, made, image, label)
    figures = {}
    for number in range(STEPS):
        one, two = (jax.tree.map(jnp.subtract, each[number + 1], each[number]) for each in (mine, other))
        figures[f"parameters, change in step {number + 1}"] = common.relative(one.params, two.params)
        figures[f"moving statistics, change in step {number + 1}"] = common.relative(one.batch_stats, two.batch_stats)
    return figures


COMPARISON = common.Comparison(
    "SCLBD/BackdoorBench",
    "f02e3534645f0ee63d6848653062cd6c0d6c400d",
    compare,
    (
        "Compared under preset=benchmark: labels smoothed by 0.1 and a cosine advanced at every step. Our default "
        "smooths nothing and advances the cosine once an epoch.",
    ),
)
