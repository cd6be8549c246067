"""Grad-CAM: the maps of the package grad-cam 1.5.7, which the benchmark calls, at four layers.

jacobgil/pytorch-grad-cam; the benchmark's own script draws its FullGrad. The package has to be installed beside PyTorch
(`pip install grad-cam`); the folder given as reference is not read.
"""

import re
import sys
from unittest import mock

import numpy as np
import torch

from bdjax.detection.parts import gradcam
from experiments.fidelity import common

ROWS = 6


def compare(_folder):
    """Relative differences of the maps of random images; theirs are enlarged in float32."""
    absent = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")
    with mock.patch.dict(sys.modules, {name: mock.MagicMock() for name in absent}):
        from pytorch_grad_cam import GradCAM  # of torchvision it would only use what prepares photographs

    image, _ = common.batch(ROWS)
    figures = {}
    for network in ("preact_resnet18", "resnet18"):
        made = common.keen(common.pair(network, 4), image)
        made.module.eval()
        for layer in ("layer1.1", "layer2.0.conv1", "layer4.0.conv1", "layer4.1"):
            module = made.module.get_submodule(layer)
            with GradCAM(model=made.module, target_layers=[module]) as cam, torch.enable_grad():
                theirs = cam(input_tensor=common.to_torch(image), targets=None)
            tap = re.sub(r"layer(\d)\.(\d)", r"layer\1_\2", layer)
            last = {"preact_resnet18": "add", "resnet18": "relu2"}[network]
            tap = f"{tap}.{last}" if tap.count(".") == 0 else tap
            mine = gradcam.heat(made.net, made.weights, image, tap)
            figures[f"{network}: {layer}"] = common.relative(np.asarray(mine), theirs)
    return figures


COMPARISON = common.Comparison(
    "jacobgil/pytorch-grad-cam",
    "1.5.7",
    compare,
    ("The benchmark's tool draws FullGrad under this name, which is not repeated.",),
)
