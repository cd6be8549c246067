"""BAN: the mask after some steps and the noise after some more, by the authors' own functions.

Their noise starts at random; here it starts where ours does. Their mask is cut before a step, ours after it: here both
start between 0.25 and 0.75, and nothing is cut.
"""

import re
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import torch

import bdjax
from bdjax import train
from bdjax.audits.ban import disturb, feature_map, learn_mask
from bdjax.cards import lookup
from bdjax.models.parts.norms import entries, norms
from bdjax.types import Batch, Given, Source
from experiments.fidelity import common

EPOCHS, STEPS, ROWS = 4, 3, 8


def split_network(folder: Path, made: common.Pair):
    """The authors' resnet18 of the same weights, in its two halves, with their noisy normalization."""
    module = made.module
    noisy = common.module(folder, "models/perb_batchnorm.py").NoisyBatchNorm2d

    def change(parent):
        for name, child in parent.named_children():
            if isinstance(child, torch.nn.BatchNorm2d):
                fresh = noisy(child.num_features)
                fresh.load_state_dict(child.state_dict(), strict=False)
                setattr(parent, name, fresh)
            else:
                change(child)

    change(module)
    seen = {}
    module.layer4.register_forward_hook(lambda _module, _inputs, output: seen.update(feature=output))

    def to_features(image, _index):
        module(image)
        return seen["feature"]

    module.from_input_to_features = to_features
    module.from_features_to_output = lambda feature, _index: module.linear(feature.mean((2, 3)))
    return module


def theirs(folder: Path, made: common.Pair, image, label, mask, noise):
    """The mask, the noise and the statistics that the authors' `perturbation_train` leaves."""
    arguments = SimpleNamespace(
        dataset="cifar10", batch_size=ROWS, mask_lr=0.01, mask_lambda=0.75, eps=0.3, steps=STEPS, num_classes=10
    )
    module = split_network(folder, made)
    layers = {re.sub(r"\.(\d)", r"_\1", name): child for name, child in _norms(module)}  # as ours are called
    waiting, kept = [mask], {}

    def start(_model, rand_init):
        for name, layer in layers.items():
            layer.neuron_noise.data = torch.tensor(np.asarray(noise["scale"][name]))
            layer.neuron_noise_bias.data = torch.tensor(np.asarray(noise["bias"][name]))

    def first(_model):
        kept["mask"] = torch.nn.Parameter(waiting.pop())
        return kept["mask"]

    names = ("include_noise", "sign_grad", "perturbation_train")
    scope = {"args": arguments, "models": SimpleNamespace(NoisyBatchNorm2d=type(next(iter(layers.values()))))}
    scope |= {"reset": start, "fea_mask_gen": first, "device": "cpu", "print": lambda *_, **__: None}
    scope |= {"time": SimpleNamespace(time=lambda: 0.0), "test": lambda **_: (0, 0), "mask_test": lambda **_: (0, 0)}
    code = common.pieces(folder, "ban_detection.py", *names, **scope)
    run = code.perturbation_train
    run.__globals__["range"] = lambda count: range(EPOCHS if count == 20 else count)
    noisy = [value for name, value in module.named_parameters() if "neuron_noise" in name]
    optimizer = torch.optim.SGD(noisy, lr=arguments.eps / arguments.steps)
    run(module, torch.nn.CrossEntropyLoss(), optimizer, [(common.to_torch(image), torch.tensor(label).long())], None)
    found = {
        "scale": {name: layer.neuron_noise.detach().numpy() for name, layer in layers.items()},
        "bias": {name: layer.neuron_noise_bias.detach().numpy() for name, layer in layers.items()},
    }
    statistics = {name: (layer.running_mean.numpy(), layer.running_var.numpy()) for name, layer in layers.items()}
    return kept["mask"].detach().numpy().transpose(1, 2, 0), found, statistics


def _norms(module):
    return [(name, child) for name, child in module.named_modules() if isinstance(child, torch.nn.BatchNorm2d)]


def compare(folder: Path) -> dict[str, float]:
    """Relative differences of what the mask and the noise have become, and of the statistics."""
    made = common.pair("resnet18")
    made = made._replace(weights=jax.tree.map(jnp.array, made.weights))
    image, label = common.batch(ROWS)
    source = Source(ROWS, lambda row: Batch(jnp.asarray(image)[row], jnp.asarray(label)[row], row, (row >= 0) * 1.0))
    spec = lookup(f"ban:epochs={EPOCHS},steps={STEPS}", bdjax.AUDITS, "audit")
    given = Given(spec.traced, lambda key, image: image, clean=source, victim=made.weights)
    tap = feature_map(made.net)
    shape = made.net.apply(made.weights, jnp.asarray(image))[2][tap].shape[1:]
    first, second = learn_mask(made.net, tap, shape, EPOCHS, ROWS), disturb(made.net, ROWS, STEPS)
    key = jax.random.key(0)
    state, sums = train.begin(first, key, given, None)
    mask = 0.25 + 0.5 * state.moving  # far from where masks are cut
    carry = state.replace(moving=mask), sums
    for epoch in range(EPOCHS):
        carry = train.advance(first, key, carry, given, epoch, 0, 1)
    left = train.finish(first, key, carry[0], given)
    then = given._replace(carry=left.carry)
    noise = train.begin(second, key, then, left.weights)[0].moving
    after = train.fit(key, second, lambda _: given, (), left)
    start = torch.tensor(np.asarray(mask).transpose(2, 0, 1).copy())
    found, noised, statistics = theirs(folder, made, image, label, start, noise)
    layers = norms(made.net, "ban")
    ours = {}
    for name in ("scale", "bias"):
        before, now = (entries(layers, each.params, name) for each in (made.weights, after.weights))
        ours[name] = {layer: now[layer] / before[layer] - 1 for layer in now}
    means = entries(layers, after.weights.batch_stats, "mean"), entries(layers, after.weights.batch_stats, "var")
    return {
        f"change of the mask, {EPOCHS} steps": common.relative(left.carry["mask"] - mask, found - np.asarray(mask)),
        f"noise, {STEPS} steps": common.relative(ours, noised),
        "statistics": common.relative({name: (means[0][name], means[1][name]) for name in means[0]}, statistics),
    }


COMPARISON = common.Comparison(
    "xiaoyunxxy/ban",
    "8a0f91890ae0e4afe604b347f79f450500d4d09d",
    compare,
    ("noise starts where ours does, on the one batch that there is",),
)
