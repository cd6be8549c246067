# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # What lies between a purified model and the backdoored one
#
# A defense takes a backdoored network and changes its weights until the trigger no longer works. How far did it go, and
# what is on the way back? Every network is a point in the space of its weights, so one can walk from the purified point
# to the backdoored one and measure, at every step, how the network there does on clean and on triggered images.
#
# The study is trained where its folder is missing and loaded where it is there: point `folder` at one of your own that
# was run with the audit `connectivity`. Set `BDJAX_FAST=1` for the size at which the tests run this.

# %%
import os

import numpy as np
from matplotlib.figure import Figure

import bdjax
from bdjax.report.statistics import student

fast = os.environ.get("BDJAX_FAST") == "1"
folder = "runs/mode_connectivity"
tuned = ("ft:epochs=2", "ft:epochs=2,learning_rate=0.1") if fast else ("ft_sam", "exact_purification")
defenses = ("none", *tuned)
study = bdjax.Study(
    dataset="digits",
    model="small_cnn:width=2" if fast else "small_cnn",
    attacks=("badnets",),
    ratios=(0.1,),
    seeds=range(3 if fast else 5),
    defenses=defenses,
    audits=("connectivity:points=3,epochs=1" if fast else "connectivity:points=11",),
    recipe="epochs=1" if fast else "",
    driver="map",
)
results = bdjax.run(study, out=folder).sel(attack="badnets", ratio=0.1)
results[["acc", "asr"]].mean("seed").to_pandas()

# %% [markdown]
# ## Two paths
#
# The straight path mixes the weights of both ends, (1 - t) purified + t backdoored. The bend is a curve whose middle
# point was trained, on clean images alone, so that the whole curve is good at the clean task: it goes around a hill
# where the straight path climbs one. A mixture of weights has no batch statistics of its own, so those are made anew at
# every point from the defender's clean images; without that step, points between two networks that lie far apart look
# broken.
#
# Lines are means over seeds, bands their 95% intervals. The left end is the purified model, the right end the
# backdoored one. `none` is the walk from the backdoored model to itself: its straight path is flat, as it must be.


# %%
def band(axes, values, colour, label):
    """The mean over seeds of values (seed, point) with its interval."""
    place = np.linspace(0, 1, values.shape[1])
    interval = student(100 * np.asarray(values).T)
    axes.fill_between(place, interval.low, interval.high, color=colour, alpha=0.2, linewidth=0)
    axes.plot(place, interval.mean, color=colour, marker="o", markersize=3, label=label)


figure = Figure(figsize=(9, 5.5), layout="constrained")
panels = figure.subplots(2, 2, sharex=True, sharey="row")
for column, path in enumerate(("straight", "bend")):
    for row, name in enumerate(("error", "asr")):
        for defense, colour in zip(defenses, ("#6e7781", "#3d5fa4", "#9f572d"), strict=True):
            band(panels[row, column], results[f"connectivity_{path}_{name}"].sel(defense=defense), colour, defense)
    panels[0, column].set_title({"straight": "straight path", "bend": "trained bend"}[path])
    panels[1, column].set_xlabel("from purified (0) to backdoored (1)")
panels[0, 0].set_ylabel("clean error, %")
panels[1, 0].set(ylabel="attack success, %", ylim=(-4, 104))
panels[1, 0].legend(frameon=False)
figure

# %% [markdown]
# Read the upper row first. A hill in the clean error between the ends, a *barrier*, would mean that the two networks
# solve the task in different ways. Fine-tuning rarely leaves the valley that the victim lies in, so there is none, and
# the lower row can be read as one walk through one valley. There the question is where attack success comes up. If it
# rises at once, the purified model stands at the edge of the backdoor: a few steps of further training can carry it
# back. If it stays low for half the way, more was removed. Numbers say the same: how far apart the two models lie, as a
# share of the length of the backdoored weights; how high the barrier is; and on what share of the path the backdoor is
# on.

# %%
numbers = ["relative_distance", "straight_barrier", "straight_backdoored_share", "bend_backdoored_share"]
table = results[[f"connectivity_{name}" for name in numbers]].mean("seed").to_pandas()
table

# %% [markdown]
# ## A plane through three models
#
# Three points span a plane. Here they are the victim and its two purified versions, of one seed. Every point of the
# plane is a network, scored as the points of the paths were. On the left is the valley of the clean task, on the right
# the ground on which the trigger works. Distances are in weights, the same along both axes.

# %%
plane = bdjax.ANALYSES["plane"].make(folder, "badnets", 0.1, defenses, seeds=(0,), points=3 if fast else 15)
plane = plane.isel(seed=0)
figure = Figure(figsize=(9, 4), layout="constrained")
titles = {"error": "clean error, %", "asr": "attack success, %"}
for panel, (name, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
    drawn = panel.contourf(plane.x, plane.y, 100 * plane[name], levels=20, cmap="viridis")
    figure.colorbar(drawn, ax=panel, label=title, shrink=0.7)
    for defense in defenses:
        x, y = plane.corners.sel(defense=defense).values
        panel.plot(x, y, "o", color="white", markeredgecolor="black")
        panel.annotate(defense.partition(":")[0], (x, y), (4, 5), textcoords="offset points", color="white")
    panel.set_aspect("equal")
figure

# %% [markdown]
# All three models lie on low ground on the left. On the right the border of the backdoor runs between them, and what
# counts is on which side of it, and how far from it, a purified model has come to rest. A low attack success rate says
# only the first.
