"""What PyTorch's networks give: writes preact_resnet18.npz and resnet18.npz beside itself.

Made with PyTorch 2.13.0 on a CPU: python tests/reference/torch_networks.py [--width 4 --size 16 --count 6 --out DIR]

Each file holds the names and shapes of the state_dict, which `filling.fill` fills; the logits in evaluation and in
training mode, images as they are, without normalisation; and all running statistics after that one training pass.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from filling import fill, images
from torch import nn


def conv(inputs, outputs, size, stride):
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)


class PreActBlock(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), conv(inputs, outputs, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(outputs), conv(outputs, outputs, 3, 1)
        changes = stride != 1 or inputs != outputs
        self.shortcut = nn.Sequential(conv(inputs, outputs, 1, stride)) if changes else None

    def forward(self, x):
        active = F.relu(self.bn1(x))
        side = x if self.shortcut is None else self.shortcut(active)
        return self.conv2(F.relu(self.bn2(self.conv1(active)))) + side


class BasicBlock(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, outputs, 3, stride), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = conv(outputs, outputs, 3, 1), nn.BatchNorm2d(outputs)
        changes = stride != 1 or inputs != outputs
        self.shortcut = nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs)) if changes else None

    def forward(self, x):
        side = x if self.shortcut is None else self.shortcut(x)
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + side)


class Network(nn.Module):
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
        x = self.conv1(x)
        if hasattr(self, "bn1"):
            x = F.relu(self.bn1(x))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
        return self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))


def answer(model, count, size):
    names = list(model.state_dict())
    shapes = [tuple(value.shape) for value in model.state_dict().values()]
    model.load_state_dict({name: torch.tensor(value) for name, value in fill(names, shapes).items()})
    x = torch.tensor(images(count, size)).permute(0, 3, 1, 2)
    with torch.no_grad():
        evaluated = model.eval()(x).numpy()
        trained = model.train()(x).numpy()
    running = [value.numpy() for name, value in model.state_dict().items() if "running" in name]
    return {
        "names": np.array(names),
        "shapes": np.array([shape + (0,) * (4 - len(shape)) for shape in shapes], np.int16),
        "evaluated": evaluated,
        "trained": trained,
        "running": np.concatenate(running),
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--width", type=int, default=4)
    parser.add_argument("--size", type=int, default=16)
    parser.add_argument("--count", type=int, default=6)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    given = parser.parse_args()
    for name, block, normalized_stem in (("preact_resnet18", PreActBlock, False), ("resnet18", BasicBlock, True)):
        model = Network(block, given.width, 10, normalized_stem)
        np.savez_compressed(given.out / f"{name}.npz", **answer(model, given.count, given.size))


if __name__ == "__main__":
    main()
