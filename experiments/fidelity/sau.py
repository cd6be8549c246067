"""SAU: the authors' perturbations for two networks, and whole rounds of their defense on one batch.

Wei et al., NeurIPS 2023; their code is `defense/sau.py` of BackdoorBench, the same as that of
shawkui/Shared_Adversarial_Unlearning at ddff2fc but for a comment.
"""

import contextlib
import copy
import io
import tempfile
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
from bdjax.defenses.sau import Pair, perturbation
from bdjax.types import Batch, Given, Source
from experiments.fidelity import common

WIDTH, ROUNDS = 4, 3
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261)  # the benchmark's for CIFAR-10


class Rows(torch.utils.data.Dataset):
    """Normalised images as the benchmark's data sets hand them out."""

    def __init__(self, image, label):
        self.image, self.label = common.to_torch((image - MEAN) / STD), torch.tensor(label).long()
        self.wrapped_dataset, self.subset = self, lambda rows: None

    def __len__(self):
        return len(self.label)

    def __getitem__(self, row):
        return self.image[row], self.label[row], row, 0, self.label[row]


def network(seed):
    """A pair whose own network normalises images as the benchmark does."""
    made = common.pair(width=WIDTH, seed=seed)
    net = bdjax.MODELS["preact_resnet18"].make((32, 32, 3), common.CLASSES, MEAN, STD, width=WIDTH)
    return made._replace(net=net, module=made.module.eval())


def perturbations(code, image, label, steps):
    """Ours and theirs for two different networks, (b, height, width, channels)."""
    one, two = network(0), network(2)
    scale = torch.tensor(STD).reshape(3, 1, 1)
    attack = code.Shared_PGD(
        one.module, two.module, num_steps=steps, pert_func=lambda image, pert: image + pert / scale
    )
    rows = Rows(image, label)
    theirs = attack.attack(rows.image, rows.label).numpy().transpose(0, 2, 3, 1)
    settings = lookup("sau", bdjax.DEFENSES, "defense").traced

    def networks(image):
        return Pair(one.net.apply(one.weights, image)[0], one.net.apply(two.weights, image)[0])

    ours = perturbation(networks, jnp.asarray(image), jnp.asarray(label), jnp.ones(len(label)), settings, steps)
    return np.asarray(ours), theirs


def theirs(folder, code, made, image, label, rounds, train_mode):
    """The weights after rounds of the authors' defense under the benchmark's configuration of CIFAR-10."""
    settings = yaml.safe_load((folder / "config/defense/sau/cifar10.yaml").read_text())
    rows = Rows(image, label)
    with tempfile.TemporaryDirectory() as place, contextlib.redirect_stdout(io.StringIO()):
        here = {"device": "cpu", "num_workers": 0, "log": f"{place}/", "save_path": f"{place}/"}
        size = {"num_classes": common.CLASSES, "input_height": 32, "input_width": 32}
        code.args = SimpleNamespace(
            **settings | here | size | {"n_rounds": rounds, "train_mode": train_mode, "pin_memory": False}
        )
        defense = object.__new__(code.sau)
        defense.args, defense.eval_step = code.args, lambda *arguments: (0.0,) * 6
        defense.result = {"model": made.module.state_dict()}
        defense.result |= dict.fromkeys(("clean_train", "bd_test", "clean_test"), rows)
        with mock.patch.multiple(
            code,
            generate_cls_model=lambda *arguments: copy.deepcopy(made.module),
            prepro_cls_DatasetBD_v2=lambda rows: rows,
            choose_index=lambda args, count: np.arange(count),
            general_plot_for_epoch=mock.DEFAULT,
            save_defense_result=mock.DEFAULT,
        ):
            return common.weights(made.net, defense.mitigation()["model"])


def ours(made, image, label, learn):
    """The same of ours, after each round."""
    spec = lookup(f"sau:preset=benchmark,learn_statistics={str(learn).lower()}", bdjax.DEFENSES, "defense")
    (stage,) = bdjax.DEFENSES["sau"].make(made.net, image.shape[1:], common.CLASSES, **spec.static)
    rows = Batch(jnp.asarray(image), jnp.asarray(label), jnp.arange(len(label)), jnp.ones(len(label)))
    given = Given(spec.traced, None, clean=Source(len(label), lambda row: rows), victim=made.weights)
    state = train.begin(stage, jax.random.key(0), given, None)[0]
    step = jax.jit(lambda state: stage.step(jax.random.key(0), state, rows, given)[0])
    found = []
    for _ in range(ROUNDS):
        state = step(state)
        found.append(stage.finish(None, state, given).weights)
    return found


def compare(folder):
    """Relative differences of perturbations and of what rounds change."""
    code = common.module(folder, "defense/sau.py")
    image, label = common.batch()
    figures = {}
    for steps in (1, 5):
        figures[f"perturbation after {steps} of 5 steps"] = common.relative(*perturbations(code, image, label, steps))
    made = network(0)
    for learn, mode in ((False, ""), (True, ", statistics learning")):
        mine = ours(made, image, label, learn)
        for rounds in (1, ROUNDS):
            other = theirs(folder, code, made, image, label, rounds, learn)
            one, two = (jax.tree.map(jnp.subtract, each, made.weights) for each in (mine[rounds - 1], other))
            figures[f"parameters, change by round {rounds}{mode}"] = common.relative(one.params, two.params)
            if learn:
                figures[f"moving statistics, change by round {rounds}"] = common.relative(
                    one.batch_stats, two.batch_stats
                )
    return figures


COMPARISON = common.Comparison(
    "SCLBD/BackdoorBench",
    "f02e3534645f0ee63d6848653062cd6c0d6c400d",
    compare,
    ("Their clean rows are a uniform draw, ours are as many of every class; compared on one given batch.",),
)
