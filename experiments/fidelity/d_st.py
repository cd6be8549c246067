"""D-ST: steps of features and head by the training functions of the authors' code, at rates in and after warm-up.

Chen, Wu, Wang, NeurIPS 2022; their code is SCLBD/Effective_backdoor_defense at 63fda0e. One class of their file of
losses lacks a bracket; the one that they train with is cut out of its text. The split before is compared in `d_br`.
"""

import copy
import math
import time
from types import SimpleNamespace
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import torch

import bdjax
from bdjax.cards import lookup
from bdjax.data import views
from bdjax.keys import root
from bdjax.types import Given, Weights
from experiments.fidelity import common
from experiments.fidelity.dbd import body_of, classifier, features, moved

STEPS, BATCH, ROWS, EPOCHS = 2, 12, 24, (1, 7, 10, 11, 120)
TEXT = f"d_st:contrastive_batch={BATCH},batch={BATCH},read_uncertain=true"


def asked(rate, decay, epochs, cosine, warm, last):
    """What their functions read of the command line."""
    top, eta_min = rate, rate * last**3
    if cosine:
        top = eta_min + (rate - eta_min) * (1 + math.cos(math.pi * 10 / epochs)) / 2
    given = {"learning_rate": rate, "momentum": 0.9, "weight_decay": decay, "epochs": epochs, "cosine": cosine}
    given |= {"lr_decay_rate": last, "lr_decay_epochs": [60, 75, 90], "warm": warm, "print_freq": 10**6}
    return SimpleNamespace(**given, warm_epochs=10, warmup_from=0.01, warmup_to=top)


def rates(folder):
    """What both loops call besides: rates, an optimizer and meters."""
    names = "AverageMeter", "accuracy", "adjust_learning_rate", "warmup_learning_rate", "set_optimizer"
    return vars(common.pieces(folder, "ST/util.py", *names, math=math, optim=torch.optim)) | {"time": time}


def loss_of(folder, temperature):
    """Their contrastive loss."""
    text = (folder / "ST/losses.py").read_text()
    scope = {"torch": torch, "nn": torch.nn}
    exec(text[text.index("class SupConLoss_Consistency") :], scope)
    return scope["SupConLoss_Consistency"](temperature=temperature)


def batches(image, label, flag):
    """Numbers of rows, their images, labels and flags, STEPS batches of BATCH."""
    rows = np.arange(STEPS * BATCH, dtype=np.int32).reshape(STEPS, BATCH)
    return [(jnp.asarray(few), image[few], torch.tensor(label[few]).long(), torch.tensor(flag[few])) for few in rows]


def projection_of(head):
    """Their projection as our weights."""
    layers = {"linear1": head[0], "linear2": head[2]}
    params = {
        name: {"kernel": one.weight.detach().numpy().T, "bias": one.bias.detach().numpy()}
        for name, one in layers.items()
    }
    return jax.tree.map(jnp.array, params)


def contrast(folder, made, stage, given, rows):
    """Changes of features and projection: steps at several epochs."""
    util, names = rates(folder), ("SupConResNet",)
    backbone = features(made.module)
    scope = {"model_dict": {"ours": (lambda: backbone, backbone.feature_dim)}}
    model = common.pieces(folder, "ST/networks/resnet_big.py", *names, **scope).SupConResNet("ours")
    trainer = common.pieces(folder, "ST/train_extractor.py", "train", **util)
    first = projection_of(model.head)
    state = stage.init(root(0), given, None)
    state = state.replace(
        moving={"own": made.weights.params, "head": first},
        still={"own": made.weights.batch_stats, "head": {}},
    )
    opt = asked(0.5, 1e-4, 200, True, True, 0.1)
    rule, criterion = util["set_optimizer"](opt, model), loss_of(folder, 0.1)
    loader = [([common.to_torch(one), common.to_torch(1 - one**2)], label, flag) for _, one, label, flag in rows]
    for epoch in EPOCHS:
        util["adjust_learning_rate"](opt, rule, epoch)
        trainer.train(loader, model, criterion, rule, epoch, opt)
        state = state.replace(step=jnp.int32((epoch - 1) * STEPS))
        for few, *_ in rows:
            pair = iter([lambda image: image, lambda image: 1 - image**2])
            with mock.patch.object(views, "strong", lambda _key, image, *_, pair=pair, **__: next(pair)(image)):
                state, _ = stage.step(root(1), state, given.train.read(few), given)
    after = classifier(made, model.encoder, made.module.linear)
    ours = Weights(state.moving["own"], state.still["own"])
    bodies = [body_of(one) for one in (ours, after, made.weights)]
    change = [jax.tree.map(jnp.subtract, one, first) for one in (state.moving["head"], projection_of(model.head))]
    return moved("features", *bodies) | {"projection": common.relative(*change)}


def head(folder, made, stage, given, rows, warm):
    """The change of the head: steps at two epochs."""
    util = rates(folder)
    trainer = common.pieces(folder, "ST/train_classifier.py", "train", **util)
    model = SimpleNamespace(encoder=features(made.module).eval(), eval=lambda: None)
    linear = copy.deepcopy(made.module.linear)
    first = made.weights.params["linear"]
    state = stage.init(root(0), given, made.weights).replace(moving=first)
    opt = asked(5.0, 0.0, 10, False, warm, 0.2)
    rule = util["set_optimizer"](opt, linear)
    loader = [(common.to_torch(one), label, flag) for _, one, label, flag in rows]
    with mock.patch.object(views, "strong", lambda _key, image, *_, **__: image):
        for epoch in (1, 4):
            util["adjust_learning_rate"](opt, rule, epoch)
            with common.without_cuda():
                trainer.train(loader, model, linear, torch.nn.CrossEntropyLoss(), rule, epoch, opt)
            state = state.replace(step=jnp.int32((epoch - 1) * STEPS))
            for few, *_ in rows:
                state, _ = stage.step(root(1), state, given.train.read(few), given)
    after = {"kernel": jnp.asarray(linear.weight.detach().numpy().T), "bias": jnp.asarray(linear.bias.detach().numpy())}
    return common.relative(*(jax.tree.map(jnp.subtract, one, first) for one in (state.moving, after)))


def compare(folder):
    """Relative differences of what steps of both stages change."""
    image, label = common.batch(ROWS)
    flag = np.arange(ROWS) % 3  # theirs: 0 clean, 1 uncertain, 2 poisoned
    made = common.keen(common.pair("resnet18"), image)
    carry = {"clean": jnp.asarray(flag == 0), "poisoned": jnp.asarray(flag == 2)}
    rows, figures = batches(image, label, flag), {}
    for warm in (False, True):
        spec = lookup(f"{TEXT},warmup={10 * warm}", bdjax.DEFENSES, "defense")
        *_, first, last = bdjax.DEFENSES["d_st"].make(made.net, (32, 32, 3), common.CLASSES, **spec.static)
        given = Given(spec.traced, None, train=common.source(image, label), carry=carry)
        found = head(folder, made, last, given, rows, warm)
        figures[f"head, {'in warm-up' if warm else 'constant rate'}"] = found
    return contrast(folder, made, first, given, rows) | figures


COMPARISON = common.Comparison(
    "SCLBD/Effective_backdoor_defense",
    "63fda0e",
    compare,
    ("Views, rows and their split are given; the drawing of views is not compared.",),
)
