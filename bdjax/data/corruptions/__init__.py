"""The fifteen corruptions of ImageNet-C, at five severities each, on the device.

Hendrycks, Dietterich, Benchmarking Neural Network Robustness to Common Corruptions and Perturbations, ICLR 2019,
arXiv:1903.12261; numbers and sizes as in the package imagecorruptions, which fits them to images of any size.

A corruption is `(key, image, level) -> image`: one image float (height, width, channels) in [0, 1], whose channels are
three or one, and a level int32 () from 0 to 4, which may be traced, so that one program serves all severities.
"""

from bdjax.data.corruptions.blur import defocus_blur, glass_blur, motion_blur, zoom_blur
from bdjax.data.corruptions.digital import brightness, contrast, elastic_transform, jpeg_compression, pixelate
from bdjax.data.corruptions.noise import gaussian_noise, impulse_noise, shot_noise
from bdjax.data.corruptions.weather import fog, frost, snow

CORRUPTIONS = {
    "gaussian_noise": gaussian_noise,
    "shot_noise": shot_noise,
    "impulse_noise": impulse_noise,
    "defocus_blur": defocus_blur,
    "glass_blur": glass_blur,
    "motion_blur": motion_blur,
    "zoom_blur": zoom_blur,
    "snow": snow,
    "frost": frost,
    "fog": fog,
    "brightness": brightness,
    "contrast": contrast,
    "elastic_transform": elastic_transform,
    "pixelate": pixelate,
    "jpeg_compression": jpeg_compression,
}
LEVELS = 5
