"""Which rows are poisoned and what they are labelled: fixed shapes for a traced count, one place for every attack."""

import jax.numpy as jnp

from bdjax.types import CLEAN, COVER, POISONED, Array, Attack, Poison


def all_to_one(target: int):
    """The goal that sends every label to `target`."""
    return lambda label: jnp.full_like(label, target)


def all_to_all(classes: int):
    """The goal that sends every label to the next one."""
    return lambda label: (label + 1) % classes


def rank(priority: Array, eligible: Array) -> Array:
    """The place of every row in the order of poisoning, int32 (n,): eligible rows first, by falling priority."""
    order = jnp.lexsort((-priority, ~eligible))
    return jnp.zeros(order.shape, jnp.int32).at[order].set(jnp.arange(order.size, dtype=jnp.int32))


def roles(priority: Array, eligible: Array, count: Array, cover: Array | int = 0) -> Array:
    """Roles int8 (n,): the first `count` rows in the order of poisoning POISONED, the next `cover` of them COVER.

    Both counts are int32 () and may be traced; they are cut at the number of eligible rows.
    """
    limit = jnp.sum(eligible)
    place = rank(priority, eligible)
    poisoned = place < jnp.minimum(count, limit)
    covered = ~poisoned & (place < jnp.minimum(count + cover, limit))
    return jnp.where(poisoned, POISONED, jnp.where(covered, COVER, CLEAN)).astype(jnp.int8)


def relabel(role: Array, label: Array, goal) -> Array:
    """The labels that the victim sees: the attacker's goal on poisoned rows, the true label on all others."""
    return jnp.where(role == POISONED, goal(label), label)


def counted(label: Array, goal) -> Array:
    """Which images ASR and RA are counted on: those that the attack would have to move."""
    return goal(label) != label


def _untouched(assets, trigger, image, row):
    del assets, trigger, row
    return image


def _nothing(key, assets, settings, label, priority, count) -> Poison:
    del key, assets, settings, priority, count
    return Poison(jnp.zeros(label.shape, jnp.int8), label, {})


NO_ATTACK = Attack(_nothing, _untouched, _untouched, goal=lambda label: label)
"""The attack that poisons nothing and wants nothing: what a clean model is trained under."""
