"""Blind backdoors: two steps of the authors' loss computation, with weights from MGDA and with fixed ones.

Bagdasaryan, Shmatikov, USENIX Security 2021; their `Attack.compute_blind_loss` is called as their `train` calls it,
with their synthesizer.
"""

import copy
import sys
from collections import defaultdict
from types import ModuleType, SimpleNamespace
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import torch

import bdjax
from bdjax.cards import lookup
from bdjax.types import Batch, Given, Source
from experiments.fidelity import common

ROWS, BATCH, SIZE, PORTION, WINDOW, TARGET, LOSS = 16, 8, 32, 0.75, 1000, 3, 0.5
TEXT = f"blind:schedule=constant,window={WINDOW},batch={BATCH},target={TARGET}"
NORMALIZATIONS = {"loss_norm": "loss+", "loss": "loss", "norm": "l2", "none": "none"}
SCALES = {"backdoor": 0.9, "normal": 1.0}


def source() -> Source:
    """The rows as ours reads them."""
    image, label = map(jnp.asarray, common.batch(ROWS, SIZE))
    return Source(ROWS, lambda row: Batch(image[row], label[row], row, (row >= 0).astype(image.dtype)))


def ours(made: common.Pair, settings: str, before: float):
    """The weights after two steps, the batches, and the triggered images; `before`: each loss of the window."""
    spec = lookup(f"{TEXT},{settings}", bdjax.ATTACKS, "attack")
    attack = bdjax.ATTACKS["blind"].make(made.net, (SIZE, SIZE, 3), common.CLASSES, **spec.static)
    (stage,), role = attack.train, (jnp.arange(ROWS) < PORTION * ROWS).astype(jnp.int8)
    carry = {"trigger": {}, "role": role}
    given = Given(spec.traced, lambda key, image: image, whole=source(), carry=carry)
    state = stage.init(jax.random.key(0), given, None)
    window = {"losses": jnp.full(WINDOW, before), "step": jnp.int32(WINDOW)}
    still = state.still | {"batch_stats": made.weights.batch_stats} | window
    state = state.replace(moving=made.weights.params, still=still)
    orders = stage.order(jax.random.key(1), state, 0, given)
    step = jax.jit(lambda state, rows: stage.step(jax.random.key(0), state, rows, given)[0])
    for rows in orders:
        state = step(state, source().read(rows))
    image = source().read(jnp.arange(ROWS)).image
    weights = stage.finish(None, state, given).weights
    return weights, orders, jax.vmap(lambda image: attack.query((), {}, image, 0))(image)


class Theirs:
    """Their loss computation on a copy of the network."""

    def __init__(self, folder, made: common.Pair, balance: str, normalization: str, before: float):
        sys.modules["models.nc_model"] = ModuleType("models.nc_model")  # which asks for colours of a terminal
        sys.modules["models.nc_model"].NCModel = mock.Mock()
        sys.modules["colorlog"] = mock.MagicMock()
        self.batch = common.module(folder, "tasks/batch.py").Batch
        sys.modules["tasks.task"] = mock.MagicMock()
        shape = {"input_shape": (3, SIZE, SIZE), "device": "cpu", "clip_batch": None, "dp": None, "task": "Cifar10"}
        attack = {"poisoning_proportion": PORTION, "backdoor_label": TARGET, "backdoor_dynamic_position": False}
        loss = {"loss_tasks": ["backdoor", "normal"], "loss_threshold": 1.0, "loss_balance": balance}
        loss |= {"mgda_normalize": normalization, "fixed_scales": SCALES, "save_timing": False}
        records = {"running_losses": defaultdict(list), "running_scales": defaultdict(list)}
        params = SimpleNamespace(**shape, **attack, **loss, **records)
        task = SimpleNamespace(params=params, normalize=lambda image: image)
        patterns = common.module(folder, "synthesizers/pattern_synthesizer.py").PatternSynthesizer
        self.synthesizer, self.module = patterns(task), copy.deepcopy(made.module)
        self.attack = common.module(folder, "attack.py").Attack(params, self.synthesizer)
        self.attack.loss_hist = [before] * WINDOW

    def train(self, batches) -> None:
        """The body of their training loop."""
        criterion = torch.nn.CrossEntropyLoss(reduction="none")
        optimizer = torch.optim.SGD(self.module.parameters(), lr=0.01, weight_decay=5e-4, momentum=0.9)
        self.module.train()
        for number, (image, label) in enumerate(batches):
            self.module.zero_grad()
            given = self.batch(number, image, label)
            self.attack.compute_blind_loss(self.module, criterion, given, True).backward()
            optimizer.step()

    def triggered(self, image) -> np.ndarray:
        """Images with their trigger."""
        given = self.batch(0, common.to_torch(image), torch.zeros(len(image)).long())
        return self.synthesizer.make_backdoor_batch(given, test=True).inputs.numpy().transpose(0, 2, 3, 1)


def changed(made: common.Pair, after, other) -> dict[str, float]:
    """The relative differences of what two steps change."""

    def change(weights, part):
        return jax.tree.map(jnp.subtract, getattr(weights, part), getattr(made.weights, part))

    parts = {"params": "parameters, change in 2 steps", "batch_stats": "statistics, change in 2 steps"}
    return {what: common.relative(change(after, part), change(other, part)) for part, what in parts.items()}


def compare(folder) -> dict[str, float]:
    """Relative differences of the trigger and of what two steps change, for every balance and before the attack."""
    made, found = common.pair(size=SIZE), {}
    cases = {f"mgda, {name}": (f"normalization={name}", "MGDA", other, LOSS) for name, other in NORMALIZATIONS.items()}
    cases |= {"fixed": ("balance=fixed", "fixed", "none", LOSS), "not yet": ("", "MGDA", "loss+", 2.0)}
    for name, (settings, balance, normalization, before) in cases.items():
        after, orders, query = ours(made, settings, before)
        other = Theirs(folder, made, balance, normalization, before)
        read = [source().read(rows) for rows in orders]
        other.train([(common.to_torch(rows.image), torch.tensor(np.asarray(rows.label)).long()) for rows in read])
        theirs = common.weights(made.net, other.module)
        found |= {f"{name}: {what}": figure for what, figure in changed(made, after, theirs).items()}
    image = source().read(jnp.arange(ROWS)).image
    return found | {"triggered images": common.relative(query, other.triggered(image))}


COMPARISON = common.Comparison(
    "ebagdasa/backdoors101",
    "9f48fbbb496aaed4ba696494950a5d71ee82a80c",
    compare,
    ("Compared without augmentation, of which ours draws its own.",),
)
