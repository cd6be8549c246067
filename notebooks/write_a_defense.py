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
from flax import struct

import bdjax
from bdjax import report, train
from bdjax.cards import Card, Method, Setting
from bdjax.types import Procedure, Trained, Weights

fast = os.environ.get("BDJAX_FAST") == "1"

# %% [markdown]
# ## The state
#
# What the method carries from step to step, as a frozen dataclass of arrays. There is no object to change: a step takes
# one state and returns the next, so a hundred models can be trained by one compiled program.

# %%


@struct.dataclass
class State:
    """The weights now, their running mean, and how many steps were taken."""

    weights: Weights
    mean: Weights
    step: jax.Array


# %% [markdown]
# ## The functions
#
# `given` is the one door to data. It holds what the card below asks for and nothing else: a defense cannot peek at the
# trigger by accident. `given.settings` holds the float settings as traced numbers, so sweeping them compiles nothing.


# %%
def make(net, shape, classes, *, epochs, batch):
    """The stages of the defense for this network: here, one."""

    def source(given):
        return given.clean

    def init(key, given, previous):
        weights = train.start(given, previous)  # what an earlier stage left, else the victim
        return State(weights, weights, jnp.zeros((), jnp.int32))

    def order(key, state, epoch, given):
        return train.shuffled(key, source(given).size, batch)  # rows of the source, -1 pads the last batch

    def step(key, state, rows, given):
        image = given.augment(key, rows.image)
        gradient, batch_stats, info = train.loss_gradient(net, state.weights, image, rows)
        rate = given.settings["learning_rate"]
        params = jax.tree.map(lambda w, g: w - rate * g, state.weights.params, gradient)
        weights, count = Weights(params, batch_stats), state.step + 1
        mean = jax.tree.map(lambda m, w: m + (w - m) / count, state.mean, weights)
        return State(weights, mean, count), info

    def finish(key, state, given):
        return Trained(state.mean)

    return (Procedure(source, epochs, init, order, step, finish),)


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
