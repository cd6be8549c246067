"""Narrow and shallow members of the field's deeper networks, for tests."""

import tiny

from bdjax.models.densenet161 import DenseNet
from bdjax.models.parts.network import network as described
from bdjax.models.parts.residual import BasicBlock, Bottleneck, ResNet

WIDTH, SIZE, ROWS, CLASSES = 2, 32, 4, 10

SHORT, STAGES = (2, 1, 1), (1, 1, 1, 1)
"""Layers of the blocks of a shallow densely connected network, and blocks of the stages of a shallow residual one."""


def network(text, size=SIZE, **static):
    known = {"width": WIDTH, "classes": CLASSES, "mean": (0.0,) * 3, "std": (1.0,) * 3}
    if text == "shallow residual":
        return described(ResNet(BasicBlock, STAGES, stem="small", **known), (size, size, 3))
    if text == "shallow bottleneck":
        return described(ResNet(Bottleneck, STAGES, stem="imagenet", **known), (size, size, 3))
    if text == "shallow dense":
        known["growth"] = known.pop("width")
        return described(DenseNet(blocks=SHORT, stem="imagenet", **known), (size, size, 3))
    name, _, rest = text.partition(":")
    more = dict(part.split("=") for part in rest.split(",") if part)
    return tiny.network(name, (size, size, 3), CLASSES, (0.0,) * 3, (1.0,) * 3, **more, **static)
