"""A convolution in several forms, one of which is fast wherever it runs, exact to any order of derivative.

It computes what `lax.conv_general_dilated` computes (Dumoulin, Visin, "A guide to convolution arithmetic for deep
learning", arXiv:1603.07285, 2016, chapters 2 and 4), NHWC images and HWIO kernels, without dilation or groups. The
forms differ in what `vmap` over kernels, which is many models at a time, makes of it:

- `grouped`: XLA's own operation, which becomes a grouped convolution;
- `mapped`, `unrolled`: the models one by one, in a compiled loop or written out;
- `patches`: the places under the kernel gathered beside each other, and one product of matrices a model;
- `suited`: `patches` or `mapped`, whichever a CPU takes less time for (docs/benchmarks).

XLA on a CPU has a fast kernel for convolutions in the form b01f_01io->b01f alone. It rewrites gradients to that form
in the entry computation but not in loop bodies, where they take 40 to 100 times longer; and grouped convolutions take 4
to 5 times longer than the same models one by one. So there `mapped` and `unrolled` state both gradients in that form.

For these two, convolution is one trilinear form T(image, kernel, output) and three functions, each its derivative in
one operand: forward F(image, kernel), image gradient I(output, kernel), kernel gradient W(image, output). The
derivative of each is the two others, so the family is closed under reverse differentiation. There is no forward mode
then, and `jax.shard_map` around it wants check_vma=False.
"""

import contextlib
import functools
import math
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from bdjax.types import Array

FORMS = ("grouped", "mapped", "unrolled", "patches", "suited")
LAYOUT = ("NHWC", "HWIO", "NHWC")

_form: ContextVar[str | None] = ContextVar("form", default=None)


def usual() -> str:
    """The form that is taken where none is asked for: what is fast for one model on this backend."""
    return "suited" if jax.default_backend() == "cpu" else "grouped"


@contextlib.contextmanager
def using(form: str) -> Iterator[None]:
    """Convolutions that are traced inside take this form, one of FORMS."""
    token = _form.set(form)
    try:
        yield
    finally:
        _form.reset(token)


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


def _transposed_image(geometry: Geometry, output: Array, kernel: Array) -> Array:
    """The image gradient as XLA transposes the operation."""
    image = jax.ShapeDtypeStruct((output.shape[0], *geometry.image, kernel.shape[2]), output.dtype)
    return jax.linear_transpose(lambda image: _forward(geometry, image, kernel), image)(output)[0]


def _transposed_kernel(geometry: Geometry, image: Array, output: Array) -> Array:
    """The kernel gradient as XLA transposes the operation."""
    kernel = jax.ShapeDtypeStruct((*geometry.kernel, image.shape[3], output.shape[3]), output.dtype)
    return jax.linear_transpose(lambda kernel: _forward(geometry, image, kernel), kernel)(output)[0]


def _patches(geometry: Geometry, image: Array, kernel: Array) -> Array:
    """One product of matrices: what lies under each element of the kernel, (places, elements), by the kernel."""
    padded = jnp.pad(image, ((0, 0), *geometry.padding, (0, 0)))
    (down, across), (tall, wide) = geometry.stride, geometry.reach

    def under(row: int, column: int) -> Array:
        return padded[:, row : row + tall : down, column : column + wide : across]

    height, width = geometry.kernel
    elements = jnp.concatenate([under(row, column) for row in range(height) for column in range(width)], axis=-1)
    return elements @ kernel.reshape(-1, kernel.shape[-1])


def _batched(function, merges: bool, unrolled: bool):
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

        every = (first if flags[0] else None, second if flags[1] else None)
        if unrolled:
            return jnp.stack([one(jax.tree.map(lambda leaf, k=k: leaf[k], every)) for k in range(size)]), True
        return lax.map(one, every), True

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
def _family(geometry: Geometry, canonical: bool, unrolled: bool):
    """F, I and W of one geometry, each with the two others as its derivative."""

    def batched(function, merges):
        return _batched(functools.partial(function, geometry), merges, unrolled)

    of_image, of_kernel = _transposed_image, _transposed_kernel
    if canonical:
        of_image, of_kernel = _image_gradient, _kernel_gradient

    forward = _differentiable(
        batched(_forward, True),
        lambda image, kernel, output: image_gradient(output, kernel),
        lambda image, kernel, output: kernel_gradient(image, output),
    )
    image_gradient = _differentiable(
        batched(of_image, True),
        lambda output, kernel, image: forward(image, kernel),
        lambda output, kernel, image: kernel_gradient(image, output),
    )
    kernel_gradient = _differentiable(
        batched(of_kernel, False),
        lambda image, output, kernel: image_gradient(output, kernel),
        lambda image, output, kernel: forward(image, kernel),
    )
    return forward, image_gradient, kernel_gradient


def _copies_little(geometry: Geometry, channels: int) -> bool:
    """Whether gathering patches costs less than it saves: where places overlap it copies every value several times."""
    apart = max(geometry.stride) > 1 or geometry.kernel == (1, 1)
    small = math.prod(geometry.image) <= 64 and channels <= 128
    return apart or small or channels <= 4


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
    form = _form.get() or usual()
    if form == "suited":
        form = "patches" if _copies_little(geometry, image.shape[3]) else "mapped"
    if form == "grouped":
        return _forward(geometry, image, kernel)
    if form == "patches":
        return _patches(geometry, image, kernel)
    return _family(geometry, jax.default_backend() == "cpu", form == "unrolled")[0](image, kernel)
