"""D3: steps of the loop of the authors' code, from the same new head.

Wei et al., ICCV 2025; their code is `defense/d3.py` in shawkui/Distance_Driven_Detoxification at ab96c36.
"""

import copy
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import torch

import bdjax
from bdjax import train
from bdjax.cards import lookup
from bdjax.models.parts import heads
from bdjax.types import Batch, Given
from experiments.fidelity import common

STEPS = 2


def ours(text, made, image, label):
    """The weights before the first step and after each, all in one epoch."""
    spec = lookup(text, bdjax.DEFENSES, "defense")
    (stage,) = bdjax.DEFENSES["d3"].make(made.net, image.shape[1:], common.CLASSES, **spec.static)
    rows = Batch(jnp.asarray(image), jnp.asarray(label), jnp.arange(len(label)), jnp.ones(len(label)))
    source = common.source(image, label)
    given = Given(spec.traced, lambda key, image: image, clean=source, victim=made.weights)
    state = stage.init(jax.random.key(0), given, None)
    found = [train.leave_weights(None, state, given).weights]
    step = jax.jit(lambda state: stage.step(jax.random.key(0), state, rows, given)[0])
    for _ in range(STEPS):
        # The rate falls by the epoch: the clock stays in the first.
        state = step(state).replace(step=jnp.int32(0))
        found.append(train.leave_weights(None, state, given).weights)
    return found


def theirs(folder, weight, made, start, image, label):
    """The same by their loop over batches, from the head that ours starts with."""
    step, module = common.loop(folder, "defense/d3.py", "mitigation", "trainloader"), copy.deepcopy(made.module)
    victim, found = module.linear.weight.data.clone(), [start]
    module.linear.weight.data = torch.tensor(jax.device_get(heads.at(start.params, ("linear",))["kernel"]).T.copy())
    loader = [(common.to_torch(image), torch.tensor(label).long(), None, None, None)]
    scope = {
        "args": SimpleNamespace(device="cpu", eps=0.1, lmd=weight, Lp=2),
        "model": module.train(),
        "trainloader": loader,
        "outer_opt": torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9),
        "select_layer_list": [module.linear],
        "initial_layer_list": [victim],
        "batch_loss_list": [],
    }
    for _ in range(STEPS):
        step(scope)
        found.append(jax.tree.map(jnp.array, common.weights(made.net, module)))
    return found


def compare(folder):
    """Relative differences of what each step changes, with lambda above and below 1."""
    (image, label), made, figures = common.batch(), common.pair("resnet18"), {}
    for text, weight in (("d3", 10.0), ("d3:preset=released", 0.5)):
        mine = ours(text, made, image, label)
        other = theirs(folder, weight, made, mine[0], image, label)
        for number in range(STEPS):
            one, two = (jax.tree.map(jnp.subtract, each[number + 1], each[number]) for each in (mine, other))
            figures[f"{text}: parameters, change in step {number + 1}"] = common.relative(one.params, two.params)
            figures[f"{text}: statistics, change in step {number + 1}"] = common.relative(
                one.batch_stats, two.batch_stats
            )
    return figures


COMPARISON = common.Comparison(
    "shawkui/Distance_Driven_Detoxification",
    "ab96c36bf0218b04928cb823e5c3dea416715291",
    compare,
    ("The new head is ours in both, drawn uniformly and brought to the victim's norm, as theirs is.",),
)
