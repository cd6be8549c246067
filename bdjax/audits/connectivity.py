"""Connectivity: what lies in weight space between a purified model and the backdoored one that it was made of?

Min, Qin, Zhang, Shen, Cheng, Uncovering, Explaining, and Mitigating the Superficial Safety of Backdoor Defense, NeurIPS
2024, arXiv:2410.09838 (backdoor-connected paths): where the backdoor comes back soon and without a barrier on the way,
little was removed. The bend: Zhao, Chen, Das, Ramamurthy, Lin, Bridging Mode Connectivity in Loss Landscapes and
Adversarial Robustness, ICLR 2020, arXiv:2005.00060, equation 1, a quadratic Bezier curve whose middle point is trained
on clean rows at random places. Place 0 is the purified model, place 1 the backdoored one.
"""

import jax
import jax.numpy as jnp
import optax

from bdjax import train
from bdjax.audits.parts.common import original
from bdjax.cards import Card, Method, Setting
from bdjax.data import sources
from bdjax.data.poison import counted
from bdjax.metrics import geometry
from bdjax.models.parts.statistics import reestimated
from bdjax.train import curves
from bdjax.types import Array, Audit, Batch, Given, Net, Stage, Trained, Weights, real

CARD = Card(
    name="connectivity",
    title="Backdoor-connected paths",
    citation="Min, Qin, Zhang, Shen, Cheng, Uncovering, Explaining, and Mitigating the Superficial Safety of Backdoor "
    "Defense, NeurIPS 2024, arXiv:2410.09838; Zhao, Chen, Das, Ramamurthy, Lin, Bridging Mode Connectivity in Loss "
    "Landscapes and Adversarial Robustness, ICLR 2020, arXiv:2005.00060",
    year=2024,
    version=1,
    kind="paths between models",
    stage="post-training",
    needs=("clean", "victim", "backdoored", "queries", "target", "test"),
    changes="nothing; the middle point of the bend is a model of its own",
    settings={
        "points": Setting(21, "of each path, evenly spaced, both ends among them", low=2),
        "statistics": Setting(
            "estimated",
            "of batch normalisation: made anew at every point from the clean rows, or interpolated like weights",
            choices=("estimated", "interpolated"),
        ),
        "epochs": Setting(200, "passes over the clean rows that train the bend", "epochs", low=1),
        "batch": Setting(128, "rows a step, and of the statistics; all rows where there are fewer", "rows", low=1),
        "learning_rate": Setting(0.03, "at the start, cosine advanced each epoch", low=0.0),
        "momentum": Setting(0.9, "of SGD", low=0.0, high=1.0),
        "decay": Setting(3e-4, "L2 on the point of the bend that a step has drawn", low=0.0),
    },
    departures=(
        "The paper on superficial safety shows straight paths and gives no code for them; the bend is another's.",
        "The bend's rate falls along a cosine; its authors keep it for half of the epochs, then lower it in a line.",
    ),
)


def comparable(net: Net, given: Given) -> bool:
    """Whether the defense left the network as it was, so that both models are points of one space."""
    purified, backdoored = (jax.tree.map(jnp.shape, weights) for weights in (given.victim, given.backdoored))
    return original(net) is net and purified == backdoored


def ends(net: Net, given: Given) -> tuple[Weights, Weights]:
    """Both ends of the paths; the purified model twice where the two are not comparable."""
    return given.victim, given.backdoored if comparable(net, given) else given.victim


def scores(net: Net, weights: Weights, given: Given) -> dict[str, Array]:
    """loss (mean cross-entropy) and error on the clean test images, and asr on the triggered ones, each float ()."""

    def seen(rows: Batch) -> dict[str, Array]:
        logits = net.apply(weights, rows.image)[0]
        found = jnp.argmax(net.apply(weights, given.queries.read(rows.row).image)[0], axis=1)
        moved = counted(rows.label, given.target) * rows.weight
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, rows.label)
        return {
            "loss": jnp.sum(losses * rows.weight),
            "error": jnp.sum((jnp.argmax(logits, axis=1) != rows.label) * rows.weight),
            "hit": jnp.sum((found == given.target(rows.label)) * moved),
            "counted": jnp.sum(moved),
        }

    sums = sources.total(given.test, seen)
    size = given.test.size
    return {"loss": sums["loss"] / size, "error": sums["error"] / size, "asr": sums["hit"] / sums["counted"]}


def _stage(net: Net, epochs: int, batch: int) -> Stage:
    """Training of the bend's middle point, at first halfway between the ends."""

    def leave(_key, state, _given):
        (middle,) = state.moving
        return Trained(Weights(middle, state.still["batch_stats"]))

    return curves.bending(
        net,
        lambda given: given.clean,
        lambda given: ends(net, given),
        epochs=epochs,
        batch=batch,
        rule=train.recipe(net),
        leave=leave,
        decay="decay",
    )


def _along(net: Net, middle: Weights, given: Given, points: int, batch: int, statistics: str) -> dict[str, Array]:
    """scores at the points of both paths, each float (2, points): the straight one, then the bend."""
    start, end = ends(net, given)
    halfway = geometry.straight(start.params, end.params, 0.5)

    def seen(at: tuple[Array, Array]) -> dict[str, Array]:
        bent, place = at
        # The straight path is the bend whose middle lies halfway; statistics have no bend.
        middles = jax.tree.map(lambda a, b: jnp.where(bent, a, b), middle.params, halfway)
        params = geometry.bend(start.params, middles, end.params, place)
        point = Weights(params, geometry.straight(start.batch_stats, end.batch_stats, place))
        if statistics == "estimated":
            point = reestimated(net, point, sources.shuffled(given.clean), batch)
        return scores(net, point, given)

    places = jnp.tile(jnp.linspace(0, 1, points, dtype=real()), 2)
    found = jax.lax.map(seen, (jnp.arange(2 * points) >= points, places))
    return jax.tree.map(lambda leaf: leaf.reshape(2, points), found)


def make(net, shape, classes, *, points, statistics, epochs, batch):
    """Training of the bend, then both paths at all their points."""
    del shape, classes

    def figures(net: Net, middle: Weights, given: Given) -> dict[str, Array]:
        start, end = ends(net, given)
        far = geometry.distance(start.params, end.params)
        found = {"distance": far, "relative_distance": far / geometry.norm(end.params)}
        along = _along(net, middle, given, points, batch, statistics)
        for index, path in enumerate(("straight", "bend")):
            values = {name: value[index] for name, value in along.items()}
            values |= {
                "barrier": geometry.barrier(values["error"]),
                "backdoor_barrier": geometry.barrier(1 - values["asr"]),
                "backdoored_share": geometry.share_above(values["asr"]),
            }
            found |= {f"{path}_{name}": value for name, value in values.items()}
        return found

    def measure(key, net, trained, given):
        del key
        if comparable(net, given):
            return {"comparable": jnp.ones(())} | figures(net, trained.weights, given)
        blank = jax.eval_shape(lambda: figures(net, trained.weights, given))
        return {"comparable": jnp.zeros(())} | jax.tree.map(lambda leaf: jnp.full(leaf.shape, jnp.nan), blank)

    return Audit((_stage(net, epochs, batch),), measure)


CONNECTIVITY = Method(CARD, make)
