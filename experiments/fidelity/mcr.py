"""MCR: steps of the tuning and of the bend by the authors' loop, and statistics at a point of the curve.

Zhao et al., ICLR 2020; their code is `backdoor/backdoor-cifar` in IBM/model-sanitization at 1eff7e9.
"""

import copy
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch

import bdjax
from bdjax.cards import lookup
from bdjax.data import sources
from bdjax.keys import stream
from bdjax.metrics import geometry
from bdjax.types import Batch, Given, Trained, Weights, real
from experiments.fidelity import common

FOLDER, BATCH, STEPS = "backdoor/backdoor-cifar", 5, 3
CURVE_LAYERS = {torch.nn.Conv2d: "Conv2d", torch.nn.BatchNorm2d: "BatchNorm2d", torch.nn.Linear: "Linear"}


class Ours:
    """Our two stages on a batch, step by step with keys 0, 1, ..., and the rows of a source for the statistics."""

    def __init__(self, text, ends, image, label):
        spec, made = lookup(text, bdjax.DEFENSES, "defense"), ends[0]
        self.net, self.ends = made.net, [each.weights for each in ends]
        self.stages = bdjax.DEFENSES["mcr"].make(made.net, image.shape[1:], common.CLASSES, **spec.static)
        self.rows = Batch(jnp.asarray(image), jnp.asarray(label), jnp.arange(len(label)), jnp.ones(len(label)))
        clean = common.source(image, label)
        carry = {"end": self.ends[1]}
        self.given = Given(spec.traced, lambda key, image: image, clean=clean, victim=self.ends[0], carry=carry)

    def states(self, number):
        """The states before the first step and after each, all in one epoch."""
        stage, rows = self.stages[number], self.rows
        found = [stage.init(jax.random.key(0), self.given, None)]
        step = jax.jit(lambda key, state: stage.step(key, state, rows, self.given)[0])
        for index in range(STEPS):
            found.append(step(jax.random.key(index), found[-1]).replace(step=jnp.int32(0)))
        return found

    def place(self, index) -> float:
        """Where on the curve a step is."""
        return float(jax.random.uniform(stream(jax.random.key(index), "place"), (), real()))

    def left(self, key, state) -> Trained:
        """What the stage of the curve leaves."""
        return jax.jit(lambda state: self.stages[1].finish(key, state, self.given))(state)


class Loader(list):
    """Batches, and the dataset that their function asks for its length."""

    def __init__(self, *pairs):
        super().__init__((common.to_torch(image), torch.tensor(np.array(label)).long()) for image, label in pairs)
        self.dataset = range(sum(len(label) for _, label in pairs))


class Curved(torch.nn.Module):
    """One of their layers in a network that hands on no coefficients: it reads them where the network keeps them."""

    def __init__(self, layer, holder):
        super().__init__()
        self.layer, self.holder = layer, holder

    def forward(self, x):
        """X of whatever the layer takes."""
        return self.layer(x, self.holder[0])


class Architecture(torch.nn.Module):
    """The network with their layers for curves in the place of its own."""

    def __init__(self, _classes, fix_points, *, module, code):
        super().__init__()
        self.holder, self.network = [None], copy.deepcopy(module)
        for name, layer in list(self.network.named_modules()):
            kind = CURVE_LAYERS.get(type(layer))
            if kind is None:
                continue
            if kind == "Conv2d":
                sizes = (layer.in_channels, layer.out_channels, layer.kernel_size[0], fix_points)
                changed = code.Conv2d(*sizes, stride=layer.stride[0], padding=layer.padding[0], bias=False)
            elif kind == "Linear":
                changed = code.Linear(layer.in_features, layer.out_features, fix_points)
            else:
                changed = code.BatchNorm2d(layer.num_features, fix_points)
            parent, _, leaf = name.rpartition(".")
            setattr(self.network.get_submodule(parent), leaf, Curved(changed, self.holder))

    def forward(self, image, coefficients):
        """Image (b, channels, height, width)."""
        self.holder[0] = coefficients
        return self.network(image)


def their_code(folder):
    """Curves, and the functions that train; `async`, since then a keyword, has its new name."""
    curves = common.module(folder / FOLDER, "curves.py")
    with tempfile.TemporaryDirectory() as place:
        text = (folder / FOLDER / "utils.py").read_text().replace("async=True", "non_blocking=True")
        (Path(place) / "utils.py").write_text(text)
        names = ("train", "update_bn", "check_bn", "_check_bn", "reset_bn", "isbatchnorm", "_get_momenta")
        return curves, common.pieces(Path(place), "utils.py", *names, "_set_momenta", curves=curves)


def parameters(net, module, curve, index):
    """The parameters of one of the points of their curve as ours."""
    base = copy.deepcopy(module)
    curve.export_base_parameters(base, index)
    return jax.tree.map(jnp.array, common.weights(net, base).params)


def tuned(code, made, image, label):
    """Their fine-tuning: weights after each step."""
    module = copy.deepcopy(made.module)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.015, momentum=0.9, weight_decay=1e-4)
    loader, found = Loader((image, label)), []
    for _ in range(STEPS):
        with common.without_cuda():
            code.train(loader, module, optimizer, torch.nn.functional.cross_entropy)
        found.append(jax.tree.map(jnp.array, common.weights(made.net, module)))
    return found


def bent(curves, code, ends, image, label, mine):
    """Their curve: its bend after each step, and statistics at place .1 of it."""
    first, second = ends
    kwargs = {"module": first.module, "code": curves}
    model = curves.CurveNet(common.CLASSES, curves.Bezier, Architecture, 3, architecture_kwargs=kwargs)
    for index, each in ((0, first), (2, second)):
        model.import_base_parameters(each.module, index)
    model.init_linear()
    moving = filter(lambda value: value.requires_grad, model.parameters())
    optimizer = torch.optim.SGD(moving, lr=0.01, momentum=0.9)
    loader, found = Loader((image, label)), []
    found.append(parameters(first.net, first.module, model, 1))
    for index in range(STEPS):
        place = torch.tensor([mine.place(index)])
        model.forward = lambda image, t=place: curves.CurveNet.forward(model, image, t)
        with common.without_cuda():
            code.train(loader, model, optimizer, torch.nn.functional.cross_entropy, curves.l2_regularizer(1e-4))
        found.append(parameters(first.net, first.module, model, 1))
    source = sources.shuffled(mine.given.clean)
    batches = [source.read(jnp.arange(start, min(start + BATCH, source.size))) for start in range(0, 8, BATCH)]
    loader = Loader(*((rows.image, rows.label) for rows in batches))
    with common.without_cuda():
        code.update_bn(loader, model, t=torch.tensor([0.1]))
    return found, statistics(first, model)


def statistics(made, model):
    """The statistics of their curve as ours."""
    base = copy.deepcopy(made.module)
    for name, layer in model.net.network.named_modules():
        if hasattr(layer, "running_mean"):
            own = base.get_submodule(name.removesuffix(".layer"))
            own.running_mean, own.running_var = layer.running_mean.clone(), layer.running_var.clone()
    return jax.tree.map(jnp.array, common.weights(made.net, base).batch_stats)


def compare(folder):
    """Relative differences of what each step changes, and of the statistics at the point that is taken."""
    (image, label), ends, figures = common.batch(), [common.pair("resnet18", seed=seed) for seed in (0, 1)], {}
    curves, code = their_code(folder)
    mine = Ours(f"mcr:rows=0,batch={BATCH}", ends, image, label)
    one = [Weights(state.moving, state.still["batch_stats"]) for state in mine.states(0)]
    two = [ends[0].weights, *tuned(code, ends[0], image, label)]
    for number in range(STEPS):
        changes = [jax.tree.map(jnp.subtract, each[number + 1], each[number]) for each in (one, two)]
        figures[f"tuned parameters, change in step {number + 1}"] = common.relative(*(each.params for each in changes))
        figures[f"tuned statistics, change in step {number + 1}"] = common.relative(
            *(each.batch_stats for each in changes)
        )
    states = mine.states(1)
    one = [state.moving[0] for state in states]
    two, their_statistics = bent(curves, code, ends, image, label, mine)
    figures["bend before the first step"] = common.relative(one[0], two[0])
    for number in range(STEPS):
        changes = [jax.tree.map(jnp.subtract, each[number + 1], each[number]) for each in (one, two)]
        figures[f"bend, change in step {number + 1}"] = common.relative(*changes)
    left = mine.left(jax.random.key(9), states[-1]).weights
    point = geometry.bend(ends[0].weights.params, two[-1], ends[1].weights.params, 0.1)
    figures["point at .1, less the victim"] = common.relative(
        *(jax.tree.map(jnp.subtract, each, ends[0].weights.params) for each in (left.params, point))
    )
    figures["statistics at .1"] = common.relative(left.batch_stats, their_statistics)
    return figures


COMPARISON = common.Comparison(
    "IBM/model-sanitization",
    "1eff7e9f35e4fd194ffc83a55e4f6688ca9bb5c3",
    compare,
    (
        "Their layers for curves stand in our network; places of the curve are ours, which they draw uniformly too.",
        "An epoch is one pass; their loader repeats the clean rows up to 10,000.",
    ),
)
