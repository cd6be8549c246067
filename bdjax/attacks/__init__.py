"""Attacks: every entry's `make(net, shape, classes, **static)` gives an `Attack`."""

from bdjax.attacks.adaptive_blend import ADAPTIVE_BLEND
from bdjax.attacks.adaptive_patch import ADAPTIVE_PATCH
from bdjax.attacks.badnets import BADNETS
from bdjax.attacks.blended import BLENDED
from bdjax.attacks.bpp import BPP
from bdjax.attacks.ctrl import CTRL
from bdjax.attacks.ftrojan import FTROJAN
from bdjax.attacks.input_aware import INPUT_AWARE
from bdjax.attacks.label_consistent import LABEL_CONSISTENT
from bdjax.attacks.low_frequency import LOW_FREQUENCY
from bdjax.attacks.sig import SIG
from bdjax.attacks.tact import TACT
from bdjax.attacks.wanet import WANET

ATTACKS = {
    "badnets": BADNETS,
    "blended": BLENDED,
    "sig": SIG,
    "low_frequency": LOW_FREQUENCY,
    "wanet": WANET,
    "label_consistent": LABEL_CONSISTENT,
    "ftrojan": FTROJAN,
    "ctrl": CTRL,
    "tact": TACT,
    "adaptive_blend": ADAPTIVE_BLEND,
    "adaptive_patch": ADAPTIVE_PATCH,
    "bpp": BPP,
    "input_aware": INPUT_AWARE,
}
