"""PSBD: loss of confidence, shares of labels that move, and the threshold beside the authors' function.

Li et al., CVPR 2025. `compute_psu` of WL-619/PSBD runs as it is, on the authors' ResNet18 with dropout at the places
that they give it; what it drops is what ours drops, row by row.
"""

import logging
from types import SimpleNamespace
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import torch

import bdjax
from bdjax.detection.psbd import PSBD, choose, shift
from bdjax.keys import stream
from bdjax.types import Given
from experiments.fidelity import common

ROWS, PASSES, RATES = 6, 3, (0.2, 0.5, 0.8)


class Dropout(torch.nn.Module):
    """In place of theirs: drops where `lots`, one array a pass, are below p."""

    def __init__(self, lots):
        super().__init__()
        self.lots, self.passes, self.p = lots, 0, 0.0
        self.training = False

    def forward(self, x):
        """X as it is outside training."""
        if not self.training:
            return x
        self.passes += 1
        return torch.where(self.lots[(self.passes - 1) % PASSES] < self.p, 0.0, x / (1 - self.p))


def lots(key, tap, shape):
    """What ours draws for a tap of `shape` (height, width, channels) in every pass, as PyTorch has it."""

    def draw(number, row):
        own = stream(jax.random.fold_in(key, number), tap)
        return jax.random.uniform(jax.random.fold_in(own, row), shape)

    found = jax.vmap(lambda number: jax.vmap(lambda row: draw(number, row))(jnp.arange(ROWS)))(jnp.arange(PASSES))
    return [common.to_torch(one) for one in found]


def choice(folder, scope, trial):
    """The rate that ours and theirs take for shares of clean labels that rise from rate to rate."""
    draw = np.random.RandomState(trial)
    clean, suspect = np.sort(draw.uniform(size=9)), draw.uniform(size=9)
    if trial < 5:
        clean *= 0.7  # no rate moves enough
    asked = [share for pair in zip(suspect, clean, strict=True) for share in (pair[0], 0.0, 0.0, pair[1])]
    shares = iter(asked)
    fake = {"compute_psu": lambda *_args, **_named: (None, next(shares))}
    code = common.pieces(folder, "detection/psbd.py", "select_dropout_rate", **scope | fake | {"tqdm": iter})
    theirs = code.select_dropout_rate(None, None, None, None, None, None)
    return (float(choose(jnp.asarray(clean), jnp.asarray(suspect), 0.8)) + 1) / 10, theirs


def compare(folder):
    """Relative differences of losses and shares at three rates, and of decisions."""
    made = common.keen(common.pair("resnet18", width=64), common.batch(ROWS)[0])
    image, key = common.batch(ROWS)[0], jax.random.key(5, impl="threefry2x32")
    code = common.module(folder, "models/resnet_drop.py")
    theirs = code.ResNet18(common.CLASSES)
    theirs.load_state_dict(made.module.state_dict())
    taps = jax.eval_shape(lambda image: made.net.apply(made.weights, image)[2], image)
    for stage in (1, 2, 3, 4):
        for place in (0, 1):
            tap = f"layer{stage}_{place}.add"
            getattr(theirs, f"layer{stage}")[place].drop_out = Dropout(lots(key, tap, taps[tap].shape[1:]))
    scope = {"tools": SimpleNamespace(setup_seed=int), "logger": logging.getLogger("psbd"), "tqdm": mock.MagicMock()}
    psu = common.pieces(folder, "detection/psbd.py", "compute_psu", **scope).compute_psu
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(common.to_torch(image), torch.zeros(ROWS)), batch_size=ROWS
    )
    ours = jax.jit(lambda rate: shift(made.net, made.weights, key, image, jnp.arange(ROWS), rate, PASSES))
    figures, args = {}, SimpleNamespace(random_seed=0)
    for rate in RATES:
        lost, moved = ours(rate)
        with common.without_cuda():
            expected = psu(args, theirs, loader, "", PASSES, rate).numpy()
            share = psu(args, theirs, loader, "", PASSES, rate, return_shift=True)[1]
        figures[f"loss of confidence at rate {rate}"] = common.relative(lost, expected)
        figures[f"share of labels that move, {share:.2f} at {rate}"] = abs(float(jnp.mean(moved)) - share)
    chosen = [choice(folder, scope, trial) for trial in range(20)]
    figures["chosen rates, 20 sets of shares"] = common.relative(*zip(*chosen, strict=True))
    clean = np.random.RandomState(0).uniform(size=41)
    score = np.random.RandomState(1).uniform(size=400)
    flagged = score < float(torch.tensor(clean).quantile(0.25))
    static = {name: one.default for name, one in PSBD.card.settings.items() if not one.traced}
    detector = bdjax.DETECTORS["psbd"].make(made.net, (32, 32, 3), common.CLASSES, **static)
    decided = detector.threshold((), -jnp.asarray(score), -jnp.asarray(clean), Given({"quantile": 0.25}, None))
    figures["decisions that differ"] = np.mean(np.asarray(decided) != flagged)
    return figures


COMPARISON = common.Comparison(
    "WL-619/PSBD",
    "7c58a88",
    compare,
)
