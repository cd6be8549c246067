"""Which rows are poisoned first."""

from bdjax.selections.fus import FUS
from bdjax.selections.lps import LPS
from bdjax.selections.random import RANDOM

SELECTIONS = {"random": RANDOM, "fus": FUS, "lps": LPS}
