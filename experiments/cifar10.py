"""CIFAR-10 from class folders with PreActResNet18 of width 16, cut to what two CPU cores do in an hour or so.

    python -m experiments.subset FOLDER CUT --train 1000 --test 200
    python -m experiments.cifar10 CUT runs/cifar10

The second is the same as

    bdjax run --dataset CUT --model preact_resnet18:width=16 --attacks blended --ratios 0 0.1 --seeds 0:3 \
              --defenses none ft:epochs=20 ft_sam:epochs=20 --recipe epochs=8,batch=64,learning_rate=0.1 \
              --driver map --out runs/cifar10

FOLDER holds train/<class>/* and test/<class>/*, all 50,000 + 10,000 images. Cut: a fifth of the images, 8 epochs in
place of 100, 20 of fine-tuning in place of 100, width 16 for 64. Machine, time, figures and n: experiments/README.md.
"""

import sys
from pathlib import Path

import bdjax
from bdjax.cli import status
from bdjax.cli.conduct import conduct


def study(folder: str) -> bdjax.Study:
    """The study on the images in `folder`."""
    return bdjax.Study(
        dataset=folder,
        model="preact_resnet18:width=16",
        attacks=("blended",),
        ratios=(0.0, 0.1),
        seeds=range(3),
        defenses=("none", "ft:epochs=20", "ft_sam:epochs=20"),
        recipe="epochs=8,batch=64,learning_rate=0.1",
        driver="map",
    )


if __name__ == "__main__":
    sys.exit(status(lambda: conduct(study(sys.argv[1]), Path(sys.argv[2]))))
