"""MM-BM: bounds and their weight after five epochs, beside the authors' script and beside the benchmark's port of it.

Wang et al., S&P 2024; their code is `univ_bm.py` in wanghangpsu/MM-BD at 903338d. The port is `defense/mm-bd.py` in
WhoDunnett/BackdoorBenchmark at 8613640, which is looked for in WDBB beside the folder that is given.
"""

import ast
import copy
import logging
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import torch

import bdjax
from bdjax import train
from bdjax.cards import lookup
from bdjax.types import Given
from experiments.fidelity import common

EPOCHS, PORT = 5, "defense/mm-bd.py"


def ours(text, made, rows):
    """Bounds at the start, and bounds and weight at the end."""
    spec = lookup(text, bdjax.DEFENSES, "defense")
    (stage,) = bdjax.DEFENSES["mm_bm"].make(made.net, (32, 32, 3), common.CLASSES, **spec.static)
    given = Given(spec.traced, None, clean=common.source(*rows), victim=made.weights)
    start = train.begin(stage, jax.random.key(0), given, None)[0].moving
    left = train.fit(jax.random.key(0), stage, lambda victim: given._replace(victim=victim), made.weights)
    return start, left.weights.params["bounds"], left.carry["penalty"]


def theirs(folder, made, rows):
    """Bounds and weight after the authors' loop, whose epochs are counted from 18 on: the weight changes after 20."""
    wanted = {"network", "optimizer", "criterion", "mse", "c", "a"}

    def runs(node):
        if isinstance(node, ast.Assign):
            return getattr(node.targets[0], "id", None) in wanted
        return isinstance(node, ast.ClassDef) or (isinstance(node, ast.For) and ast.unparse(node.iter) == "range(50)")

    body = [node for node in ast.parse((folder / "univ_bm.py").read_text()).body if runs(node)]

    class Torch:
        """torch, but that the stored weights are those given."""

        def __getattr__(self, name):
            return (lambda *_: made.module.state_dict()) if name == "load" else getattr(torch, name)

    image, label = rows
    names = {"torch": Torch(), "nn": torch.nn, "F": torch.nn.functional, "optim": torch.optim, "device": "cpu"}
    names |= {"args": SimpleNamespace(model_dir=""), "ResNet18": lambda: copy.deepcopy(made.module)}
    names |= {"trainloader": [(common.to_torch(image), torch.tensor(label).long())]}
    names["range"] = lambda _: range(18, 18 + EPOCHS)
    exec(compile(ast.Module(body, []), "univ_bm.py", "exec"), names)
    bounds = (getattr(names["network"], f"clamp_w{number}") for number in (1, 2, 3))
    taps = ("relu1", "layer1_1.relu2", "layer2_1.relu2")
    return {tap: bound.detach().numpy().ravel() for tap, bound in zip(taps, bounds, strict=True)}, names["c"]


def port(folder, made, rows, rate):
    """Bounds and weight after the port's loop, with a change of the weight after epoch 3, counted from 0."""
    image, label = rows
    loader = [(common.to_torch(image), torch.tensor(label).long())]
    module = copy.deepcopy(made.module).eval().requires_grad_(False)
    args = SimpleNamespace(device="cpu", training_epochs=EPOCHS, lambda_hyper=0.5, alpha=1.2, lambda_reduction_num=3)
    args.accuracy_reduction, args.test_save_frequency = 0.05, 0
    names = ("Layer_Mask", "get_batch_bn_layers", "get_layer_min_max_activation", "setup_mask_preactresnet18")
    masks = common.pieces(folder, PORT, *names, args=args).setup_mask_preactresnet18(module, args, loader)
    for layer, mask, _ in masks.values():
        layer.register_forward_hook(mask.hook)  # which they remove, so that nothing is bounded
    with torch.no_grad():
        correct = module(loader[0][0]).argmax(1) == loader[0][1]
    scope = {
        "self": SimpleNamespace(args=args),
        "args": args,
        "train_loader": loader,
        "model": module,
        "original_model_copy": copy.deepcopy(made.module).eval(),
        "mask_dict": masks,
        "mask_optimizer": torch.optim.Adam([mask.mask for _, mask, _ in masks.values()], lr=rate),
        "initial_accuracy": correct.double().mean().item(),
        "logging": logging,
    }
    common.loop(folder, PORT, "defense", "range(args.training_epochs)")(scope)
    named = {layer: name for name, layer in module.named_modules()}
    found = {}
    for layer, mask, _ in masks.values():
        block, _, norm = named[layer].rpartition(".")
        found[f"{block.replace('.', '_')}.{norm.replace('bn', 'relu')}"] = mask.mask.detach().numpy().ravel()
    return found, args.lambda_hyper


def predicted(made, image):
    """The images with the labels that the network gives them."""
    return image, np.asarray(jnp.argmax(made.net.apply(made.weights, jnp.asarray(image))[0], axis=1))


def scaled(factor):
    """A network whose first activations are some times as large, so that many exceed the authors' first bounds."""
    made = common.pair("resnet18", 64)
    with torch.no_grad():
        for norm in (made.module.bn1, made.module.layer1[1].bn2, made.module.layer2[1].bn2):
            norm.weight.mul_(factor)
    return made._replace(weights=common.weights(made.net, made.module))


def compare(folder):
    """Relative differences of what the bounds change by, and of their weight."""
    (image, _), figures = common.batch(4), {}
    found = {}
    for factor in (4, 16):
        made = common.keen(scaled(factor), image)
        rows = predicted(made, image)
        text = f"mm_bm:epochs={EPOCHS},first=2,period=2"
        found[f"activations of {factor} times the size"] = (*ours(text, made, rows), *theirs(folder, made, rows))
    beside = Path(folder).parent / "WDBB"
    made = common.keen(common.pair(width=4), image)
    rows = predicted(made, image)
    for rate in (1e-3, 0.03):
        text = f"mm_bm:preset=benchmark,augment=false,epochs={EPOCHS},first=3,period=3,learning_rate={rate}"
        found[f"benchmark, rate {rate}"] = (*ours(text, made, rows), *port(beside, made, rows, rate))
    for name, (start, mine, weight, other, their_weight) in found.items():
        one, two = (jax.tree.map(lambda after, before: after - before, each, start) for each in (mine, other))
        figures[f"{name}: bounds, change"] = common.relative(one, two)
        figures[f"{name}: weight, {their_weight:.3g}"] = common.relative(weight, np.asarray(their_weight))
    return figures


COMPARISON = common.Comparison(
    "wanghangpsu/MM-BD",
    "903338d69162504767d947d5b923cbf36d497765",
    compare,
    (
        "The port removes its hooks before it trains, so that nothing is bounded: they are put back here.",
        "The port rectifies behind a bound once more, which matters only to bounds below 0: there is none here.",
    ),
)
