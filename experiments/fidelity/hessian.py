"""Hessian: Lanczos quadrature of the package pyhessian 0.1, which the benchmark calls.

amirgholami/PyHessian. The package has to be installed beside PyTorch (`pip install pyhessian`); the folder given as
reference is not read.
"""

import copy
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax.flatten_util import ravel_pytree

from bdjax.analysis import hessian
from experiments.fidelity import common

ROWS, SIZE, STEPS = 16, 16, 12


def compare(_folder):
    """Relative differences of the quadrature, whose last node is the top eigenvalue, and of the trace."""
    from pyhessian import hessian as theirs

    image, label = common.batch(ROWS, SIZE)
    made = common.keen(common.pair("preact_resnet18", 2, SIZE), image)
    draw, signs = np.random.RandomState(0), []
    for value in made.module.parameters():
        signs.append(torch.tensor(draw.randint(2, size=tuple(value.shape)).astype(float)))
    batch = common.to_torch(image), torch.tensor(label).long()
    other = theirs(copy.deepcopy(made.module), torch.nn.CrossEntropyLoss(), data=batch, cuda=False)

    def drawn(value, **_named):
        return next(left).clone()

    def eig(matrix, eigenvectors):  # which PyTorch has dropped: columns of real and imaginary parts
        values, vectors = torch.linalg.eigh(matrix)
        return torch.stack([values, torch.zeros_like(values)], 1), vectors

    with mock.patch("torch.randint_like", drawn), mock.patch("torch.eig", eig):
        left = iter(signs)
        nodes, weights = other.density(iter=STEPS, n_v=1)
        left = iter(signs)
        trace = other.trace(maxIter=1)[0]

    module = copy.deepcopy(made.module)
    with torch.no_grad():
        for value, sign in zip(module.parameters(), signs, strict=True):
            value.copy_(2 * sign - 1)
    start = ravel_pytree(common.weights(made.net, module).params)[0]
    times = hessian.curvature(made.net, made.weights, common.source(image, label), jnp.ones(ROWS, bool))
    mine = jax.jit(lambda start: hessian.lanczos(times, start, STEPS))(start)
    nodes, weights = np.real(nodes[0]), np.real(weights[0])
    order = np.argsort(nodes)
    return {
        f"{STEPS} nodes": common.relative(mine[0], nodes[order]),
        "their weights": common.relative(mine[1], weights[order]),
        "one probe of the trace": common.relative(start.size * jnp.sum(mine[0] * mine[1]), trace),
    }


COMPARISON = common.Comparison("amirgholami/PyHessian", "0.1", compare)
