"""Defenses: training rules that never see the attack."""

from bdjax.defenses.abl import ABL
from bdjax.defenses.ac import AC
from bdjax.defenses.anp import ANP
from bdjax.defenses.asd import ASD
from bdjax.defenses.awm import AWM
from bdjax.defenses.bnp import BNP
from bdjax.defenses.bti_dbf import BTI_DBF
from bdjax.defenses.cbd import CBD
from bdjax.defenses.clp import CLP
from bdjax.defenses.d3 import D3
from bdjax.defenses.d_br import D_BR
from bdjax.defenses.d_st import D_ST
from bdjax.defenses.dbd import DBD
from bdjax.defenses.ep import EP
from bdjax.defenses.exact_purification import EXACT_PURIFICATION
from bdjax.defenses.fine_pruning import FINE_PRUNING
from bdjax.defenses.fst import FST
from bdjax.defenses.ft import FT
from bdjax.defenses.ft_sam import FT_SAM
from bdjax.defenses.i_bau import I_BAU
from bdjax.defenses.ims import IMS
from bdjax.defenses.mcr import MCR
from bdjax.defenses.mm_bm import MM_BM
from bdjax.defenses.moth import MOTH
from bdjax.defenses.nab import NAB
from bdjax.defenses.nad import NAD
from bdjax.defenses.nc import NC
from bdjax.defenses.nft import NFT
from bdjax.defenses.none import NONE
from bdjax.defenses.npd import NPD
from bdjax.defenses.pam import PAM
from bdjax.defenses.pdb import PDB
from bdjax.defenses.refine import REFINE
from bdjax.defenses.rnp import RNP
from bdjax.defenses.sau import SAU
from bdjax.defenses.scan import SCAN
from bdjax.defenses.spectral import SPECTRAL
from bdjax.defenses.spectre import SPECTRE
from bdjax.defenses.super_ft import SUPER_FT
from bdjax.defenses.tsbd import TSBD
from bdjax.defenses.tsc import TSC
from bdjax.defenses.unit import UNIT

DEFENSES = {
    "none": NONE,
    "ft": FT,
    "ft_sam": FT_SAM,
    "npd": NPD,
    "exact_purification": EXACT_PURIFICATION,
    "pdb": PDB,
    "abl": ABL,
    "sau": SAU,
    "nad": NAD,
    "fst": FST,
    "bti_dbf": BTI_DBF,
    "pam": PAM,
    "anp": ANP,
    "clp": CLP,
    "fine_pruning": FINE_PRUNING,
    "i_bau": I_BAU,
    "tsbd": TSBD,
    "rnp": RNP,
    "nc": NC,
    "spectral": SPECTRAL,
    "ac": AC,
    "scan": SCAN,
    "spectre": SPECTRE,
    "bnp": BNP,
    "ep": EP,
    "d3": D3,
    "super_ft": SUPER_FT,
    "nft": NFT,
    "mcr": MCR,
    "awm": AWM,
    "ims": IMS,
    "moth": MOTH,
    "mm_bm": MM_BM,
    "unit": UNIT,
    "dbd": DBD,
    "asd": ASD,
    "nab": NAB,
    "cbd": CBD,
    "tsc": TSC,
    "d_st": D_ST,
    "d_br": D_BR,
    "refine": REFINE,
}
