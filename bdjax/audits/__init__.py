"""Audits: questions put to a model, most of them by changing a copy of it."""

from bdjax.audits.ban import BAN
from bdjax.audits.connectivity import CONNECTIVITY
from bdjax.audits.mm_bd import MM_BD
from bdjax.audits.nc import NC
from bdjax.audits.reactivation import REACTIVATION
from bdjax.audits.retuning import RETUNING

AUDITS = {
    "retuning": RETUNING,
    "reactivation": REACTIVATION,
    "connectivity": CONNECTIVITY,
    "nc": NC,
    "mm_bd": MM_BD,
    "ban": BAN,
}
