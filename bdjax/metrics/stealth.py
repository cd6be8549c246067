"""How visible a trigger is: what changes between an image and the same image with the trigger.

PSNR; SSIM (Wang, Bovik, Sheikh, Simoncelli, IEEE TIP 2004, equation 13, its 11x11 Gaussian window); and as a perceptual
distance that needs no weights 1 - HaarPSI (Reisenhofer, Bosse, Kutyniok, Wiegand, Signal Processing: Image
Communication 2018, equations 10 to 16, its colour version).
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

WINDOW, SIGMA = 11, 1.5
"""Taps and standard deviation of SSIM's window, in pixels."""

SCALES, CONSTANT, STEEPNESS = 3, 30.0, 4.2
"""HaarPSI's scales, its C in squared levels of 255 and its alpha."""

SMALLEST = 2 ** (SCALES + 1)
"""Pixels a side that the coarsest wavelet needs."""

YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])


def stealth(clean: np.ndarray, triggered: np.ndarray) -> dict[str, float]:
    """Means over pairs of images, both uint8 (n, height, width, 1 or 3).

    Returns:
        psnr: in decibels, infinite where an image does not change. ssim: at most 1, which is equality. perceptual:
        distance in [0, 1], 0 is equality. largest: the largest change of a value, in levels of 255. ssim and perceptual
        are NaN for images smaller than `SMALLEST`.
    """
    clean, triggered = np.asarray(clean, float), np.asarray(triggered, float)
    small = min(clean.shape[1:3]) < SMALLEST
    return {
        "psnr": float(psnr(clean, triggered).mean()),
        "ssim": float("nan") if small else float(ssim(clean, triggered).mean()),
        "perceptual": float("nan") if small else float(1 - haarpsi(clean, triggered).mean()),
        "largest": float(np.abs(triggered - clean).max(axis=(1, 2, 3)).mean()),
    }


def psnr(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio in decibels, (n,), of images (n, height, width, channels) in levels of 255."""
    error = ((first - second) ** 2).mean(axis=(1, 2, 3))
    with np.errstate(divide="ignore"):
        return 10 * np.log10(255**2 / error)


def ssim(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Structural similarity, (n,), over the windows that lie in the images; arguments as for `psnr`."""
    offset = np.arange(WINDOW) - WINDOW // 2
    weight = np.exp(-((offset / SIGMA) ** 2) / 2)
    weight = weight / weight.sum()

    def mean(image: np.ndarray) -> np.ndarray:
        return filtered(filtered(image, weight, 1), weight, 2)

    low, high = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    one, two = mean(first), mean(second)
    variance = mean(first**2) - one**2 + mean(second**2) - two**2
    covariance = mean(first * second) - one * two
    index = (2 * one * two + low) * (2 * covariance + high) / ((one**2 + two**2 + low) * (variance + high))
    return index.mean(axis=(1, 2, 3))


def haarpsi(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Haar wavelet-based perceptual similarity in [0, 1], (n,); arguments as for `psnr`."""
    halves = [_halved(image @ YIQ.T if image.shape[-1] == 3 else image) for image in (first, second)]
    luma = [image[..., 0] for image in halves]
    maps, weights = [], []
    for axis in (1, 2):
        details = [np.abs([_haar(image, scale, axis) for image in luma]) for scale in range(1, SCALES + 1)]
        maps.append(np.mean([_similar(*pair) for pair in details[:-1]], axis=0))
        weights.append(np.max(details[-1], axis=0))
    if halves[0].shape[-1] == 3:
        chroma = [np.abs(_box(image[..., 1:])) for image in halves]
        maps.append(_similar(*chroma).mean(axis=-1))
        weights.append(np.mean(weights, axis=0))
    maps, weights = np.array(maps), np.array(weights)
    total = weights.sum(axis=(0, 2, 3))
    # Where neither image has any structure there is nothing to weigh by.
    weights, total = np.where(total[:, None, None] > 0, weights, 1), np.where(total > 0, total, maps[:, 0].size)
    score = (weights / (1 + np.exp(-STEEPNESS * maps))).sum(axis=(0, 2, 3)) / total
    return (np.log(score / (1 - score)) / STEEPNESS) ** 2


def filtered(image: np.ndarray, taps: np.ndarray, axis: int) -> np.ndarray:
    """Sums of `taps` neighbours along an axis, where all of them lie in the image."""
    return sliding_window_view(image, taps.size, axis) @ taps


def _halved(image: np.ndarray) -> np.ndarray:
    """Means of two by two pixels; an odd last row or column is left out."""
    height, width = (side // 2 * 2 for side in image.shape[1:3])
    image = image[:, :height, :width]
    return (image[:, ::2, ::2] + image[:, 1::2, ::2] + image[:, ::2, 1::2] + image[:, 1::2, 1::2]) / 4


def _haar(image: np.ndarray, scale: int, axis: int) -> np.ndarray:
    """Haar details (n, height, width) at a scale along an axis, zeros beyond the edges."""
    taps = 2**scale
    step = np.where(np.arange(taps) < taps // 2, 1.0, -1.0)
    padded = np.pad(image, [(0, 0), *[(taps // 2 - 1, taps // 2)] * 2])
    return filtered(filtered(padded, step, axis), np.ones(taps) / taps, 3 - axis)


def _box(image: np.ndarray) -> np.ndarray:
    """Means of each pixel and the three after it, zeros beyond the edges."""
    padded = np.pad(image, [(0, 0), (0, 1), (0, 1), (0, 0)])
    return filtered(filtered(padded, np.full(2, 0.5), 1), np.full(2, 0.5), 2)


def _similar(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return (2 * first * second + CONSTANT) / (first**2 + second**2 + CONSTANT)
