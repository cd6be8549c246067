"""Networks with torchvision's weights beside torchvision, at full size: outputs, a training step, keys and beginning.

Figures of float64 count for the tolerance; those of float32, where rounding alone makes the two differ, are printed
beside them. The reference folder holds torchvision, such as `pip install --target DIR --no-deps torchvision` makes it.
"""

import copy
import importlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import torch

import bdjax
from bdjax.cards import lookup
from bdjax.io.foreign.torch_weights import from_torch, to_torch
from bdjax.types import Weights
from experiments.fidelity import common

NETWORKS = {
    "resnet34": ("resnet34", {}),
    "resnet50": ("resnet50", {}),
    "densenet161": ("densenet161", {}),
    "densenet161:depth=121": ("densenet121", {}),
    "vgg19_bn": ("vgg19_bn", {"dropout": 0.0}),
    "vgg19": ("vgg19", {"dropout": 0.0}),
}
"""Ours -> theirs, by name, and what theirs is told besides."""

ROWS, SIZE = 8, 32


def made(text: str):
    """Our network, images as they are."""
    spec = lookup(text, bdjax.MODELS, "model")
    return bdjax.MODELS[spec.name].make((SIZE, SIZE, 3), common.CLASSES, (0.0,) * 3, (1.0,) * 3, **spec.static)


def shake(module) -> None:
    """Move scales, biases and statistics away from 0 and 1, so that a mix-up shows."""
    with torch.no_grad():
        for key, value in module.state_dict().items():
            if value.ndim == 1 and key.rsplit(".", 1)[-1] in ("weight", "running_var"):
                value.uniform_(0.5, 1.5)
            elif value.ndim == 1:
                value.normal_(0.0, 0.1)


def arrays(module) -> dict[str, np.ndarray]:
    """The state dict of a module."""
    return {name: value.detach().numpy().copy() for name, value in module.state_dict().items()}


def theirs(module, image, label) -> dict:
    """Logits in both modes, the loss of the batch and its gradient, and the statistics after it."""
    image, label = common.to_torch(image), torch.tensor(label).long()
    with torch.no_grad():
        evaluated = module.eval()(image).numpy()
    logits = module.train()(image)
    loss = torch.nn.functional.cross_entropy(logits, label)
    loss.backward()
    slope = {name: each.grad.numpy() for name, each in module.named_parameters()}
    return {
        "evaluated": evaluated,
        "trained": logits.detach().numpy(),
        "loss": loss.item(),
        "gradient": slope,
        "statistics": {name: value for name, value in arrays(module).items() if "running" in name},
    }


def ours(net, weights: Weights, image, label) -> dict:
    """The same of ours, by torchvision's names."""

    @jax.jit
    def step(weights, image):
        def loss(params):
            logits, batch_stats, _ = net.apply(weights.replace(params=params), image, train=True)
            chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.asarray(label)[:, None], 1)
            return -jnp.mean(chosen), (logits, batch_stats)

        (value, (logits, batch_stats)), slope = jax.value_and_grad(loss, has_aux=True)(weights.params)
        return net.apply(weights, image)[0], logits, value, Weights(slope, batch_stats)

    evaluated, logits, value, found = step(weights, jnp.asarray(image))
    named = to_torch(found, net)
    return {
        "evaluated": evaluated,
        "trained": logits,
        "loss": value,
        "gradient": {name: value for name, value in named.items() if "running" not in name and value.ndim},
        "statistics": {name: value for name, value in named.items() if "running" in name},
    }


def norm(tree) -> float:
    """The Euclidean norm of all leaves at once."""
    return float(np.sqrt(sum(float(np.sum(np.square(leaf, dtype=np.float64))) for leaf in jax.tree.leaves(tree))))


def differences(one: dict, two: dict) -> dict[str, float]:
    """Relative differences of everything that `theirs` names, and of the norms of the gradients."""
    figures = {what: common.relative(one[what], two[what]) for what in two if jax.tree.leaves(two[what])}
    return figures | {"gradient norm": abs(norm(one["gradient"]) / norm(two["gradient"]) - 1)}


def round_trip(net, module) -> float:
    """The share of keys that are not the same, bit for bit, after a way into ours and back, in float32."""
    state = arrays(module)
    with jax.enable_x64(False):
        back = to_torch(from_torch(state, net), net)
    same = [name for name in state if name in back and state[name].tobytes() == back[name].tobytes()]
    return 1 - len(same) / len(state | back)


def beginnings(net, module) -> float:
    """The share of arrays that begin otherwise: by deviation, apart by more than five standard errors, or by value.

    The deviation of n values drawn is known to 1 / sqrt(2 n) of itself, for each of the two.
    """
    mine, drawn = to_torch(jax.jit(net.init)(jax.random.key(0)), net), ("fc.bias",)
    state, other = arrays(module), []
    for name, value in state.items():
        if value.ndim > 1 or (value.ndim and name in drawn):
            apart = abs(np.std(mine[name]) / np.std(value) - 1) * np.sqrt(value.size)
            other += [name] * int(apart > 5)
        else:
            other += [name] * (not np.array_equal(mine[name], value))
    return len(other) / len(state)


def steps(net, module, dtype) -> tuple[dict, dict]:
    """What ours and theirs give with the weights of the module, in one precision."""
    image, label = common.batch(ROWS, SIZE)
    module = copy.deepcopy(module).to(getattr(torch, dtype))
    with jax.enable_x64(dtype == "float64"):
        begun = from_torch(arrays(module), net)
        return ours(net, begun, image.astype(dtype), label), theirs(module, image.astype(dtype), label)


def compare(folder):
    """Everything, a network at a time; float32 is printed."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    models = importlib.import_module("torchvision").models
    figures = {}
    for text, (name, told) in NETWORKS.items():
        torch.manual_seed(0)
        net, module = made(text), getattr(models, name)(num_classes=common.CLASSES, **told)
        ours_size, size = (sum(leaf.size for leaf in leaves) for leaves in (_params(net), _parameters(module)))
        begun = beginnings(net, module)
        shake(module)
        mine, other = steps(net, module, "float64")
        figures |= {
            f"{text}: {size:,} parameters": abs(ours_size / size - 1),
            f"{text}: share of arrays that begin otherwise": begun,
            f"{text}: share of keys that a round trip changes": round_trip(net, module),
            **{f"{text}: {what}": value for what, value in differences(mine, other).items()},
        }
        rounded = steps(net, module, "float32")
        for what, pair in {"": rounded, ", theirs against its own float64": (rounded[1], other)}.items():
            print(f"  {text}, float32{what}:", *(f"{key} {value:.1e}" for key, value in differences(*pair).items()))
    return figures


def _params(net) -> list:
    return jax.tree.leaves(jax.eval_shape(net.init, jax.random.key(0)).params)


def _parameters(module) -> list:
    return [each.detach().numpy() for each in module.parameters()]


COMPARISON = common.Comparison(
    "pytorch/vision",
    "v0.28.0",
    compare,
    (
        "VGG networks have no dropout here: theirs are made with dropout=0.",
        "Where values tie for the largest of 3x3 or 2x2 pixels the gradient is shared here and is the first's there. "
        "Ties at 0 behind a rectifier have no gradient in either, and the random images compared here have no others.",
    ),
)
