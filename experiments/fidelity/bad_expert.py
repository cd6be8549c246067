"""BaDExpert: both experts and the score beside its authors' code in backdoor-toolbox.

Xie et al., ICLR 2024. `unlearn`, `finetune` and `get_alert_mask` run as they are, over our order of rows; loading and
saving of files, and figures on a test set, are left out.
"""

import copy
import math
from types import SimpleNamespace
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import torch

import bdjax
from bdjax import train
from bdjax.cards import lookup
from bdjax.detection.bad_expert import triangle
from bdjax.keys import root, stream
from bdjax.types import Given
from experiments.fidelity import common

ROWS, BATCH, EPOCHS, ASKED = 24, 12, 5, 30
RATE = 1e-2  # at the default of 0.1 this random network diverges in both
TEXT = f"bad_expert:backdoor_batch={BATCH},clean_batch={BATCH},clean_epochs={EPOCHS},clean_rate={RATE}"


def ours(made, image, label):
    """Our experts by name, and the orders in which each read its rows."""
    spec = lookup(TEXT, bdjax.DETECTORS, "detector")
    detector = bdjax.DETECTORS["bad_expert"].make(made.net, (32, 32, 3), common.CLASSES, **spec.static)
    clean = common.source(image, label)
    given, left, orders = Given(spec.traced, lambda key, image: image, clean=clean, victim=made.weights), None, []
    for number, stage in enumerate(detector.stages):
        key = root(number)
        left = train.fit(key, stage, lambda _: given, (), left)
        state = stage.init(key, given, None)
        own = [jax.random.fold_in(stream(key, "order"), epoch) for epoch in range(stage.epochs)]
        orders.append([np.asarray(stage.order(one, state, epoch, given)) for epoch, one in enumerate(own)])
    return left.carry, orders


class Loader:
    """Batches in a given order, another one in every epoch."""

    def __init__(self, data, orders):
        self.data, self.orders, self.epoch = data, orders, -1

    def __iter__(self):
        self.epoch = min(self.epoch + 1, len(self.orders) - 1)
        return iter([tuple(one[rows] for one in self.data) for rows in self.orders[self.epoch]])


def theirs(code, made, image, label, orders):
    """The same experts of theirs."""
    data = common.to_torch(image), torch.tensor(label).long()
    params = {
        "num_classes": common.CLASSES,
        "unlearning_lr": 1e-4,
        "unlearning_epochs": 1,
        "unlearning_milestone": [1],
        "unlearning_gamma": 0.1,
        "early_stopping_acc": 0.2,
        "finetuning_batch_size": BATCH,
        "finetuning_epochs": EPOCHS,
        "finetuning_lr": RATE,
        "finetuning_milestone": [2, 4, 6, 8],
        "finetuning_gamma": 0.1,
        "kwargs": {},
    }
    args = SimpleNamespace(dataset="cifar10")
    with (
        common.without_cuda(),
        mock.patch("torch.load", lambda _: made.module.state_dict()),
        mock.patch("torch.save"),
        mock.patch("torch.utils.data.DataLoader", lambda *_args, **_named: Loader(data, orders[1])),
    ):
        backdoor = code.unlearn(args, params, Loader(data, orders[0]), None, None).module
        clean = code.finetune(args, params, None, None, None).module
    return {"backdoor": backdoor.eval(), "clean": clean.eval()}


def compare(folder):
    """Relative differences of what training changes, and of scores of images under the same experts."""
    made = common.keen(common.pair(), common.batch(ASKED)[0], 0.2)
    scope = {
        "optim": torch.optim,
        "MultiStepLR": torch.optim.lr_scheduler.MultiStepLR,
        "math": math,
        "supervisor": SimpleNamespace(
            get_arch=lambda _: lambda num_classes: copy.deepcopy(made.module),
            get_model_dir=lambda _: "",
            get_poison_set_dir=lambda _: "",
            get_model_name=lambda _: "",
        ),
        "eval_model": lambda *_args: (1.0, 0.0),
    }
    names = "unlearn", "finetune", "get_alert_mask"
    code = common.pieces(folder, "other_defenses_tool_box/bad_expert_utils.py", *names, **scope)
    image, label = common.batch(ROWS)
    carry, orders = ours(made, image, label)
    modules = theirs(code, made, image, label, orders)
    figures = {}
    for name, module in modules.items():
        pair = carry[name], common.weights(made.net, module)
        moved = [jax.tree.map(np.subtract, one, made.weights) for one in pair]
        figures[f"{name} expert: parameters and statistics"] = common.relative(*moved)
    asked = common.to_torch(common.batch(ASKED, seed=3)[0])
    with common.without_cuda(), torch.no_grad():
        outputs = [one(asked) for one in (made.module, modules["clean"], modules["backdoor"])]
        args = SimpleNamespace(dataset="cifar10", metric_name="triangle", hard_filter=False)
        score = code.get_alert_mask(args, *outputs, {"threshold_triangle": 0.0}, return_score=True)[1]
    rows = np.arange(ASKED), outputs[0].argmax(1).numpy()
    clean, backdoor = (np.asarray(jax.nn.softmax(jnp.asarray(one.numpy())))[rows] for one in outputs[1:])
    figures["scores under the same experts"] = common.relative(triangle(backdoor, clean, 0.5), score.numpy())
    return figures


COMPARISON = common.Comparison("vtu81/backdoor-toolbox", "9d4d909", compare)
