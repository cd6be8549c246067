"""Cognitive Distillation: masks of the authors' class after 1, 10 and 100 steps over the same colors.

Huang et al., ICLR 2023; HanxunH/CognitiveDistillation, or BackdoorBench's copy of the class. Images go one by one, for
theirs descends the mean over a batch.
"""

from types import SimpleNamespace

import jax
import numpy as np
import torch

from bdjax.detection.cd import distill
from experiments.fidelity import common

ROWS, STEPS = 4, (1, 10, 100)


def theirs(code, made, image, color, steps):
    """Masks (n, height, width, 1) of their class; color (steps, n, 1, 1, 3) in place of what it draws."""
    args = (SimpleNamespace(dataset=""),) if hasattr(code, "copied") else ()
    found = []
    for row, one in enumerate(image):
        draws = iter(common.to_torch(color[:, row]).reshape(-1, 1, 3, 1, 1))
        kept, torch.rand = torch.rand, lambda *_size, draws=draws: next(draws)
        try:
            module = code.CognitiveDistillation(*args, lr=0.1, p=1, gamma=0.01, beta=10.0, num_steps=steps)
            found.append(module(made.module, common.to_torch(one[None])).numpy()[0].transpose(1, 2, 0))
        finally:
            torch.rand = kept
    return np.stack(found)


def compare(folder):
    """Relative differences of masks and of their norms."""
    copied = (folder / "detection_pretrain").is_dir()
    path = "detection_pretrain/cd.py" if copied else "detection/cognitive_distillation.py"
    scope = {"transforms": SimpleNamespace(Compose=lambda _: torch.nn.Identity()), "get_dataset_normalization": str}
    code = common.pieces(folder, path, "CognitiveDistillation", "total_variation_loss", **scope)
    if copied:
        code.copied = True
    image = common.batch(ROWS)[0]
    made = common.keen(common.pair(), image)
    color = np.random.RandomState(3).uniform(size=(max(STEPS), ROWS, 1, 1, 3))
    draw = jax.numpy.asarray(color)

    def ours(weights, steps):
        return distill(made.net, weights, image, lambda step: draw[step], steps, 0.1, 0.01, 10.0)

    figures = {}
    for steps in STEPS:
        expected = theirs(code, made, image, color, steps)
        mask = jax.jit(ours, static_argnums=1)(made.weights, steps)
        figures[f"masks after {steps} steps"] = common.relative(mask, expected)
        norm = expected.sum((1, 2, 3))
        difference = common.relative(np.sum(mask, (1, 2, 3)), norm)
        figures[f"norms, {norm.min():.0f} to {norm.max():.0f}"] = difference
    return figures


COMPARISON = common.Comparison(
    "HanxunH/CognitiveDistillation",
    "6aba6f9",
    compare,
    ("Colors are drawn for each row here; the released code draws them for a batch.",),
)
