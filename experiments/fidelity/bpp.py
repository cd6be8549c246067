"""BppAttack: two steps of the authors' training loop, with and without dithering.

Wang, Zhai, Ma, CVPR 2022; their code is `bppattack.py`. Their loop is run as it is, on our batches, with our draw of
the images whose errors negative samples get.
"""

import contextlib
import copy
import io
import sys
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

ROWS, BATCH, SIZE, RATIO, NEGATIVES, LEVELS, TARGET = 24, 12, 16, 0.25, 0.35, 8, 3
STILL = f"augmentation=dataset,rounding=floor,schedule=constant,batch={BATCH}"
STILL += f",levels={LEVELS},negatives={NEGATIVES},target={TARGET}"


class Run:
    """Two steps of ours, kept so that theirs can take the same rows.

    `orders` int32 (2, BATCH): the rows of each batch; `partners` (2, BATCH): for each of them, the row of the image
    whose error it would get as a negative sample.
    """

    def __init__(self, made: common.Pair, text: str):
        spec = lookup(f"bpp:{text},{STILL}", bdjax.ATTACKS, "attack")
        self.image, self.label = images()
        attack = bdjax.ATTACKS["bpp"].make(made.net, self.image.shape[1:], common.CLASSES, **spec.static)
        (stage,) = attack.train
        role = (jnp.arange(ROWS) < RATIO * ROWS).astype(jnp.int8)
        self.given = Given(spec.traced, lambda key, image: image, whole=Source(ROWS, self.read))
        self.given = self.given._replace(carry={"trigger": {}, "role": role})
        state = stage.init(jax.random.key(0), self.given, None)
        still = state.still | {"batch_stats": made.weights.batch_stats}
        state = state.replace(moving=made.weights.params, still=still)
        self.orders = np.asarray(stage.order(jax.random.key(1), state, 0, self.given))

        @jax.jit
        def step(key, state, rows):
            seen = []
            whole = Source(ROWS, lambda row: seen.append(row) or self.read(row))
            return stage.step(key, state, rows, self.given._replace(whole=whole))[0], seen[0]

        self.partners = []
        for number, rows in enumerate(self.orders):
            state, drawn = step(jax.random.key(number), state, self.read(rows))
            self.partners.append(np.asarray(drawn))
        self.weights = stage.finish(None, state, self.given).weights
        self.query = jax.vmap(lambda image: attack.query((), {}, image, 0))(self.image)

    def read(self, row):
        """The rows as ours reads them."""
        row = jnp.asarray(row)
        return Batch(self.image[row], self.label[row], row, (row >= 0).astype(self.image.dtype))

    def batches(self) -> list:
        """The batches as theirs reads them."""
        image, label = common.to_torch(self.image), torch.tensor(np.asarray(self.label)).long()
        return [(image[rows], label[rows]) for rows in map(torch.tensor, self.orders)]


def images():
    """Images of 8-bit levels as multiples of 1/255, and labels."""
    image, label = common.batch(ROWS, SIZE)
    return jnp.asarray(np.round(image * 255) / 255), jnp.asarray(label)


@contextlib.contextmanager
def standing_in():
    """With plain Python where their code compiles, without what it draws, prints and saves, and on the CPU."""
    compiler = ModuleType("numba")
    compiler.jit = lambda *_, **__: lambda function: function
    names = ("numba.types", "kornia", "kornia.augmentation", "torch.utils.tensorboard", "imageio")
    modules = {name: mock.MagicMock() for name in names} | {"numba": compiler}
    sys.modules.update(modules)
    with (
        mock.patch.object(np, "round_", np.round, create=True),
        mock.patch.object(torch.Tensor, "cuda", lambda tensor: tensor),
        mock.patch("torchvision.utils.save_image"),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        yield


def theirs(code, made: common.Pair, run: Run, dithering: bool):
    """The weights after both steps of theirs, and all images as it triggers them."""
    settings = {"squeeze_num": LEVELS, "dithering": dithering, "injection_rate": RATIO, "neg_rate": NEGATIVES}
    settings |= {
        "dataset": "gtsrb",
        "attack_mode": "all2one",
        "target_label": TARGET,
    }  # whose images are not normalised
    opt = SimpleNamespace(**settings, device="cpu", num_classes=common.CLASSES, temps=".", input_channel=3)
    partners, module = iter(run.partners), copy.deepcopy(made.module)
    triggered = common.to_torch(run.image) * 255
    for index, image in enumerate(triggered if dithering else ()):
        triggered[index] = torch.round(torch.from_numpy(code.floydDitherspeed(image.numpy().copy(), float(LEVELS))))
    if not dithering:
        triggered = torch.round(triggered / 255.0 * (LEVELS - 1)) / (LEVELS - 1) * 255
    errors = triggered - common.to_torch(run.image) * 255

    def sample(listed, count):
        first = int(RATIO * BATCH)
        return [listed[row] for row in next(partners)[first : first + count]]

    optimizer = torch.optim.SGD(module.parameters(), 0.01, momentum=0.9, weight_decay=5e-4)
    with (
        mock.patch.object(code, "PostTensorTransform", lambda opt: torch.nn.Identity()),
        mock.patch.object(code.random, "sample", sample),
    ):
        listed = [error[None] for error in errors]
        code.train(None, module, optimizer, mock.Mock(), run.batches(), mock.Mock(), 0, opt, listed)
    return common.weights(made.net, module), triggered.numpy().transpose(0, 2, 3, 1) / 255


def compare(folder) -> dict[str, float]:
    """Relative differences of the trigger and of what two steps change."""
    made, found = common.pair(size=SIZE), {}
    with standing_in():
        code = common.module(folder, "bppattack.py")
        for name, dithering in (("plain", False), ("dithered", True)):
            run = Run(made, f"dithering={str(dithering).lower()}")
            other, triggered = theirs(code, made, run, dithering)
            found[f"{name}: triggered images"] = common.relative(run.query, triggered)
            found |= {f"{name}: {what}": figure for what, figure in changed(made, run.weights, other).items()}
    return found


def changed(made: common.Pair, ours, other) -> dict[str, float]:
    """The relative differences of what was changed of the weights."""

    def change(weights, part):
        return jax.tree.map(jnp.subtract, getattr(weights, part), getattr(made.weights, part))

    parts = {"params": "parameters, change in 2 steps", "batch_stats": "statistics, change in 2 steps"}
    return {what: common.relative(change(ours, part), change(other, part)) for part, what in parts.items()}


COMPARISON = common.Comparison(
    "RU-System-Software-and-Security/BppAttack",
    "f6b6580d53b2f2bca8e92cfe83aae7d68332ff4c",
    compare,
    (
        "Compared without augmentation, of which ours draws its own.",
        "Negative samples get the errors of images that ours draws with replacement, theirs without.",
    ),
)
