"""NPD: the inserted layer after the authors' warm-up and main stage on one batch.

Zhu et al., NeurIPS 2023; their code is `defense/npd.py` of BackdoorBench.
"""

import contextlib
import copy
import inspect
import io
import tempfile
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import torch
import torch.nn.functional as F  # noqa: N812
import yaml
from torchvision import transforms

import bdjax
from bdjax import train
from bdjax.cards import lookup
from bdjax.models.auxiliary.polarizer import OWN
from bdjax.types import Batch, Given, Source
from experiments.fidelity import common

WIDTH = 4
CONFIGURATIONS = {
    "cifar10": "",
    "gtsrb": "radius=5,restore_weight=0.5,margin_weight=0.5,target_weight=0.5",
    "tiny": "radius=6,restore_weight=1,margin_weight=0.1,target_weight=0.1,warmup_epochs=0,learn_statistics=true,"
    "inner_sign=false",
}
"""The benchmark's configuration files, and the settings that they stand for."""
WARMUP, MAIN = 2, 3


def theirs(folder, code, made, image, label, name):
    """The inserted layer, as (params, batch_stats), after the authors' warm-up and main stage, one batch an epoch."""
    settings = yaml.safe_load((folder / f"config/defense/npd/{name}.yaml").read_text())
    with tempfile.TemporaryDirectory() as place:
        size = {"input_height": 32, "input_width": 32, "input_channel": 3}
        here = {"device": "cpu", "save_path": place, "max_init": False, "use_residual": "no"}
        args = SimpleNamespace(**settings | size | here)
        args.warm_epochs, args.epochs = min(args.warm_epochs, WARMUP), MAIN
        code.args, model = args, copy.deepcopy(made.module).eval()
        defense = object.__new__(code.NPD)
        defense.args, defense.evaluation = args, lambda *arguments: (0.0,) * 6
        normal = transforms.Normalize((0.0,) * 3, (1.0,) * 3)
        defense.normalization, defense.denormalization = normal, code.get_dataset_denormalization(normal)
        true = torch.tensor(label).long()
        loader = [(common.to_torch(image), true, torch.arange(len(label)), torch.zeros(len(label)), true)]
        layer = defense.prepare_polarizer(model, args, loader)
        rest = dict.fromkeys(inspect.signature(defense.train_npd).parameters)
        given = {"model": model, "plug_layer": layer, "train_dataloader": loader, "criterion": F.cross_entropy}
        state = {key: value.numpy() for key, value in defense.train_npd(**rest | given).state_dict().items()}
    params = {
        "conv": {"kernel": state["0.weight"].transpose(2, 3, 1, 0)},
        "norm": {"bias": state["1.bias"], "scale": state["1.weight"]},
    }
    return params, {"norm": {"mean": state["1.running_mean"], "var": state["1.running_var"]}}


def ours(made, image, label, text):
    """The same of ours, and the layer at the start."""
    spec = lookup(f"npd:preset=benchmark,{text}".rstrip(","), bdjax.DEFENSES, "defense")
    stages = bdjax.DEFENSES["npd"].make(made.net, image.shape[1:], common.CLASSES, **spec.static)
    rows = Batch(jnp.asarray(image), jnp.asarray(label), jnp.arange(len(label)), jnp.ones(len(label)))
    given = Given(spec.traced, None, clean=Source(len(label), lambda row: rows), victim=made.weights)
    weights, start = None, None
    for number, stage in enumerate(stages):
        state = train.begin(stage, jax.random.key(0), given, weights)[0]
        start = stage.finish(None, state, given).weights if start is None else start
        step = jax.jit(lambda state, stage=stage: stage.step(jax.random.key(0), state, rows, given)[0])
        for _ in range(MAIN if number == len(stages) - 1 else WARMUP):
            state = step(state)
        weights = stage.finish(None, state, given).weights
    return tuple((each.params[OWN], each.batch_stats[OWN]) for each in (weights, start))


def compare(folder):
    """Relative differences of what both stages change in the inserted layer."""
    code = common.module(folder, "defense/npd.py")
    image, label = common.batch()
    made = common.pair(width=WIDTH)
    figures = {}
    for name, text in CONFIGURATIONS.items():
        mine, start = ours(made, image, label, text)
        with contextlib.redirect_stderr(io.StringIO()):
            other = theirs(folder, code, made, image, label, name)
        one, two = (jax.tree.map(lambda after, before: after - before, each, start) for each in (mine, other))
        figures[f"{name}: layer, change"] = common.relative(one[0], two[0])
        figures[f"{name}: statistics, change"] = common.relative(one[1], two[1])
    return figures


COMPARISON = common.Comparison(
    "SCLBD/BackdoorBench",
    "f02e3534645f0ee63d6848653062cd6c0d6c400d",
    compare,
    (
        "For the perturbation's target theirs sets the true label's logit to -10, ours to minus infinity: they differ "
        "only where every other logit is below -10.",
    ),
)
