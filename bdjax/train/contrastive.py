"""Contrastive learning: a network learns features in which views of one image, or of one class, are alike.

Chen, Kornblith, Norouzi, Hinton, A Simple Framework for Contrastive Learning of Visual Representations, ICML 2020,
arXiv:2002.05709, equation 1; with several rows that are alike: Khosla et al., Supervised Contrastive Learning, NeurIPS
2020, arXiv:2004.11362, equation 2.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from bdjax.data import views
from bdjax.keys import stream
from bdjax.models.auxiliary import projection
from bdjax.models.parts import heads, taps
from bdjax.train.descend import RuleFn, descend
from bdjax.train.losses import mean
from bdjax.types import Array, Batch, Given, Net, SourceFn, Stage, Trained, Weights


def contrast(point: Array, alike: Array, weight: Array, temperature: Array | float) -> Array:
    """The mean over anchors of -log softmax of their similarities, mean over the rows that are like them: float ().

    Args:
        point: float (m, d), of length 1.
        alike: bool (a, m), which rows are like each of the first a, the anchors; itself is not counted.
        weight: float (m,), 0 for padding, which is compared with nothing.
        temperature: what similarities are divided by.
    """
    anchors = len(alike)
    other = (weight > 0) & ~jnp.eye(anchors, len(point), dtype=bool)
    similarity = point[:anchors] @ point.T / temperature
    logs = similarity - jax.nn.logsumexp(similarity, axis=1, keepdims=True, where=other)
    return mean(-jax.vmap(mean)(logs, (alike & other).astype(point.dtype)), weight[:anchors])


def own_view(rows: Batch, _given: Given) -> Array:
    """The first view of every row is an anchor and like the second of the same row: bool (b, 2 b)."""
    return jnp.eye(len(rows.row), 2 * len(rows.row), len(rows.row), dtype=bool)


def learn_views(
    net: Net,
    shape: tuple[int, int, int],
    source: SourceFn,
    method: str,
    *,
    epochs: int,
    batch: int,
    rule: RuleFn,
    temperature: str = "temperature",
    alike: Callable[[Batch, Given], Array] = own_view,
    normalized: bool = True,
    base: str | None = None,
    **view,
) -> Stage:
    """Training of a new network's features on two strong views of every row, side by side in one batch.

    Args:
        net, shape: the network and what it reads, (height, width, channels).
        source, epochs, batch, rule: as for `descend`.
        method: who asks, for an error.
        temperature: the name of the setting.
        alike: (rows, given) -> bool (a, 2 b), see `contrast`; columns are all first views, then all second ones.
        normalized: whether the projection has batch normalization.
        base: the name of a setting; the loss is multiplied by the temperature and divided by it. None: by neither.
        view: of `views.strong`, its keywords.
    """
    tap = heads.reads(net, method)
    features = taps.shapes(net, shape)[tap]

    def begin(key, _given, _weights):
        own = net.init(stream(key, "init"))
        head = projection.init(stream(key, "projection"), math.prod(features), normalized)
        return {"own": own.params, "head": head.params}, {"own": own.batch_stats, "head": head.batch_stats}

    def augment(key, rows, _epoch, given):
        seen = [views.strong(stream(key, name), rows.image, given.augment, **view) for name in ("first", "second")]
        return rows.replace(image=jnp.concatenate(seen))

    def loss(_key, moving, still, rows, given):
        weight = jnp.tile(rows.weight, 2)
        at = {name: Weights(moving[name], still[name]) for name in moving}
        _, own, found = net.apply(at["own"], rows.image, train=True, weight=weight)
        point, head = projection.project(at["head"], found[tap].reshape(len(weight), -1), weight)
        value = contrast(point, alike(rows, given), weight, given.settings[temperature])
        if base is not None:
            value *= given.settings[temperature] / given.settings[base]
        return value, ({"own": own, "head": head}, {"loss": value})

    def leave(_key, state, _given):
        return Trained(Weights(state.moving["own"], state.still["own"]))

    return descend(source, epochs=epochs, batch=batch, begin=begin, loss=loss, rule=rule, leave=leave, augment=augment)
