"""D-BR: rounds of unlearning and relearning by the functions of the authors' code, and the bounds of the split.

Chen, Wu, Wang, NeurIPS 2022; their code is SCLBD/Effective_backdoor_defense at 63fda0e. The scores that are split are
those of the detector `fct`, which is compared by itself.
"""

import runpy
import sys
import tempfile
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import torch

import bdjax
from bdjax.cards import lookup
from bdjax.defenses.parts import distinguishing
from bdjax.keys import root
from bdjax.types import Given
from experiments.fidelity import common

ROUNDS, BATCH, ROWS = 2, 8, 40
POISONED, CERTAIN = slice(0, 12), slice(12, 32)


def bounds(folder, score, clean_share, poisoned_share):
    """Both bounds by their script, which reads the scores from a file."""
    with tempfile.TemporaryDirectory() as place:
        np.savetxt(Path(place) / "9_all.txt", score)
        asked = ["", "--checkpoint_load", f"{place}/9.tar"]
        asked += ["--clean_ratio", str(clean_share), "--poison_ratio", str(poisoned_share)]
        with mock.patch.object(sys, "argv", asked), mock.patch("builtins.print"):
            found = runpy.run_path(str(folder / "calculate_gamma.py"))
    return np.array([found["gamma_low"], found["gamma_high"]])


def split_of(folder):
    """Relative differences of bounds and of what they take for clean and poisoned."""
    score = np.random.RandomState(0).exponential(size=203)
    ours = np.array(distinguishing.bounds(jnp.asarray(score), jnp.float64(0.2), jnp.float64(0.05)))
    return {"bounds of the split": common.relative(ours, bounds(folder, score, 0.2, 0.05))}


def batches(image, label):
    """Numbers of rows and a loader of theirs of the same, in batches of BATCH, the last one smaller."""
    rows = [np.arange(len(image))[part] for part in (POISONED, CERTAIN)]
    numbers = [np.split(one, range(BATCH, len(one), BATCH)) for one in rows]
    loaders = [[(common.to_torch(image[few]), torch.tensor(label[few]).long(), None) for few in one] for one in numbers]
    return numbers, loaders


def compare(folder):
    """Relative differences of bounds, and of what rounds change."""
    image, label = common.batch(ROWS)
    made = common.keen(common.pair("resnet18"), image)
    # At their rate of 1e-4 differences drown in rounding.
    spec = lookup(f"d_br:epochs={ROUNDS},batch={BATCH},learning_rate=0.01", bdjax.DEFENSES, "defense")
    *_, stage = bdjax.DEFENSES["d_br"].make(made.net, (32, 32, 3), common.CLASSES, **spec.static)
    member = np.zeros((2, ROWS), bool)
    member[0, POISONED], member[1, CERTAIN] = True, True
    carry = {"poisoned": jnp.asarray(member[0]), "clean": jnp.asarray(member[1])}
    plain = {"augment": lambda _key, image: image, "train": common.source(image, label), "victim": made.weights}
    given = Given(spec.traced, carry=carry, **plain)
    numbers, loaders = batches(image, label)

    state = stage.init(root(0), given, None)
    step = jax.jit(lambda state, rows: stage.step(root(1), state, rows, given)[0])
    for _ in range(ROUNDS):
        for few in (*numbers[0], *numbers[1]):
            rows = jnp.asarray(np.pad(few, (0, BATCH - len(few)), constant_values=-1))
            state = step(state, given.train.read(rows))
    ours = stage.finish(root(2), state, given).weights

    scope = {"normalization": lambda _args, image: image, "progress_bar": lambda *_: None, "arg": None}
    names = "train_step_unlearning", "train_step_relearning"
    code = common.pieces(folder, "unlearn_relearn.py", *names, **scope)
    rule = torch.optim.SGD(made.module.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    criterion = torch.nn.CrossEntropyLoss()
    with common.without_cuda():
        for epoch in range(ROUNDS):
            code.train_step_unlearning(None, loaders[0], made.module, rule, criterion, epoch)
            code.train_step_relearning(None, loaders[1], made.module, rule, criterion, epoch)
    theirs = common.weights(made.net, made.module)
    moved = [jax.tree.map(jnp.subtract, one, made.weights) for one in (ours, theirs)]
    return split_of(folder) | {
        f"parameters, {ROUNDS} rounds": common.relative(*(one.params for one in moved)),
        f"statistics, {ROUNDS} rounds": common.relative(*(one.batch_stats for one in moved)),
    }


COMPARISON = common.Comparison(
    "SCLBD/Effective_backdoor_defense",
    "63fda0e",
    compare,
    ("Rows, batches and images are given: nothing is augmented, and no row is drawn.",),
)
