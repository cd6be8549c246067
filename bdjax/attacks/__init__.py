"""Attacks: every entry's `make(net, shape, classes, **static)` gives an `Attack`."""

from bdjax.attacks.adaptive_blend import ADAPTIVE_BLEND
from bdjax.attacks.adaptive_patch import ADAPTIVE_PATCH
from bdjax.attacks.badnets import BADNETS
from bdjax.attacks.blended import BLENDED
from bdjax.attacks.blind import BLIND
from bdjax.attacks.bpp import BPP
from bdjax.attacks.ctrl import CTRL
from bdjax.attacks.ftrojan import FTROJAN
from bdjax.attacks.input_aware import INPUT_AWARE
from bdjax.attacks.issba import ISSBA
from bdjax.attacks.label_consistent import LABEL_CONSISTENT
from bdjax.attacks.lira import LIRA
from bdjax.attacks.low_frequency import LOW_FREQUENCY
from bdjax.attacks.poison_ink import POISON_INK
from bdjax.attacks.refool import REFOOL
from bdjax.attacks.sig import SIG
from bdjax.attacks.ssba import SSBA
from bdjax.attacks.tact import TACT
from bdjax.attacks.trojannn import TROJANNN
from bdjax.attacks.tuap import TUAP
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
    "blind": BLIND,
    "refool": REFOOL,
    "trojannn": TROJANNN,
    "lira": LIRA,
    "tuap": TUAP,
    "ssba": SSBA,
    "issba": ISSBA,
    "poison_ink": POISON_INK,
}
