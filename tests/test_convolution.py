"""The convolution against XLA's own, in float64: values, derivatives to third order, every way of batching."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from bdjax.models.parts import convolution as forms
from bdjax.models.parts.convolution import FORMS, convolve

CASES = {
    "padded": ((2, 7, 6, 3), (3, 3, 3, 4), (1, 1), ((1, 1), (1, 1))),
    "strided": ((3, 8, 8, 2), (3, 3, 2, 3), (2, 2), ((1, 1), (1, 1))),
    "same": ((2, 8, 9, 2), (3, 2, 2, 3), (2, 3), "SAME"),
    "valid": ((2, 9, 8, 2), (4, 3, 2, 2), (3, 2), "VALID"),
    "one by one": ((2, 6, 7, 3), (1, 1, 3, 2), (2, 2), ((0, 0), (0, 0))),
    "uneven": ((1, 5, 6, 1), (2, 3, 1, 2), (2, 1), ((3, 0), (0, 2))),
    "whole image": ((2, 4, 4, 2), (4, 4, 2, 3), (1, 1), "VALID"),
}


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def reference(image, kernel, stride, padding):
    return lax.conv_general_dilated(image, kernel, stride, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def operands(case, image_batch=(), kernel_batch=()):
    image, kernel, stride, padding = CASES[case]
    draw = np.random.default_rng(7).standard_normal
    return jnp.asarray(draw((*image_batch, *image))), jnp.asarray(draw((*kernel_batch, *kernel))), (stride, padding)


def energy(convolution, geometry):
    """A scalar that is not linear in either operand, so that all its mixed derivatives are dense."""
    return lambda image, kernel: jnp.sum(jnp.sin(convolution(image, jnp.tanh(kernel), *geometry)))


def close(ours, theirs):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10), ours, theirs)


def derivative(function, wanted):
    """Reverse over reverse along fixed directions; `wanted` is the operand of each derivative in turn."""
    for depth, operand in enumerate(wanted):
        gradient = jax.grad(function, operand)

        def function(image, kernel, gradient=gradient, phase=depth + 1.0):
            value = gradient(image, kernel)
            return jnp.sum(value * jnp.cos(phase * jnp.arange(value.size).reshape(value.shape)))

    return gradient


@pytest.fixture(params=FORMS)
def form(request):
    with forms.using(request.param):
        yield request.param


@pytest.fixture(params=("mapped", "patches"))
def own(request):
    """The forms that are not XLA's own operation; `unrolled` differs from `mapped` in its batches alone."""
    with forms.using(request.param):
        yield request.param


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients(case, own):
    image, kernel, geometry = operands(case)
    close(convolve(image, kernel, *geometry), reference(image, kernel, *geometry))

    def derivatives(convolution):
        scalar = energy(convolution, geometry)
        every = [derivative(scalar, wanted) for wanted in [(0,), (1,), (0, 0), (0, 1), (1, 0), (1, 1)]]
        return jax.jit(lambda image, kernel: [one(image, kernel) for one in every])(image, kernel)

    close(derivatives(convolve), derivatives(reference))


@pytest.mark.parametrize("wanted", list(itertools.product((0, 1), repeat=3)))
def test_third_derivatives(wanted, own):
    image, kernel, geometry = operands("strided")
    ours, theirs = (jax.jit(derivative(energy(f, geometry), wanted)) for f in (convolve, reference))
    close(ours(image, kernel), theirs(image, kernel))


AXES = {"image": (0, None), "kernel": (None, 0), "both": (0, 0)}


@pytest.mark.parametrize("wanted", [(), (0,), (1,), (1, 1)])
@pytest.mark.parametrize("axes", AXES)
def test_batched(wanted, axes, form):
    image_axis, kernel_axis = AXES[axes]
    image, kernel, geometry = operands("uneven", (3,) * (image_axis == 0), (3,) * (kernel_axis == 0))

    def batched(convolution):
        one = derivative(energy(convolution, geometry), wanted) if wanted else lambda x, w: convolution(x, w, *geometry)
        return jax.jit(jax.vmap(one, AXES[axes]))(image, kernel)

    close(batched(convolve), batched(reference))


@pytest.mark.parametrize("inner,outer", list(itertools.product(AXES, AXES)))
def test_nested_batches(inner, outer, own):
    flags = [[axes[operand] == 0 for axes in (AXES[outer], AXES[inner])] for operand in (0, 1)]
    image_batch, kernel_batch = ([size for size, flag in zip((2, 3), flag, strict=True) if flag] for flag in flags)
    image, kernel, geometry = operands("strided", image_batch, kernel_batch)

    def nested(convolution):
        one = derivative(energy(convolution, geometry), (1, 0))
        return jax.jit(jax.vmap(jax.vmap(one, AXES[inner]), AXES[outer]))(image, kernel)

    close(nested(convolve), nested(reference))


def test_gradient_through_a_batch():
    image, kernel, geometry = operands("strided", (3,))

    def total(convolution):
        one = derivative(energy(convolution, geometry), (1,))
        return jax.grad(lambda kernel: jnp.sum(jax.vmap(one, (0, None))(image, kernel) ** 2))(kernel)

    close(jax.jit(lambda: total(convolve))(), jax.jit(lambda: total(reference))())


def test_what_batched_kernels_become():
    """Grouped convolutions, forward and backward, under `grouped` alone."""
    image, kernel, geometry = operands("strided", (2,), (2,))

    def program(convolution):
        gradients = jax.vmap(jax.grad(energy(convolution, geometry), (0, 1)))
        return jax.jit(gradients).lower(image, kernel).as_text()

    assert "feature_group_count = 2" in program(reference)
    for form in FORMS:
        with forms.using(form):
            assert ("group_count = 2" in program(convolve)) == (form == "grouped")
            assert ("stablehlo.convolution" in program(convolve)) == (form not in ("patches", "suited"))


@pytest.mark.parametrize("case, gathered", [("padded", True), ("strided", True), ("one by one", True), ("deep", False)])
def test_suited_gathers_where_that_copies_little(case, gathered):
    image, kernel, stride, padding = CASES.get(case, ((1, 9, 9, 5), (3, 3, 5, 2), (1, 1), "SAME"))
    image, kernel = jnp.zeros(image), jnp.zeros(kernel)
    with forms.using("suited"):
        program = jax.jit(lambda *both: convolve(*both, stride, padding)).lower(image, kernel).as_text()
    assert ("stablehlo.convolution" not in program) == gathered


def test_off_a_cpu_the_models_one_by_one_have_the_gradients_that_xla_makes(monkeypatch):
    image, kernel, geometry = operands("strided", (2,), (2,))
    theirs = jax.vmap(jax.grad(energy(reference, geometry), (0, 1)))(image, kernel)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    for form in ("mapped", "unrolled"):
        with forms.using(form):
            close(jax.jit(jax.vmap(jax.grad(energy(convolve, geometry), (0, 1))))(image, kernel), theirs)
    assert forms.usual() == "grouped"


@given(
    sides=st.tuples(*[st.integers(3, 9)] * 2),
    kernel=st.tuples(*[st.integers(1, 3)] * 2),
    stride=st.tuples(*[st.integers(1, 3)] * 2),
    padding=st.tuples(*[st.tuples(*[st.integers(0, 2)] * 2)] * 2),
    channels=st.tuples(*[st.integers(1, 3)] * 2),
    wanted=st.sampled_from([(0,), (1,)]),
    form=st.sampled_from(FORMS[1:]),
)
@settings(max_examples=30, deadline=None, derandomize=True)
def test_any_shape(sides, kernel, stride, padding, channels, wanted, form):
    draw = np.random.default_rng(1).standard_normal
    image, weights = (jnp.asarray(draw(shape)) for shape in ((2, *sides, channels[0]), (*kernel, *channels)))

    def found(convolution):
        scalar = energy(convolution, (stride, padding))
        return convolution(image, weights, stride, padding), derivative(scalar, wanted)(image, weights)

    with forms.using(form), jax.enable_x64(True):
        close(found(convolve), found(reference))
