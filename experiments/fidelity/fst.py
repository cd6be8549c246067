"""FST: two steps of the authors' script, from the head that it drew.

Min et al., NeurIPS 2023; their code is `fine_tune/ft.py` of AISafety-HKUST/stable_backdoor_purification, a script of
one function. It runs whole, with the modules that load its data and networks replaced.
"""

import contextlib
import copy
import importlib.util
import os
import sys
import tempfile
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import torch

import bdjax
from bdjax.cards import lookup
from bdjax.types import Batch, Given, Source
from experiments.fidelity import common

REPLACED = (
    "utils",
    "utils.aggregate_block",
    "utils.aggregate_block.dataset_and_transform_generate",
    "utils.aggregate_block.fix_random",
    "utils.aggregate_block.model_trainer_generate",
    "utils.bd_dataset",
    "utils.bd_dataset_v2",
    "utils.choose_index",
    "utils.save_load_attack",
    "load_data",
    "test",
)
ALPHA = 0.1


def theirs(folder, made, batches, mode):
    """The weights with which the script begins to train, and those after one epoch of these batches."""
    module, begun = copy.deepcopy(made.module), []
    module.register_forward_pre_hook(
        lambda module, _: module.training and begun.append(jax.tree.map(jnp.array, common.weights(made.net, module)))
    )
    options = f"--ft_mode {mode} --alpha {ALPHA} --lr 0.01 --epochs 1 --attack a --dataset d --model m --split_ratio 1"
    victim = {"model": made.module.state_dict(), "bd_test": None}
    with tempfile.TemporaryDirectory() as place, _script(folder.resolve(), Path(place)) as code:
        code.generate_cls_model = lambda **named: module
        code.DataLoader = lambda **named: batches
        with mock.patch.object(sys, "argv", ["ft.py", *options.split()]), mock.patch("torch.load", lambda path: victim):
            code.main()
    return begun[0], common.weights(made.net, module)


@contextlib.contextmanager
def _script(folder, place):
    """The authors' script as a module, run in `place`, where it makes a folder beside the one that it is in."""
    (place / "inner").mkdir()
    before = Path.cwd()
    sys.modules.update({name: mock.MagicMock() for name in REPLACED})
    with mock.patch.object(sys, "path", [str(place / "inner"), *sys.path]):
        os.chdir(place)
        try:
            code = _loaded(folder / "fine_tune/ft.py")
            code.logging = mock.MagicMock()
            code.get_num_classes, code.get_input_shape = lambda name: common.CLASSES, lambda name: (32, 32, 3)
            code.dataset_and_transform_generate = lambda args: (None, None, None, [], None, None)
            code.test = lambda *arguments: {"test_correct": 0, "test_total": 1, "test_loss": 0.0}
            yield code
        finally:
            os.chdir(before)
            for name in REPLACED:
                del sys.modules[name]


def _loaded(path):
    spec = importlib.util.spec_from_file_location("authors_ft", path)
    code = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(code)
    return code


def ours(text, made, begun, image, label):
    """The weights after one step on each half of the batch, begun with those of `begun`."""
    spec = lookup(text, bdjax.DEFENSES, "defense")
    (stage,) = bdjax.DEFENSES[spec.name].make(made.net, image.shape[1:], common.CLASSES, **spec.static)
    source = Source(len(label), lambda row: None)
    given = Given(spec.traced, lambda key, image: image, clean=source, victim=made.weights)
    state = stage.init(jax.random.key(0), given, None)
    state = state.replace(moving=begun.params, still=state.still | {"batch_stats": begun.batch_stats})
    step = jax.jit(lambda state, rows: stage.step(jax.random.key(0), state, rows, given)[0])
    for half in halves(image, label):
        rows = Batch(jnp.asarray(half[0]), jnp.asarray(half[1]), jnp.arange(len(half[1])), jnp.ones(len(half[1])))
        state = step(state, rows)
    return stage.finish(None, state, given).weights


def halves(image, label):
    """Two batches of one."""
    middle = len(label) // 2
    return (image[:middle], label[:middle]), (image[middle:], label[middle:])


def differences(folder, mode, text):
    """Relative differences of what two steps change, parameters of the head and of the other layers apart."""
    image, label = common.batch(16)
    made = common.pair("resnet18")
    batches = [(common.to_torch(one), torch.tensor(two).long()) for one, two in halves(image, label)]
    begun, other = theirs(folder, made, batches, mode)
    mine = ours(text, made, begun, image, label)
    one, two = (jax.tree.map(jnp.subtract, each, begun) for each in (mine, other))
    heads = [each.params.pop("linear") for each in (one, two)]
    found = {"the head": heads, "other layers": (one.params, two.params)}
    found["moving statistics"] = one.batch_stats, two.batch_stats
    return {f"{mode}, {what}": _apart(*trees) for what, trees in found.items()}


def _apart(one, two):
    still = not any(float(jnp.abs(leaf).max()) for tree in (one, two) for leaf in jax.tree.leaves(tree))
    return 0.0 if still else common.relative(one, two)


def compare(folder):
    """Relative differences of what two steps change."""
    return differences(folder, "fst", f"fst:batch=8,alpha={ALPHA}")


COMPARISON = common.Comparison(
    "AISafety-HKUST/stable_backdoor_purification",
    "37d2ef5cf4a0a0adb517813113808baad56f53f5",
    compare,
    ("Compared with the README's alpha, 0.1; our default is the paper's, 0.2.",),
)
