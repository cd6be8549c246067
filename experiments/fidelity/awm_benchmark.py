"""AWM as AWN of the fork that compared it: rounds of its own function on masked normalization, with the same rows.

Its code is `defense/awn.py` in WhoDunnett/BackdoorBenchmark at 8613640.
"""

import copy
import logging
from types import SimpleNamespace

import torch

from experiments.fidelity import common
from experiments.fidelity.awm import BATCH, ROUNDS, Loader, figures, our_name, recorded


def theirs(folder, made, image, label, bound, read):
    """Perturbation and mask after each round, by their function."""
    layer = common.module(folder, "utils/defense_utils/rnp/mask_batchnorm.py").MaskBatchNorm2d
    module, masked = copy.deepcopy(made.module).requires_grad_(False), {}
    for name, old in list(module.named_modules()):
        if isinstance(old, torch.nn.BatchNorm2d):
            new = layer(old.num_features)
            new.load_state_dict(old.state_dict(), strict=False)
            new.requires_grad_(False)
            new.neuron_mask.requires_grad = True
            parent, _, leaf = name.rpartition(".")
            setattr(module.get_submodule(parent), leaf, new)
            masked[our_name(name)] = new
    args = SimpleNamespace(
        trigger_norm=bound, alpha=0.9, hyper_gamma=1e-8, device="cpu", input_width=32, input_height=32, input_channel=3
    )
    names = ("mask_train", "clip_mask", "Regularization")
    code = common.pieces(folder, "defense/awn.py", *names, logging=logging)
    optimizer = torch.optim.SGD([one.neuron_mask for one in masked.values()], lr=0.01)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.9)

    def one_round(number):
        code.mask_train(module, torch.nn.CrossEntropyLoss(), optimizer, Loader(image, label, read[number]), args)
        scheduler.step()

    return recorded({name: lambda one=one: one.neuron_mask for name, one in masked.items()}, one_round, ROUNDS)


def compare(folder):
    """See `awm.figures`."""
    image, label = common.batch()
    made = common.keen(common.pair(), image)
    text = f"awm:preset=benchmark,batch={BATCH}"
    return figures(made, text, lambda *each: theirs(folder, made, image, label, *each), image, label)


COMPARISON = common.Comparison(
    "WhoDunnett/BackdoorBenchmark",
    "86136409639814fdeb14f58523f13acdd620d406",
    compare,
    ("Images are not normalized, so that its cut to [0, 1] is that of pixels, as ours is.",),
)
