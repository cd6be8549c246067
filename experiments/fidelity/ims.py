"""IMS: the authors' steps of perturbation and masks beside ours, and the round in which they stop.

Dunnett et al., NeurIPS 2025; their code is `defense/ims.py` in WhoDunnett/BackdoorBenchmark at 8613640.
"""

import copy
import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

import bdjax
from bdjax.cards import lookup
from bdjax.defenses.ims import masked, outer, perturbation, waiting
from bdjax.models.parts.taps import convolution_layers
from bdjax.types import Batch
from experiments.fidelity import common

PATH, STEPS, INNER = "defense/ims.py", 2, 5
NAMES = (
    "get_conv_modules",
    "get_perturbed_image",
    "get_mask_value",
    "Prune_Mask_Inverse",
    "setup_hooks",
    "set_model_eval",
    "set_mask_grad",
    "set_mask",
    "disagree_loss",
    "agree_loss",
    "find_batch_peturb",
    "optimize_mask_initial",
    "optimize_minimize",
)


def starts(layers, weights):
    """Masks and selections inside (0, 1), of which all derivatives differ from 0."""
    draw = np.random.RandomState(2)
    sizes = {layer.name: masked_size(weights, layer) for layer in layers}
    return {
        "mask": {name: draw.uniform(0.35, 0.65, size) for name, size in sizes.items()},
        "selection": {name: draw.uniform(0.2, 0.95, size) for name, size in sizes.items()},
    }


def masked_size(weights, layer):
    """Output channels of a convolution."""
    node = weights.params
    for name in layer.path:
        node = node[name]
    return node["kernel"].shape[-1]


def ours(made, image, label, start):
    """Per stage: the perturbation, and masks after each step; then the folded weights' logits."""
    layers, settings = convolution_layers(made.net, "ims"), lookup("ims", bdjax.DEFENSES, "defense").traced
    rows = Batch(jnp.asarray(image), jnp.asarray(label), jnp.arange(len(label)), jnp.ones(len(label)))
    rule, found = optax.adamw(settings["learning_rate"], weight_decay=settings["weight_decay"]), {}

    @jax.jit
    def perturb(learned):
        inverse = masked(layers, made.weights, learned, settings["steepness"], True)
        return perturbation(made.net, made.weights, inverse, rows, settings, INNER)

    for name, perturbs, sparse in (("initial", False, True), ("dense", True, False), ("sparse", True, True)):
        learned = jax.tree.map(jnp.asarray, start)
        opt_state, found[name] = rule.init(learned), []

        @jax.jit
        def slope(learned, delta, sparse=sparse):
            return jax.grad(
                lambda learned: outer(made.net, layers, made.weights, learned, rows, delta, settings, sparse),
                has_aux=True,
            )(learned)

        for _ in range(STEPS):
            delta = perturb(learned) if perturbs else None
            gradient, info = slope(learned, delta)
            updates, opt_state = rule.update(gradient, opt_state, learned)
            learned = jax.tree.map(lambda value: jnp.clip(value, 0, 1), optax.apply_updates(learned, updates))
            found[name].append((learned, info["loss"], delta))
    folded = masked(layers, made.weights, learned, settings["steepness"])
    return found, made.net.apply(folded, image)[0]


def theirs(folder, made, image, label, start):
    """The same by their functions, masks as hooks behind convolutions."""
    run = common.pieces(folder, PATH, *NAMES)
    x, y = common.to_torch(image), torch.tensor(label).long()
    reference, network = copy.deepcopy(made.module), copy.deepcopy(made.module)
    places = {module: re.sub(r"\.(\d+)", r"_\1", name) for name, module in network.named_modules()}
    convs, found = run.get_conv_modules(network), {}
    names = [places[module] for module in convs]
    hooks = run.setup_hooks(convs, "cpu")
    args = SimpleNamespace(lr_peturb=1e-3, num_steps_peturb=INNER, norm_bound=1, l1_weight=10)

    def same(image):
        return image

    for stage in ("initial", "dense", "sparse"):
        for (hook, _), name in zip(hooks, names, strict=True):
            hook.k = 20
            hook.channel_mask = torch.tensor(start["mask"][name])
            hook.channel_selection = torch.tensor(start["selection"][name])
        parts = [part for hook, _ in hooks for part in (hook.channel_selection, hook.channel_mask)]
        optimizer, found[stage] = torch.optim.AdamW(parts, lr=0.02), []
        args.l1_weight = 0 if stage == "dense" else 10
        for _ in range(STEPS):
            delta = None
            if stage == "initial":
                losses = run.optimize_mask_initial(args, network, reference, hooks, x, "cpu", optimizer)
            else:
                delta = run.find_batch_peturb(args, network, reference, hooks, x, y, "cpu", same, same)[0]
                step = (args, network, reference, hooks, x, delta, "cpu", optimizer, same, same)
                losses = run.optimize_minimize(*step)
                delta = jnp.array(delta.numpy().transpose(0, 2, 3, 1))
            learned = {
                part: {name: jnp.array(getattr(hook, f"channel_{part}").detach()) for (hook, _), name in every}
                for part, every in ((part, list(zip(hooks, names, strict=True))) for part in ("mask", "selection"))
            }
            found[stage].append((learned, sum(losses), delta))
    run.set_mask(hooks, apply_inverse=False)
    with torch.no_grad():
        return found, network.eval()(x).numpy()


def rounds(folder):
    """Where their training loop and our count of rounds without a gain stop, on the same course of losses."""
    losses = iter([3.0, 2.0, 1.97, 1.95, 1.0, *[0.99] * 30])
    seen = []

    def step(*_arguments):
        seen.append(next(losses))
        return seen[-1], 0.0, 0.0

    args = SimpleNamespace(
        lr_mask=0.02, patience=4, improvement_threshold=0.98, max_initial_rounds=100, defense_save_path=""
    )
    table = SimpleNamespace(DataFrame=lambda *_, **__: SimpleNamespace(to_csv=lambda *_, **__: None))
    silent = SimpleNamespace(info=lambda *_: None)
    run = common.pieces(
        folder,
        PATH,
        "train_mask_initial",
        find_batch_peturb=lambda *_: (None, [0.0], [0.0]),
        optimize_mask_initial=step,
        test_batch_peturb=lambda *_: (0.0,) * 6,
        logging=silent,
        pd=table,
    )
    hook = SimpleNamespace(channel_mask=torch.ones(1), channel_selection=torch.ones(1))
    batches = [(torch.zeros(1), torch.zeros(1))] * 100
    run.train_mask_initial(args, None, None, [(hook, None)], batches, "cpu", None, None)
    still, count = {"least": jnp.inf, "waited": 0}, 0
    for value in [3.0, 2.0, 1.97, 1.95, 1.0, *[0.99] * 30]:
        still, count = waiting(still, value, 0.98), count + 1
        if still["waited"] > 4:
            break
    return count, len(seen)


def compare(folder):
    """Relative differences of what the steps change."""
    image, label = common.batch()
    figures = {}
    for network in ("preact_resnet18", "resnet18"):
        made = common.keen(common.pair(network), image)
        start = starts(convolution_layers(made.net, "ims"), made.weights)
        (mine, folded), (other, hooked) = ours(made, image, label, start), theirs(folder, made, image, label, start)
        for stage in mine:
            for number, (one, two) in enumerate(zip(mine[stage], other[stage], strict=True), 1):
                moved = [jax.tree.map(jnp.subtract, each[0], start) for each in (one, two)]
                figures[f"{network}, {stage}, masks after step {number}"] = common.relative(*moved)
                figures[f"{network}, {stage}, loss of step {number}"] = common.relative(one[1], two[1])
                if one[2] is not None:
                    figures[f"{network}, {stage}, perturbation of step {number}"] = common.relative(one[2], two[2])
        figures[f"{network}, logits of the folded kernels"] = common.relative(folded, hooked)
    one, two = rounds(folder)
    figures["round in which a stage ends, of 10"] = abs(one - two) / two
    return figures


COMPARISON = common.Comparison(
    "WhoDunnett/BackdoorBenchmark",
    "86136409639814fdeb14f58523f13acdd620d406",
    compare,
    (
        "Masks begin inside (0, 1) at random, where every derivative counts; in both codes they begin at 1.",
        "The same batch in every step; their sampler and ours draw rows at random without replacement.",
    ),
)
