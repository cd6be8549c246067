"""FUS: one round of the authors' whole search, 70 passes: the model, forgetting events, and those of the rows kept.

Xia et al., IJCAI 2022. Their loop gets our network, our rows in our order (their dataset's first copy carries no
trigger, and their crops and flips are left out) and our pool; everything else in `search.py` is theirs.
"""

import copy
import types
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import torch

import bdjax
from bdjax import train
from bdjax.cards import lookup
from bdjax.data import sources
from bdjax.keys import stream
from bdjax.types import Batch, Given, Source
from experiments.fidelity import common

ROWS, POOL, BATCH, EPOCHS, TARGET = 40, 12, 16, 70, 0


def data():
    """Clean rows, and their copies with a white corner and the target as label."""
    image, label = common.batch(ROWS)
    copies = image.copy()
    copies[:, -3:, -3:] = 1

    def source(image, label):
        image, label = jnp.asarray(image), jnp.asarray(label)
        return Source(ROWS, lambda row: Batch(image[row], label[row], row, (row >= 0).astype(image.dtype)))

    return source(image, label), source(copies, np.full_like(label, TARGET))


def ours(made, whole, stamped):
    """What a round leaves, forgetting events, the first pool and the orders of all passes."""
    spec = lookup(f"fus:rounds=1,batch={BATCH}", bdjax.SELECTIONS, "selection")
    (stage,) = bdjax.SELECTIONS["fus"].make(made.net, (32, 32, 3), common.CLASSES, **spec.static).search(POOL)
    key, priority = jax.random.key(0), jax.random.uniform(jax.random.key(1), (ROWS,))
    carry = {"priority": priority, "count": jnp.int32(POOL), "round": jnp.int32(0)}
    given = Given(spec.traced, lambda key, image: image, whole=whole, stamped=stamped, carry=carry)
    state = stage.init(key, given, None)
    still = state.still | {"batch_stats": made.weights.batch_stats}
    state = state.replace(moving=made.weights.params, still=still)
    orders = [np.asarray(stage.order(stream(key, str(epoch)), state, epoch, given)) for epoch in range(EPOCHS)]
    source = stage.source(given)
    step = jax.jit(lambda state, rows: stage.step(key, state, source.read(rows), given)[0])
    after = state
    for rows in np.concatenate(orders):
        after = step(after, rows)
    left = train.finish(stage, key, after, given)
    return left, np.asarray(after.still["forgotten"]), np.flatnonzero(state.still["pool"]), orders


class Loader:
    """Batches of the next pass, as their loader gives them: images, labels, two flags, numbers of the rows."""

    def __init__(self, source, pool, orders):
        place = {ROWS + row: ROWS + index for index, row in enumerate(pool)}  # they number copies by place in the pool
        self.passes = [
            [
                (
                    common.to_torch(source.read(rows).image),
                    *[torch.tensor(np.asarray(source.read(rows).label)).long()] * 3,
                    torch.tensor([place.get(row, row) for row in rows.tolist()]),
                )
                for rows in (rows[rows >= 0] for rows in order)
            ]
            for order in orders
        ]

    def __iter__(self):
        return iter(self.passes.pop(0))


def theirs(folder, made, source, label, pool, orders):
    """Their model after a round, the forgetting events of the pool, and the rows that they keep."""
    code = common.module(folder, "search.py")
    module, sorted_, saved, loaders = copy.deepcopy(made.module), [], [], [Loader(source, pool, orders), ()]
    candidates = np.flatnonzero(label != TARGET)
    first = np.concatenate([pool, np.setdiff1d(candidates, pool)])
    argsort = np.argsort

    def kept(values, *rest, **more):
        sorted_.append(values)
        return argsort(values, *rest, **more)

    settings = {"cifar10": {"num_classes": common.CLASSES, "img_size": 32, "num_data": ROWS, "crop": 4, "flip": True}}
    options = {"data_name": "cifar10", "data_path": "", "model_name": "", "attack_name": "", "trigger": "0"}
    options |= {"target": TARGET, "ratio": POOL / ROWS, "n_iter": 1, "alpha": 0.5, "device": "cpu", "disable": True}
    patches = {
        "DATASETTINGS": settings,
        "build_transform": lambda *_: None,
        "build_trigger": lambda *_, **__: types.SimpleNamespace(set_mode=lambda mode: None),
        "build_data": lambda *_: types.SimpleNamespace(data=np.zeros((ROWS, 1)), targets=label.tolist()),
        "build_model": lambda *_: module,
        "DataLoader": lambda **_: loaders.pop(0),
        "print": lambda *_: None,
    }
    with (
        mock.patch.multiple(code, create=True, **patches),
        mock.patch.object(np.random, "shuffle", lambda rows: np.copyto(rows, first)),
        mock.patch.object(np, "argsort", kept),
        mock.patch.object(np, "save", lambda path, rows: saved.append(rows)),
    ):
        code.search(types.SimpleNamespace(sample_path="", **options))
    return module, sorted_[-1], saved[0][: POOL // 2]


def compare(folder):
    """Relative differences of what a round changes, of its events and of those of the rows that it keeps."""
    made, (whole, stamped) = common.pair(), data()
    left, found, pool, orders = ours(made, whole, stamped)
    source, label = sources.concatenated(whole, stamped), np.asarray(whole.read(jnp.arange(ROWS)).label)
    module, events, kept = theirs(folder, made, source, label, pool, orders)
    after = common.weights(made.net, module)
    changed = [jax.tree.map(jnp.subtract, one, made.weights) for one in (left.weights, after)]
    first = np.argsort(-np.asarray(left.carry["priority"]))[: POOL // 2]
    print(f"  forgetting events {events.tolist()}")
    return {
        "parameters": common.relative(changed[0].params, changed[1].params),
        "statistics": common.relative(changed[0].batch_stats, changed[1].batch_stats),
        "forgetting events": common.relative(found[pool], events),
        "events of the rows kept": common.relative(np.sort(found[first]), np.sort(found[kept])),
    }


COMPARISON = common.Comparison(
    "xpf/Data-Efficient-Backdoor-Attacks",
    "8169c48",
    compare,
    bdjax.SELECTIONS["fus"].card.departures,
)
