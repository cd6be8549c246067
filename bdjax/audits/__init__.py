"""Audits: questions put to a model, most of them by changing a copy of it."""

from bdjax.audits.connectivity import CONNECTIVITY
from bdjax.audits.reactivation import REACTIVATION
from bdjax.audits.retuning import RETUNING

AUDITS = {"retuning": RETUNING, "reactivation": REACTIVATION, "connectivity": CONNECTIVITY}
