"""Image quality: PSNR and SSIM of the package torchmetrics 1.9.0, which the benchmark calls, over the range 1.

Lightning-AI/torchmetrics. The package has to be installed beside PyTorch (`pip install torchmetrics`); the folder given
as reference is not read.
"""

import numpy as np

from bdjax.analysis import quality
from experiments.fidelity import common
from experiments.fidelity.tac import patched

ROWS = 8


def compare(_folder):
    """Relative differences of the figures of pairs of images: under a corner patch and under faint noise."""
    from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure

    image, _ = common.poisoned(ROWS)
    image = image / image.max()
    noise = np.clip(image + 0.05 * np.random.RandomState(3).normal(size=image.shape), 0, 1)
    figures = {}
    for name, changed in (("patch", patched(image)), ("noise", noise)):
        mine = quality.compare(image, changed, "mirrored")
        pairs = [(common.to_torch(changed[k : k + 1]), common.to_torch(image[k : k + 1])) for k in range(ROWS)]
        psnr, ssim = PeakSignalNoiseRatio(data_range=1.0), StructuralSimilarityIndexMeasure(data_range=1.0)
        figures[f"PSNR under {name}"] = common.relative(mine["psnr"], np.array([float(psnr(*pair)) for pair in pairs]))
        figures[f"SSIM under {name}"] = common.relative(mine["ssim"], np.array([float(ssim(*pair)) for pair in pairs]))
    return figures


COMPARISON = common.Comparison(
    "Lightning-AI/torchmetrics",
    "1.9.0",
    compare,
    ("Compared under preset=benchmark. The benchmark takes the range of values from each pair; here it is 1.",),
)
