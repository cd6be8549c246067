"""ASD: the three splits, the pass of the copy, and semi-supervised steps by the functions of the authors' code.

Gao et al., CVPR 2023; their code is KuofengGao/ASD at 8bcb10b.
"""

import jax
import jax.numpy as jnp
import numpy as np
import torch

import bdjax
from bdjax import train
from bdjax.cards import lookup
from bdjax.defenses.asd import trained_copy
from bdjax.keys import root, stream
from bdjax.types import Given, Weights
from experiments.fidelity import common, dbd

STEPS, BATCH, ROWS, SEEDS = dbd.STEPS, dbd.BATCH, 60, 10
TEXT = f"asd:seeds=1,growth=2,batch={BATCH},steps={STEPS},copy_batch={BATCH}"
SPLITS = "class_aware_loss_guided_split", "class_agnostic_loss_guided_split", "meta_split"


def compare(folder):
    """Which rows keep their labels, and relative differences of what the copy and the model change by."""
    image, label = common.batch(ROWS)
    more, _ = common.batch(SEEDS, seed=2)
    made = common.keen(common.pair("resnet18"), image)
    net = made.net._replace(init=lambda key: made.weights)
    spec = lookup(TEXT, bdjax.DEFENSES, "defense")
    first, second = bdjax.DEFENSES["asd"].make(net, (32, 32, 3), common.CLASSES, **spec.static)
    source, clean = common.source(image, label), common.source(more, np.arange(SEEDS))
    given = Given(spec.traced, dbd.dim, train=source, clean=clean)
    all_images, all_labels = np.concatenate([image, more]), np.concatenate([label, np.arange(SEEDS)])
    code = common.pieces(folder, "ASD.py", *SPLITS, "train_the_virtual_model")
    losses = common.pieces(folder, "model/loss.py", "SCELoss", "RCELoss")
    trainer = common.pieces(folder, "utils/trainer/semi.py", "poison_linear_record", **dbd.meters(len(all_labels)))
    model = common.pieces(folder, "model/model.py", "LinearModel").LinearModel(
        dbd.features(made.module), made.module.linear.in_features, common.CLASSES
    )
    model.linear.load_state_dict(made.module.linear.state_dict())

    def record(key, model):
        loader = dbd.Loader()
        for start in range(0, len(all_labels), BATCH):
            rows = np.minimum(np.arange(start, start + BATCH), len(all_labels) - 1)
            seen = dbd.dim(stream(jax.random.fold_in(key, start), "augment"), all_images[rows])
            label = torch.tensor(all_labels[rows]).long()
            loader.append({"img": common.to_torch(seen), "target": label, "poison": 0 * label, "origin": label})
        with common.without_cuda(), dbd.exactly():
            return trainer.poison_linear_record(model, loader, losses.SCELoss())

    def labeled(stage, epoch, given):
        state = stage.init(root(0), given, made.weights)
        state = state.replace(still=state.still | {"step": jnp.int32(STEPS * epoch)})
        return stage.renew(root(9), state, {}, jnp.int32(0), given).still["labeled"]

    figures, seeds = {}, np.arange(ROWS, ROWS + SEEDS)
    losses_of = record(root(9), model)
    pools = {str(one): np.flatnonzero(label == one).tolist() for one in range(common.CLASSES)}
    for epoch in (0, 7, 12):
        theirs = code.class_aware_loss_guided_split(losses_of, seeds, pools, 2 * (epoch // 5), dbd.QUIET)
        figures[f"labeled rows, epoch {epoch}"] = common.relative(1.0 * labeled(first, epoch, given), theirs)
    theirs = code.class_agnostic_loss_guided_split(losses_of, 0.5, dbd.QUIET)
    figures["labeled rows, epoch 60"] = common.relative(1.0 * labeled(first, 60, given), theirs)

    # The copy.
    key, copy = stream(root(9), "copy"), dbd.copy.deepcopy(model)
    order, loader = train.shuffled(stream(key, "order"), len(all_labels), BATCH), []
    for number, rows in enumerate(np.asarray(order)):
        seen = dbd.dim(stream(jax.random.fold_in(key, number), "augment"), all_images[rows])[: np.sum(rows >= 0)]
        loader.append({"img": common.to_torch(seen), "target": torch.tensor(all_labels[rows[rows >= 0]]).long()})
    moving = [*copy.backbone.layer3.parameters(), *copy.backbone.layer4.parameters(), *copy.linear.parameters()]
    rule = torch.optim.Adam(moving, lr=0.015)
    with common.without_cuda():
        code.train_the_virtual_model(copy, loader, rule, torch.nn.CrossEntropyLoss(), 0)
    rows = common.source(all_images, all_labels)
    options = {"batch": BATCH, "border": "reflected"}
    ours = jax.jit(lambda key: trained_copy(key, net, made.weights, rows, given, **options))(key)
    start, other = (dbd.classifier(made, one.backbone, one.linear) for one in (model, copy))
    figures |= dbd.moved("copy", *((one.params, one.batch_stats) for one in (ours, other, start)))
    given = given._replace(carry={"adam": train.adam()(given, None).init(made.weights.params)})
    parts = record(stream(root(9), "before"), model), record(stream(root(9), "after"), copy)
    theirs = code.meta_split(*parts, 0.5, dbd.QUIET)
    figures["labeled rows, epoch 90"] = common.relative(1.0 * labeled(second, 0, given), theirs)

    state, rule = second.init(root(0), given, made.weights), torch.optim.Adam(model.parameters(), lr=0.002)
    state = dbd.mix(folder, model, rule, second, state, given, image, label, 90, 120)
    other = dbd.classifier(made, model.backbone, model.linear)
    ours = Weights(state.moving, state.still["batch_stats"])
    return figures | dbd.moved("semi-supervised", *((one.params, one.batch_stats) for one in (ours, other, start)))


COMPARISON = common.Comparison(
    "KuofengGao/ASD",
    "8bcb10b",
    compare,
    (
        "Seeds are given, and so are augmentations, orders of rows, shares and orders of a mixture.",
        "Where they ask for single precision theirs computes in double here.",
    ),
)
