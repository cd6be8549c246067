"""What PyTorch's networks give: writes preact_resnet18.npz and resnet18.npz beside itself.

Made with PyTorch 2.13.0 on a CPU: python -m tests.reference.make [--width 4 --size 16 --count 6 --out DIR]

Each file holds the names and shapes of the state_dict, which `filling.fill` fills; the logits in evaluation and in
training mode, images as they are, without normalisation; and all running statistics after that one training pass.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from bdjax.bench.torch_networks import network
from tests.reference.filling import fill, images


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
    for name in ("preact_resnet18", "resnet18"):
        model = network(name, given.width, 10)
        np.savez_compressed(given.out / f"{name}.npz", **answer(model, given.count, given.size))


if __name__ == "__main__":
    main()
