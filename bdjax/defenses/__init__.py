"""Defenses: training rules that never see the attack."""

from bdjax.defenses.ft import FT
from bdjax.defenses.ft_sam import FT_SAM
from bdjax.defenses.none import NONE

DEFENSES = {"none": NONE, "ft": FT, "ft_sam": FT_SAM}
