"""Defenses: training rules that never see the attack."""

from bdjax.defenses.abl import ABL
from bdjax.defenses.exact_purification import EXACT_PURIFICATION
from bdjax.defenses.ft import FT
from bdjax.defenses.ft_sam import FT_SAM
from bdjax.defenses.none import NONE
from bdjax.defenses.npd import NPD
from bdjax.defenses.pdb import PDB

DEFENSES = {
    "none": NONE,
    "ft": FT,
    "ft_sam": FT_SAM,
    "npd": NPD,
    "exact_purification": EXACT_PURIFICATION,
    "pdb": PDB,
    "abl": ABL,
}
