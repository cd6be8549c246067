"""MSPC: consistency of rows and the mask after 8 steps beside the authors' functions.

Pal et al., ICLR 2024. `l_MSPC`, `l_MSPC_tau` and `SF_loss` of OPTML-Group/BackdoorMSPC run as they are, without half
precision; the loop of its main function, which loads files, is repeated around them.
"""

import contextlib

import jax.numpy as jnp
import numpy as np
import torch

import bdjax
from bdjax import train
from bdjax.cards import lookup
from bdjax.keys import root
from bdjax.types import Given
from experiments.fidelity import common

ROWS, BATCH, EPOCHS, ROUNDS = 20, 10, 2, 2
SCALES, SHIFT = list(range(2, 13)), 0.2
TEXT = f"mspc:rounds={ROUNDS},epochs={EPOCHS},batch={BATCH}"


def theirs(code, module, image):
    """The mask, rows suspected at first, and consistency at last."""
    image = 255 * common.to_torch(image)
    mask = torch.ones(image.shape[2:], requires_grad=True)
    optimizer = torch.optim.SGD([mask], 0.1, momentum=0.9, weight_decay=5e-4)
    first = now = (code.l_MSPC_tau(image, module, SCALES, SHIFT, "cpu") > 0).double()
    for _ in range(ROUNDS):
        for _ in range(EPOCHS):
            for start in range(0, ROWS, BATCH):
                optimizer.zero_grad()
                rows = image[start : start + BATCH] / 255.0
                for scale in SCALES:
                    output = module(rows)
                    scaled = module(torch.clamp(scale * (rows - SHIFT) * mask, 0, 1))
                    losses = code.SF_loss(output, scaled, "KL")
                    loss = (1 / len(rows)) * torch.dot(now[start : start + BATCH], losses)
                    (loss / len(SCALES)).backward()
                (0.01 * torch.norm(mask, p=1)).backward()
                optimizer.step()
                mask.data = torch.clamp(mask.data, min=0, max=1)
        found = code.l_MSPC(image, module, SCALES, "cpu", SHIFT, mask=mask.detach())
        now = (found > 0).double()
    return mask.detach().numpy(), first.numpy(), found.numpy()


def compare(folder):
    """Relative differences of what the mask loses and of consistency."""
    scope = {"autocast": contextlib.nullcontext}
    code = common.pieces(folder, "bilevel_losses.py", "l_MSPC_tau", "l_MSPC", "SF_loss", **scope)
    image, label = common.batch(ROWS)
    made = common.keen(common.pair(), image)
    made.module.requires_grad_(False)
    mask, first, found = theirs(code, made.module, image)
    spec = lookup(TEXT, bdjax.DETECTORS, "detector")
    detector = bdjax.DETECTORS["mspc"].make(made.net, (32, 32, 3), common.CLASSES, **spec.static)
    rows = common.source(image, label)
    given = Given(spec.traced, lambda key, image: image, suspects=rows, victim=made.weights)
    left = train.fit(root(0), detector.stages[0], lambda _: given, ())
    score = detector.score(None, made.net, left, (), rows.read(jnp.arange(ROWS)), given._replace(carry=left.carry))
    steps, suspected = ROUNDS * EPOCHS * ROWS // BATCH, int(first.sum())
    lost = 1 - np.asarray(left.carry["mask"])
    return {
        f"mask after {steps} steps, {suspected} rows suspected at first": common.relative(lost, 1 - mask),
        f"consistency, {(found > 0).sum()} of {ROWS} flagged": common.relative(score, found),
    }


COMPARISON = common.Comparison("OPTML-Group/BackdoorMSPC", "9c08407", compare)
