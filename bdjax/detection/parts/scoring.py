"""Scoring: a detector's pass over all that it judges, as a stage that the engine can stop and resume."""

import jax
import jax.numpy as jnp

from bdjax import train
from bdjax.data import sources
from bdjax.keys import stream
from bdjax.types import Array, Detector, Given, Key, Net, PyTree, Source, Stage, Trained, real


def score_all(net: Net, detector: Detector, blind: bool = False) -> Stage:
    """The stage that scores every row of `given.suspects` once, after the detector's own stages.

    It carries `score`, float (n,), larger is more suspect, and, where the detector decides, `flagged`, bool (n,). Its
    weights are those that it found.

    Args:
        net: the network that is asked.
        detector: the detector.
        blind: whether the detector sees nothing of `given.suspects` but the batches: queries come one by one.
    """

    def shown(given: Given) -> Given:
        return given._replace(suspects=None) if blind else given

    def source(given: Given) -> Source:
        if not detector.calibrate:
            return given.suspects
        return sources.concatenated(given.suspects, getattr(given, detector.calibrate))

    def trained(weights, given: Given) -> Trained:
        return Trained(train.start(given, weights), given.carry)

    def init(key: Key, given: Given, weights) -> PyTree:
        found = ()
        if detector.fit is not None:
            found = detector.fit(stream(key, "fit"), net, trained(weights, given), shown(given))
        score = jnp.zeros(source(given).size, real())
        return {"weights": weights, "found": found, "score": score, "key": jax.random.key_data(stream(key, "score"))}

    def order(_key: Key, _state: PyTree, _epoch: Array, given: Given) -> Array:
        return sources.in_turn(source(given).size, detector.batch)

    def step(_key: Key, state: PyTree, rows, given: Given) -> tuple[PyTree, dict[str, Array]]:
        key = jax.random.wrap_key_data(state["key"], impl="threefry2x32")  # one for all steps: see `ScoreFn`
        score = detector.score(key, net, trained(state["weights"], given), state["found"], rows, shown(given))
        score = score.astype(real())
        place = jnp.where(rows.row < 0, state["score"].size, rows.row)
        return state | {"score": state["score"].at[place].set(score, mode="drop")}, {
            "score": train.mean(score, rows.weight)
        }

    def finish(_key: Key, state: PyTree, given: Given) -> Trained:
        score, clean = jnp.split(state["score"], [given.suspects.size])
        carry = {"score": score}
        if detector.threshold is not None:
            carry["flagged"] = detector.threshold(state["found"], score, clean, shown(given))
        return Trained(train.start(given, state["weights"]), carry)

    return Stage(source, 1, init, order, step, finish, sees=("suspects",))
