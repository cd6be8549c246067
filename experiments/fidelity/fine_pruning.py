"""Fine-pruning: the benchmark's pruning of the head and two epochs of its fine-tuning on one batch.

Liu et al., RAID 2018, whose own code is not PyTorch's; this is `defense/fp.py` of BackdoorBench.
"""

import contextlib
import copy
import io
import logging
import tempfile
import warnings
from types import SimpleNamespace
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import torch
import yaml

import bdjax
from bdjax import train
from bdjax.cards import lookup
from bdjax.io.foreign.torch_weights import from_torch
from bdjax.models.parts import heads
from bdjax.types import Batch, Given, Source
from experiments.fidelity import common

EPOCHS, SPARED = 2, 20
PARTS = {10: 0.1, 100: 0.01}
"""Our setting `parts` and theirs, `once_prune_ratio`."""


def settled(made, change=lambda module: None):
    """The pair with statistics and a bias for which it tells smooth images apart, and 80 that it tells apart best.

    change: what else is done to the module, in place, before its bias is set.

    Returns:
        The pair, images float (80, 32, 32, 3) and the labels that it gives them.
    """
    image = np.kron(np.random.RandomState(3).uniform(size=(200, 2, 2, 3)), np.ones((1, 16, 16, 1)))
    module = copy.deepcopy(made.module)
    norms = [each for each in module.modules() if isinstance(each, torch.nn.BatchNorm2d)]
    with torch.no_grad():
        for each in norms:
            each.momentum = 1.0
        module.train()(common.to_torch(image))
        for each in norms:
            each.momentum = 0.1
        change(module.eval())
        module.linear.bias -= module(common.to_torch(image)).mean(0)
        best, label = module(common.to_torch(image)).topk(2)
    clearest = (best[:, 1] - best[:, 0]).argsort()[:80].numpy()
    label = label[:, 0].numpy()[clearest].astype(np.int32)
    return made._replace(module=module, weights=common.weights(made.net, module)), image[clearest], label


class Rows(torch.utils.data.Dataset):
    """Images as the benchmark's data sets hand them out."""

    def __init__(self, image, label):
        self.image, self.label = common.to_torch(image), torch.tensor(label).long()
        self.wrapped_dataset, self.subset, self.getitem_all_switch = self, lambda rows: None, False

    def __len__(self):
        return len(self.label)

    def __getitem__(self, row):
        return self.image[row], self.label[row], row, 0, self.label[row]


def theirs(folder, code, made, clean, tested, ratio):
    """The weights after pruning and fine-tuning."""
    settings = yaml.safe_load((folder / "config/defense/fp/cifar10.yaml").read_text())
    here = {"device": "cpu", "num_workers": 0, "pin_memory": False, "amp": False, "epochs": EPOCHS}
    defense = object.__new__(code.FinePrune)
    defense.netC = copy.deepcopy(made.module).eval().requires_grad_(False)
    defense.attack_result = {"clean_train": Rows(*clean), "clean_test": Rows(*tested), "bd_test": Rows(*tested)}
    kept = {}
    with tempfile.TemporaryDirectory() as place, contextlib.redirect_stdout(io.StringIO()):
        extra = {"once_prune_ratio": ratio, "defense_save_path": place}
        defense.args = SimpleNamespace(**settings | here | extra)
        with mock.patch.multiple(
            code,
            prepro_cls_DatasetBD_v2=lambda rows: rows,
            choose_index=lambda args, count: np.arange(count),
            general_plot_for_epoch=mock.DEFAULT,
            save_defense_result=lambda model, **rest: kept.update(model),
        ):
            defense.defense()
    state = {name: value.numpy() for name, value in kept.items()}
    state["linear.weight"] = state.pop("linear.weight_orig") * state.pop("linear.weight_mask")
    return from_torch(state, made.net)


def ours(made, clean, tested, parts):
    """The same of ours."""

    def source(image, label):
        rows = Batch(jnp.asarray(image), jnp.asarray(label), jnp.arange(len(label)), jnp.ones(len(label)))
        return Source(
            len(label),
            lambda row: jax.tree.map(lambda leaf: leaf[row], rows).replace(
                row=row, weight=(row >= 0).astype(rows.weight.dtype)
            ),
        )

    spec = lookup(f"fine_pruning:preset=benchmark,epochs={EPOCHS},parts={parts}", bdjax.DEFENSES, "defense")
    fields = {"clean": source(*clean), "test": source(*tested)}

    def given(weights):
        return Given(spec.traced, lambda key, image: image, victim=weights, **fields)

    left = None
    for stage in bdjax.DEFENSES["fine_pruning"].make(made.net, (32, 32, 3), common.CLASSES, **spec.static):
        left = train.fit(jax.random.key(0), stage, given, made.weights, left)
    return left.weights


def compare(folder):
    """Relative differences of what pruning and fine-tuning change, and of how many channels went."""
    code = common.module(folder, "defense/fp.py")
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore", FutureWarning)
    made, clean = common.pair(), common.batch()

    def spare(module):
        """A head that hardly reads the channels that are pruned first, so that many are."""
        read = made.net.apply(common.weights(made.net, module), jnp.asarray(clean[0]))[2]["pool"]
        module.linear.weight[:, torch.tensor(np.argsort(read.mean(0))[:SPARED].copy())] *= 0.01

    made, *tested = settled(made, spare)
    figures = {}
    for parts, ratio in PARTS.items():
        mine = ours(made, clean, tested, parts)
        other = theirs(folder, code, made, clean, tested, ratio)
        one, two = (jax.tree.map(jnp.subtract, each, made.weights) for each in (mine, other))
        counts = [
            int(np.sum(np.all(heads.at(each.params, heads.place(made.net))["kernel"] == 0, axis=1)))
            for each in (mine, other)
        ]
        what = f"one part in {parts} at a time, {counts[1]} channels gone"
        figures[f"{what}: how many"] = abs(counts[0] - counts[1]) / counts[1]
        figures[f"{what}: change of parameters"] = common.relative(one.params, two.params)
        figures[f"{what}: change of moving statistics"] = common.relative(one.batch_stats, two.batch_stats)
    return figures


COMPARISON = common.Comparison(
    "SCLBD/BackdoorBench",
    "f02e3534645f0ee63d6848653062cd6c0d6c400d",
    compare,
    (
        "Compared under preset=benchmark and without augmentation. Our default prunes one channel at a time by the "
        "size of its activation, reads held-out rows and undoes the pruning that went too far.",
    ),
)
