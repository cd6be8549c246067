"""CBD: steps of both networks by the training functions of the authors' code.

Zhang et al., CVPR 2023; their code is `train.py` in zaixizhang/CBD at 8a7bd37.
"""

import contextlib
import copy
import io
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import torch

import bdjax
from bdjax.cards import lookup
from bdjax.keys import root
from bdjax.types import Given
from experiments.fidelity import common

PATH, STEPS, BATCH, EPOCHS = "train.py", 4, 8, (0, 20, 70)
OPTIONS = SimpleNamespace(cuda=False, device="cpu", disentangle=0, print_freq=10**6)


class Embedding(torch.nn.Module):
    """A network that also gives features when asked, as theirs do; without `disentangle` nothing comes of them."""

    def __init__(self, own: torch.nn.Module):
        super().__init__()
        self.own = own

    def forward(self, image, embedding=False):
        """Logits, or logits and features."""
        logits = self.own(image)
        return (logits, logits.detach()) if embedding else logits


def compare(folder):
    """Relative differences of what both networks change by; the second one at each of its three rates."""
    first, second = common.pair(seed=0), common.pair(seed=1)
    image, label = common.batch(STEPS * BATCH)
    spec = lookup(f"cbd:batch={BATCH}", bdjax.DEFENSES, "defense")
    stages = bdjax.DEFENSES["cbd"].make(first.net, (32, 32, 3), common.CLASSES, **spec.static)
    given = Given(spec.traced, lambda _, image: image, train=common.source(image, label))
    rows = jnp.arange(STEPS * BATCH, dtype=jnp.int32).reshape(STEPS, BATCH)
    loader = [(common.to_torch(image[one]), torch.tensor(label[one]).long(), None) for one in np.asarray(rows)]
    code = common.pieces(
        folder,
        PATH,
        *("train_step_backdoor", "train_step_clean", "learning_rate"),
        **vars(common.pieces(folder, "utils/util.py", "AverageMeter", "accuracy")),
    )

    def ours(stage, made, given, epoch=0):
        state = stage.init(root(0), given, None)
        state = state.replace(moving=made.weights.params, still=made.weights.batch_stats)
        state = state.replace(step=jnp.int32(epoch * STEPS))
        step = jax.jit(lambda state, rows: stage.step(root(1), state, given.train.read(rows), given)[0])
        for one in rows:
            state = step(state, one)
        return stage.finish(root(0), state, given).weights

    def theirs(made):
        model = Embedding(copy.deepcopy(made.module))
        return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4, nesterov=True)

    def moved(made, one, model):
        both = [jax.tree.map(jnp.subtract, each, made.weights) for each in (one, common.weights(made.net, model.own))]
        return {
            "parameters": common.relative(*(each.params for each in both)),
            "statistics": common.relative(*(each.batch_stats for each in both)),
        }

    cross_entropy, figures = torch.nn.CrossEntropyLoss(), {}
    with contextlib.redirect_stdout(io.StringIO()):
        backdoored, rule = theirs(first)
        code.train_step_backdoor(OPTIONS, loader, backdoored, rule, cross_entropy, 1)
    one = ours(stages[0], first, given)
    figures |= {f"first network, {name}": value for name, value in moved(first, one, backdoored).items()}
    given = given._replace(carry={"backdoored": one})
    for epoch in EPOCHS:
        with contextlib.redirect_stdout(io.StringIO()):
            clean, rule = theirs(second)
            code.learning_rate(rule, epoch, OPTIONS)
            code.train_step_clean(
                OPTIONS, loader, clean, backdoored, lambda *_: None, rule, None, cross_entropy, epoch + 1
            )
        found = moved(second, ours(stages[1], second, given, epoch), clean)
        figures |= {f"second network, epoch {epoch}, {name}": value for name, value in found.items()}
    return figures


COMPARISON = common.Comparison(
    "zaixizhang/CBD",
    "8a7bd37d1fc98f6de3a34427aff116d7877f49be",
    compare,
    ("Their networks also return features; without `disentangle`, as they ship it, nothing is done with these.",),
)
