"""I-BAU as the reference benchmark runs it: whole rounds of its defense on two batches.

The code is `defense/i-bau.py` of BackdoorBench, compared with `i_bau:preset=benchmark`. It perturbs normalised values;
images are normalised here by the one deviation that the preset's unit is.
"""

import copy
import tempfile
from types import SimpleNamespace
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import yaml

import bdjax
from experiments.fidelity import common, i_bau

MEAN, UNIT = (0.4914, 0.4822, 0.4465), 0.25
SETTINGS = "preset=benchmark,batch=8,least=1"


def theirs(folder, made, run, image, label):
    """The weights after the benchmark's rounds."""
    code = common.module(folder, "defense/i-bau.py")
    settings = yaml.safe_load((folder / "config/defense/i-bau/cifar10.yaml").read_text())
    marks, none = iter(run.marks), [None] * 3  # what else a row of theirs has
    count = np.arange(i_bau.ROWS)
    with tempfile.TemporaryDirectory() as place, i_bau.quietly():
        here = {"device": "cpu", "num_workers": 0, "log": f"{place}/", "save_path": f"{place}/", "pin_memory": False}
        size = {"num_classes": common.CLASSES, "input_channel": 3}
        size |= {"input_height": i_bau.SIZE, "input_width": i_bau.SIZE, "n_rounds": i_bau.ROUNDS}
        code.args = SimpleNamespace(**settings | here | size)
        defense = object.__new__(code.i_bau)
        defense.args, defense.eval_step = code.args, lambda *arguments: (0.0,) * 6
        rows = SimpleNamespace(wrapped_dataset=SimpleNamespace(subset=lambda rows: None), __len__=lambda: len(count))
        defense.result = {"model": made.module.state_dict()}
        defense.result |= dict.fromkeys(("clean_train", "bd_test", "clean_test"), rows)
        loader = run.loader((image - MEAN) / UNIT, label, *none)
        with (
            mock.patch.multiple(
                code,
                generate_cls_model=lambda *arguments: copy.deepcopy(made.module),
                prepro_cls_DatasetBD_v2=lambda rows: mock.MagicMock(),
                choose_index=lambda args, length: count,
                random=SimpleNamespace(sample=lambda rows, count: [next(marks)], seed=lambda seed: None),
                general_plot_for_epoch=mock.DEFAULT,
                save_defense_result=mock.DEFAULT,
            ),
            mock.patch("torch.utils.data.DataLoader", lambda *arguments, **settings: loader),
        ):
            return common.weights(made.net, defense.mitigation()["model"])


def compare(folder):
    """Relative difference of what rounds change."""
    image, label = common.batch(i_bau.ROWS, i_bau.SIZE)
    shape = (i_bau.SIZE, i_bau.SIZE, 3)
    net = bdjax.MODELS["preact_resnet18"].make(shape, common.CLASSES, MEAN, (UNIT,) * 3, width=4)
    made = common.pair(size=i_bau.SIZE)._replace(net=net)
    run = i_bau.Run(made, f"i_bau:{SETTINGS}", image, label)
    other = jax.tree.map(jnp.subtract, theirs(folder, made, run, image, label).params, made.weights.params)
    change = jax.tree.map(jnp.subtract, run.weights[-1].params, made.weights.params)
    return {f"parameters, change in {i_bau.ROUNDS} rounds": common.relative(change, other)}


COMPARISON = common.Comparison(
    "SCLBD/BackdoorBench",
    "f02e3534645f0ee63d6848653062cd6c0d6c400d",
    compare,
    (
        "Images are normalised by 0.25 in every channel, the preset's unit; theirs by each channel's own deviation.",
        "Their share of a hundredth perturbs no row of a batch this small; both perturb the one that ours draws.",
        "Compared without augmentation.",
    ),
)
