"""NFT: steps of the loop of the authors' code on their masked normalization, with the same mixtures.

Karim et al., ECCV 2024; their code is `src/Remove_Backdoor.py` in nazmul-karim170/NFT at 9e40cac.
"""

import copy
import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

import bdjax
from bdjax.cards import lookup
from bdjax.defenses.nft import bounded, mixed
from bdjax.models.parts.norms import entries, norms
from bdjax.train import optimizers
from bdjax.types import Batch, Given
from experiments.fidelity import common

PATH, STEPS = "src/Remove_Backdoor.py", 3
SHARES = (0.7, 0.2, 0.5)


def partners(count):
    """With whom the rows of each step are mixed."""
    return [np.random.RandomState(step).permutation(count) for step in range(STEPS)]


def ours(made, image, label):
    """Mask and statistics after each step: the loss with given draws, the rule of the first round, the bounds."""
    spec = lookup("nft:floor=0.99", bdjax.DEFENSES, "defense")
    rows = Batch(jnp.asarray(image), jnp.asarray(label), jnp.arange(len(label)), jnp.ones(len(label)))
    given = Given(spec.traced, None, clean=common.source(image, label), victim=made.weights)
    layers, still, found = norms(made.net, "nft"), made.weights.batch_stats, []
    mask = jax.tree.map(jnp.ones_like, entries(layers, made.weights.params, "scale"))
    rule = optimizers.sgd(spec.traced["learning_rate"], spec.traced["momentum"])
    opt_state = rule.init(mask)

    @jax.jit
    def slope(mask, still, share, partner):
        def loss(mask):
            return mixed(made.net, mask, still, rows, given, share, partner, common.CLASSES)

        gradient, (still, _) = jax.grad(loss, has_aux=True)(mask)
        return gradient, still

    for share, partner in zip(SHARES, partners(len(label)), strict=True):
        gradient, still = slope(mask, still, share, jnp.asarray(partner))
        updates, opt_state = rule.update(gradient, opt_state, mask)
        mask = bounded(optax.apply_updates(mask, updates), layers, given.settings)
        found.append((mask, still))
    return found


def theirs(folder, made, image, label):
    """The same by their loop over batches."""
    masked = common.module(folder, "src/networks/mask_filter.py").Masked_BN2d
    module = copy.deepcopy(made.module)
    for name, layer in list(module.named_modules()):
        if isinstance(layer, torch.nn.BatchNorm2d):
            changed = masked(layer.num_features)
            changed.load_state_dict(layer.state_dict(), strict=False)
            parent, _, leaf = name.rpartition(".")
            setattr(module.get_submodule(parent), leaf, changed)
    names = ("Regularization", "mask_clip", "mixup_criterion")
    functions = vars(common.pieces(folder, PATH, *names, math=math))
    run = common.loop(folder, PATH, "NFT_Train", "enumerate(data_loader)")
    mask = [value for name, value in module.named_parameters() if "neuron_mask" in name]
    scope = functions | {
        "args": SimpleNamespace(alpha=0.99, beta=0.5),
        "model": module.train(),
        "criterion": torch.nn.CrossEntropyLoss(),
        "mask_opt": torch.optim.SGD(mask, lr=0.05, momentum=0.95),
        "data_loader": [(common.to_torch(image), torch.tensor(label).long())],
        "Variable": lambda value: value,
        "N_c": len(label) / common.CLASSES,
    }
    scope |= {"total": 0, "correct": 0, "total_loss": 0.0, "nb_samples": 0}
    found = []
    for share, partner in zip(SHARES, partners(len(label)), strict=True):
        scope["mixup_data"] = _mixing(share, partner)
        with common.without_cuda():
            run(dict(scope))
        named = {layer.name: layer.name.replace("_", ".") for layer in norms(made.net, "nft")}
        values = {one: jnp.array(module.get_submodule(other).neuron_mask.detach()) for one, other in named.items()}
        plain = {name: value for name, value in module.state_dict().items() if "neuron_mask" not in name}
        kept = copy.deepcopy(made.module)
        kept.load_state_dict(plain)
        found.append((values, jax.tree.map(jnp.array, common.weights(made.net, kept).batch_stats)))
    return found


def _mixing(share, partner):
    def mix(image, label, **_named):
        other = torch.tensor(partner)
        return share * image + (1 - share) * image[other], label, label[other], share

    return mix


def compare(folder):
    """Relative differences of what each step changes."""
    (image, label), made = common.batch(), common.pair("resnet18")
    mine, other = ours(made, image, label), theirs(folder, made, image, label)
    first = jax.tree.map(jnp.ones_like, mine[0][0]), made.weights.batch_stats
    mine, other, figures = [first, *mine], [first, *other], {}
    for number in range(STEPS):
        one, two = (jax.tree.map(jnp.subtract, each[number + 1], each[number]) for each in (mine, other))
        figures[f"mask, change in step {number + 1}"] = common.relative(one[0], two[0])
        figures[f"statistics, change in step {number + 1}"] = common.relative(one[1], two[1])
    return figures


COMPARISON = common.Comparison(
    "nazmul-karim170/NFT",
    "9e40cacf533dbd1ce8890c2665b6d1daaf767308",
    compare,
    (
        "Their function does not run, for it counts in two variables that it never sets: they are set here, and its "
        "loop runs. Compared with alpha .99, so that the bounds of all layers are met or nearly so.",
        "Mixtures are given; they draw one share a batch and an order of its rows, as ours does.",
    ),
)
