"""Attacks: every entry's `make(net, shape, classes, **static)` gives an `Attack`."""

from bdjax.attacks.badnets import BADNETS
from bdjax.attacks.blended import BLENDED
from bdjax.attacks.label_consistent import LABEL_CONSISTENT
from bdjax.attacks.low_frequency import LOW_FREQUENCY
from bdjax.attacks.sig import SIG
from bdjax.attacks.wanet import WANET

ATTACKS = {
    "badnets": BADNETS,
    "blended": BLENDED,
    "sig": SIG,
    "low_frequency": LOW_FREQUENCY,
    "wanet": WANET,
    "label_consistent": LABEL_CONSISTENT,
}
