"""FCT: steps under both losses and scores of the same views beside BackdoorBench's D-BR.

Chen, Wu, Wang, NeurIPS 2022. `train_epoch` and `finetune_epoch` of D-BR run as they are on a loader of one batch that
holds all rows, with the optimizer and the schedule of its script; `calculate_consistency` writes the scores to a file.
"""

import contextlib
import logging
import tempfile
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import torch

import bdjax
from bdjax import train
from bdjax.cards import lookup
from bdjax.detection.parts.sensitivity import inconsistency
from bdjax.types import Given
from experiments.fidelity import common

ROWS, EPOCHS, TUNING = 60, 2, 3


def compare(folder):
    """Relative differences of parameters and statistics after both parts, and of scores."""
    made = common.pair()
    logging.disable(logging.CRITICAL)
    scope = {"normalization": lambda _args, image: image, "logging": logging}
    code = common.pieces(folder, "defense/d-br.py", "train_epoch", "finetune_epoch", **scope)
    scope |= {"os": __import__("os")}
    measure = common.pieces(folder, "utils/defense_utils/dbr/sd.py", "calculate_consistency", **scope)
    (image, label), other = common.poisoned(ROWS), common.poisoned(ROWS, seed=5)[0]
    labels, poisoned = torch.tensor(label).long(), torch.tensor(np.arange(ROWS) % 2 == 0)
    loader = [([common.to_torch(image), None, common.to_torch(other)], labels, None, poisoned, labels)]
    module = made.module
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=100)
    asked, criterion = SimpleNamespace(device="cpu", num_classes=common.CLASSES), torch.nn.CrossEntropyLoss()
    for epoch in range(EPOCHS):
        code.train_epoch(asked, loader, module, optimizer, schedule, criterion, epoch)
    head, module.linear = module.linear, torch.nn.Identity()
    for epoch in range(TUNING):
        code.finetune_epoch(asked, loader, module, optimizer, schedule, epoch)
    with tempfile.TemporaryDirectory() as place, torch.no_grad(), contextlib.suppress(FileNotFoundError):
        measure.calculate_consistency(SimpleNamespace(device="cpu", save_path=place), loader, module)
        score = np.loadtxt(Path(place) / "data_produce/all.txt")
    module.linear = head
    theirs = common.weights(made.net, module)

    spec = lookup(f"fct:epochs={EPOCHS},tuning_epochs={TUNING},batch={ROWS}", bdjax.DETECTORS, "detector")
    (stage,) = bdjax.DETECTORS["fct"].make(made.net, (32, 32, 3), common.CLASSES, **spec.static).stages
    given = Given(spec.traced, None, suspects=common.source(image, label))

    def init(key, given, weights):
        state = stage.init(key, given, weights)
        return state.replace(moving=made.weights.params, still=state.still | {"batch_stats": made.weights.batch_stats})

    ours = train.fit(jax.random.key(0), stage._replace(init=init), lambda _: given, ()).weights
    bodies = [{name: leaf for name, leaf in one.params.items() if name != "linear"} for one in (ours, theirs)]
    start = {name: leaf for name, leaf in made.weights.params.items() if name != "linear"}
    moved = [jax.tree.map(jnp.subtract, body, start) for body in bodies]
    features = [made.net.apply(theirs, one)[2]["pool"] for one in (image, other)]
    return {
        f"change of parameters, {EPOCHS} and {TUNING} steps": common.relative(*moved),
        "statistics": common.relative(ours.batch_stats, theirs.batch_stats),
        "scores of the same views": common.relative(inconsistency(*features), score),
    }


COMPARISON = common.Comparison(
    "SCLBD/BackdoorBench",
    "f02e353",
    compare,
    ("The head is left out: theirs drops it after the first part, ours lets it decay.",),
)
