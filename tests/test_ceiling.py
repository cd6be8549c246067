"""What a training step asks of a machine, against a network small enough to count by hand."""

import pytest

from bdjax.bench import ceiling
from bdjax.models import MODELS


def test_what_a_step_asks_for():
    """Five images of 4x4x3 through convolutions to 4x4x1, 2x2x2 and 1x1x4, then 4 to 2 classes."""
    net = MODELS["small_cnn"].make((4, 4, 3), 2, (0.5,) * 3, (0.25,) * 3, width=1)
    asked = ceiling.kernels(net, (4, 4, 3), 5)
    products = [(4320, 694), (720, 276), (720, 264), (80, 76)]  # e.g. 2 * 80 * 27; 2 * (240 + 27 + 80)
    norms, update = 2 * 8 * (80 + 40 + 20), 20 * (27 + 18 + 72 + 14 + 10)
    assert asked[:12] == 3 * products
    assert sum(kernel.bytes for kernel in asked[12:]) == norms + update
    assert ceiling.seconds(asked, ceiling.Machine("even", 1.0, 1.0)) == 3 * 5840 + norms + update
    assert ceiling.seconds(asked, ceiling.Machine("slow memory", 1e9, 0.5)) == pytest.approx(2 * 8990)
