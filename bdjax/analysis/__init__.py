"""Analyses: questions put to the stored models of a whole study.

Every entry's `make(folder, attack, ratio, defenses, seeds, **settings)` reads models of the study in that folder and
gives an `xarray.Dataset`.
"""

from bdjax.analysis.plane import PLANE
from bdjax.analysis.transfer import TRANSFER

ANALYSES = {"transfer": TRANSFER, "plane": PLANE}
