"""ABL: six steps of training under the floor and the losses by which rows are isolated, beside BackdoorBench.

Li et al., NeurIPS 2021. `FloodingLoss`, `LGALoss` and `compute_loss_value` of BackdoorBench run as they are, in the
optimizer and order of its training loop. Floors above and below the loss show both sides of it.
"""

import copy
import tempfile
from types import SimpleNamespace

import jax
import numpy as np
import torch

import bdjax
from bdjax import train
from bdjax.cards import lookup
from bdjax.keys import root, stream
from bdjax.types import Given
from experiments.fidelity import common

ROWS, BATCH, EPOCHS = 30, 10, 2


def ours(made, image, label, floor):
    """Our network after training, the order of its rows, and the scores of all of them."""
    spec = lookup(f"abl:preset=benchmark,isolation_epochs={EPOCHS},batch={BATCH},gamma={floor}", bdjax.DETECTORS, "one")
    net = made.net._replace(init=lambda key: made.weights)
    detector = bdjax.DETECTORS["abl"].make(net, (32, 32, 3), common.CLASSES, **spec.static)
    given = Given(spec.traced, lambda key, image: image, train=common.source(image, label))
    (stage,) = detector.stages
    left = train.fit(root(0), stage, lambda _: given, ())
    orders = [
        stage.order(jax.random.fold_in(stream(root(0), "order"), epoch), None, epoch, given) for epoch in range(EPOCHS)
    ]
    rows = given.train.read(np.arange(ROWS))
    return left.weights, np.concatenate(orders), detector.score(root(0), net, left, (), rows, given)


def theirs(code, made, image, label, order, loss):
    """The same of theirs."""
    module = copy.deepcopy(made.module).train()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4, nesterov=True)
    inputs, targets = common.to_torch(image), torch.tensor(label).long()
    for rows in np.asarray(order):
        optimizer.zero_grad()
        loss(module(inputs[rows]), targets[rows]).backward()
        optimizer.step()
    data = [(one, target, 0, 0, 0) for one, target in zip(inputs, targets, strict=True)]
    with tempfile.TemporaryDirectory() as folder:
        args = SimpleNamespace(device="cpu", save_path=folder)
        return common.weights(made.net, module), code.compute_loss_value(args, data, module)


def compare(folder):
    """Relative differences of what training changes and of losses, with the floor above and below them."""
    names = "LGALoss", "FloodingLoss", "compute_loss_value"
    code = common.pieces(folder, "detection_pretrain/abl.py", *names)
    made = common.pair()
    image, label = common.batch(ROWS)
    figures = {}
    for floor in (0.5, 5.0):
        weights, order, score = ours(made, image, label, floor)
        for name, kind in (("flooding", code.FloodingLoss), ("gradient ascent", code.LGALoss)):
            loss = kind(floor, torch.nn.CrossEntropyLoss())
            other, losses = theirs(code, made, image, label, order, loss)
            moved = [jax.tree.map(np.subtract, one, made.weights) for one in (weights, other)]
            figures[f"parameters and statistics, {name}, floor {floor}"] = common.relative(*moved)
            figures[f"losses, {name}, floor {floor}"] = common.relative(-score, losses)
    return figures


COMPARISON = common.Comparison("SCLBD/BackdoorBench", "f02e353", compare)
