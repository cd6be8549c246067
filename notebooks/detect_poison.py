# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Which training images are poisoned?
#
# Somebody hands over a training set, and some of its images carry a trigger. The two detectors of this notebook train
# nothing: they ask the model that was trained on the set, and score every image. Here they are over several seeds, the
# images that they suspect most, and what is left of the backdoor once those are dropped. Set `BDJAX_FAST=1` for the
# size at which the tests run this.

# %%
import os
import tempfile

import matplotlib.pyplot as plt
import numpy as np

import bdjax

fast = os.environ.get("BDJAX_FAST") == "1"
detectors = ("scan", "spectral")
folder = tempfile.mkdtemp()
study = bdjax.Study(
    dataset="digits",
    model="small_cnn:width=2" if fast else "small_cnn",
    attacks=("blended",),
    ratios=(0.0, 0.1),
    seeds=range(3),
    detectors=detectors,
    defenses=("none", *detectors),
    recipe="epochs=1" if fast else "",
    keep_scores=True,
    driver="map",
)
results = bdjax.run(study, folder)

# %% [markdown]
# How well a score ranks poisoned images above clean ones, and how many clean images each detector flags on a model that
# was never poisoned. `on` says what was judged: rows of the training set, or queries at test time.

# %%
judged = results[["auroc", "tpr_at_5", "fpr"]].sel(attack="blended").mean("seed")
judged.to_dataframe().dropna(how="all").round(3)

# %% [markdown]
# The scores of one seed. A detector is only as good as the gap between the two.

# %%
scores = bdjax.load_scores(folder)
figure, axes = plt.subplots(1, len(detectors), figsize=(9, 3), layout="constrained")
for axis, detector in zip(axes, detectors, strict=True):
    one = scores["blended", 0.1, 0, detector, "rows"]
    bins = np.linspace(one["score"].min(), one["score"].max(), 40)
    for truth, name in ((0, "clean"), (1, "poisoned")):
        axis.hist(one["score"][one["truth"] == truth], bins, label=name, alpha=0.6)
    axis.set(title=detector, xlabel="score", ylabel="training images", yscale="log")
axes[0].legend()

# %% [markdown]
# The images that the first detector suspects most. A poisoned one is a digit with a faint drawing all over it.

# %%
worst = bdjax.load_suspects(folder)["blended", "scan", "rows"]
figure, axes = plt.subplots(2, 6, figsize=(9, 3.4), layout="constrained")
for axis, image, poisoned, score in zip(axes.flat, *worst, strict=True):
    axis.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=255)
    axis.set_title(f"{score:.2f} {'poisoned' if poisoned else 'clean'}", fontsize=9)
    axis.axis("off")

# %% [markdown]
# The defense of the same name drops what the detector flags and trains a new network on the rest. A detector that
# ranks well is not enough: the few poisoned images below its threshold are often all that a backdoor needs.

# %%
after = results[["acc", "asr"]].sel(attack="blended").mean("seed")
after.to_dataframe()[["acc", "asr"]].round(3)
