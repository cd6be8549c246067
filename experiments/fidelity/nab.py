"""NAB: steps of isolation, of the classifier of clean rows and of the last training, and what is decided between them.

Liu et al., ICCV 2023; their code is damianliumin/non-adversarial_backdoor at 1452a1c.
"""

import copy
import math
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import torch

import bdjax
from bdjax.cards import lookup
from bdjax.keys import root
from bdjax.types import Given, Net, Weights
from experiments.fidelity import common

ROWS, BATCH, STEPS, RATIO = 40, 8, 5, 0.1
TEXT = f"isolation_batch={BATCH},label_batch={BATCH},batch={BATCH},share={RATIO},value=0"


class Loader:
    """Batches of the rows in their order: images, labels, true labels, poisoned or not, numbers; or the first two."""

    def __init__(self, image, label, length=5):
        self.image, self.label, self.length = image, label, length

    def __iter__(self):
        for rows in np.arange(ROWS).reshape(STEPS, BATCH):
            label = torch.tensor(self.label[rows]).long()
            yield (common.to_torch(self.image[rows]), label, label, label == 0, torch.tensor(rows))[: self.length]


def stages(text, made):
    """Our stages on the pair's network, and the settings that are traced."""
    spec = lookup(f"nab:{text},{TEXT}", bdjax.DEFENSES, "defense")
    return bdjax.DEFENSES["nab"].make(made.net, (32, 32, 3), common.CLASSES, **spec.static), spec.traced


def run(stage, made, given, epochs):
    """What our stage leaves that begins with the pair's weights and runs these epochs, rows in their order."""
    state, own = stage.init(root(0), given, None), made.weights.batch_stats
    state = state.replace(
        moving=made.weights.params, still={"batch_stats": own} if "batch_stats" in state.still else own
    )
    step = jax.jit(lambda state, rows: stage.step(root(1), state, stage.source(given).read(rows), given)[0])
    for epoch in epochs:
        state = state.replace(step=jnp.int32(epoch * STEPS))
        for rows in jnp.arange(ROWS, dtype=jnp.int32).reshape(STEPS, BATCH):
            state = step(state, rows)
    return stage.finish(root(0), state, given)


def moved(what: str, net: Net, start: Weights, ours: Weights, module) -> dict[str, float]:
    """Relative differences of what parameters and statistics change by."""
    one, two = (jax.tree.map(jnp.subtract, each, start) for each in (ours, common.weights(net, module)))
    return {
        f"{what}, parameters": common.relative(one.params, two.params),
        f"{what}, statistics": common.relative(one.batch_stats, two.batch_stats),
    }


def code(folder, path, *names, **scope):
    """Functions of one of their files."""
    return common.pieces(folder, path, *names, math=math, time=time, print=lambda *_: None, **scope)


def started(made, rate=0.01):
    """Their network and optimizer."""
    model = copy.deepcopy(made.module)
    return model, torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, weight_decay=1e-4)


def compare(folder):
    """Relative differences of what each stage changes, and of what it decides."""
    image, label = common.poisoned(ROWS)
    made, loss, figures = common.pair(), torch.nn.CrossEntropyLoss(), {}
    source, loader = common.source(image, label), Loader(image, label)
    for gamma in (0.5, 5.0):
        # Their half period is 80 epochs more than there are.
        (first, _, _), traced = stages(f"isolation_rate=0.01,isolation_period=83,gamma={gamma}", made)
        given = Given(traced, lambda _, image: image, train=source, clean=source)
        left = run(first, made, given, range(3))
        model, rule = started(made)
        args = SimpleNamespace(gamma=gamma, epochs=3, lr=0.01, device="cpu", data_name="", attack="")
        part = code(folder, "backdoor_detection_lga.py", "train", "isolation", "adjust_lr", args=args)
        for epoch in range(3):
            part.train(model, loader, loss, rule, "cpu")
            part.adjust_lr(rule, epoch, args)
        with tempfile.TemporaryDirectory() as out:
            args.save_dir = Path(out)
            part.isolation(model, loader, args)
            isolated = torch.load(args.save_dir / f"__{RATIO:.2f}_lga")
        figures |= moved(f"isolation, floor {gamma}", made.net, made.weights, left.weights, model)
        lowest = np.zeros(ROWS)
        lowest[np.argsort(left.carry["losses"], stable=True)[: int(RATIO * ROWS)]] = 1
        figures[f"suspects, floor {gamma}"] = common.relative(lowest, isolated.numpy())

    (_, judge, last), traced = stages("epochs=9,period=14,learning_rate=0.01", made)
    given = given._replace(settings=traced, carry=left.carry)
    model, rule = started(made)
    args = SimpleNamespace(data_name="cifar10")
    part = code(folder, "pseudo_label_vd.py", "train", "update_pseudo_label", "adjust_lr")
    for epoch in (0, 20, 60):
        part.adjust_lr(rule, epoch, args)
        part.train(model, Loader(image, label, 2), loss, rule, "cpu")
    pseudo = part.update_pseudo_label(model, loader, "cpu")
    left = run(judge, made, given, (0, 20, 60))
    figures |= moved("classifier", made.net, made.weights, left.weights, model)
    theirs = np.where(isolated, pseudo, label)
    figures["labels"] = common.relative(left.carry["label"], theirs)
    figures["stamped rows"] = common.relative(left.carry["stamped"] * 1.0, theirs != label)

    model, rule = started(made)
    args = SimpleNamespace(epochs=9, lr=0.01)
    part = code(folder, "train_nab.py", "train", "adjust_lr")
    for epoch in (0, 1, 8):
        part.adjust_lr(rule, epoch, args)
        part.train(model, loader, loss, rule, "cpu", pseudo, isolated, None)
    given = given._replace(carry=left.carry)
    ours = run(last, made, given, (0, 1, 8)).weights
    figures |= moved("last training", made.net, made.weights, ours, model)

    with torch.no_grad():
        stamped = common.to_torch(image)
        stamped[:, :, :2, :2] = 0.0
        theirs = model.eval()(stamped)
    figures["logits behind the stamp"] = common.relative(last.wrap(made.net).apply(ours, image)[0], theirs)
    return figures


COMPARISON = common.Comparison(
    "damianliumin/non-adversarial_backdoor",
    "1452a1cb9dd1d39c6c6c5a76f9b68b4b034a7a1c",
    compare,
    (
        "Images are not augmented and rows come in their order in both; the stamp is 0, as theirs is after "
        "normalization.",
    ),
)
