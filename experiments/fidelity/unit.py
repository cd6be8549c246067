"""UNIT: the bounds that the authors' function keeps after few and after many steps, over all changes of the cost.

Cheng et al., ECCV 2024; their code is `unit.py` in Megum1/UNIT at b78fe55.
"""

import copy
import time
from collections import Counter
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import torch

import bdjax
from bdjax import train
from bdjax.cards import lookup
from bdjax.types import Given
from experiments.fidelity import common

RUNS = {"3 steps": (3, 0.01, 0.7), "30 steps": (30, 0.01, 0.7), "6 steps, none accepted": (6, 0.01, -1.0)}
"""Steps, learning rate, and accepted fall of accuracy. In 30 steps the cost falls, returns to its start and rises."""


def ours(made, rows, held_out, steps, rate, allowed):
    """The bounds at the start and those that are kept."""
    text = f"unit:augment=false,steps={steps},learning_rate={rate},allowed={allowed}"
    spec = lookup(text, bdjax.DEFENSES, "defense")
    (stage,) = bdjax.DEFENSES["unit"].make(made.net, (32, 32, 3), common.CLASSES, **spec.static)
    given = Given(spec.traced, None, clean=common.source(*rows), valid=common.source(*held_out), victim=made.weights)
    start = train.begin(stage, jax.random.key(0), given, None)[0].moving
    left = train.fit(jax.random.key(0), stage, lambda victim: given._replace(victim=victim), made.weights)
    return start, left.weights.params["bounds"]


def theirs(folder, made, rows, held_out, steps, rate, allowed):
    """The bounds that theirs keeps, and how often its cost fell, returned to its start and rose."""
    module, found, said = copy.deepcopy(made.module), [], []
    for name, block in list(module.named_modules()):
        if getattr(block, "shortcut", 0) is None:
            module.get_submodule(name).shortcut = torch.nn.Sequential()

    class Torch:
        """torch, but that the stored model is the one given."""

        def __getattr__(self, name):
            return (lambda *_args, **_named: module) if name == "load" else getattr(torch, name)

    def seen(network, *_):
        found.append(network)
        return 0.0

    data = [torch.tensor(one).long() if one.ndim == 1 else common.to_torch(one) for one in (*rows, *held_out)]
    scope = {
        "torch": Torch(),
        "time": time,
        "EPSILON": 1e-7,
        "print": lambda text, **_: said.append(text),
        "get_norm": lambda _: (lambda image: image, None),
        "get_config": lambda _: {"size": None},
        "get_backdoor": lambda *_: None,
        "get_dataset": lambda *_args, **_named: None,
        "PoisonDataset": lambda *_: None,
        "DataLoader": lambda *_args, **_named: None,
        "eval_acc": seen,
    }
    names = ("unit", "ResNet18_unit", "activation_clip", "validate_acc")
    code = common.pieces(folder, "unit.py", *names, **scope)
    vars(code)["unit"].__globals__["prepare_defense_samples"] = lambda *_args, **_named: data
    args = SimpleNamespace(dataset="", network="", attack="", target=0, batch_size=1)
    args.lr, args.n_steps, args.acc_degrade = rate, steps, allowed
    with common.without_cuda():
        code.unit(args)
    changes = Counter(text.split()[1] for text in said if text.startswith("Cost "))
    bounds = {tap(name): bound.numpy().transpose(1, 2, 0) for name, bound in found[-1].collect_bounds.items()}
    return bounds, tuple(changes[name] for name in ("down", "reset", "up"))


def tap(name):
    """Their name of a place as ours."""
    if name == "pre_layer":
        return "relu1"
    layer, block, number = name.replace("block", "").split("_")
    return f"{layer}_{block}.relu{int(number) + 1}"


def compare(folder):
    """Relative differences of what the bounds that are kept differ by from those at the start."""
    (image, _), figures = common.batch(16), {}
    made = common.keen(common.pair("resnet18"), image, 1.0)
    label = np.asarray(jnp.argmax(made.net.apply(made.weights, jnp.asarray(image))[0], axis=1))
    rows, held_out = (image[:8], label[:8]), (image[8:], label[8:])
    for name, run in RUNS.items():
        start, mine = ours(made, rows, held_out, *run)
        other, changes = theirs(folder, made, rows, held_out, *run)
        if name == "30 steps" and not all(changes):
            raise RuntimeError(f"the cost fell, returned and rose {changes} times: give another network")
        one, two = (jax.tree.map(lambda after, before: after - before, each, dict(start)) for each in (mine, other))
        figures[f"{name}: bounds, change"] = common.relative(one, two)
    return figures


COMPARISON = common.Comparison(
    "Megum1/UNIT",
    "b78fe555e8c3a81a301790b76c7437215f6e9edf",
    compare,
    (
        "Held-out rows are given to both; theirs are a fifth of the clean rows, ours those that choose thresholds.",
        "Many more steps at this rate show how rounding grows from step to step, and not whether the steps agree.",
    ),
)
