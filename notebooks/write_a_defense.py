# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Write a defense
#
# A defense is a handful of pure functions. This notebook writes one from nothing, *averaged fine-tuning*: fine-tune the
# victim at a constant rate and keep the mean of the weights along the way (an old idea of Polyak's, of which nobody
# claims that it removes backdoors). Then it is compared with plain fine-tuning, seed by seed.
# Set `BDJAX_FAST=1` for the size at which the tests run this.

# %%
import os

import jax
import jax.numpy as jnp

import bdjax
from bdjax import report, train
from bdjax.cards import Card, Method, Setting
from bdjax.types import Trained, Weights

fast = os.environ.get("BDJAX_FAST") == "1"

# %% [markdown]
# ## The functions
#
# A defense is a tuple of stages, and `train.descend` makes a stage of a few pure functions: what moves and what else a
# step leaves to the next, the gradient, the optimizer, and what comes out. There is no object to change, so a hundred
# models can be trained by one compiled program.
#
# `given` holds what the card below asks for and nothing else: a defense cannot peek at the trigger by accident.
# `given.settings` holds the float settings as traced numbers, so sweeping them compiles nothing.


# %%
def make(net, shape, classes, *, epochs, batch):
    """The stages of the defense for this network: here, one."""

    def begin(key, given, weights):
        first = train.start(given, weights)  # what an earlier stage left, else the victim
        return first.params, {"batch_stats": first.batch_stats, "mean": first, "count": jnp.zeros((), jnp.int32)}

    def gradient(key, params, still, rows, given):
        weights = Weights(params, still["batch_stats"])
        slope, batch_stats, info = train.loss_gradient(net, weights, rows.image, rows)
        return slope, still | {"batch_stats": batch_stats}, info

    def average(params, still, rows, given, clock):  # after every step: the running mean of the weights so far
        count, weights = still["count"] + 1, Weights(params, still["batch_stats"])
        mean = jax.tree.map(lambda m, w: m + (w - m) / count, still["mean"], weights)
        return params, still | {"mean": mean, "count": count}

    stage = train.descend(
        lambda given: given.clean,
        epochs=epochs,
        batch=batch,
        begin=begin,
        gradient=gradient,
        rule=train.sgd(momentum=None, decay=None),
        project=average,
        leave=lambda key, state, given: Trained(state.still["mean"]),
    )
    return (stage,)


# %% [markdown]
# ## The card
#
# What a reader must know before comparing the method: where it comes from, what it is given, what can be set.

# %%
bdjax.DEFENSES["averaged_ft"] = Method(
    Card(
        name="averaged_ft",
        title="Averaged fine-tuning",
        citation="this notebook; the averaging: Polyak, Juditsky, Acceleration of Stochastic Approximation by "
        "Averaging, SIAM Journal on Control and Optimization, 1992, doi:10.1137/0330046",
        year=1992,
        version=1,
        kind="fine-tuning",
        stage="post-training",
        needs=("clean", "victim"),
        changes="all weights",
        settings={
            "epochs": Setting(100, "passes over the clean rows", "epochs", low=1),
            "batch": Setting(256, "rows a step", "rows", low=1),
            "learning_rate": Setting(0.05, "constant", low=0.0),
        },
    ),
    make,
)

# %% [markdown]
# ## The comparison
#
# The name is now a defense like any other: settings are part of its text, and everything that the command and the page
# know of a defense they know of this one. Both rates of `averaged_ft` run in the same compiled program.

# %%
epochs = 2 if fast else 100
defenses = ("none", f"ft:epochs={epochs}")
defenses += tuple(f"averaged_ft:epochs={epochs},learning_rate={rate}" for rate in (0.01, 0.1))
results = bdjax.run(
    bdjax.Study(
        model="small_cnn:width=2" if fast else "small_cnn",
        attacks=("badnets",),
        ratios=(0.0, 0.1),
        seeds=range(3),
        defenses=defenses,
        recipe="epochs=1" if fast else "",
        driver="map",
    )
)
print(report.summary(results))

# %% [markdown]
# Is it better than fine-tuning? The difference is taken seed by seed on the same victims: an interval that holds 0 says
# that these seeds cannot tell.

# %%
print(report.differences(results))

# %%
figure = report.ratio_figure(results)
figure
