"""A convolution whose gradients stay fast inside loops and under `vmap` on a CPU, exact to any order.

It computes what `lax.conv_general_dilated` computes (Dumoulin, Visin, "A guide to convolution arithmetic for deep
learning", arXiv:1603.07285, 2016, chapters 2 and 4), NHWC images and HWIO kernels, without dilation or groups.

XLA on a CPU has a fast kernel for convolutions in the form b01f_01io->b01f alone. It rewrites gradients to that form
in the entry computation but not in loop bodies, where they take 40 to 100 times longer; and `vmap` over kernels makes
grouped convolutions, which take 4 to 5 times longer than the same models one by one. Here both gradients are stated
in that form, and models are taken one by one. Elsewhere than on a CPU this is the plain operation.

Convolution is one trilinear form T(image, kernel, output) and three functions, each its derivative in one operand:
forward F(image, kernel), image gradient I(output, kernel), kernel gradient W(image, output). The derivative of each is
the two others, so the family is closed under reverse differentiation. On a CPU there is no forward mode, and
`jax.shard_map` around it wants check_vma=False.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
from jax import lax

from bdjax.types import Array

LAYOUT = ("NHWC", "HWIO", "NHWC")


class Geometry(NamedTuple):
    """The static half of a convolution, in pixels, each a pair for height and width."""

    image: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]

    @property
    def reach(self) -> tuple[int, ...]:
        """The distance from the first to the last place of the kernel, plus one."""
        sides = zip(self.image, self.kernel, self.stride, self.padding, strict=True)
        return tuple((size + sum(pad) - kernel) // stride * stride + 1 for size, kernel, stride, pad in sides)


def _forward(geometry: Geometry, image: Array, kernel: Array) -> Array:
    return lax.conv_general_dilated(image, kernel, geometry.stride, geometry.padding, dimension_numbers=LAYOUT)


def _image_gradient(geometry: Geometry, output: Array, kernel: Array) -> Array:
    """The dilated output convolved with the kernel turned by 180 degrees."""
    sides = zip(geometry.image, geometry.kernel, geometry.reach, geometry.padding, strict=True)
    padding = [(side - 1 - low, size - reach + low) for size, side, reach, (low, _) in sides]
    turned = kernel[::-1, ::-1].swapaxes(2, 3)
    return lax.conv_general_dilated(
        output, turned, (1, 1), padding, lhs_dilation=geometry.stride, dimension_numbers=LAYOUT
    )


def _kernel_gradient(geometry: Geometry, image: Array, output: Array) -> Array:
    """The image convolved with the dilated output, channels as the batch and the batch as the channels.

    The barriers keep XLA from folding the transposes into the convolution, which would undo the form.
    """
    sides = zip(geometry.image, geometry.kernel, geometry.reach, geometry.padding, strict=True)
    padding = [(low, side + reach - 1 - size - low) for size, side, reach, (low, _) in sides]
    operands = lax.optimization_barrier((image.transpose(3, 1, 2, 0), output.transpose(1, 2, 0, 3)))
    result = lax.conv_general_dilated(
        *operands, (1, 1), padding, rhs_dilation=geometry.stride, dimension_numbers=LAYOUT
    )
    return lax.optimization_barrier(result).transpose(1, 2, 0, 3)


def _batched(function, merges: bool):
    """`function` with its own `vmap` rule: `merges` says that the first operand and the result have the images first.

    Where only that operand is batched, its two leading axes become one; otherwise the batch is taken one by one. The
    rule calls the batched function again, so that a `vmap` around this one meets the same rule.
    """
    batched = jax.custom_batching.custom_vmap(function)

    @batched.def_vmap
    def rule(size, flags, first, second):
        if merges and flags == [True, False]:
            result = batched(lax.collapse(first, 0, 2), second)
            return result.reshape(size, -1, *result.shape[1:]), True

        def one(pair):
            return batched(pair[0] if flags[0] else first, pair[1] if flags[1] else second)

        return lax.map(one, (first if flags[0] else None, second if flags[1] else None)), True

    return batched


def _differentiable(function, first_gradient, second_gradient):
    """`function` with its derivatives, each a function of (first operand, second operand, cotangent)."""
    differentiable = jax.custom_vjp(function)
    differentiable.defvjp(
        lambda first, second: (differentiable(first, second), (first, second)),
        lambda saved, cotangent: (first_gradient(*saved, cotangent), second_gradient(*saved, cotangent)),
    )
    return differentiable


@functools.cache
def _family(geometry: Geometry):
    """F, I and W of one geometry, each with the two others as its derivative."""

    def batched(function, merges):
        return _batched(functools.partial(function, geometry), merges)

    forward = _differentiable(
        batched(_forward, True),
        lambda image, kernel, output: image_gradient(output, kernel),
        lambda image, kernel, output: kernel_gradient(image, output),
    )
    image_gradient = _differentiable(
        batched(_image_gradient, True),
        lambda output, kernel, image: forward(image, kernel),
        lambda output, kernel, image: kernel_gradient(image, output),
    )
    kernel_gradient = _differentiable(
        batched(_kernel_gradient, False),
        lambda image, output, kernel: image_gradient(output, kernel),
        lambda image, output, kernel: forward(image, kernel),
    )
    return forward, image_gradient, kernel_gradient


def convolve(
    image: Array, kernel: Array, stride: Sequence[int] = (1, 1), padding: str | Sequence[tuple[int, int]] = "SAME"
) -> Array:
    """The convolution of images (b, height, width, in) with a kernel (height, width, in, out), of one float type.

    Args:
        image: the images.
        kernel: the kernel.
        stride: pixels between two places of the kernel, down and across.
        padding: rows of zeros (above, below) and columns (left, right), or "SAME" or "VALID" as XLA has them: "SAME"
            at stride 2 pads an even image by (0, 1), where PyTorch's padding=1 is ((1, 1), (1, 1)).
    """
    sides = image.shape[1:3], kernel.shape[:2], tuple(stride)
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(*sides, padding)
    geometry = Geometry(*sides, tuple((low, high) for low, high in padding))
    if jax.default_backend() == "cpu":
        return _family(geometry)[0](image, kernel)
    return _forward(geometry, image, kernel)
