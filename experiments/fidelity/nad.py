"""NAD: three steps of the authors' distillation, at the rates of their first three epochs.

Li et al., ICLR 2021; their code is bboylyg/NAD.
"""

import contextlib
import copy
import io

import jax
import jax.numpy as jnp
import torch
import torch.nn.functional as F  # noqa: N812

import bdjax
from bdjax.cards import lookup
from bdjax.defenses.parts import attention as maps
from bdjax.types import Batch, Given, Source
from experiments.fidelity import common

STEPS, TEACHER = 3, 7  # how many, and the seed of the teacher's weights


class Attentive(torch.nn.Module):
    """A network that also gives the ends of its last three stages, as the authors' networks do."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, image):
        """Image float (b, channels, height, width)."""
        kept, x = [], self.module.conv1(image)
        for stage in ("layer1", "layer2", "layer3", "layer4"):
            x = getattr(self.module, stage)(x)
            kept.append(x)
        return *kept[1:], self.module.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))


def ours(text, made, teacher, image, label):
    """The weights after each step of the student."""
    spec = lookup(text, bdjax.DEFENSES, "defense")
    stage = bdjax.DEFENSES["nad"].make(made.net, image.shape[1:], common.CLASSES, **spec.static)[1]
    rows = Batch(jnp.asarray(image), jnp.asarray(label), jnp.arange(len(label)), jnp.ones(len(label)))
    source = Source(len(label), lambda row: rows)
    given = Given(spec.traced, lambda key, image: image, clean=source, victim=made.weights)
    given = given._replace(carry={"teacher": teacher.weights})
    state, found = stage.init(jax.random.key(0), given, None), []
    step = jax.jit(lambda state: stage.step(jax.random.key(0), state, rows, given)[0])
    for _ in range(STEPS):
        state = step(state)
        found.append(stage.finish(None, state, given).weights)
    return found


def theirs(folder, made, teacher, image, label):
    """The same from the authors' training loop, an epoch of one batch at a time."""
    code, module = common.module(folder, "main.py"), copy.deepcopy(made.module)
    code.accuracy = lambda *arguments, **named: (torch.zeros(()),) * 2  # theirs does not run on today's PyTorch
    opt = code.get_arguments().parse_args([])
    opt.cuda = False
    rule = torch.optim.SGD(
        module.parameters(), lr=opt.lr, momentum=opt.momentum, weight_decay=opt.weight_decay, nesterov=True
    )
    nets = {"snet": Attentive(module), "tnet": Attentive(copy.deepcopy(teacher.module)).eval()}
    losses = {"criterionCls": torch.nn.CrossEntropyLoss(), "criterionAT": code.AT(opt.p)}
    loader = [(common.to_torch(image), torch.tensor(label).long())]
    found = []
    for epoch in range(STEPS):
        with contextlib.redirect_stdout(io.StringIO()):
            code.adjust_learning_rate(rule, epoch, opt.lr)
            code.train_step(opt, loader, nets, rule, losses, epoch + 1)
        found.append(jax.tree.map(jnp.array, common.weights(made.net, module)))  # a copy: training goes on in place
    return found


def attention(folder, image):
    """Our attention map beside theirs."""
    code = common.module(folder, "at.py")
    mine = maps.attention(jnp.asarray(image), 2.0)
    other = code.AT(2.0).attention_map(common.to_torch(image)).flatten(1).numpy()
    return common.relative(mine, other)


def changes(made, mine, other):
    """Relative differences of what each step changes."""
    mine, other, figures = [made.weights, *mine], [made.weights, *other], {}
    for number in range(STEPS):
        one, two = (jax.tree.map(jnp.subtract, each[number + 1], each[number]) for each in (mine, other))
        figures[f"parameters, change in step {number + 1}"] = common.relative(one.params, two.params)
        figures[f"moving statistics, change in step {number + 1}"] = common.relative(one.batch_stats, two.batch_stats)
    return figures


def compare(folder):
    """Relative differences of what each step changes, and of one attention map."""
    image, label = common.batch()
    made, teacher = common.pair(), common.pair(seed=TEACHER)
    mine = ours("nad", made, teacher, image, label)
    other = theirs(folder, made, teacher, image, label)
    return {"attention map": attention(folder, image)} | changes(made, mine, other)


COMPARISON = common.Comparison(
    "bboylyg/NAD",
    "f17b71390f61fe24335728bfea53e4fe86ee450b",
    compare,
    (
        "From its fifth epoch on our rate is lower: it falls after every two epochs, theirs once in 20.",
        "Their wide networks have three stages and ours four: the last three are compared.",
    ),
)
