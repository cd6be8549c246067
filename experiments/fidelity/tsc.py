"""TSC: all of the method by the authors' loop over rounds, permutations, curves and fine-tuning of theirs.

Peng et al., ICML 2025; their code is `BackdoorBench-main2` in JiePeng104/TSC at 3a004ff.
"""

import copy
import logging
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
import torch

import bdjax
from bdjax import train
from bdjax.cards import lookup
from bdjax.keys import stream
from bdjax.metrics.geometry import straight
from bdjax.models.parts import permutations
from bdjax.train import Clock, recipes
from bdjax.types import Given, real
from experiments.fidelity import common
from experiments.fidelity.mcr import Architecture, Loader

FOLDER, ROUNDS, EPOCHS, TUNING, PLACE = "BackdoorBench-main2", 2, 3, 2, 0.4
SETTINGS = f"rounds={ROUNDS},epochs={EPOCHS},tuning_epochs={TUNING},tuning_rate=0.01"
NETWORKS = {"preact_resnet18": "find_permutation_PreAct_ResNet18", "resnet18": "find_permutation_ResNet18"}


def assignment(matrix, maximize):
    """The function that they call, of a matrix to as many places as count for ours."""
    return scipy.optimize.linear_sum_assignment(np.round(matrix, permutations.DIGITS), maximize=maximize)


def their_code(folder):
    """Curves, permutations and what trains; permutations without their casts to a GPU and to float32."""
    root = folder / FOLDER
    curves = common.module(root, "utils/mc/curve_models/curves.py")
    with tempfile.TemporaryDirectory() as place:
        text = (root / "utils/permutation_utils/permutation.py").read_text()
        (Path(place) / "permutation.py").write_text(text.replace("to('cuda')", "to('cpu')").replace(".float()", ""))
        names = ("run_corr_matrix", "get_layer_perm", "permute_output", "permute_conv_output", "permute_input")
        scope = {"opt": SimpleNamespace(linear_sum_assignment=assignment), "logging": logging}
        orders = common.pieces(Path(place), "permutation.py", *names, *NETWORKS.values(), **scope)
    names = ("update_bn", "check_bn", "_check_bn", "reset_bn", "isbatchnorm", "_get_momenta", "_set_momenta")
    point = common.pieces(root, "utils/curve/curve_opt.py", *names, "get_PointOnCurve_device", curves=curves, copy=copy)
    return SimpleNamespace(root=root, curves=curves, orders=orders, point=point.get_PointOnCurve_device)


def aliased(module):
    """A PyTorch network whose shortcuts also have torchvision's name."""
    for block in (block for stage in (1, 2, 3, 4) for block in getattr(module, f"layer{stage}")):
        if block.shortcut is not None:
            object.__setattr__(block, "downsample", block.shortcut)
    return module


def copied(module):
    """A copy, with those names on its own layers."""
    return aliased(copy.deepcopy(module))


def permuted(code, name, made, other, batches, maximize):
    """Ours and theirs: the second network permuted against the first."""
    first, second = copied(made.module), copied(other.module)
    theirs = getattr(code.orders, NETWORKS[name])(first.eval(), second.eval(), batches[1], maximize)
    net = made.net
    found = permutations.groups(net, (32, 32, 3), "tsc")
    matrices = permutations.correlations(net, found, made.weights, other.weights, *batches[0])
    ours = permutations.permuted(found, other.weights, permutations.assigned(matrices, maximize))
    return ours, common.weights(net, theirs)


def ours(made, image, label):
    """Our stages one after the other: `Steps`, and the places of the curves in the order of steps."""
    spec = lookup(f"tsc:{SETTINGS}", bdjax.DEFENSES, "defense")
    stages = bdjax.DEFENSES["tsc"].make(made.net, image.shape[1:], common.CLASSES, **spec.static)
    given = Given(spec.traced, lambda key, image: image, clean=common.source(image, label), victim=made.weights)
    left, places, steps = None, [], Steps()
    for number, stage in enumerate(stages):
        before, key = left, jax.random.key(number)
        left = train.fit(key, stage, lambda _: given, (), before)
        if stage.epochs == EPOCHS:
            bases = [jax.random.fold_in(stream(key, "step"), epoch) for epoch in range(EPOCHS)]
            drawn = [jax.random.uniform(stream(jax.random.fold_in(base, 0), "place"), (), real()) for base in bases]
            places += map(float, drawn)
            steps.add(before.carry["start"], before.carry["end"], left.weights)
    return steps, places


class Steps:
    """What training has changed: points of all curves, less those of straight lines; and each start after the first."""

    def __init__(self):
        self.point, self.bent, self.tuned = None, [], []

    def add(self, start, end, point):
        """The ends of a curve and the point that was taken."""
        if len(self.bent) in range(2, 2 * ROUNDS, 2):
            self.tuned.append(jax.tree.map(jnp.subtract, start, self.point))
        self.bent.append(jax.tree.map(jnp.subtract, point.params, straight(start.params, end.params, PLACE)))
        self.point = point


def built(num_classes, **named):
    """The network of a curve, by the names that they give it."""
    return Architecture(num_classes, **named)


def theirs(code, name, made, image, label, places):
    """Their loop over rounds; what it logs and tests is left out."""
    loader, places = Loader((image, label)), iter(places)
    steps = Steps()

    def connected(_self_args, start, end, *_rest, point_t, **_named):
        kwargs = {"module": made.module, "code": code.curves}
        model = code.curves.CurveNet(common.CLASSES, code.curves.Bezier, built, 3, architecture_kwargs=kwargs)
        for index, each in ((0, start), (2, end)):
            model.import_base_parameters(each, index)
        model.init_linear()
        moving = filter(lambda value: value.requires_grad, model.parameters())
        optimizer = torch.optim.SGD(moving, lr=0.02, weight_decay=0.0005, momentum=0.9)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=100)
        model.forward = lambda image: code.curves.CurveNet.forward(model, image, torch.tensor([next(places)]))
        for _ in range(EPOCHS):
            decay = code.curves.l2_regularizer(1e-4)
            epoch(args, model, loader, torch.nn.CrossEntropyLoss(), optimizer, scheduler, "cpu", decay)
        base = SimpleNamespace(base=lambda num_classes: copy.deepcopy(made.module), kwargs_base={})
        found = aliased(code.point(args, base, model, point_t, loader, "cpu"))
        steps.add(*(jax.tree.map(jnp.array, common.weights(made.net, each)) for each in (start, end, found)))
        nothing = {"acc": [0] * 21}
        return [found], nothing, nothing

    def matched(_args, first, second, *_rest, maximize, **_named):
        return getattr(code.orders, NETWORKS[name])(first.eval(), second.eval(), loader, maximize)

    args = SimpleNamespace(
        curve_t=PLACE,
        TSPC_epoch=ROUNDS,
        num_testpoints=20,
        num_workers=0,
        ft_epochs=TUNING,
        ft_lr=0.01,
        ft_lr_scheduler="CosineAnnealingLR",
        lr_scheduler="CosineAnnealingLR",
        num_classes=common.CLASSES,
    )
    own = SimpleNamespace(device="cpu", mc_repair=matched, mode_connectivity_Point=connected)
    lists = [f"{stage}_stage_{what}_result" for stage in ("first", "second") for what in ("acc", "asr")]
    lists += [f"{stage}_stage_curve_{what}_result" for stage in ("first", "second") for what in ("acc", "asr")]
    scope = {each: [] for each in lists} | {"defense": object, "logging": logging, "time": time, "deepcopy": copied}
    scope |= {"test_result": lambda *_: (0, 0), "logging_unified_results": lambda *_: None}
    loops = common.pieces(code.root, "defense/repair_mc.py", "mc_repair_Class", "oneEpochTrain", **scope)
    epoch = loops.oneEpochTrain
    loops.mc_repair_Class.repair_another(own, args, copied(made.module), loader, None, None)
    return steps


def rates():
    """All rates of a bend, ours and theirs."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.02)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=100)
    found = []
    for _ in range(200):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    clocks = [Clock(jnp.int32(step), 1, 200) for step in range(200)]
    return [0.02 * recipes.rate(each.step, each.steps, each.epochs, "epoch", 100) for each in clocks], found


def compare(folder):
    """Relative differences of permuted weights, of rates, and of what two rounds change."""
    code, figures = their_code(folder), {"rates of 200 epochs": common.relative(*rates())}
    for name in NETWORKS:
        made, other = (common.pair(name, seed=seed) for seed in (0, 1))
        many = common.batch(11)
        source = common.source(*many)
        batches = [source.read(jnp.arange(start, min(start + 5, 11))) for start in (0, 5, 10)]
        batches = ((source, 5), Loader(*((rows.image, rows.label) for rows in batches)))
        for maximize in (False, True):
            for second, word in ((made, "itself"), (other, "another")):
                figure = common.relative(*permuted(code, name, made, second, batches, maximize))
                figures[f"{name}, {word} permuted to be {'alike' if maximize else 'unlike'}"] = figure
    made, (image, label) = common.pair(), common.batch()
    one, places = ours(made, image, label)
    with common.without_cuda():
        two = theirs(code, "preact_resnet18", made, image, label, places)
    for number in range(2 * ROUNDS):
        figures[f"point of curve {number + 1}, less that of a line"] = common.relative(
            one.bent[number], two.bent[number]
        )
    figures["fine-tuning, change"] = common.relative(one.tuned, two.tuned)
    changes = [jax.tree.map(jnp.subtract, each.point, made.weights) for each in (one, two)]
    figures[f"parameters, change in {ROUNDS} rounds"] = common.relative(*(each.params for each in changes))
    figures["statistics, change"] = common.relative(*(each.batch_stats for each in changes))
    return figures


COMPARISON = common.Comparison(
    "JiePeng104/TSC",
    "3a004ffcc3c417d78482684df131dfd89673c404",
    compare,
    (
        "Their layers for curves stand in our network; places of the curves are ours, which they draw uniformly too.",
        "Images are not augmented, and all rows are one batch; fine-tuning has a rate of .01.",
        "Of a model and its copy an order and its inverse are equally good: likeness is rounded in both.",
    ),
)
