"""SPECTRE as a defense: train, drop the rows that the detector of that name flags, train anew.

Hayase, Kong, Somani, Oh, SPECTRE: Defending Against Backdoor Attacks Using Robust Statistics, ICML 2021,
arXiv:2104.11315.
"""

from bdjax.cards import Method
from bdjax.defenses.parts import cleansing
from bdjax.detection import spectre

CARD = cleansing.describe(spectre.CARD)


def make(net, shape, classes, **static):
    """Removal of flagged rows, then training from a new initialization on the others."""
    return cleansing.cleanse(spectre.SPECTRE, net, shape, classes, static)


SPECTRE = Method(CARD, make)
