"""Confusion matrix: the counts that the benchmark's loop over batches and its function for the matrix give.

`analysis/visual_cm.py` and `plot_confusion_matrix` of `analysis/visual_utils.py`, in SCLBD/BackdoorBench at f02e353.
"""

import ast
from types import SimpleNamespace

import jax.numpy as jnp
import matplotlib
import numpy as np
import torch

from bdjax.analysis import cm
from experiments.fidelity import common
from experiments.fidelity.tac import Images

ROWS = 60


def theirs(folder, made, image, label):
    """Their matrices of counts and of shares of the true class."""
    path = "analysis/visual_cm.py"
    tree = ast.parse((folder / path).read_text())
    wanted = next(
        one for one in tree.body if isinstance(one, ast.For) and ast.unparse(one.iter) == "enumerate(data_loader)"
    )
    scope = {name: 0 for name in ("total_clean_test", "total_clean_correct_test", "test_loss")}
    scope |= {"target_correct": 0, "target_total": 0, "target_class": 0, "true_labls": [], "pred_labels": []}
    scope |= {"torch": torch, "args": SimpleNamespace(device="cpu"), "model_visual": made.module.eval()}
    scope |= {"data_loader": Images(image, image, label, np.zeros(len(label), int))}
    scope |= {"criterion": torch.nn.CrossEntropyLoss()}
    with torch.no_grad():
        exec(compile(ast.Module([wanted], []), path, "exec"), scope)
    labels = [np.concatenate(scope[name]) for name in ("true_labls", "pred_labels")]
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    utils = common.pieces(folder, "analysis/visual_utils.py", "plot_confusion_matrix", plt=plt, print=common._silent)
    return [utils.plot_confusion_matrix(*labels, classes=range(common.CLASSES), normalize=n)[1] for n in (False, True)]


def compare(folder):
    """Relative differences of counts and of shares."""
    image, label = common.poisoned(ROWS)
    made = common.keen(common.pair(), image)
    predicted = jnp.argmax(made.net.apply(made.weights, image)[0], axis=1)
    mine = np.asarray(cm.count(jnp.asarray(label), predicted, jnp.ones(ROWS), common.CLASSES))
    counts, shares = theirs(folder, made, image, label)
    found = (mine > 0).sum()
    return {
        f"counts, {found} of {mine.size} not 0": common.relative(mine, counts),
        "shares of true classes": common.relative(mine / mine.sum(1, keepdims=True), shares),
    }


COMPARISON = common.Comparison("SCLBD/BackdoorBench", "f02e3534645f0ee63d6848653062cd6c0d6c400d", compare)
