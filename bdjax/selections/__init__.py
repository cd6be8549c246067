"""Which rows are poisoned first."""

from bdjax.selections.random import RANDOM

SELECTIONS = {"random": RANDOM}
