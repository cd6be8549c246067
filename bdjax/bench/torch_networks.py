"""bdjax's networks in PyTorch, images as they are: what speed and outputs are compared with."""

import torch.nn.functional as F  # noqa: N812
from torch import nn


def conv(inputs, outputs, size, stride):
    """A convolution without bias that keeps the size up to its stride."""
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)


class PreActBlock(nn.Module):
    """Normalisation and ReLU before each convolution."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), conv(inputs, outputs, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(outputs), conv(outputs, outputs, 3, 1)
        changes = stride != 1 or inputs != outputs
        self.shortcut = nn.Sequential(conv(inputs, outputs, 1, stride)) if changes else None

    def forward(self, x):
        """X float (b, channels, height, width)."""
        active = F.relu(self.bn1(x))
        side = x if self.shortcut is None else self.shortcut(active)
        return self.conv2(F.relu(self.bn2(self.conv1(active)))) + side


class BasicBlock(nn.Module):
    """Normalisation and ReLU after each convolution."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, outputs, 3, stride), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = conv(outputs, outputs, 3, 1), nn.BatchNorm2d(outputs)
        changes = stride != 1 or inputs != outputs
        self.shortcut = nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs)) if changes else None

    def forward(self, x):
        """X float (b, channels, height, width)."""
        side = x if self.shortcut is None else self.shortcut(x)
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + side)


class Network(nn.Module):
    """Four stages of two blocks; without final normalisation, as the reference benchmark's are."""

    def __init__(self, block, width, classes, normalized_stem):
        super().__init__()
        self.conv1 = conv(3, width, 3, 1)
        if normalized_stem:
            self.bn1 = nn.BatchNorm2d(width)
        inputs = width
        for stage, stride in enumerate((1, 2, 2, 2)):
            outputs = width * 2**stage
            setattr(
                self, f"layer{stage + 1}", nn.Sequential(block(inputs, outputs, stride), block(outputs, outputs, 1))
            )
            inputs = outputs
        self.linear = nn.Linear(inputs, classes)

    def forward(self, x):
        """X float (b, channels, height, width)."""
        x = self.conv1(x)
        if hasattr(self, "bn1"):
            x = F.relu(self.bn1(x))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
        return self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))


def small_cnn(width: int, classes: int, stem_stride: int = 1) -> nn.Sequential:
    """Three times convolution, normalisation and ReLU, with `width` channels at first, and a linear layer."""
    layers, inputs = [], 3
    for number, stride in enumerate((stem_stride, 2, 2)):
        outputs = width * 2**number
        layers += [conv(inputs, outputs, 3, stride), nn.BatchNorm2d(outputs), nn.ReLU()]
        inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))


def network(name: str, width: int, classes: int) -> Network:
    """`preact_resnet18` or `resnet18` with `width` channels in its first stage."""
    block, normalized_stem = {"preact_resnet18": (PreActBlock, False), "resnet18": (BasicBlock, True)}[name]
    return Network(block, width, classes, normalized_stem)
