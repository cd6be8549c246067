"""Analyses: questions put to the stored models of a whole study.

Every entry's `make(folder, attack, ratio, defenses, seeds, **settings)` reads models of the study in that folder and
gives an `xarray.Dataset`, which `figure` in the same module draws where there is one.
"""

from bdjax.analysis.actdist import ACTDIST
from bdjax.analysis.cm import CM
from bdjax.analysis.frequency import FREQUENCY
from bdjax.analysis.gradcam import GRADCAM
from bdjax.analysis.hessian import HESSIAN
from bdjax.analysis.landscape import LANDSCAPE
from bdjax.analysis.lips import LIPS
from bdjax.analysis.plane import PLANE
from bdjax.analysis.quality import QUALITY
from bdjax.analysis.tac import TAC
from bdjax.analysis.transfer import TRANSFER

ANALYSES = {
    "transfer": TRANSFER,
    "plane": PLANE,
    "cm": CM,
    "tac": TAC,
    "lips": LIPS,
    "actdist": ACTDIST,
    "gradcam": GRADCAM,
    "quality": QUALITY,
    "hessian": HESSIAN,
    "landscape": LANDSCAPE,
    "frequency": FREQUENCY,
}
