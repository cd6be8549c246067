"""Reactivation: the generator's gradient and first epochs beside the authors' loop, `fine_tune/qra.py`."""

import logging
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
import torch.nn.functional as F  # noqa: N812
import torchvision

import bdjax
from bdjax.audits.reactivation import REACTIVATION, objective
from bdjax.cards import lookup
from bdjax.models.auxiliary.perturbation import perturbation
from bdjax.train import optimizers
from bdjax.types import Batch, Given, Weights
from experiments.fidelity import common
from experiments.fidelity.retuning import batches, statements

SHAPE, WIDTH = (32, 32, 3), 1024
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261)  # theirs for CIFAR-10
RATE = 0.1  # as their loop has it
MODELS = ("purified", "retuned", "clean")


def pairs() -> dict[str, common.Pair]:
    """Three networks, ours with the authors' normalisation of images."""
    net = bdjax.MODELS["resnet18"].make(SHAPE, common.CLASSES, MEAN, STD, width=4)
    made = {name: common.pair("resnet18", seed=seed) for seed, name in enumerate(MODELS)}
    return {name: pair._replace(net=net, module=pair.module.eval()) for name, pair in made.items()}


def converted(module: torch.nn.Module) -> dict:
    """The parameters of their generator as ours, whose pixels are in rows and whose channels come last."""
    layers = (module.encoder_hidden_layer, module.encoder_output_layer, module.decoder_hidden_layer)
    params = {}
    for number, layer in enumerate((*layers, module.decoder_output_layer), 1):
        kernel, bias = layer.weight.detach().numpy().T, layer.bias.detach().numpy()
        params[f"linear{number}"] = {"kernel": kernel, "bias": bias}
    place = np.arange(np.prod(SHAPE)).reshape(3, 32, 32).transpose(1, 2, 0).ravel()
    params["linear1"]["kernel"] = params["linear1"]["kernel"][place]
    params["linear4"] = {name: value[..., place] for name, value in params["linear4"].items()}
    return jax.tree.map(np.array, params)


def theirs(folder: Path, models: dict[str, common.Pair], rows: list, epochs: int, seed: int = 0) -> tuple[dict, dict]:
    """The generator's parameters before and after the authors' loop."""
    text = statements(folder / "fine_tune" / "qra.py", "AE", "distillation", "args.dataset == 'cifar10'")
    start = "autoencoder = AE(img_size=32)\nparam_list = list(autoencoder.parameters())\nbefore = keep(autoencoder)\n"
    settings = {"lr": RATE, "epochs": epochs, "dataset": "cifar10", "eps": 16 / 255, "alpha_qra": 0.2}
    mean, std = np.asarray(MEAN), np.asarray(STD)
    names = {
        "torch": torch,
        "nn": torch.nn,
        "F": F,
        "optim": torch.optim,
        "transforms": torchvision.transforms,
        "logging": logging,
        "args": SimpleNamespace(**settings),
        "device": "cpu",
        "keep": converted,
        "qra_data_loader": [
            (common.to_torch((image - mean) / std), [torch.tensor(label).long()] * 2) for image, label in rows
        ],
        **{
            f"net_{name}": models[ours].module
            for name, ours in zip(("purified", "relearn", "clean"), MODELS, strict=True)
        },
    }
    torch.manual_seed(seed)
    definitions, rest = text.split("\nif args.dataset", 1)
    exec(compile(f"{definitions}\n{start}if args.dataset{rest}", "qra.py", "exec"), names)
    return names["before"], converted(names["autoencoder"])


def ours(models: dict[str, common.Pair], rows: list, epochs: int, params: dict) -> dict:
    """The same parameters after the same batches, by the audit's own objective and rule."""
    settings = lookup("reactivation", {"reactivation": REACTIVATION}, "audit").traced
    purified, retuned, clean = (models[name].weights for name in MODELS)
    given = Given(settings, None, victim=purified, clean_model=clean)
    net, generator = models["purified"].net, perturbation(SHAPE, WIDTH, MEAN, STD)
    rule = optimizers.sgd(settings["generator_rate"], settings["generator_momentum"])

    @jax.jit
    def step(params, state, batch):
        slope = jax.grad(lambda params: objective(net, generator, Weights(params, {}), retuned, batch, given)[0])(
            params
        )
        updates, state = rule.update(slope, state, params)
        return optax.apply_updates(params, updates), state

    params = jax.tree.map(jnp.asarray, params)
    state = rule.init(params)
    for image, label in rows * epochs:
        size = len(label)
        batch = Batch(jnp.asarray(image), jnp.asarray(label), jnp.arange(size), jnp.ones(size))
        params, state = step(params, state, batch)
    return params


def compare(folder: Path) -> dict[str, float]:
    """The first step over its rate is the gradient; then two epochs of two batches with momentum."""
    models, found = pairs(), {}
    for what, count, epochs in (("gradient of the generator's loss", 1, 1), ("4 steps of the generator", 2, 2)):
        rows = batches(count)
        before, after = theirs(folder, models, rows, epochs)
        mine = ours(models, rows, epochs, before)
        moved = [jax.tree.map(lambda a, b: (b - a) / RATE, one, before) for one in (mine, after)]
        found[what] = common.relative(*moved)
    return found


COMPARISON = common.Comparison(
    repository="AISafety-HKUST/stable_backdoor_purification",
    revision="37d2ef5cf4a0a0adb517813113808baad56f53f5",
    compare=compare,
    departures=REACTIVATION.card.departures,
)
