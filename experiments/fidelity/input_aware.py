"""The input-aware attack: two steps of the mask's generator, then two of the pattern's with the classifier.

Nguyen, Tran, NeurIPS 2020; their code is `train.py`. Its loops over both are run as they are, on our pairs of batches.
"""

import contextlib
import copy
import io
import sys
import tempfile
from types import SimpleNamespace
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import torch

import bdjax
from bdjax.cards import lookup
from bdjax.models.auxiliary.hourglass import MEAN, STD
from bdjax.types import Batch, Given, Source
from experiments.fidelity import common

ROWS, BATCH, SIZE, RATIO, TARGET, HALVINGS = 16, 8, 16, 0.375, 3, 3
TEXT = f"input_aware:repeated=true,accumulated=true,rounding=floor,schedule=constant,batch={BATCH},target={TARGET}"


def weights(module) -> dict:
    """The weights of their generator as ours; the biases that normalisation takes away are left out."""
    state = {name: value.detach().numpy().copy() for name, value in module.state_dict().items()}
    names = {f"down{number // 2}_{number % 2 + 1}": f"down_{number}" for number in range(2 * HALVINGS)}
    names |= {f"up{HALVINGS - 1 - number // 2}_{number % 2 + 1}": f"up_{number}" for number in range(2 * HALVINGS)}
    params, batch_stats = {}, {}
    for ours, other in (names | {"middle": "middle"}).items():
        path = f"convblock_{other}"
        kernel, norm = state[f"{path}.conv2d.weight"], f"{path}.batch_norm"
        params[ours] = {"conv": {"kernel": kernel.transpose(2, 3, 1, 0)}}
        params[ours]["norm"] = {"scale": state[f"{norm}.weight"], "bias": state[f"{norm}.bias"]}
        batch_stats[ours] = {"norm": {"mean": state[f"{norm}.running_mean"], "var": state[f"{norm}.running_var"]}}
    return jax.tree.map(jnp.asarray, {"params": params, "batch_stats": batch_stats})


class Theirs:
    """Their networks, all from one seed, and their loops."""

    def __init__(self, folder, module, place: str):
        # What draws, writes logs and asks a terminal how wide it is.
        names = ("torch.utils.tensorboard", "matplotlib.pyplot", "utils")
        sys.modules.update({name: mock.MagicMock() for name in names})
        self.code = common.module(folder, "train.py")
        names = {"dataset": "cifar10", "input_channel": 3, "num_classes": common.CLASSES, "attack_mode": "all2one"}
        shares = {"p_attack": RATIO, "p_cross": RATIO, "target_label": TARGET, "mask_density": 0.032, "EPSILON": 1e-7}
        self.opt = SimpleNamespace(**names, **shares, lambda_div=1, lambda_norm=100, device="cpu", temps=place)
        torch.manual_seed(4)
        self.mask, self.pattern = self.generator(1), self.generator(None)
        self.classifier = copy.deepcopy(module)

    def generator(self, channels):
        """One of theirs, whose biases stay 0 and whose patterns are normalised as ours are."""
        made = self.code.Generator(self.opt, channels)
        made._normalizer.expected_values, made._normalizer.variance = (MEAN,) * 3, (STD,) * 3
        for name, value in made.named_parameters():
            if name.endswith("conv2d.bias"):
                torch.nn.init.zeros_(value)
                value.requires_grad_(False)
        return made

    def adam(self, module):
        """The optimizer of a generator."""
        return torch.optim.Adam([value for value in module.parameters() if value.requires_grad], 0.01, (0.5, 0.9))

    def run(self, masking: list, training: list) -> None:
        """Both loops, each on two lists of batches; of the second, what it shows is not kept."""
        quiet = contextlib.redirect_stdout(io.StringIO())
        with quiet, mock.patch("torchvision.utils.save_image"):
            tail = (1, self.opt, mock.Mock())
            self.mask.train()
            self.code.train_mask_step(self.mask, self.adam(self.mask), mock.Mock(), *masking, *tail)
            self.mask.eval().requires_grad_(False)
            sgd = torch.optim.SGD(self.classifier.parameters(), 0.01, momentum=0.9, weight_decay=5e-4)
            nets, rules = (self.classifier, self.pattern, self.mask), (sgd, self.adam(self.pattern))
            self.code.train_step(*nets, *rules, mock.Mock(), mock.Mock(), *training, *tail)

    def triggered(self, image):
        """Images with their triggers, in [0, 1]."""
        self.pattern.eval()
        given = (common.to_torch(image) - MEAN) / STD
        with torch.no_grad():
            made = self.code.create_bd(given, torch.zeros(len(image)).long(), self.pattern, self.mask, self.opt)[0]
        return np.clip((made * STD + MEAN).numpy().transpose(0, 2, 3, 1), 0, 1)


def source() -> Source:
    """The rows."""
    image, label = (jnp.asarray(part) for part in common.batch(ROWS, SIZE))
    return Source(ROWS, lambda row: Batch(image[row], label[row], row, (row >= 0).astype(image.dtype)))


def batches(orders) -> list:
    """For each of our two orders (steps, BATCH), the batches as theirs reads them."""
    found = []
    for name in ("first", "second"):
        read = [source().read(rows) for rows in orders[name]]
        found.append(
            [((common.to_torch(rows.image) - MEAN) / STD, torch.tensor(np.asarray(rows.label)).long()) for rows in read]
        )
    return found


def network(made: common.Pair) -> common.Pair:
    """The pair with our network normalising as theirs has its images normalised."""
    static = {name: setting.default for name, setting in bdjax.MODELS["preact_resnet18"].card.settings.items()}
    make = bdjax.MODELS["preact_resnet18"].make
    return made._replace(net=make((SIZE, SIZE, 3), common.CLASSES, (MEAN,) * 3, (STD,) * 3, **static | {"width": 4}))


def compare(folder) -> dict[str, float]:
    """Relative differences of what the steps of both stages change."""
    made = network(common.pair(size=SIZE))
    spec = lookup(TEXT, bdjax.ATTACKS, "attack")
    attack = bdjax.ATTACKS["input_aware"].make(made.net, (SIZE, SIZE, 3), common.CLASSES, **spec.static)
    given = Given(spec.traced, lambda key, image: image, whole=source())
    with tempfile.TemporaryDirectory() as place:
        other = Theirs(folder, made.module, place)
        before = {"mask": weights(other.mask), "pattern": weights(other.pattern)}
        role = (jnp.arange(ROWS) < RATIO * ROWS).astype(jnp.int8)
        given, orders = given._replace(carry={"trigger": before, "role": role}), []
        for number, stage in enumerate(attack.train):
            state = stage.init(jax.random.key(number), given, made.weights)
            orders.append(stage.order(jax.random.key(number), state, 0, given))
            step = jax.jit(
                lambda state, rows, stage=stage, given=given: stage.step(jax.random.key(0), state, rows, given)[0]
            )
            for pair in zip(*orders[-1].values(), strict=True):
                state = step(state, {name: source().read(rows) for name, rows in zip(orders[-1], pair, strict=True)})
            trained = stage.finish(jax.random.key(number), state, given)
            given = given._replace(carry=trained.carry)
        other.run(*map(batches, orders))
        image = source().read(jnp.arange(ROWS)).image
        query = jax.vmap(lambda image: attack.query((), trained.carry, image, 0))(image)
        found = {"triggered images": common.relative(query, other.triggered(image))}
    after = {"mask": weights(other.mask), "pattern": weights(other.pattern)}
    classifier = {"params": 0, "batch_stats": 0}
    trees = {name: (trained.carry[name], after[name], before[name]) for name in after}
    whole = (trained.weights, common.weights(made.net, other.classifier), made.weights)
    trees["classifier"] = tuple({part: getattr(one, part) for part in classifier} for one in whole)
    for name, (ours, new, old) in trees.items():
        for part, what in (("params", "parameters"), ("batch_stats", "statistics")):
            change = (jax.tree.map(jnp.subtract, one[part], old[part]) for one in (ours, new))
            found[f"{name}: {what}, change in 2 steps"] = common.relative(*change)
    return found


COMPARISON = common.Comparison(
    "VinAIResearch/input-aware-backdoor-attack-release",
    "1750e4ff0cc2371b243f1fd0ee18971f7e49fe78",
    compare,
    (
        "The biases of their generators' convolutions, which normalisation takes away again, are held at 0.",
        "Images are normalised by 0.5 and 0.25 in every channel; theirs by the dataset's own means and deviations.",
        "Compared without augmentation; with the authors' sum of gradients and double count, which `paper` leaves out.",
    ),
)
