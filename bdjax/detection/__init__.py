"""Detectors: how suspect is an image, among training rows or among queries?"""

from bdjax.detection.abl import ABL
from bdjax.detection.ac import AC
from bdjax.detection.agpd import AGPD
from bdjax.detection.asset import ASSET
from bdjax.detection.bad_expert import BAD_EXPERT
from bdjax.detection.beatrix import BEATRIX
from bdjax.detection.cd import CD
from bdjax.detection.fct import FCT
from bdjax.detection.ibd_psc import IBD_PSC
from bdjax.detection.mspc import MSPC
from bdjax.detection.psbd import PSBD
from bdjax.detection.scale_up import SCALE_UP
from bdjax.detection.scan import SCAN
from bdjax.detection.sentinet import SENTINET
from bdjax.detection.spectral import SPECTRAL
from bdjax.detection.spectre import SPECTRE
from bdjax.detection.strip import STRIP
from bdjax.detection.teco import TECO
from bdjax.detection.ted import TED

DETECTORS = {
    "spectral": SPECTRAL,
    "strip": STRIP,
    "scale_up": SCALE_UP,
    "ibd_psc": IBD_PSC,
    "cd": CD,
    "psbd": PSBD,
    "ac": AC,
    "scan": SCAN,
    "abl": ABL,
    "bad_expert": BAD_EXPERT,
    "ted": TED,
    "beatrix": BEATRIX,
    "teco": TECO,
    "mspc": MSPC,
    "sentinet": SENTINET,
    "asset": ASSET,
    "spectre": SPECTRE,
    "agpd": AGPD,
    "fct": FCT,
}
