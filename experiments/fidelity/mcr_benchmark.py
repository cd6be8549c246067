"""MCR as the reference benchmark runs it: steps of its own loop with gradients that are never cleared, and its pass.

Its code is `defense/mcr.py` in SCLBD/BackdoorBench at f02e353.
"""

import copy
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
import torch

from bdjax import train
from bdjax.keys import stream
from experiments.fidelity import common
from experiments.fidelity.mcr import BATCH, STEPS, Ours

PATH, TEXT = "defense/mcr.py", f"mcr:preset=benchmark,batch={BATCH}"


def compare(folder):
    """Relative differences of what each step changes, and of the model at the place that it tests."""
    (image, label), ends, figures = common.batch(), [common.pair(seed=seed) for seed in (0, 1)], {}
    net = ends[0].net
    mine = Ours(TEXT, ends, image, label)
    states, key = mine.states(1), jax.random.key(9)
    left = mine.left(key, states[-1]).weights
    names = ("Bezier", "MCR", "sampleModelFromCurve")
    scope = {"Module": torch.nn.Module, "binom": scipy.special.binom, "defense": object, "List": list}
    scope |= {"BackdoorModelTrainer": object, "print": lambda *_: None}
    code = common.pieces(folder, PATH, *names, **scope)
    models = [copy.deepcopy(ends[0].module), copy.deepcopy(ends[0].module), copy.deepcopy(ends[1].module)]
    whole = copy.deepcopy(ends[0].module)
    with torch.no_grad():
        for bend, *both in zip(models[1].parameters(), *(each.module.parameters() for each in ends), strict=True):
            bend.copy_((both[0] + both[1]) / 2)
        # Statistics of the model that runs begin as ours do, halfway between the ends.
        for own, *both in zip(whole.buffers(), *(each.module.buffers() for each in ends), strict=True):
            own.copy_((both[0] + both[1]) / 2)
    curve, places = code.Bezier(3), iter([mine.place(index) for index in range(STEPS)])
    optimizers = [torch.optim.SGD(one.parameters(), lr=3e-5, momentum=0.9, weight_decay=5e-4) for one in models[1:2]]
    own = torch.optim.SGD(whole.parameters(), lr=3e-5, momentum=0.9, weight_decay=5e-4)
    args, criterion = SimpleNamespace(lr_scheduler="none"), torch.nn.CrossEntropyLoss()
    loader = [(common.to_torch(image), torch.tensor(label).long())]
    two = [jax.tree.map(jnp.array, common.weights(net, models[1]).params)]
    for _ in range(STEPS):
        code.MCR.train_curve_one_epoch(
            None,
            args,
            whole,
            lambda _drawn: curve(torch.tensor([next(places)])),
            own,
            None,
            models,
            optimizers,
            [None],
            criterion,
            loader,
            "cpu",
        )
        two.append(jax.tree.map(jnp.array, common.weights(net, models[1]).params))
    one = [state.moving[0] for state in states]
    figures["bend before the first step"] = common.relative(one[0], two[0])
    for number in range(STEPS):
        changes = [jax.tree.map(jnp.subtract, each[number + 1], each[number]) for each in (one, two)]
        figures[f"bend, change in step {number + 1}"] = common.relative(*changes)
    code.sampleModelFromCurve(whole, models, curve, 0.1, "cpu")
    whole.train()
    order = np.asarray(train.shuffled(stream(key, "order"), len(label), BATCH))
    with torch.no_grad():
        for rows in order:
            whole(common.to_torch(image[rows[rows >= 0]]))
    theirs = common.weights(net, whole)
    changes = [jax.tree.map(jnp.subtract, each, ends[0].weights) for each in (left, theirs)]
    figures["point at .1, less the victim"] = common.relative(*(each.params for each in changes))
    figures["statistics at .1, less the victim's"] = common.relative(*(each.batch_stats for each in changes))
    return figures


COMPARISON = common.Comparison(
    "SCLBD/BackdoorBench",
    "f02e3534645f0ee63d6848653062cd6c0d6c400d",
    compare,
    (
        "Places of the curve are ours, which it draws uniformly too; its statistics begin where ours do.",
        "Its pass at the place that it tests is repeated here once, after the last step; it makes one an epoch.",
    ),
)
