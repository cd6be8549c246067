# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # A first study
#
# How much of a backdoor does fine-tuning leave, and how sure can one be of it? Two ratios, several seeds, one compiled
# program for all of them. Set `BDJAX_FAST=1` for the size at which the tests run this.

# %%
import os

import bdjax
from bdjax import report

fast = os.environ.get("BDJAX_FAST") == "1"
study = bdjax.Study(
    dataset="digits",
    model="small_cnn:width=2" if fast else "small_cnn",
    attacks=("badnets",),
    ratios=(0.0, 0.1),
    seeds=range(3),
    defenses=("none", "ft:epochs=2", "ft_sam:epochs=2") if fast else ("none", "ft", "ft_sam"),
    recipe="epochs=1" if fast else "",
    driver="map",
)
results = bdjax.run(study)

# %% [markdown]
# The result is an `xarray.Dataset`; every question is a selection and a reduction.

# %%
results.asr.mean("seed").sel(attack="badnets").to_pandas()

# %% [markdown]
# Seeds differ: the table gives 95% intervals, and defenses are compared seed by seed, which takes the difference
# between victims out of the comparison.

# %%
print(report.summary(results))
print(report.differences(results))

# %%
figure = report.ratio_figure(results)
figure
