"""SCAn as a defense: train, drop the rows that the detector of that name flags, train anew.

Tang, Wang, Tang, Zhang, Demon in the Variant: Statistical Analysis of DNNs for Robust Backdoor Contamination
Detection, USENIX Security 2021, arXiv:1908.00686.
"""

from bdjax.cards import Method
from bdjax.defenses.parts import cleansing
from bdjax.detection import scan

CARD = cleansing.describe(scan.CARD)


def make(net, shape, classes, **static):
    """Removal of flagged rows, then training from a new initialization on the others."""
    return cleansing.cleanse(scan.SCAN, net, shape, classes, static)


SCAN = Method(CARD, make)
