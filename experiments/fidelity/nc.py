"""NC: steps of the authors' inversion under their schedule of the cost, and the anomaly index of the same norms.

Wang et al., IEEE S&P 2019; their code is `visualizer.py` and `mad_outlier_detection.py` in bolunwang/backdoor at
e857774, which runs here under the graphs of TensorFlow 2 by `tf_keras`.
"""

import contextlib
import io
import os
import sys
from functools import partial
from types import ModuleType, SimpleNamespace
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax

import bdjax
from bdjax.cards import lookup
from bdjax.keys import root
from bdjax.train import inversion
from bdjax.types import Given, Net, Weights
from experiments.fidelity import common

SIDE, ROWS, BATCH, TARGET, EPSILON = 8, 24, 8, 3, 1e-30
SHAPE = (SIDE, SIDE, 3)
COURSES = {"short": (4, 0.1), "long": (60, 0.3)}
"""Passes and learning rate."""


def network():
    """A network of one hidden layer, and its two matrices."""
    draw = np.random.RandomState(0)
    first, second = 0.3 * draw.normal(size=(SIDE * SIDE * 3, 12)), 2 * draw.normal(size=(12, common.CLASSES))

    def apply(weights, image, train=False, weight=None, edit=None):
        hidden = jnp.tanh((image - 0.5).reshape(len(image), -1) @ weights.params["first"])
        return hidden @ weights.params["second"], weights.batch_stats, {}

    weights = Weights({"first": jnp.asarray(first), "second": jnp.asarray(second)}, {})
    return Net(lambda key: weights, apply, ()), weights, first, second


def keras():
    """The modules that their files import, of `tf_keras`, with the optimizers of graphs and numbers of 64 bits."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf
    import tf_keras
    from tf_keras.src.optimizers import optimizer_v1

    tf.compat.v1.disable_eager_execution()
    tf_keras.backend.set_floatx("float64")
    tf_keras.backend.set_epsilon(EPSILON)
    own = {f"keras.{name}": getattr(tf_keras, name) for name in ("losses", "metrics", "utils", "layers")}
    own["keras"] = ModuleType("keras")
    own["keras"].backend = own["keras.backend"] = tf_keras.backend
    own["keras.optimizers"] = SimpleNamespace(Adam=optimizer_v1.Adam)
    own["keras.preprocessing"] = SimpleNamespace(image=None)
    return tf, own | {"utils_backdoor": ModuleType("utils_backdoor")}


def theirs(code, tf, image, order, first, second, triggers, passes, rate):
    """Mask, pattern and the log of passes of theirs: step, cross-entropy, norm, loss, success, best norm, cost."""

    class Model:
        input_shape, output_shape = (None, *SHAPE), (None, common.CLASSES)

        def __call__(self, raw):
            flat = tf.reshape(raw / 255.0 - 0.5, (-1, SIDE * SIDE * 3))
            return tf.nn.softmax(tf.matmul(tf.tanh(tf.matmul(flat, tf.constant(first))), tf.constant(second)))

    found = code.Visualizer(
        Model(),
        intensity_range="raw",
        regularization="l1",
        input_shape=SHAPE,
        init_cost=1e-3,
        steps=passes,
        mini_batch=ROWS // BATCH,
        lr=rate,
        num_classes=common.CLASSES,
        patience=5,
        cost_multiplier=2,
        batch_size=BATCH,
        verbose=0,
        epsilon=-1e-7,  # they take it away from 2, where ours adds it
        early_stop_threshold=1.0,
        early_stop_patience=25,
    )
    batches = iter(order)
    loader = SimpleNamespace(next=lambda: (255.0 * image[next(batches)], None))
    pattern, mask, _, logs = found.visualize(loader, TARGET, 255.0 * triggers["pattern"], triggers["mask"][..., 0])
    return mask, pattern / 255.0, np.asarray(logs, float)


def swapped(losses):
    """Their cross-entropy with its arguments, which they give in the wrong order, put right."""
    return lambda prediction, truth: losses.categorical_crossentropy(truth, prediction)


def compare(folder):
    """Relative differences of costs, norms and triggers, and of the anomaly index."""
    net, weights, first, second = network()
    image, _ = common.batch(ROWS, SIDE)
    draw, figures = np.random.RandomState(2), {}
    triggers = {"mask": draw.uniform(size=(SIDE, SIDE, 1)), "pattern": draw.uniform(size=SHAPE)}
    tf, modules = keras()
    with mock.patch.dict(sys.modules, modules):
        code = common.module(folder, "visualizer.py")
        rule = common.module(folder, "mad_outlier_detection.py").outlier_detection
    code.categorical_crossentropy = swapped(modules["keras.losses"])

    for name, (passes, rate) in COURSES.items():
        order = [draw.permutation(ROWS).reshape(-1, BATCH) for _ in range(passes)]
        with contextlib.redirect_stdout(io.StringIO()):
            mask, pattern, logs = theirs(
                code, tf, image, [rows for one in order for rows in one], first, second, triggers, passes, rate
            )
        spec = lookup(
            f"nc:inversion_epochs={passes},inversion_batch={BATCH},inversion_rate={rate}", bdjax.DEFENSES, "defense"
        )
        rule_of = mock.patch.object(inversion.optax, "adam", partial(optax.adam, eps=EPSILON))
        stage = bdjax.DEFENSES["nc"].make(net, SHAPE, common.CLASSES, **spec.static)[0]
        given = Given(spec.traced, lambda _, image: image, clean=common.source(image), victim=weights)
        state = stage.init(root(0), given, None)
        free = jax.tree.map(lambda value: np.arctanh((value - 0.5) * (2 + 1e-7)), triggers)
        moving = {key: jnp.stack([jnp.asarray(value)] * common.CLASSES) for key, value in free.items()}
        state, found = state.replace(moving=moving), []

        @jax.jit
        def run(state, rows, stage=stage, given=given):
            for one in rows:
                state = stage.step(root(0), state, given.clean.read(one), given)[0]
            after = stage.renew(root(0), state, {}, jnp.int32(1), given)
            return after, (state.still["norm"], state.still["success"], after.still["control"])

        with rule_of:
            for rows in order[: len(logs)]:
                state, left = run(state, jnp.asarray(rows))
                found.append(left)
        norm, success = (np.asarray([one[part][TARGET] for one in found]) / (ROWS // BATCH) for part in (0, 1))
        cost = np.asarray([0.0, *(one[2].weight[TARGET] for one in found[:-1])])
        last = found[-1][2]
        what = f"{name} course of {len(logs)} passes, {len(set(logs[:, 6]))} costs"
        figures[f"{what}, norm of the mask"] = common.relative(norm, logs[:, 2])
        figures[f"{what}, success"] = common.relative(success, logs[:, 4])
        figures[f"{what}, cost"] = common.relative(cost, logs[:, 6]) if logs[:, 6].any() else float(cost.any())
        figures[f"{what}, mask"] = common.relative(last.mask[TARGET, ..., 0], mask)
        figures[f"{what}, pattern"] = common.relative(last.pattern[TARGET], pattern)
        figures[f"{what}, ended early"] = float(bool(last.done[TARGET]) != (len(logs) < passes))

    for count in (10, 43):
        norms = np.append(draw.uniform(40, 60, size=count - 2), (9.0, 12.0))
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            rule(list(norms), {label: label for label in range(count)})
        said = dict(line.split(": ", 1) for line in out.getvalue().splitlines() if ": " in line)
        index, flagged = inversion.outliers(jnp.asarray(norms), "mean")
        theirs_flagged = {int(part.split(":")[0]) for part in said["flagged label list"].split(", ")}
        figures[f"anomaly index of {count} norms, of which six digits are printed"] = common.relative(
            jnp.round(index[jnp.argmin(norms)], 6), float(said["anomaly index"])
        )
        figures[f"flagged of {count}"] = float(theirs_flagged != set(np.flatnonzero(flagged).tolist()))
    return figures


COMPARISON = common.Comparison(
    "bolunwang/backdoor",
    "e8577747d4670366a02db3818bf60f978d4c6421",
    compare,
    (
        "Their code swaps the arguments of Keras's cross-entropy, so that it descends 16.1 (1 - p) in place of it: "
        "here these are put right, as the paper has it.",
        "Adam's epsilon is next to nothing in both: Keras puts 1e-7 beside a mean of squares that is not corrected, of "
        "gradients that are sums over a batch; ours is 1e-8. Triggers begin alike in both.",
        "The network is one of two matrices, for theirs is a Keras model.",
    ),
)
