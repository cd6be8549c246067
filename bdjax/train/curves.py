"""Curves in weight space between two fixed models: the points in between are trained at random places of the curve.

Garipov, Izmailov, Podoprikhin, Vetrov, Wilson, Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs, NeurIPS
2018, arXiv:1802.10026, section 3: every step draws one place t ~ U(0, 1) for its batch, and the bends descend the loss
of the model there, L(phi(t)) + decay / 2 |phi(t)|^2.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from bdjax.keys import stream
from bdjax.metrics import geometry
from bdjax.train.descend import Clock, OrderOfFn, RuleFn, descend
from bdjax.train.losses import accuracy, cross_entropy
from bdjax.types import Array, FinishFn, Given, Net, PyTree, SourceFn, Stage, Weights, real

CurveFn = Callable[[tuple[PyTree, ...], Array | float], PyTree]
"""(points, place) -> the parameters at a place () in [0, 1]; points: of one end, of the bends, of the other end."""

CURVES: dict[str, CurveFn] = {"bezier": geometry.bezier, "chain": geometry.chain}

EndsFn = Callable[[Given], tuple[Weights, Weights]]
"""The models that a curve joins, at place 0 and at place 1."""


def at(curve: CurveFn, ends: tuple[Weights, Weights], bends: tuple[PyTree, ...], place: Array | float) -> Weights:
    """The model at a place of a curve; statistics are interpolated in a line, for bends have none."""
    start, end = ends
    params = curve((start.params, *bends, end.params), place)
    return Weights(params, geometry.straight(start.batch_stats, end.batch_stats, place))


def late(clock: Clock) -> Array:
    """The schedule of those papers: 1 for half of the epochs, then in a line to 0.01 at nine tenths of them."""
    past = (clock.epoch + 1).astype(real()) / clock.epochs
    return jnp.clip(1 - 0.99 * (past - 0.5) / 0.4, 0.01, 1)


def bending(
    net: Net,
    source: SourceFn,
    ends: EndsFn,
    *,
    epochs: int,
    batch: int,
    rule: RuleFn,
    leave: FinishFn,
    bends: int = 1,
    curve: CurveFn = geometry.bezier,
    decay: str | None = None,
    accumulate: bool = False,
    order: OrderOfFn | None = None,
    augment: bool = True,
) -> Stage:
    """A stage that trains the bends of a curve between two models that stay.

    Args:
        net: the network.
        source, epochs, batch, rule, order, augment: see `train.descend`; of `order` no step may be padding alone.
        ends: see `EndsFn`.
        leave: (key, state, given) -> Trained; `state.moving` is the tuple of bends, parameters each, and
            `state.still["batch_stats"]` the moving statistics of all points met.
        bends: points between the ends, at first evenly spaced on the line that joins them.
        curve: what the points make.
        decay: name of the setting that is the L2 penalty on the point of the curve; None for none.
        accumulate: whether gradients at the points of all steps so far are summed up, not those of a step taken alone.
    """

    def begin(_key, given, _weights):
        between = [geometry.straight(*ends(given), number / (bends + 1)) for number in range(1, bends + 1)]
        still = {"batch_stats": geometry.straight(*ends(given), 0.5).batch_stats}
        moving = tuple(point.params for point in between)
        return moving, still | ({"sum": jax.tree.map(jnp.zeros_like, moving[0])} if accumulate else {})

    def gradient(key, moving, still, rows, given):
        start, end = ends(given)
        place = jax.random.uniform(stream(key, "place"), (), real())
        point, pull = jax.vjp(lambda moving: curve((start.params, *moving, end.params), place), moving)

        def loss(point):
            weights = Weights(point, still["batch_stats"])
            logits, batch_stats, _ = net.apply(weights, rows.image, train=True, weight=rows.weight)
            value = cross_entropy(logits, rows.label, rows.weight)
            info = {"loss": value, "accuracy": accuracy(logits, rows.label, rows.weight)}
            if decay is not None:
                value += given.settings[decay] / 2 * geometry.dot(point, point)
            return value, (batch_stats, info)

        slope, (batch_stats, info) = jax.grad(loss, has_aux=True)(point)
        after = {"batch_stats": batch_stats}
        if accumulate:
            slope = after["sum"] = jax.tree.map(jnp.add, still["sum"], slope)
        return pull(slope)[0], after, info

    return descend(
        source,
        epochs=epochs,
        batch=batch,
        begin=begin,
        gradient=gradient,
        rule=rule,
        leave=leave,
        order=order,
        full=order is not None,
        augment=augment,
    )
