"""Query-based reactivation: does a small perturbation of its images wake the backdoor in a purified model?

Min, Qin, Zhang, Shen, Cheng, Uncovering, Explaining, and Mitigating the Superficial Safety of Backdoor Defense, NeurIPS
2024, arXiv:2410.09838 (the Query-based Reactivation Attack). A copy of the purified model is retuned until it knows the
backdoor again. Then a generator of perturbations learns to make the purified model, on perturbed images, answer as the
retuned one answers on the same images as they are, while a clean model must stay right on the perturbed images. That
second demand keeps the perturbation from being adversarial to any model.
"""

import jax
import jax.numpy as jnp

from bdjax import metrics, train
from bdjax.audits import retuning
from bdjax.audits.parts.common import original
from bdjax.cards import Card, Method, Setting
from bdjax.data import sources
from bdjax.data.poison import counted
from bdjax.keys import stream
from bdjax.models.auxiliary.perturbation import perturbation
from bdjax.types import Array, Audit, Batch, Given, Key, Net, Source, Stage, Trained, Weights

CARD = Card(
    name="reactivation",
    title="Query-based Reactivation Attack",
    citation="Min, Qin, Zhang, Shen, Cheng, Uncovering, Explaining, and Mitigating the Superficial Safety of Backdoor "
    "Defense, NeurIPS 2024, arXiv:2410.09838",
    year=2024,
    version=1,
    kind="perturbed queries",
    stage="post-training",
    needs=("clean", "victim", "poisoned", "queries", "target", "test", "clean_model", "triggered"),
    changes="the test images, by at most epsilon a pixel; and all weights of a copy",
    settings=retuning.CARD.settings
    | {
        "clean_rows": Setting(500, "clean rows that the generator learns from, or all", "rows", low=1),
        "triggered_rows": Setting(500, "rows with the trigger that it learns from", "rows", low=1),
        "width": Setting(1024, "of the generator's three hidden layers", "units", low=1),
        "epsilon": Setting(16 / 255, "largest change of a pixel", "pixels in [0, 1]", low=0.0, high=1.0),
        "alpha": Setting(0.2, "weight of copying the retuned model; more of it hits clean models too", low=0.0),
        "generator_epochs": Setting(50, "passes over these rows", "epochs", low=1),
        "generator_batch": Setting(128, "rows a step of the generator", "rows", low=1),
        "generator_rate": Setting(0.1, "constant learning rate of the generator", low=0.0),
        "generator_momentum": Setting(0.9, "of its SGD", low=0.0, high=1.0),
    },
    departures=(
        "Settings without a prefix are those of the retuning audit, whose departures hold here too.",
        "Triggered rows are the defender's rows with the test-time trigger, and are other rows than the clean ones as "
        "far as there are enough: the authors take stored poisoned training images, and for the label-consistent "
        "attack triggered test images. Where rows that the attack would move are too few, some come twice.",
        "False activations are counted on images of other classes than the target; the authors count all, and so "
        "charge a model that is right about the target's own.",
        "The generator sees images less 0.5 and by 0.25; the authors take each dataset's own mean and deviation.",
        "The attack is named for queries, yet its generator follows gradients of the purified model, as the released "
        "code does: an upper bound of what queries alone reach.",
    ),
)


def pool(given: Given) -> Source:
    """The clean rows, then the same rows with the trigger."""
    return sources.concatenated(given.clean, given.triggered)


def drawn(key: Key, moved: Array, clean: int, triggered: int) -> Array:
    """Rows of the pool to learn from, int32 (clean + triggered,).

    Args:
        key: of the draw.
        moved: bool (n,): which of the pool's n clean rows the attack would move.
        clean: of these rows as they are.
        triggered: of these rows with the trigger, moved ones alone: first those that are not among the clean ones.
    """
    order = jax.random.permutation(key, jnp.arange(moved.size, dtype=jnp.int32))
    backwards = order[::-1]
    moving = backwards[jnp.argsort(~moved[backwards], stable=True)]
    turn = jnp.arange(triggered) % jnp.maximum(jnp.sum(moved), 1)
    return jnp.concatenate([order[:clean], moved.size + moving[turn]])


def perturbed(generator: Net, weights: Weights, epsilon: Array, image: Array) -> Array:
    """Images (b, height, width, channels) each changed by its own perturbation, and cut to [0, 1]."""
    return jnp.clip(image + epsilon * generator.apply(weights, image)[0], 0, 1)


def divergence(teacher: Array, logits: Array, weight: Array) -> Array:
    """Mean over rows of KL(teacher || student), both logits (b, classes)."""
    wanted, found = jax.nn.log_softmax(teacher), jax.nn.log_softmax(logits)
    return train.mean(jnp.sum(jnp.exp(wanted) * (wanted - found), axis=1), weight)


def objective(net: Net, generator: Net, weights: Weights, retuned: Weights, batch: Batch, given: Given):
    """What the generator minimises, float (), and its parts: alpha KL(retuned(x) || purified(x')) + CE(clean(x'), y).

    All three models are in evaluation mode; x' are the perturbed images.
    """
    moved = perturbed(generator, weights, given.settings["epsilon"], batch.image)
    teacher = net.apply(retuned, batch.image)[0]
    copied = divergence(teacher, net.apply(given.victim, moved)[0], batch.weight)
    logits = original(net).apply(given.clean_model, moved)[0]
    kept = train.cross_entropy(logits, batch.label, batch.weight)
    info = {"copied": copied, "kept": kept, "accuracy": train.accuracy(logits, batch.label, batch.weight)}
    return given.settings["alpha"] * copied + kept, info


def _stage(net: Net, generator: Net, clean_rows: int, triggered_rows: int, epochs: int, batch: int) -> Stage:
    def begin(key, given, retuned):
        label = given.clean.read(jnp.arange(given.clean.size, dtype=jnp.int32)).label
        clean, triggered = (min(rows, given.clean.size) for rows in (clean_rows, triggered_rows))
        rows = drawn(stream(key, "rows"), counted(label, given.target), clean, triggered)
        return generator.init(stream(key, "generator")).params, {"retuned": retuned, "rows": rows}

    def order(key, _epoch, _given, still):
        place = train.shuffled(key, still["rows"].size, batch)
        return jnp.where(place < 0, -1, still["rows"][place])

    def loss(_key, params, still, rows, given):
        value, info = objective(net, generator, Weights(params, {}), still["retuned"], rows, given)
        return value, (still, info | {"loss": value})

    def leave(_key, state, _given):
        return Trained(state.still["retuned"], {"generator": state.moving})

    rule = train.sgd("generator_rate", momentum="generator_momentum", decay=None)
    parts = {"begin": begin, "order": order, "full": True, "loss": loss, "rule": rule, "leave": leave, "augment": False}
    return train.descend(pool, epochs=epochs, batch=batch, **parts)


def rates(net: Net, weights: Weights, given: Given, change) -> dict[str, Array]:
    """What a model makes of the test images after `change(images) -> images`.

    Returns:
        acc and asr as `metrics.rates`, and activation: the share of images without the trigger, of other classes, that
        are given the attacker's label.
    """
    clean, triggered = (
        sources.mapped(source, lambda batch: batch.replace(image=change(batch.image)))
        for source in (given.test, given.queries)
    )
    after = metrics.rates(metrics.counts(net, weights, clean, triggered, given.target))
    false = metrics.rates(metrics.counts(net, weights, clean, clean, given.target))
    return {"acc": after["acc"], "asr": after["asr"], "activation": false["asr"]}


def make(
    net, shape, classes, *, clean_rows, triggered_rows, width, generator_epochs, generator_batch, **retuning_settings
):
    """Retuning of a copy, training of the generator against three models, then the rates under it."""
    generator = perturbation(shape, width)

    def measure(key, net, trained, given):
        del key
        weights = Weights(trained.carry["generator"], {})

        def change(image: Array) -> Array:
            return perturbed(generator, weights, given.settings["epsilon"], image)

        purified = rates(net, given.victim, given, change)
        control = rates(original(net), given.clean_model, given, change)
        return purified | {f"{name}_clean_model": value for name, value in control.items()}

    retuned = retuning.make(net, shape, classes, **retuning_settings).stages
    stage = _stage(net, generator, clean_rows, triggered_rows, generator_epochs, generator_batch)
    return Audit((*retuned, stage), measure)


REACTIVATION = Method(CARD, make)
