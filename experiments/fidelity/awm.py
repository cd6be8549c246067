"""AWM: rounds of the authors' own function on their masked convolutions, with the same rows.

Chai, Chen, NeurIPS 2022; their code is `main.py` and `models/maskedconv.py` in jinghuichen/AWM at a4a5f16.
"""

import copy
from types import SimpleNamespace
from unittest import mock

import jax
import jax.numpy as jnp
import torch

import bdjax
from bdjax.cards import lookup
from bdjax.keys import stream
from bdjax.types import Given
from experiments.fidelity import common

ROUNDS, BATCH = 2, 4
BOUNDS = (1e9, 20.0)
"""One that no perturbation here reaches, and one that all do."""


def ours(text, made, image, label):
    """(perturbation, mask) after each round, and the rows that its two halves read."""
    spec = lookup(text, bdjax.DEFENSES, "defense")
    (stage,) = bdjax.DEFENSES["awm"].make(made.net, image.shape[1:], common.CLASSES, **spec.static)
    clean = common.source(image, label)
    given = Given(spec.traced, lambda key, image: image, clean=clean, victim=made.weights)
    state, found, read = stage.init(jax.random.key(0), given, None), [], []
    renew = jax.jit(lambda key, state: stage.renew(key, state, None, jnp.int32(0), given))
    step = jax.jit(lambda state, rows: stage.step(jax.random.key(0), state, clean.read(rows), given)[0])
    for number in range(ROUNDS):
        keys = jax.random.split(jax.random.key(number))
        orders = [stage.order(key, state, jnp.int32(0), given) for key in (stream(keys[0], "order"), keys[1])]
        state = renew(keys[0], state)
        for rows in orders[1]:
            state = step(state, rows)
        found.append((state.still["delta"], state.moving))
        read.append(orders)
    return found, read


class Loader:
    """Gives the rows of the perturbation's steps when it is first gone through, then those of the mask's."""

    def __init__(self, image, label, orders):
        self.passes = iter([[self._batch(image, label, rows) for rows in order] for order in orders])
        self.size = len(orders[0])

    @staticmethod
    def _batch(image, label, rows):
        rows = [int(row) for row in rows if row >= 0]
        return common.to_torch(image[rows]), torch.tensor(label[rows]).long()

    def __iter__(self):
        return iter(next(self.passes))

    def __len__(self):
        return self.size


def recorded(masked, function, rounds):
    """(perturbation before it is scaled, mask) after each round of their function.

    Args:
        masked: layer's name -> their layer, with its mask.
        function: number of the round -> None, which runs it.
        rounds: how many.
    """
    plain, found = torch.optim.SGD, []
    for number in range(rounds):
        seen = []

        def spying(params, lr, seen=seen):
            seen.append(params[0])
            return plain(params, lr=lr)

        with mock.patch.object(torch.optim, "SGD", spying):
            function(number)
        mask = {name: jnp.array(value().detach().numpy()) for name, value in masked.items()}
        found.append((jnp.array(seen[0].detach().numpy()[0].transpose(1, 2, 0)), mask))
    return found


def theirs(folder, made, image, label, bound, read):
    """The same by their function."""
    layer = common.module(folder, "models/maskedconv.py").MaskedConv2d
    module, masked = copy.deepcopy(made.module).requires_grad_(False), {}
    for name, old in list(module.named_modules()):
        if isinstance(old, torch.nn.Conv2d):
            sizes = (old.in_channels, old.out_channels, old.kernel_size)
            new = layer(*sizes, stride=old.stride, padding=old.padding, bias=False)
            new.weight.data = old.weight.data.clone()
            new.include_mask()
            parent, _, leaf = name.rpartition(".")
            setattr(module.get_submodule(parent), leaf, new)
            masked[our_name(name)] = new
    args = SimpleNamespace(trigger_norm=bound, alpha=0.9, gamma=1e-8)
    names = ("mask_train", "clip_mask", "Regularization")
    code = common.pieces(folder, "main.py", *names, args=args, device="cpu", print=lambda *_: None)
    optimizer = torch.optim.Adam([one.mask for one in masked.values()], lr=0.01)

    plain = torch.nn.Conv2d._conv_forward

    def without_bias(self, image, weight, bias=None):
        return plain(self, image, weight, bias)

    @mock.patch.object(torch.nn.Conv2d, "_conv_forward", without_bias)
    def one_round(number):
        code.mask_train(module, torch.nn.CrossEntropyLoss(), optimizer, Loader(image, label, read[number]))

    values = {name: lambda one=one: one.mask.permute(2, 3, 1, 0) for name, one in masked.items()}
    return recorded(values, one_round, ROUNDS)


def our_name(name: str) -> str:
    """`layer1.0.shortcut.0` as our layers are called, `layer1_0.shortcut_0`; `conv1` is `conv1`."""
    parts = name.split(".")
    return ".".join("_".join(part) for part in (parts[:2], parts[2:]) if part)


def figures(made, text, run, image, label):
    """Relative differences of perturbations and of what each round changes in the mask."""
    found = {}
    for bound in BOUNDS:
        mine, read = ours(f"{text},bound={bound}", made, image, label)
        other = run(bound, read)
        before = [jax.tree.map(jnp.ones_like, mine[0][1])] * 2
        for number, ((delta, mask), (longer, expected)) in enumerate(zip(mine, other, strict=True), 1):
            scaled = longer * min(1, bound / float(jnp.sum(jnp.abs(longer))))
            found[f"bound {bound:g}: perturbation of round {number}"] = common.relative(delta, scaled)
            changes = [jax.tree.map(jnp.subtract, *pair) for pair in zip((mask, expected), before, strict=True)]
            found[f"bound {bound:g}: mask, change in round {number}"] = common.relative(*changes)
            before = [mask, expected]
    return found


def compare(folder):
    """See `figures`."""
    image, label = common.batch()
    made = common.keen(common.pair("resnet18"), image)
    text = f"awm:batch={BATCH},passes=2"
    return figures(made, text, lambda *each: theirs(folder, made, image, label, *each), image, label)


COMPARISON = common.Comparison(
    "jinghuichen/AWM",
    "a4a5f16cc36113676a7b0ecbb64a6c9887e509d6",
    compare,
    (
        "Rows are those that ours draws, with replacement, as theirs does; the masked network is our ResNet-18.",
        "Their layer calls a convolution as PyTorch had it, without a bias; it is given none.",
    ),
)
