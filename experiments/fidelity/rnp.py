"""RNP: passes of unlearning and where it ends, steps of the mask, and what is pruned, by the authors' own functions.

Li et al., ICML 2023; their code is `main.py` in bboylyg/RNP at eeae192.
"""

import copy
import os
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pandas
import torch

import bdjax
from bdjax import train
from bdjax.cards import lookup
from bdjax.keys import root, stream
from bdjax.models.parts.norms import entries, norms
from bdjax.types import Given, Trained
from experiments.fidelity import common

PATH, ROWS, BATCH, PASSES = "main.py", 40, 16, 21
NAMES = (
    *("train_step_unlearning", "train_step_recovering", "clip_mask", "pruning", "evaluate_by_threshold"),
    *("save_mask_scores", "read_data"),
)
RATE, STOPS, THRESHOLDS = 2e-4, (0.5, 0.1, 0.0), (0.35, 0.9)


def stages(text, made, label, image):
    """Our three stages and what they are given."""
    sizes = f"batch={BATCH},unlearning_epochs={PASSES},unlearning_rate={RATE}"
    spec = lookup(f"rnp:choose=fixed,{sizes},{text}", bdjax.DEFENSES, "defense")
    found = bdjax.DEFENSES["rnp"].make(made.net, (32, 32, 3), common.CLASSES, **spec.static)
    return found, Given(spec.traced, lambda _, image: image, clean=common.source(image, label), victim=made.weights)


class Loader:
    """The batches that a stage of ours reads, a pass each time that it is iterated over."""

    def __init__(self, stage, given):
        self.stage, self.given, self.dataset, self.epoch = stage, given, range(ROWS), 0

    def __len__(self):
        return (ROWS + BATCH - 1) // BATCH

    def __iter__(self):
        key = jax.random.fold_in(stream(root(0), "order"), self.epoch)
        self.epoch += 1
        source = self.stage.source(self.given)
        for rows in np.asarray(self.stage.order(key, None, self.epoch - 1, self.given)):
            batch = source.read(jnp.asarray(rows[rows >= 0]))
            yield common.to_torch(batch.image), torch.tensor(np.array(batch.label)).long()


def unlearned(code, run, made, loader, stop):
    """Their network after unlearning, and the passes that it took."""
    model = copy.deepcopy(made.module)
    rule = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9, weight_decay=5e-4)
    scope = {
        "args": SimpleNamespace(unlearning_epochs=PASSES - 1, clean_threshold=stop, output_weight=""),
        "net": model,
        "criterion": torch.nn.CrossEntropyLoss(),
        "optimizer": rule,
        "scheduler": torch.optim.lr_scheduler.MultiStepLR(rule, milestones=[10, 20], gamma=0.1),
        "defense_data_loader": loader,
        "train_step_unlearning": code.train_step_unlearning,
        "test": lambda **_: (0.0, 0.0),
        "clean_test_loader": None,
        "bad_test_loader": None,
        "save_checkpoint": lambda *_: None,
        "logger": SimpleNamespace(info=lambda *_: None),
    }
    run({"time": time, "os": os} | scope)
    return model, loader.epoch


def masked(folder, module):
    """Theirs with the authors' masked normalization in place of PyTorch's."""
    changed, layer_of = copy.deepcopy(module), common.module(folder, "models/mask_batchnorm.py").MaskBatchNorm2d
    for name, layer in list(changed.named_modules()):
        if isinstance(layer, torch.nn.BatchNorm2d):
            own = layer_of(layer.num_features)
            own.load_state_dict(layer.state_dict(), strict=False)
            parent, _, leaf = name.rpartition(".")
            setattr(changed.get_submodule(parent), leaf, own)
    return changed


def plain(made, module):
    """The weights of a masked network without its masks."""
    kept = copy.deepcopy(made.module)
    kept.load_state_dict({name: value for name, value in module.state_dict().items() if "neuron_" not in name})
    return jax.tree.map(jnp.array, common.weights(made.net, kept))


def pruned(code, made, module, threshold):
    """Theirs after the sweep of thresholds up to this one."""
    model = copy.deepcopy(made.module)
    with tempfile.TemporaryDirectory() as place:
        file = str(Path(place) / "mask_values.txt")
        code.save_mask_scores(module.state_dict(), file)
        values = sorted(code.read_data(file), key=lambda value: float(value[2]))
    logger = SimpleNamespace(info=lambda *_: None)
    code.evaluate_by_threshold(model, logger, values, threshold, 0.05, None, None, None)
    return common.weights(made.net, model)


def compare(folder):
    """Relative differences of what each stage changes, and of the passes that unlearning takes."""
    code = common.pieces(
        folder, PATH, *NAMES, device="cpu", pd=pandas, test=lambda **_: (0.0, 0.0), print=lambda *_: None
    )
    run = common.loop(folder, PATH, "main", "range(0, args.unlearning_epochs + 1)")
    image, _ = common.batch(ROWS)
    made, figures = common.keen(common.pair("resnet18"), image), {}
    with torch.no_grad():  # labels that the network gives, so that it has something to unlearn
        label = copy.deepcopy(made.module).train()(common.to_torch(image)).argmax(1).numpy().astype(np.int32)

    for stop in STOPS:
        (forget, recover, _), given = stages(f"stop={stop},recovery_epochs=3", made, label, image)
        left = train.fit(root(0), forget, lambda _, given=given: given, ()).carry["unlearned"]
        model, passes = unlearned(code, run, made, Loader(forget, given), stop)
        one, two = (jax.tree.map(jnp.subtract, each, made.weights) for each in (left, common.weights(made.net, model)))
        name = f"unlearning, stop {stop}, after pass {passes}"
        figures[f"{name}, parameters"] = common.relative(one.params, two.params)
        figures[f"{name}, statistics"] = common.relative(one.batch_stats, two.batch_stats)

    layers = norms(made.net, "rnp")
    module, loader = masked(folder, model), Loader(recover, given)
    rule = torch.optim.SGD([value for name, value in module.named_parameters() if "mask" in name], lr=0.2, momentum=0.9)
    for _ in range(3):
        options = SimpleNamespace(alpha=0.2)
        code.train_step_recovering(options, module, torch.nn.CrossEntropyLoss(), rule, loader)
    before = Trained(made.weights, {"unlearned": common.weights(made.net, model)})
    key, known = root(0), given._replace(carry=before.carry)
    state = recover.init(key, known, None)
    step = jax.jit(lambda state, rows: recover.step(key, state, recover.source(known).read(rows), known)[0])
    for epoch in range(3):
        for rows in recover.order(jax.random.fold_in(stream(key, "order"), epoch), state, epoch, known):
            state = step(state, rows)
    modules = dict(module.named_modules())
    theirs = {each.name: jnp.array(modules[each.name.replace("_", ".")].neuron_mask.detach()) for each in layers}
    ones = jax.tree.map(jnp.ones_like, entries(layers, made.weights.params, "scale"))
    one, two = (jax.tree.map(jnp.subtract, each, ones) for each in (state.moving, theirs))
    low = sum(int(jnp.sum(value < 1)) for value in theirs.values())
    figures[f"mask less 1, 9 steps, {low} of {sum(value.size for value in theirs.values())} below"] = common.relative(
        one, two
    )
    start = before.carry["unlearned"].batch_stats
    one, two = (jax.tree.map(jnp.subtract, each, start) for each in (state.still, plain(made, module).batch_stats))
    figures["statistics while the mask learns"] = common.relative(one, two)

    draw = np.random.RandomState(5)
    mask = {name: jnp.asarray(draw.uniform(size=value.shape).round(4)) for name, value in theirs.items()}
    for each in layers:
        modules[each.name.replace("_", ".")].neuron_mask.data = torch.tensor(np.array(mask[each.name]))
    for threshold in THRESHOLDS:
        (*_, prune), given = stages(f"threshold={threshold}", made, label, image)
        left = train.fit(root(0), prune, lambda _, given=given: given, (), Trained(made.weights, {"mask": mask}))
        both = (left.weights, pruned(code, made, module, threshold))
        one, two = (jax.tree.map(jnp.subtract, each, made.weights) for each in both)
        count = sum(int(jnp.sum(leaf != 0)) for leaf in jax.tree.leaves(two))
        figures[f"pruned up to {threshold}, {count} neurons gone"] = common.relative(one, two)
    return figures


COMPARISON = common.Comparison(
    "bboylyg/RNP",
    "eeae192e5eab974d8b3002964cfb62d00388d36f",
    compare,
    (
        "Images are not augmented and are the same in both; 40 rows, 16 a step, so that a pass ends with fewer.",
        "Masks to prune by are given, with four decimals, as theirs have in the file that they are read from.",
        "Their sweep over thresholds tests each on the test set and chooses none: compared is its last network.",
    ),
)
