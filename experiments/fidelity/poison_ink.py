"""Poison Ink: what both networks give in training mode, and the gradients of its mean square.

Zhang et al., IEEE TIP 2022; the networks are those of the benchmark's `resource/poison_ink/models`, the authors' own.
"""

import jax
import jax.numpy as jnp
import numpy as np
import torch

from bdjax.models.auxiliary import ink
from bdjax.types import Weights
from experiments.fidelity import common

SIZE = 32
BLOCKS = {"down0": "inc"} | {f"down{number}": f"down{number}.maxpool_conv.1" for number in range(1, 5)}
BLOCKS |= {f"up{number}": f"up{4 - number}.conv" for number in range(4)}


def kernel(value: np.ndarray) -> dict[str, np.ndarray]:
    """A convolution's weight as ours."""
    return {"kernel": value.transpose(2, 3, 1, 0)}


def norm(values: dict, path: str) -> dict[str, np.ndarray]:
    """A normalisation's as ours."""
    return {"scale": values[f"{path}.weight"], "bias": values[f"{path}.bias"]}


def last(values: dict, path: str, offset: float) -> dict[str, np.ndarray]:
    """The last layer, 1x1, whose bias ours counts from `offset`."""
    return {"kernel": values[f"{path}.weight"][:, :, 0, 0].T, "bias": values[f"{path}.bias"] - offset}


def injector(values: dict, offset: float = 0.0) -> dict:
    """The U-Net's parameters, or their gradients, as ours."""
    params = {"output": last(values, "outc.conv", offset)}
    for ours, theirs in BLOCKS.items():
        path = f"{theirs}.double_conv"
        convolutions = {f"conv{number}": kernel(values[f"{path}.{3 * number - 3}.weight"]) for number in (1, 2)}
        params[ours] = convolutions | {f"norm{number}": norm(values, f"{path}.{3 * number - 2}") for number in (1, 2)}
    return params


def extractor(values: dict, offset: float = 0.0) -> dict:
    """The residual network's parameters, or their gradients, as ours."""
    params = {f"conv{number}": kernel(values[f"conv{number}.weight"]) for number in (1, 2, 3)}
    params |= {f"norm{number}": norm(values, f"norm{number}") for number in range(1, 6)}
    for number in range(1, 8):
        parts = {f"conv{part}": kernel(values[f"res{number}.conv{part}.weight"]) for part in (1, 2)}
        parts |= {f"norm{part}": norm(values, f"res{number}.norm{part}") for part in (1, 2)}
        params[f"residual{number}"] = parts
    turned = values["deconv3.weight"].transpose(2, 3, 0, 1)[::-1, ::-1]
    params |= {"rise": {"kernel": turned}, "conv5": kernel(values["deconv2.weight"])}
    return params | {"output": last(values, "deconv1", offset)}


def one(module, net, convert, offset: float, given: np.ndarray, base: np.ndarray) -> dict[str, float]:
    """A network of theirs and ours on the same images; base: what ours adds its output to."""
    values = dict(module.named_parameters())
    out = module(common.to_torch(given))
    (out**2).mean().backward()
    params = convert({name: value.detach().numpy() for name, value in values.items()}, offset)
    weights = net.init(jax.random.key(0)).replace(params=jax.tree.map(jnp.asarray, params))

    def loss(params):
        maps = net.apply(Weights(params, weights.batch_stats), jnp.asarray(given), train=True)[0] - base
        return jnp.mean(maps**2), maps

    gradients, maps = jax.grad(loss, has_aux=True)(weights.params)
    theirs = convert({name: value.grad.numpy() for name, value in values.items() if value.grad is not None})
    return {
        "images": common.relative(maps, out.detach().numpy().transpose(0, 2, 3, 1)),
        "gradients": common.relative(gradients, theirs),
    }


def compare(folder) -> dict[str, float]:
    """Relative differences of both full-size networks."""
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    place = folder / "resource" / "poison_ink" / "models"
    image, ground = common.batch(2, SIZE)[0], common.batch(2, SIZE, seed=2)[0]
    inject = common.module(place, "up_UNet.py").UNet(6, 3)
    both = np.concatenate([image, ground], -1)
    found = one(inject, ink.injector((SIZE, SIZE, 3), 64), injector, 0.0, both, image)
    found = {f"injector: {name}": value for name, value in found.items()}
    extract = common.module(place, "HidingRes.py").HidingRes(3, 3)
    more = one(extract, ink.extractor((SIZE, SIZE, 3), 128), extractor, 1.0, image, np.zeros(()))
    return found | {f"extractor: {name}": value for name, value in more.items()}


COMPARISON = common.Comparison(
    "SCLBD/BackdoorBench",
    "f02e353",
    compare,
    (
        "Biases of convolutions that are normalised are left out of ours.",
        "What the injector gives is added to the image, and what the extractor gives to white paper, in ours.",
    ),
)
