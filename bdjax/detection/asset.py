"""ASSET: a detector is trained to have low variance on clean rows and high loss on rows that look unlike them.

Pan, Zeng, Lyu, Lin, Jia, ASSET: Robust Backdoor Data Detection Across a Multiplicity of Deep Learning Paradigms, USENIX
Security 2023, arXiv:2302.11408. In every batch a small network learns to tell its rows from clean ones by the victim's
features (the inner loop, algorithm 2); those that it finds outlying are what the outer loop maximizes the loss of.
"""

import jax
import jax.numpy as jnp
import optax

from bdjax import train
from bdjax.cards import Card, Method, Setting
from bdjax.detection.parts.outlyingness import outlyingness
from bdjax.keys import stream
from bdjax.models.parts import heads
from bdjax.types import Array, Detector, Key, PyTree, Trained, Weights

CARD = Card(
    name="asset",
    title="ASSET",
    citation="Pan, Zeng, Lyu, Lin, Jia, ASSET: Robust Backdoor Data Detection Across a Multiplicity of Deep Learning "
    "Paradigms, USENIX Security 2023, arXiv:2302.11408",
    year=2023,
    version=1,
    kind="loss of a network trained to offset clean rows",
    stage="pre-training",
    needs=("train", "victim", "clean"),
    settings={
        "epochs": Setting(1, "passes over the training rows", "epochs", low=1),
        "batch": Setting(256, "training rows a step, and clean rows; all where there are fewer", "rows", low=2),
        "rate": Setting(1e-4, "learning rate of both of the detector's Adam optimizers", low=0.0),
        "filter_steps": Setting(100, "steps of the small network for each batch", "steps", low=1),
        "filter_width": Setting(128, "units in each of its two hidden layers", low=1),
        "filter_rate": Setting(1e-4, "learning rate of both of its Adam optimizers", low=0.0),
        "outlying": Setting(2.0, "adjusted outlyingness above which a row is suspected", low=0.0),
        "density": Setting(
            1e-6, "density of the lower half's normal distribution that sets the threshold", low=0.0, high=1.0
        ),
    },
    presets={"paper": {}},
    departures=(
        "Features are what the last linear layer reads; the authors' demonstration has the map before pooling.",
        "The victim's features of a batch are made once: in training mode they are the same in every inner step.",
        "Batches with fewer than two suspects are passed over, as in the benchmark; the demonstration goes on.",
        "Every step draws clean rows anew from the defender's 5%; the benchmark has 2%.",
    ),
)


def start_filter(key: Key, inputs: int, width: int) -> PyTree:
    """Three layers as PyTorch initializes them: kernels (inputs, outputs) and biases, uniform within 1/sqrt(inputs)."""

    def layer(number: int, inputs: int, outputs: int) -> dict[str, Array]:
        zeros = {"kernel": jnp.zeros((inputs, outputs)), "bias": jnp.zeros(outputs)}
        return heads.drawn(jax.random.fold_in(key, number), zeros)

    return [layer(0, inputs, width), layer(1, width, width), layer(2, width, 1)]


def judge(layers: PyTree, feature: Array) -> Array:
    """How much features (b, d) look like training rows, not clean ones, float (b,) in (0, 1)."""
    for layer in layers[:-1]:
        feature = jax.nn.relu(feature @ layer["kernel"] + layer["bias"])
    return jax.nn.sigmoid(feature @ layers[-1]["kernel"] + layers[-1]["bias"])[:, 0]


def tell_apart(layers: PyTree, mixed: Array, clean: Array, weight: tuple[Array, Array], rate: Array, steps: int):
    """The filter after `steps` pairs of steps of Adam, towards 1 on mixed rows and towards 0 on clean ones."""
    rule = optax.adam(rate)

    def towards(layers: PyTree, opt_state: PyTree, feature: Array, goal: float, weight: Array):
        slope = jax.grad(lambda layers: train.mean((judge(layers, feature) - goal) ** 2, weight))(layers)
        updates, opt_state = rule.update(slope, opt_state)
        return optax.apply_updates(layers, updates), opt_state

    def step(_index, state):
        layers, first, second = state
        layers, first = towards(layers, first, mixed, 1.0, weight[0])
        layers, second = towards(layers, second, clean, 0.0, weight[1])
        return layers, first, second

    return jax.lax.fori_loop(0, steps, step, (layers, rule.init(layers), rule.init(layers)))[0]


def make_gradient(net, tap: str, width: int, steps: int):
    """The gradient of the second of a step's two moves; the first one is made here and left in `still` as `moved`."""

    def gradient(key, params, still, rows, given):
        mixed, clean, settings = rows["train"], rows["clean"], given.settings

        def variance(params):
            logits, stats, _ = net.apply(Weights(params, still["batch_stats"]), clean.image, True, clean.weight)
            return train.mean(jnp.var(logits, axis=1, ddof=1), clean.weight), stats

        slope, stats = jax.grad(variance, has_aux=True)(params)
        moved, minimizer = optax.adam(settings["rate"]).update(slope, still["minimizer"])
        params = optax.apply_updates(params, moved)

        seen = [net.apply(given.victim, each.image, True, each.weight)[2][tap] for each in (mixed, clean)]
        seen = [each.reshape(len(each), -1) for each in seen]
        layers = start_filter(stream(key, "filter"), seen[0].shape[1], width)
        layers = tell_apart(layers, *seen, (mixed.weight, clean.weight), settings["filter_rate"], steps)
        suspect = mixed.weight > 0
        suspect &= outlyingness(judge(layers, seen[0]), suspect) > settings["outlying"]
        suspect = (suspect & (jnp.sum(suspect) > 1)).astype(mixed.weight.dtype)

        def kept(params):
            logits, last, _ = net.apply(Weights(params, stats), mixed.image, True, suspect)
            return -train.cross_entropy(logits, mixed.label, suspect), last

        slope, stats = jax.grad(kept, has_aux=True)(params)
        slope = jax.tree.map(lambda leaf: jnp.where(jnp.any(suspect > 0), leaf, 0), slope)
        return slope, {"batch_stats": stats, "minimizer": minimizer, "moved": moved}, {"suspects": jnp.sum(suspect)}

    return gradient


def find_bound(score: Array, density: Array) -> Array:
    """Where the normal distribution of the scores' lower half has become as thin as `density`, float ()."""
    half = score <= jnp.sort(score)[(score.size - 1) // 2]
    mean = train.mean(score, half)
    deviation = jnp.sqrt(train.mean((score - mean) ** 2, half) + 1e-6)  # as scikit-learn regularizes it
    return mean + deviation * jnp.sqrt(-2 * jnp.log(density) * deviation * jnp.sqrt(2 * jnp.pi))


def make(net, shape, classes, *, epochs, batch, filter_steps, filter_width):
    """The loss under a network of its own."""
    del shape, classes

    def begin(key, given, _weights):
        first = net.init(stream(key, "init"))
        still = {"batch_stats": first.batch_stats, "moved": jax.tree.map(jnp.zeros_like, first.params)}
        return first.params, still | {"minimizer": optax.adam(given.settings["rate"]).init(first.params)}

    def order(key, _epoch, given, _still):
        mixed = train.shuffled(stream(key, "train"), given.train.size, batch)
        keys = jax.random.split(stream(key, "clean"), len(mixed))
        rows = jnp.arange(given.clean.size, dtype=jnp.int32)
        return {"train": mixed, "clean": jax.vmap(lambda key: jax.random.permutation(key, rows)[:batch])(keys)}

    stage = train.descend(
        lambda given: {"train": given.train, "clean": given.clean},
        epochs=epochs,
        batch=batch,
        begin=begin,
        gradient=make_gradient(net, heads.reads(net, "asset"), filter_width, filter_steps),
        rule=lambda given, _clock: train.idle(optax.adam(given.settings["rate"])),
        project=lambda params, still, *_rest: (optax.apply_updates(params, still["moved"]), still),
        order=order,
        full=True,
        augment=False,
        leave=lambda _key, state, _given: Trained(Weights(state.moving, state.still["batch_stats"])),
    )

    def score(_key, _net, trained, _found, rows, _given):
        logits = net.apply(trained.weights, rows.image)[0]
        return optax.softmax_cross_entropy_with_integer_labels(logits, rows.label)

    def threshold(_found, score, _clean, given):
        return score >= find_bound(score, given.settings["density"])

    return Detector(("rows",), score, None, threshold, (stage,))


ASSET = Method(CARD, make)
