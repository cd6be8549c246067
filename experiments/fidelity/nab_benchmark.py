"""NAB under preset=benchmark: steps of isolation and of the last training, and labels of nearest centers.

BackdoorBench's `defense/nab.py` at f02e353; its loops run one by one, for the whole stops at its start.
"""

import ast
import copy
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import torch

from bdjax.keys import root
from bdjax.types import Given, Weights
from experiments.fidelity import common
from experiments.fidelity.nab import RATIO, ROWS, Loader, moved, run, stages

PATH, AWAY = "defense/nab.py", 0.05


def nearest(folder, model, image, label, isolated, away):
    """The labels of their loops over centers: sums, means and queries."""
    tree = ast.walk(ast.parse((folder / PATH).read_text()))
    loops = [one for one in tree if isinstance(one, ast.For) and "class_centroids" in ast.unparse(one)]
    loops = [one for one in loops if not any(one in ast.walk(other) and one is not other for other in loops)]
    sums, means, queries = sorted(loops, key=lambda one: one.lineno)
    scope = {
        "torch": torch,
        "args": SimpleNamespace(device="cpu", num_classes=common.CLASSES),
        "self_model": model.eval(),
        "data_loader": [
            (one, target, rows, poisoned, true) for one, target, true, poisoned, rows in Loader(image, label)
        ],
        "class_centroids": [0] * common.CLASSES,
        "class_n_samples": [0] * common.CLASSES,
        "temp_iso": away,
        "x_samples": list(common.to_torch(image)),
        "y_samples": [int(one) for one in label],
        "true_label": [int(one) for one in label],
        "poi_info": [0] * ROWS,
        "pseudo_label": [],
    }
    scope |= dict.fromkeys(("relabel_correct", "relabel_correct_bd", "relabel_correct_clean"), 0)
    scope |= dict.fromkeys(("detect_correct", "total_detect", "total_bd", "total_clean"), 0)
    for one, suspects in ((sums, away), (means, away), (queries, isolated)):
        exec(compile(ast.Module([one], []), PATH, "exec"), scope | {"temp_iso": suspects})
    return scope["pseudo_label"]


def encoder(folder, made):
    """Their encoder on the pair's features, and its projection as our weights."""
    backbone = copy.deepcopy(made.module)
    backbone.linear, backbone.feature_dim = torch.nn.Identity(), made.module.linear.in_features
    model = common.pieces(folder, "utils/defense_utils/dbd/model/model.py", "SelfModel").SelfModel(backbone)
    one, norm, _, two = model.proj_head
    with torch.no_grad():
        for value in (norm.weight, norm.running_var):
            value.uniform_(0.5, 1.5)
    params = {
        "linear1": {"kernel": one.weight.T, "bias": one.bias},
        "linear2": {"kernel": two.weight.T, "bias": two.bias},
        "bn1": {"scale": norm.weight, "bias": norm.bias},
    }
    head = Weights(params, {"bn1": {"mean": norm.running_mean, "var": norm.running_var}})
    return model, jax.tree.map(lambda value: jnp.array(value.detach().numpy()), head)


def compare(folder):
    """Relative differences of what each stage changes, and of what it decides."""
    image, label = common.poisoned(ROWS)
    made, figures = common.pair(), {}
    (first, judge, last), traced = stages(
        f"preset=benchmark,isolation_epochs=3,isolation_period=83,gamma=1,away={AWAY}", made
    )
    given = Given(traced, lambda _, image: image, train=common.source(image, label))
    loader, quiet = Loader(image, label), SimpleNamespace(info=lambda *_: None)
    criterion, lga = torch.nn.CrossEntropyLoss(), common.loop(folder, PATH, "nab", "range(args.epoch_lga)")
    model = copy.deepcopy(made.module).train()
    lga(
        {
            "args": SimpleNamespace(epoch_lga=3, device="cpu", gamma=1.0, lr=0.01),
            "model_ascent": model,
            "optimizer": torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4),
            "data_loader": loader,
            "criterion": criterion,
            "logging": quiet,
            "acc_cnt": 0,
            "all_cnt": 0,
            "loss_log": 0,
        }
    )
    left = run(first, made, given, range(3))
    figures |= moved("isolation", made.net, made.weights, left.weights, model)

    place = np.argsort(np.argsort(left.carry["losses"], stable=True), stable=True)
    isolated, away = (torch.tensor(place < int(share * ROWS)) for share in (RATIO, AWAY))
    model, head = encoder(folder, made)
    pseudo = nearest(folder, model, image, label, isolated, away)
    given = given._replace(carry=left.carry)
    state = judge.init(root(0), given, None)
    moving = {"own": made.weights.params, "head": head.params}
    still = {"own": made.weights.batch_stats, "head": head.batch_stats}
    left = judge.finish(root(0), state.replace(moving=moving, still=still), given)
    figures["labels"] = common.relative(left.carry["label"], np.array(pseudo))
    figures["share of rows that are stamped, ours - theirs"] = float(
        np.abs(np.mean(left.carry["stamped"]) - np.mean(np.array(pseudo) != label))
    )

    model = copy.deepcopy(made.module).train()
    train = common.loop(folder, PATH, "nab", "relabel_data_loader")
    scope = {
        "args": SimpleNamespace(device="cpu"),
        "model": model,
        "outer_opt": torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4),
        "relabel_data_loader": [(one, target, rows) for one, target, _, _, rows in loader],
        "pseudo_label": pseudo,
        "temp_iso": isolated,
        "criterion": criterion,
    }
    train(scope)
    ours = run(last, made, given._replace(carry=left.carry), range(1)).weights
    return figures | moved("last training", made.net, made.weights, ours, model)


COMPARISON = common.Comparison(
    "SCLBD/BackdoorBench",
    "f02e353",
    compare,
    (
        "Images are not augmented and rows come in their order in both; the stamp is 0, as theirs is after "
        "normalization.",
        "Its encoder is in inference mode while centers are made, as ours is; as shipped it is in training mode.",
    ),
)
