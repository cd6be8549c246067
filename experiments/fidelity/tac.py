"""TAC: the changes that the benchmark's loop over layers finds, on the same images with and without a patch.

The loop of `analysis/visual_tac.py` with `get_features` of `analysis/visual_utils.py` and the blocks of
`models/preact_resnet.py`, in SCLBD/BackdoorBench at f02e353.
"""

import ast
import contextlib
import copy
import re
from pathlib import Path
from types import MethodType, SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pandas as pd
import torch

from bdjax.analysis import tac
from bdjax.analysis.parts.rows import Twins
from bdjax.bench import torch_networks
from experiments.fidelity import common

ROWS = 24
KINDS = (torch.nn.Conv2d, torch.nn.Linear, torch.nn.BatchNorm2d)


class Images:
    """Batches as the benchmark's loaders give them; of `kept` images when `clean`."""

    def __init__(self, image, kept, label, poisoned):
        self.image, self.kept, self.label, self.poisoned, self.clean = image, kept, label, poisoned, False

    def __len__(self):
        return len(self.image)

    def __iter__(self):
        image = common.to_torch(self.kept if self.clean else self.image)
        flags = torch.tensor(np.zeros_like(self.poisoned) if self.clean else self.poisoned)
        for rows in np.split(np.arange(len(self.image)), 3):
            yield image[rows], torch.tensor(self.label[rows]).long(), torch.tensor(rows), flags[rows]


@contextlib.contextmanager
def all_clean(images: Images):
    """The images without their trigger."""
    images.clean = True
    yield
    images.clean = False


def collected(folder: Path, path: str, made: common.Pair, images: Images | None, **scope) -> pd.DataFrame:
    """The table that a script's first loop over layers fills, with a row a channel."""
    tree = ast.parse((folder / path).read_text())
    wanted = next(one for one in tree.body if isinstance(one, ast.For) and ast.unparse(one.iter) == "module_visual")
    args = SimpleNamespace(device="cpu", num_classes=common.CLASSES)
    utils = common.pieces(folder, "analysis/visual_utils.py", "get_features", args=args)
    modules = dict(made.module.named_modules())
    scope |= {"torch": torch, "np": np, "pd": pd, "df": None, "max_num_neuron": 0, "args": args}
    scope |= {
        "module_dict": modules,
        "module_visual": [name for name, one in modules.items() if isinstance(one, KINDS)],
    }
    scope |= {"model_visual": made.module.eval(), "data_loader": images, "visual_dataset": images}
    scope |= {"get_features": utils.get_features, "temporary_all_clean": all_clean, "print": common._silent}
    exec(compile(ast.Module([wanted], []), path, "exec"), scope)
    return scope["df"]


def ours_named(name: str) -> str:
    """What we call a layer of theirs: `layer1.0.shortcut.0` is `layer1_0.shortcut_0`."""
    return re.sub(r"(layer\d|shortcut)\.(\d)", r"\1_\2", name)


def patched(image: np.ndarray) -> np.ndarray:
    """The images with a white square at the bottom right."""
    changed = image.copy()
    changed[:, -6:, -6:] = 1
    return changed


def with_their_blocks(folder: Path, made: common.Pair) -> common.Pair:
    """The pair with a copy of the module that adds shortcuts as the benchmark's blocks do, in place."""
    block = common.pieces(folder, "models/preact_resnet.py", "PreActBlock").PreActBlock
    module = copy.deepcopy(made.module)
    for one in module.modules():
        if isinstance(one, torch_networks.PreActBlock):
            one.ind, one.forward = None, MethodType(block.forward, one)
            if one.shortcut is None:
                del one.shortcut
    return made._replace(module=module)


def difference(folder: Path, made: common.Pair, added: bool = False) -> float:
    """The relative difference over all channels; added: what a block's last convolution gives is the block's output."""
    image, label = common.batch(ROWS)
    table = collected(folder, "analysis/visual_tac.py", made, Images(patched(image), image, label, np.ones(ROWS, int)))
    theirs = {ours_named(name): one["TAC"].to_numpy(float) for name, one in table.groupby("layer", sort=False)}
    names = {name: re.sub(r"(layer\d_\d)\.conv2", r"\1.add", name) if added else name for name in theirs}
    twins = Twins(common.source(image, label), common.source(patched(image), label), jnp.ones(ROWS, bool))
    return common.relative(tac.changes(made.net, made.weights, twins, names, "absolute"), theirs)


def compare(folder):
    """Relative differences over all channels of all layers."""
    pre, post = common.pair("preact_resnet18", 4), common.pair("resnet18", 4)
    return {
        "preact_resnet18: all channels": difference(folder, pre),
        "preact_resnet18 with their blocks: all channels": difference(folder, with_their_blocks(folder, pre), True),
        "resnet18: all channels": difference(folder, post),
    }


COMPARISON = common.Comparison(
    "SCLBD/BackdoorBench",
    "f02e3534645f0ee63d6848653062cd6c0d6c400d",
    compare,
    (
        "Compared under preset=benchmark. Of a pre-activation block's last convolution their hook keeps the tensor to "
        "which the shortcut is then added in place; ours is what the convolution gives.",
    ),
)
