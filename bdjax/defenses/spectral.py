"""Spectral signatures as a defense: train, drop the rows that the detector of that name flags, train anew.

Tran, Li, Madry, Spectral Signatures in Backdoor Attacks, NeurIPS 2018, arXiv:1811.00636, algorithm 1.
"""

from bdjax.cards import Method
from bdjax.defenses.parts import cleansing
from bdjax.detection import spectral

CARD = cleansing.describe(spectral.CARD)


def make(net, shape, classes, **static):
    """Removal of flagged rows, then training from a new initialization on the others."""
    return cleansing.cleanse(spectral.SPECTRAL, net, shape, classes, static)


SPECTRAL = Method(CARD, make)
