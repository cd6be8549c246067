"""A user's own poisoned set as an attack: rows, labels and images as they were given, one ratio, no randomness."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from bdjax.cards import Card
from bdjax.types import CLEAN, POISONED, Array, Attack, Poison

CARD = Card(
    name="set",
    title="A poisoned set given by the user",
    citation="given by the user",
    year=2026,
    version=1,
    kind="fixed images",
    stage="pre-training",
    controls="data",
    changes="the images and labels of the rows that the set names",
)


def poisoned_set(row: np.ndarray, label: np.ndarray, image: np.ndarray, query_image: np.ndarray, goal: np.ndarray):
    """The attack that a poisoned set holds.

    Args:
        row: int32 (m,), the poisoned training rows.
        label: int32 (m,), the labels that the victim sees on them.
        image: uint8 (m, height, width, channels), the poisoned images.
        query_image: uint8 (q, height, width, channels), every test image with the trigger.
        goal: int32 (c,), the label that the attacker wants for each class.
    """

    def prepare(key, net, data, settings) -> dict[str, Array]:
        del key, net, settings
        slot = np.full(data.label.shape, -1, np.int32)
        slot[row] = np.arange(row.size)
        return {"slot": slot, "label": label, "image": image, "query": query_image, "goal": goal}

    def eligible(train_label: Array) -> Array:
        return jnp.zeros(train_label.shape, bool).at[row].set(True)

    def init(key, assets, settings, train_label, priority, count) -> Poison:
        del key, settings, priority
        chosen = (assets["slot"] >= 0) & (count > 0)
        role = jnp.where(chosen, POISONED, CLEAN).astype(jnp.int8)
        return Poison(role, jnp.where(chosen, assets["label"][assets["slot"]], train_label), {})

    wanted = jnp.asarray(goal)
    return Attack(
        init, _stored("image", "slot"), _stored("query"), lambda true: wanted[true], eligible, prepare=prepare
    )


def _stored(images: str, slot: str | None = None) -> Callable:
    def stamp(assets, trigger, image: Array, row: Array) -> Array:
        del trigger
        place = assets[slot][row] if slot else row
        return assets[images][place].astype(image.dtype) / 255

    return stamp
