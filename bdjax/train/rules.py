"""Rules for `descend`: how the optimizer of a step is made of a method's settings and of where the step stands."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from bdjax.train import optimizers, recipes
from bdjax.train.descend import Clock
from bdjax.types import Array, Given


def constant(_clock: Clock) -> float:
    """The schedule that leaves the rate as it is."""
    return 1.0


def cosine(period: int = 0) -> Callable[[Clock], Array | float]:
    """The schedule of half a cosine, by epochs: see `recipes.rate`. period: in epochs; 0 for the stage's length."""
    return lambda clock: recipes.rate(clock.step, clock.steps, clock.epochs, "epoch", period)


def falling(*drops: int) -> Callable[[Clock], Array | float]:
    """The schedule that is a tenth from the first of these epochs on, a hundredth from the second one on, and so on."""

    def factor(clock: Clock) -> Array | float:
        value = 10.0 ** -len(drops)
        for count, drop in reversed(list(enumerate(drops))):
            value = jnp.where(clock.epoch < drop, 10.0**-count, value)
        return value

    return factor


def sgd(
    rate: str = "learning_rate",
    *,
    momentum: str | None = "momentum",
    decay: str | None = "weight_decay",
    nesterov: bool = False,
    schedule: Callable[[Clock], Array | float] = constant,
) -> Callable[[Given, Clock], optax.GradientTransformation]:
    """SGD by the names of the settings that it reads.

    Args:
        rate, momentum, decay: names in `given.settings`; None for a momentum or a decay of 0.
        nesterov: use Nesterov momentum.
        schedule: clock -> factor on the rate.
    """

    def rule(given: Given, clock: Clock) -> optax.GradientTransformation:
        settings = given.settings
        heavy, decayed = (0.0 if name is None else settings[name] for name in (momentum, decay))
        return optimizers.sgd(settings[rate] * schedule(clock), heavy, decayed, nesterov)

    return rule


def adam(
    rate: str = "learning_rate", make: Callable = optax.adam
) -> Callable[[Given, Clock], optax.GradientTransformation]:
    """Adam, or what `make` makes of a rate, by the name of the setting that is its constant rate."""
    return lambda given, clock: make(given.settings[rate])


def each(rules: dict[str, optax.GradientTransformation]) -> optax.GradientTransformation:
    """One optimizer for each entry of a dict that is moved."""

    def init(params: dict) -> dict:
        return {name: rule.init(params[name]) for name, rule in rules.items()}

    def update(gradients: dict, state: dict, params: dict):
        pairs = {name: rule.update(gradients[name], state[name], params[name]) for name, rule in rules.items()}
        return {name: pair[0] for name, pair in pairs.items()}, {name: pair[1] for name, pair in pairs.items()}

    return optax.GradientTransformation(init, update)


def idle(rule: optax.GradientTransformation) -> optax.GradientTransformation:
    """The rule, but that a gradient of nothing but zeros leaves its state and the parameters as they are."""

    def update(gradients, state, params=None):
        moves = jnp.any(jnp.stack([jnp.any(leaf != 0) for leaf in jax.tree.leaves(gradients)]))
        updates, after = rule.update(gradients, state, params)
        updates = jax.tree.map(lambda leaf: jnp.where(moves, leaf, 0), updates)
        return updates, jax.tree.map(lambda new, old: jnp.where(moves, new, old), after, state)

    return optax.GradientTransformation(rule.init, update)
