"""Retuning: two epochs of the authors' training loop, `fine_tune/ft_poison.py`, on batches of both kinds of rows."""

import ast
import logging
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import torch

from bdjax.audits.retuning import RETUNING
from bdjax.cards import lookup
from bdjax.data import sources
from bdjax.types import Batch, Data, Given
from experiments.fidelity import common

BATCHES, ROWS, EPOCHS = 3, 8, 2


def statements(path: Path, *more: str) -> str:
    """What a script's `main` says of its criterion, optimizer and epochs, and the definitions named in `more`.

    The script itself reads models and data from the folders of a finished run.
    """
    tree = ast.parse(path.read_text())
    main = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "main")
    named = [node for node in tree.body if getattr(node, "name", None) in more]

    def wanted(node: ast.stmt) -> bool:
        if isinstance(node, ast.Assign):
            return ast.unparse(node.targets[0]) in ("criterion", "optimizer", *more)
        if isinstance(node, ast.If):
            return ast.unparse(node.test) in more
        return isinstance(node, ast.For) and ast.unparse(node.iter) == "range(args.epochs)"

    return ast.unparse(ast.Module([*named, *filter(wanted, main.body)], []))


def batches(count: int) -> list:
    """Images and labels of each batch."""
    return [common.batch(ROWS, seed=seed) for seed in range(count)]


def theirs(folder: Path, module: torch.nn.Module, rows: list) -> None:
    """Run the authors' loop on a module, changing it."""
    names = {
        "torch": torch,
        "nn": torch.nn,
        "optim": torch.optim,
        "logging": logging,
        "args": SimpleNamespace(lr=0.01, epochs=EPOCHS),
        "device": "cpu",
        "net": module,
        "train_loader": [(common.to_torch(image), torch.tensor(label)) for image, label in rows],
    }
    exec(compile(statements(folder / "fine_tune" / "ft_poison.py"), "ft_poison.py", "exec"), names)


def ours(pair: common.Pair, rows: list):
    """The weights after the same batches by the audit's own stage, which is given no augmentation."""
    spec = lookup("retuning", {"retuning": RETUNING}, "audit")
    (stage,) = RETUNING.make(pair.net, (32, 32, 3), common.CLASSES, **spec.static).stages
    clean = sources.split(Data(jnp.zeros((ROWS, 32, 32, 3), jnp.uint8), jnp.zeros(ROWS, jnp.int32)))
    given = Given(spec.traced, lambda key, image: image, clean=clean, poisoned=clean, victim=pair.weights)
    state = stage.init(jax.random.key(0), given, None)
    step = jax.jit(lambda state, batch: stage.step(jax.random.key(0), state, batch, given)[0])
    for image, label in rows * EPOCHS:
        state = step(state, Batch(jnp.asarray(image), jnp.asarray(label), jnp.arange(ROWS), jnp.ones(ROWS)))
    return stage.finish(None, state, given).weights


def compare(folder: Path) -> dict[str, float]:
    """How far parameters and statistics have moved."""
    found = {}
    for name in ("resnet18", "preact_resnet18"):
        pair, rows = common.pair(name), batches(BATCHES)
        pair = pair._replace(weights=jax.tree.map(jnp.array, pair.weights))  # copies: the loop changes the module's own
        after = ours(pair, rows)
        theirs(folder, pair.module, rows)
        before, stated = pair.weights, common.weights(pair.net, pair.module)
        moved = [jax.tree.map(jnp.subtract, one, before) for one in (after, stated)]
        found[f"{name}, {BATCHES * EPOCHS} steps, parameters"] = common.relative(moved[0].params, moved[1].params)
        found[f"{name}, statistics"] = common.relative(moved[0].batch_stats, moved[1].batch_stats)
    return found


COMPARISON = common.Comparison(
    repository="AISafety-HKUST/stable_backdoor_purification",
    revision="37d2ef5cf4a0a0adb517813113808baad56f53f5",
    compare=compare,
    departures=RETUNING.card.departures,
)
