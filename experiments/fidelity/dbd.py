"""DBD: steps of all three stages by the training functions of the authors' code, and the split between them.

Huang et al., ICLR 2022; their code is SCLBD/DBD at d372ef4.
"""

import copy
import time
from types import SimpleNamespace
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import torch

import bdjax
from bdjax import train
from bdjax.cards import lookup
from bdjax.data import views
from bdjax.keys import root, stream
from bdjax.train import semi_supervised
from bdjax.types import Given, Weights
from experiments.fidelity import common

STEPS, BATCH, ROWS, BEFORE = 3, 8, 24, 10
QUIET = SimpleNamespace(info=lambda *_: None)
TEXT = f"dbd:contrastive_batch={BATCH},warmup_batch={BATCH},batch={BATCH},steps={STEPS},warmup_epochs={BEFORE}"


def dim(key, image, **_named):
    """An augmentation that a comparison can repeat: images (b, height, width, channels), each darker by chance."""
    return image * jax.random.uniform(key, (len(image), 1, 1, 1), image.dtype, 0.5, 1)


def meters(count):
    """What their training functions report to, in their place, and the losses of all rows."""

    class Record:
        def __init__(self, name, _size):
            self.name, self.parts = name, []

        def update(self, part):
            self.parts.append(part)

        @property
        def data(self):
            return torch.cat(self.parts)[:count]

    meter = SimpleNamespace(update=lambda *_: None, total_avg=0.0)
    nothing = lambda *_arguments, **_named: None  # noqa: E731
    return {
        "AverageMeter": lambda name: SimpleNamespace(name=name, **vars(meter)),
        "Record": Record,
        "tabulate_step_meter": nothing,
        "tabulate_epoch_meter": nothing,
        "DistributedDataParallel": type(None),
        "time": time,
    }


def features(module):
    """Their backbone: the network without its head."""
    backbone = copy.deepcopy(module)
    backbone.linear, backbone.feature_dim = torch.nn.Identity(), module.linear.in_features
    return backbone


def classifier(made, backbone, linear):
    """Their backbone and head as our weights."""
    module = copy.deepcopy(backbone)
    module.linear = linear
    return common.weights(made.net, module)


def exactly():
    """Their code where it asks for single precision computes in double."""
    return mock.patch.object(torch.Tensor, "float", torch.Tensor.double)


def batches(image, label):
    """Rows, STEPS batches of BATCH, and a loader of what a function of their numbers gives."""
    rows = np.arange(STEPS * BATCH, dtype=np.int32).reshape(STEPS, BATCH)
    return [(jnp.asarray(one), image[one], label[one]) for one in rows]


def contrast(folder, made, stage, given, image, label):
    """Changes of features and of the projection by self-supervised steps: ours, theirs."""
    models = common.pieces(folder, "model/model.py", "SelfModel")
    trainer = common.pieces(folder, "utils/trainer/simclr.py", "simclr_train", **meters(ROWS))
    loss = common.pieces(folder, "model/loss.py", "SimCLRLoss").SimCLRLoss(0.5)
    model = models.SelfModel(features(made.module))
    norm = model.proj_head[1]
    with torch.no_grad():
        for value in (norm.weight, norm.running_var):
            value.uniform_(0.5, 1.5)

    def head():
        one, norm, _, two = model.proj_head
        linear = [
            {"kernel": layer.weight.detach().numpy().T, "bias": layer.bias.detach().numpy()} for layer in (one, two)
        ]
        scale, bias, mean, var = (
            each.detach().numpy() for each in (norm.weight, norm.bias, norm.running_mean, norm.running_var)
        )
        params = {"linear1": linear[0], "linear2": linear[1], "bn1": {"scale": scale, "bias": bias}}
        return jax.tree.map(jnp.array, Weights(params, {"bn1": {"mean": mean, "var": var}}))

    first = head()
    state = stage.init(root(0), given, None)
    state = state.replace(
        moving={"own": made.weights.params, "head": first.params},
        still={"own": made.weights.batch_stats, "head": first.batch_stats},
    )
    pairs = iter([])
    with mock.patch.object(views, "strong", lambda _key, image, _augment: next(pairs)(image)):
        for rows, _, _ in batches(image, label):
            pairs = iter([lambda image: image, lambda image: 1 - image**2])
            state, _ = stage.step(root(1), state, given.train.read(rows), given)
    loader = [
        {"img1": common.to_torch(one), "img2": common.to_torch(1 - one**2)} for _, one, _ in batches(image, label)
    ]
    rule = torch.optim.SGD(model.parameters(), lr=0.4, momentum=0.9, weight_decay=1e-4)
    with common.without_cuda():
        trainer.simclr_train(model, loader, loss, rule, QUIET)
    after = classifier(made, model.backbone, made.module.linear)
    bodies = [body_of(one) for one in (Weights(state.moving["own"], state.still["own"]), after)]
    heads = [
        (one.params, one.batch_stats) for one in (Weights(state.moving["head"], state.still["head"]), head(), first)
    ]
    return moved("features", *bodies, body_of(made.weights)) | moved("projection", *heads)


def body_of(weights):
    """Parameters without the head, and statistics."""
    return {name: value for name, value in weights.params.items() if name != "linear"}, weights.batch_stats


def head_of(weights):
    """Parameters of the head, and statistics."""
    return weights.params["linear"], weights.batch_stats


def moved(what, ours, theirs, start):
    """Relative differences of what parameters and statistics change by."""
    ours, theirs = (jax.tree.map(jnp.subtract, one, start) for one in (ours, theirs))
    names = "parameters", "statistics"
    return {f"{what}: {name}": common.relative(*pair) for name, *pair in zip(names, ours, theirs, strict=True)}


def compare(folder):
    """Relative differences of what the steps of each stage change."""
    image, label = common.batch(ROWS)
    made = common.keen(common.pair("resnet18"), image)
    spec = lookup(TEXT, bdjax.DEFENSES, "defense")
    stages = bdjax.DEFENSES["dbd"].make(made.net, (32, 32, 3), common.CLASSES, **spec.static)
    given = Given(spec.traced, dim, train=common.source(image, label))
    figures = contrast(folder, made, stages[0], given, image, label)

    parts = meters(ROWS)
    losses = common.pieces(folder, "model/loss.py", "SCELoss", "RCELoss")
    warmer = common.pieces(folder, "utils/trainer/simclr.py", "poison_linear_train", "poison_linear_record", **parts)
    model = common.pieces(folder, "model/model.py", "LinearModel").LinearModel(
        features(made.module), made.module.linear.in_features, common.CLASSES
    )
    rule = torch.optim.Adam(model.parameters(), lr=0.002)
    first = classifier(made, model.backbone, model.linear)

    # The head alone.
    head, loader = stages[1], []
    state = head.init(root(0), given, made.weights)
    state = state.replace(moving=first.params["linear"])
    for number, (rows, one, target) in enumerate(batches(image, label)):
        key = root(number)
        seen = dim(stream(key, "augment"), one)
        loader.append(
            {"img": common.to_torch(seen), "target": torch.tensor(target).long(), "poison": torch.zeros(BATCH)}
        )
        state, _ = head.step(key, state, given.train.read(rows), given)
    with common.without_cuda(), exactly():
        warmer.poison_linear_train(model, loader, losses.SCELoss(), rule, QUIET)
    left = head.finish(root(0), state, given)
    figures |= moved(
        "head", *(head_of(one) for one in (left.weights, classifier(made, model.backbone, model.linear), first))
    )

    # The split.
    last, given = stages[2], given._replace(carry=left.carry)
    state = last.init(root(0), given, left.weights)
    state = last.renew(root(5), state, {}, jnp.int32(0), given)
    seen = [dim(stream(jax.random.fold_in(root(5), rows[0]), "augment"), one) for rows, one, _ in batches(image, label)]
    loader = Loader(
        {
            "img": common.to_torch(one),
            "target": batch["target"],
            "poison": torch.zeros(BATCH),
            "origin": batch["target"],
        }
        for one, batch in zip(seen, loader, strict=True)
    )
    with common.without_cuda(), exactly():
        record = warmer.poison_linear_record(model, loader, losses.SCELoss())
    split = common.pieces(folder, "data/utils.py", "get_semi_idx")
    theirs = split.get_semi_idx(record, 0.5, QUIET)
    figures["rows that keep their labels"] = common.relative(1.0 * state.still["labeled"], theirs)

    start = classifier(made, model.backbone, model.linear)
    state = mix(folder, model, rule, last, state, given, image, label)
    ours = Weights(last.finish(root(0), state, given).weights.params, state.still["batch_stats"])
    theirs = classifier(made, model.backbone, model.linear)
    figures |= moved("semi-supervised, head", *(head_of(one) for one in (ours, theirs, start)))
    return figures | moved("semi-supervised, features", *(body_of(one) for one in (ours, theirs, start)))


class Loader(list):
    """Batches of a dataset."""

    dataset = range(ROWS)


def mix(folder, model, rule, stage, state, given, image, label, before=BEFORE, ramp=190):
    """Semi-supervised steps of both: their model moves in place, our state is returned."""
    labeled, unlabeled, shares, partners = [], [], [], []
    settings = given.settings
    for number, (rows, one, target) in enumerate(batches(image, label)):
        key, other = root(100 + number), jnp.flip(rows)
        views = {name: stream(stream(key, name), "augment") for name in ("labeled", "first", "second")}
        labeled.append({"img": common.to_torch(dim(views["labeled"], one)), "target": torch.tensor(target).long()})
        unlabeled.append({f"img{n}": common.to_torch(dim(views[name], one[::-1])) for n, name in enumerate(views) if n})
        shares.append(float(semi_supervised.drawn_share(stream(key, "share"), settings["mix"])))
        partners.append(np.array(train.drawn_partners(stream(key, "turn"), jnp.ones(3 * BATCH))))
        read = {"labeled": given.train.read(rows), "unlabeled": given.train.read(other)}
        state, _ = jax.jit(lambda key, state, read: stage.step(key, state, read, given))(key, state, read)
    names = "mixmatch_train", "interleave", "interleave_offsets"
    loss = common.pieces(folder, "model/loss.py", "MixMatchLoss").MixMatchLoss(ramp, 15)
    drawn, orders = iter(shares), iter(partners)
    scope = {"np": SimpleNamespace(random=SimpleNamespace(beta=lambda *_: next(drawn)))} | meters(ROWS)
    trainer = common.pieces(folder, "utils/trainer/semi.py", *names, **scope)
    options = {"train_iteration": STEPS, "temperature": 0.5, "alpha": 0.75, "num_classes": common.CLASSES}
    order = mock.patch.object(torch, "randperm", lambda _size: torch.tensor(next(orders)))
    with common.without_cuda(), exactly(), order:
        trainer.mixmatch_train(model, labeled, unlabeled, loss, rule, before, QUIET, **options)
    return state


COMPARISON = common.Comparison(
    "SCLBD/DBD",
    "d372ef4",
    compare,
    (
        "Views, augmentations, shares and orders of a mixture are given; the drawing of views is not compared.",
        "Where they ask for single precision theirs computes in double here.",
    ),
)
