"""A generator of perturbations, one for each image: a perceptron with three hidden layers on all pixels at once.

Min, Qin, Zhang, Shen, Cheng, Uncovering, Explaining, and Mitigating the Superficial Safety of Backdoor Defense, NeurIPS
2024, arXiv:2410.09838: the network of the query-based reactivation attack, as in the authors' released code.
"""

import flax.linen as nn
import jax.numpy as jnp

from bdjax.models.parts.layers import Linear, Pass, Relu, normalize
from bdjax.models.parts.network import network
from bdjax.types import Array, Net


class Perturbation(nn.Module):
    """Three hidden layers with rectifiers, then as many values as the image has, between -1 and 1."""

    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @nn.compact
    def __call__(self, image: Array, run: Pass) -> Array:
        """Image float (b, height, width, channels) in [0, 1] -> the same shape in [-1, 1]."""
        x = normalize(image, self.mean, self.std).reshape(len(image), -1)
        for number in range(1, 4):
            x = Relu(name=f"relu{number}")(Linear(self.width, name=f"linear{number}")(x, run), run)
        return jnp.tanh(Linear(image[0].size, name="linear4")(x, run)).reshape(image.shape)


def perturbation(shape: tuple[int, int, int], width: int, mean=(0.5,), std=(0.25,)) -> Net:
    """The generator for images of `shape` (height, width, channels), which it sees less `mean` and by `std`.

    As a `Net` it gives, where a classifier gives logits, a perturbation of the image's shape in [-1, 1].
    """
    return network(Perturbation(width, tuple(mean), tuple(std)), shape)
