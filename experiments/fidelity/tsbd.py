"""TSBD: what the authors' whole defense leaves, after reinitialisation and after fine-tuning, on two batches.

Lin et al., NeurIPS 2024; their code lives in a copy of BackdoorBench, where their README puts it: `defense/tsbd.py` and
`config/defense/tsbd/config.yaml`. The folder to give is that copy.
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
from bdjax.cards import lookup
from bdjax.types import Batch, Given, Source
from experiments.fidelity import common

ROWS, SIZE = 12, 16
UNLEARNING, EPOCHS = 8, 3  # three passes of unlearning reach the stop
SHARES = (0.05, 0.15, 0.5)


def ours(made, image, label):
    """Weights after both stages for each share, the order of the rows, and how many passes of unlearning there were."""
    text = f"tsbd:preset=benchmark,batch=8,unlearning_epochs={UNLEARNING},epochs={EPOCHS}"
    spec = lookup(text, bdjax.DEFENSES, "defense")
    stages = bdjax.DEFENSES["tsbd"].make(made.net, image.shape[1:], common.CLASSES, **spec.static)

    def read(row):
        return Batch(jnp.asarray(image)[row], jnp.asarray(label)[row], row, (row >= 0).astype(image.dtype))

    def door(share):
        settings = spec.traced | {"neuron_share": share}
        return Given(settings, lambda key, image: image, clean=Source(ROWS, read), victim=made.weights)

    key, given = jax.random.key(0), door(0.0)
    steps = [jax.jit(lambda state, rows, stage=stage: stage.step(key, state, rows, given)) for stage in stages]
    (unlearn, tune), passes, found = stages, 0, []
    state = unlearn.init(key, given, None)
    for _ in range(UNLEARNING):
        state, info = steps[0](state, read(unlearn.order(key, state, 0, given)[0]))
        passes += int(info["unlearning"])
    for share in SHARES:
        trained = unlearn.finish(key, state, door(share))
        tuned = tune.init(key, given, trained.weights)
        orders = tune.order(key, tuned, 0, given)
        for row in list(orders) * EPOCHS:
            tuned, _ = steps[1](tuned, read(row))
        found.append((trained.weights, tune.finish(key, tuned, given).weights))
    return found, np.asarray(orders), passes


class Loader(list):
    """Batches in one order, and how many rows there are."""

    dataset = range(ROWS)


def theirs(folder, made, image, label, orders):
    """The same weights of theirs, and their passes of unlearning."""
    code = common.module(folder, "defense/tsbd.py")
    settings = yaml.safe_load((folder / "config/defense/tsbd/config.yaml").read_text())
    image, label = common.to_torch(image), torch.tensor(label).long()
    loader = Loader(
        (image[torch.tensor(rows[rows >= 0]).long()], label[torch.tensor(rows[rows >= 0]).long()]) for rows in orders
    )
    seen, passes = [], []
    with tempfile.TemporaryDirectory() as place, contextlib.redirect_stdout(io.StringIO()):
        here = {"device": "cpu", "num_workers": 0, "log": f"{place}/", "save_path": f"{place}/", "pin_memory": False}
        size = {
            "num_classes": common.CLASSES,
            "input_height": SIZE,
            "input_width": SIZE,
            "checkpoint_save": f"{place}/",
        }
        ours = {"epochs": UNLEARNING, "ft_epoch": EPOCHS - 1}
        code.args, code.reinit_ratio = SimpleNamespace(**settings | here | size | ours), list(SHARES)
        defense = object.__new__(code.tsbd)
        defense.args = code.args
        tester = SimpleNamespace(set_with_dataloader=mock.Mock(), test_current_model=lambda *arguments: (0.0,) * 5)
        unlearn = defense.train_unlearning

        def watch(model):
            seen.append((copy.deepcopy(model), model))  # as it is, and as it will be
            defense.trainer = tester

        def counted(*arguments):
            passes.append(1)
            return unlearn(*arguments)

        defense.set_trainer, defense.train_unlearning = watch, counted
        rows = SimpleNamespace(wrapped_dataset=None)
        defense.result = {"model": made.module.state_dict()} | dict.fromkeys(
            ("clean_train", "bd_test", "clean_test"), rows
        )
        with (
            mock.patch.multiple(
                code,
                generate_cls_model=lambda *arguments: copy.deepcopy(made.module),
                prepro_cls_DatasetBD_v2=lambda rows: mock.MagicMock(),
                choose_index=lambda args, length: np.arange(ROWS),
                DataLoader=lambda *arguments, **settings: loader,
                tqdm=lambda batches: mock.MagicMock(__iter__=lambda self: iter(batches)),
            ),
            mock.patch("torch.utils.data.DataLoader", lambda *arguments, **settings: loader),
        ):
            defense.mitigation()
    first = seen[::2]  # they look at each share's network after reinitialisation and after the first epoch
    return [tuple(common.weights(made.net, model) for model in pair) for pair in first], len(passes)


def compare(folder):
    """Relative differences of the passes, of what reinitialisation changes and of what fine-tuning then does."""
    image, _ = common.batch(ROWS, SIZE)
    made = common.pair(size=SIZE)
    label = np.asarray(jnp.argmax(made.net.apply(made.weights, image)[0], axis=1), np.int32)
    mine, orders, passes = ours(made, image, label)
    other, count = theirs(folder, made, image, label, orders)
    figures = {"passes of unlearning": common.relative(float(passes), float(count))}

    def changes(before, after):
        return jax.tree.map(jnp.subtract, after, before)

    for share, one, two in zip(SHARES, mine, other, strict=True):
        zeroed = [changes(made.weights, first).params for first, _ in (one, two)]
        tuned = [changes(*pair) for pair in (one, two)]
        figures[f"share {share}: change by reinitialisation"] = common.relative(*zeroed)
        figures[f"share {share}: parameters, change by fine-tuning"] = common.relative(*(each.params for each in tuned))
        figures[f"share {share}: statistics, change by fine-tuning"] = common.relative(
            *(each.batch_stats for each in tuned)
        )
    return figures


COMPARISON = common.Comparison(
    "linweiii/TSBD",
    "3718c674aa0918d51ea0dd6eac7f1074f07986b1",
    compare,
    (
        "Compared without augmentation.",
        "Their order of the clean rows is that of the draw; both take ours.",
    ),
)
