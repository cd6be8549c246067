"""Activation Clustering as a defense: train, drop the rows that the detector of that name flags, train anew.

Chen, Carvalho, Baracaldo, Ludwig, Edwards, Lee, Molloy, Srivastava, Detecting Backdoor Attacks on Deep Neural Networks
by Activation Clustering, SafeAI 2019, arXiv:1811.03728.
"""

from bdjax.cards import Method
from bdjax.defenses.parts import cleansing
from bdjax.detection import ac

CARD = cleansing.describe(ac.CARD)


def make(net, shape, classes, **static):
    """Removal of flagged rows, then training from a new initialization on the others."""
    return cleansing.cleanse(ac.AC, net, shape, classes, static)


AC = Method(CARD, make)
