"""Audits: questions put to a model, most of them by changing a copy of it."""

from bdjax.audits.retuning import RETUNING

AUDITS = {"retuning": RETUNING}
