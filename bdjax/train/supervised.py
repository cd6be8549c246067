"""Training of a classifier by a recipe of the field, the stage that most methods are a variant of."""

from collections.abc import Callable
from functools import partial

import optax

from bdjax.keys import stream
from bdjax.train import optimizers, recipes
from bdjax.train.descend import AugmentFn, BeginFn, Clock, GradientFn, OrderOfFn, ProjectFn, RuleFn, State, descend
from bdjax.train.losses import loss_gradient
from bdjax.types import Array, Batch, FinishFn, Given, Key, Net, PyTree, SourceFn, Stage, Trained, Weights


def _plain(net: Net, weights: Weights, image: Array, batch: Batch, given: Given):
    return loss_gradient(net, weights, image, batch, given.settings.get("smoothing", 0.0))


def supervised(
    net: Net,
    source: SourceFn,
    *,
    epochs: int,
    batch: int,
    schedule: str = "epoch",
    period: int = 0,
    drop_last: bool = False,
    nesterov: bool = False,
    lookahead: int = 0,
    fresh: bool = False,
    augment: bool | AugmentFn = True,
    gradient: Callable = _plain,
    slope: GradientFn | None = None,
    rule: RuleFn | None = None,
    begin: BeginFn | None = None,
    leave: FinishFn | None = None,
    order: OrderOfFn | None = None,
    full: bool = False,
    project: ProjectFn | None = None,
    factors: Callable[[PyTree], PyTree] | None = None,
) -> Stage:
    """Training by SGD with momentum.

    Args:
        net: the network.
        source: given -> the rows.
        epochs, batch, schedule, period, drop_last, nesterov, lookahead: see `recipes.VICTIM`.
        fresh: start from a new initialisation, not from the stage before or the victim.
        gradient: (net, weights, image, batch, given) -> (gradients, batch_stats, info).
        slope: in place of `gradient` where it draws or remembers: see `GradientFn`; `moving` are the parameters,
            `still` has their `batch_stats`.
        rule: as for `descend`; None for SGD by the recipe, which alone reads schedule, period, nesterov and factors.
        begin, leave, order, full, project, augment: as for `descend`; None for weights alone.
        factors: parameters -> per-parameter learning-rate multipliers, 0 for those that stay as they are; None for
            those that `given.settings` ask for.

    Reads learning_rate and, where they are set, momentum, weight_decay, bias_rate, scale_rate and smoothing from
    `given.settings`.
    """

    def plain(_key: Key, params: PyTree, still: PyTree, rows: Batch, given: Given):
        weights = Weights(params, still["batch_stats"])
        gradients, batch_stats, info = gradient(net, weights, rows.image, rows, given)
        return gradients, still | {"batch_stats": batch_stats}, info

    return descend(
        source,
        epochs=epochs,
        batch=batch,
        begin=begin or begin_weights(net, fresh, lookahead),
        gradient=slope or plain,
        rule=rule or recipe(net, schedule, period, nesterov, factors),
        leave=leave or leave_weights,
        order=order,
        full=full,
        drop_last=drop_last,
        project=project if not lookahead else look_ahead(lookahead),
        augment=augment,
    )


def start(given: Given, weights: Weights | None) -> Weights:
    """Where a stage that does not start anew begins: what the stage before it left, else the victim."""
    return given.victim if weights is None else weights


def begin_weights(net: Net, fresh: bool, lookahead: int = 0) -> BeginFn:
    """Parameters to move, `batch_stats` beside them and, under lookahead, the slow weights."""

    def begin(key: Key, given: Given, weights: Weights | None) -> tuple[PyTree, PyTree]:
        first = net.init(stream(key, "init")) if fresh else start(given, weights)
        still = {"batch_stats": first.batch_stats}
        return first.params, still | ({"slow": first} if lookahead else {})

    return begin


def leave_weights(_key: Key, state: State, _given: Given) -> Trained:
    """The weights alone."""
    return Trained(Weights(state.moving, state.still["batch_stats"]))


def recipe(
    net: Net,
    schedule: str = "epoch",
    period: int = 0,
    nesterov: bool = False,
    factors: Callable[[PyTree], PyTree] | None = None,
) -> RuleFn:
    """SGD of a classifier's parameters: see `recipes.RECIPE` and `recipes.VICTIM` for what it reads."""

    def rule(given: Given, clock: Clock) -> optax.GradientTransformation:
        settings = given.settings
        rate = settings["learning_rate"] * recipes.rate(clock.step, clock.steps, clock.epochs, schedule, period)
        momentum, decay = settings.get("momentum", 0.0), settings.get("weight_decay", 0.0)
        asked = factors
        if factors is None and {"bias_rate", "scale_rate"} & set(settings):
            asked = partial(recipes.factors, net, settings=settings)
        return optimizers.sgd(rate, momentum, decay, nesterov, asked)

    return rule


def look_ahead(every: int) -> ProjectFn:
    """Slow weights in `still` that the others return to every so many steps: see `recipes.look_ahead`."""

    def project(params, still, _rows, _given, clock: Clock):
        fast = Weights(params, still["batch_stats"])
        slow, fast = recipes.look_ahead(still["slow"], fast, clock.step + 1, clock.epochs * clock.steps, every)
        return fast.params, still | {"batch_stats": fast.batch_stats, "slow": slow}

    return project
