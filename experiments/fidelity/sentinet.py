"""SentiNet: heat beside the package grad-cam, and confidence under noise beside BackdoorBench's class.

Chou et al., SPW 2020. `SentiNet` of BackdoorBench runs as it is, without normalization, on the noise that ours draws.
"""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import torch.nn.functional as F  # noqa: N812

import bdjax
from bdjax.cards import lookup
from bdjax.detection.parts.gradcam import heat
from bdjax.keys import root, stream
from bdjax.types import Given, Trained
from experiments.fidelity import common

ROWS, CLEAN, SHAPE = 12, 6, (32, 32, 3)


def compare(folder):
    """Relative differences of heat at a block's output, and of mean confidence."""
    from pytorch_grad_cam import GradCAM
    from torchvision import transforms

    image, clean = (np.uint8(255 * common.batch(count, seed=count)[0]) for count in (ROWS, CLEAN))
    made = common.keen(common.pair(), image / 255)
    cam = GradCAM(model=made.module, target_layers=[made.module.layer4[1]])
    seen = cam(input_tensor=common.to_torch(image / 255), targets=None)
    ours = heat(made.net, made.weights, jnp.asarray(image / 255), "layer4_1.add")
    scope = {"transforms": transforms, "F": F}
    code = common.pieces(folder, "detection_infer/sentinet.py", "SentiNet", "Normalize", "Denormalize", **scope)
    args = SimpleNamespace(dataset="gtsrb", device="cpu", input_height=32, input_width=32, input_channel=3)
    theirs, key = code.SentiNet(args), stream(root(0), "noise")
    label = made.module(common.to_torch(image / 255)).argmax(1)
    expected, kept = [], np.random.rand
    for row in range(ROWS):
        own = [jax.random.fold_in(jax.random.fold_in(key, row), number) for number in range(CLEAN)]
        np.random.rand = lambda *_size, own=own: np.stack([jax.random.uniform(one, SHAPE) for one in own])
        try:
            mask = (seen[row] >= 0.85).astype(int)[..., None]
            expected.append(theirs(image[row], mask, [(one, 0) for one in clean], made.module, label[row])[1])
        finally:
            np.random.rand = kept
    spec = lookup(f"sentinet:preset=benchmark,overlays={CLEAN}", bdjax.DETECTORS, "detector")
    detector = bdjax.DETECTORS["sentinet"].make(made.net, SHAPE, common.CLASSES, **spec.static)
    given = Given(spec.traced, None, clean=common.source(clean / 255, np.zeros(CLEAN)))
    rows = common.source(image / 255).read(jnp.arange(ROWS))
    score = jax.jit(lambda key: detector.score(key, made.net, Trained(made.weights), (), rows, given))(root(0))
    return {
        "heat at the output of the last block": common.relative(ours, seen),
        f"mean confidence under noise around {(seen >= 0.85).sum()} pixels of {ROWS} images": common.relative(
            score, np.array(expected)
        ),
    }


COMPARISON = common.Comparison(
    "SCLBD/BackdoorBench",
    "f02e353",
    compare,
    (
        "The package grad-cam 1.5.7 computes heat in float32.",
        "Boundary and inert patches are backdoor-toolbox's, in one method that loads files: tested by hand.",
    ),
)
