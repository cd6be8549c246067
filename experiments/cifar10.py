"""CIFAR-10 from class folders with PreActResNet18 of width 16, cut to what two CPU cores do in an hour or so.

    python -m experiments.cifar10 FOLDER runs/cifar10

is the same as

    bdjax run --dataset FOLDER --model preact_resnet18:width=16 --attacks badnets --ratios 0 0.1 --seeds 0:3 \
              --defenses none ft:epochs=5 ft_sam:epochs=5 --recipe epochs=2,learning_rate=0.1 --driver map \
              --out runs/cifar10

FOLDER holds train/<class>/* and test/<class>/*, all 50,000 + 10,000 images. Cut: 2 epochs in place of 100, 5 of
fine-tuning in place of 100, width 16 in place of 64. Machine, time, figures and n: experiments/README.md.
"""

import sys
from pathlib import Path

import bdjax
from bdjax.cli.conduct import conduct


def study(folder: str) -> bdjax.Study:
    """The study on the images in `folder`."""
    return bdjax.Study(
        dataset=folder,
        model="preact_resnet18:width=16",
        attacks=("badnets",),
        ratios=(0.0, 0.1),
        seeds=range(3),
        defenses=("none", "ft:epochs=5", "ft_sam:epochs=5"),
        recipe="epochs=2,learning_rate=0.1",
        driver="map",
    )


if __name__ == "__main__":
    conduct(study(sys.argv[1]), Path(sys.argv[2]))
