"""NAD as the reference benchmark runs it: three steps of its distillation, repeated forward passes included.

The code is `defense/nad.py` of BackdoorBench, compared with `nad:preset=benchmark`.
"""

import copy
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import torch
import yaml

from experiments.fidelity import common, nad


def theirs(folder, made, teacher, image, label):
    """The weights after each epoch of one batch."""
    code = common.module(folder, "defense/nad.py")
    args = SimpleNamespace(**yaml.safe_load((folder / "config/defense/nad/cifar10.yaml").read_text()))
    args.device = "cpu"
    student, other = (pooled(copy.deepcopy(each.module)) for each in (made, teacher))
    rule, _ = code.argparser_opt_scheduler(student, args)
    trainer = object.__new__(code.NADModelTrainer)
    trainer.non_blocking = False
    losses = {"criterionCls": torch.nn.CrossEntropyLoss(), "criterionAT": code.AT(args.p)}
    true, none = torch.tensor(label).long(), torch.zeros(len(label))
    loader = [(common.to_torch(image), true, torch.arange(len(label)), none, true)]
    found = []
    for epoch in range(nad.STEPS):
        trainer.train_epoch(args, loader, {"student": student, "teacher": other.eval()}, rule, None, losses, epoch)
        found.append(jax.tree.map(jnp.array, common.weights(made.net, student)))  # a copy: training goes on in place
    return found


def pooled(module):
    """The network with its pooling as a child before the head, which the benchmark cuts off by position."""
    head = module.linear
    del module.linear
    module.avgpool, module.linear = torch.nn.AdaptiveAvgPool2d(1), head
    return module


def compare(folder):
    """Relative differences of what each step changes."""
    image, label = common.batch()
    made, teacher = common.pair(), common.pair(seed=nad.TEACHER)
    mine = nad.ours("nad:preset=benchmark", made, teacher, image, label)
    return nad.changes(made, mine, theirs(folder, made, teacher, image, label))


COMPARISON = common.Comparison(
    "SCLBD/BackdoorBench",
    "f02e3534645f0ee63d6848653062cd6c0d6c400d",
    compare,
    ("Compared without their half precision, which the teacher alone has.",),
)
