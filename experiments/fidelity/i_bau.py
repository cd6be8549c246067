"""I-BAU: the implicit half of the hypergradient, and whole rounds of the authors' script on two batches.

Zeng et al., ICLR 2022; their code is `defense.py` and `hypergrad.py`. The script's loss functions and its loop over
rounds are run as they are, on our rows in our order, with our draw of the rows that are perturbed.
"""

import ast
import contextlib
import copy
import io
from types import SimpleNamespace
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

import bdjax
from bdjax.cards import lookup
from bdjax.defenses.i_bau import marked, unlearning_gradient
from bdjax.keys import stream
from bdjax.types import Batch, Given, Source
from experiments.fidelity import common

ROWS, SIZE, ROUNDS = 12, 16, 2
SETTINGS = "batch=8,radius=0"  # the script leaves the radius out


class Run:
    """Our rounds, kept so that theirs can take the same rows: `weights` after each, `orders` and `marks` in turn.

    The first of the orders is that of unlearning in all rounds, then comes one of each round's perturbation.
    """

    def __init__(self, made, text, image, label):
        spec = lookup(text, bdjax.DEFENSES, "defense")
        (stage,) = bdjax.DEFENSES["i_bau"].make(made.net, image.shape[1:], common.CLASSES, **spec.static)

        def read(row):
            kept = (row >= 0).astype(image.dtype)
            return Batch(jnp.asarray(image)[row], jnp.asarray(label)[row], row, kept)

        self.given = Given(spec.traced, lambda key, image: image, clean=Source(ROWS, read), victim=made.weights)
        self.read, self.terms = read, spec.static["terms"]
        state = stage.init(jax.random.key(0), self.given, None)
        self.orders, self.marks, self.weights, self.lengths = [state.rows], [], [], []
        step = jax.jit(lambda key, state, rows: stage.step(key, state, rows, self.given))
        for number in range(ROUNDS):
            key = jax.random.key(number)
            row = stage.order(key, state, number, self.given)[0]
            self.orders.append(row.reshape(state.rows.shape))
            for index, rows in enumerate(state.rows):
                draw = jax.random.fold_in(stream(key, "mark"), index)
                self.marks.append(int(jnp.argmax(marked(draw, read(rows).weight, spec.static["one_in"], 1))))
            state, info = step(key, state, read(row))
            self.weights.append(state.weights)
            self.lengths.append(float(info["length"]))

    def loader(self, image, label, *rest):
        """The batches of each order in turn, one order a pass, as PyTorch wants them; then `rest` for each batch."""
        orders, image, label = iter(self.orders), common.to_torch(image), torch.tensor(label).long()

        class Loader:
            def __iter__(self):
                for rows in np.asarray(next(orders)):
                    rows = torch.tensor(rows[rows >= 0]).long()
                    yield image[rows], label[rows], *rest

        return Loader()


@contextlib.contextmanager
def quietly():
    """Without what the code prints, and with arrays where the network is, although it asks for a GPU."""
    zeros = torch.zeros_like

    def anywhere(like, device=None, **rest):
        return zeros(like, **rest)

    with mock.patch.object(torch, "zeros_like", anywhere), contextlib.redirect_stdout(io.StringIO()):
        yield


def script(folder, made, run, image, label):
    """The names that the authors' script holds after its rounds; its network is `model`."""
    code = ast.parse((folder / "defense.py").read_text())
    (main,) = (node for node in code.body if isinstance(node, ast.If))
    (first,) = (i for i, node in enumerate(main.body) if getattr(node, "name", "") == "loss_inner")
    kept = [node for node in main.body[first:] if "load_state_dict" not in ast.unparse(node)]
    model, marks, settings = copy.deepcopy(made.module), iter(run.marks), run.given.settings
    names = {
        "torch": torch,
        "nn": torch.nn,
        "np": np,
        "F": F,
        "hg": common.module(folder, "hypergrad.py"),
        "random": SimpleNamespace(sample=lambda rows, count: [next(marks)]),
        "model": model,
        "outer_opt": torch.optim.Adam(model.parameters(), lr=float(settings["learning_rate"])),
        "criterion": torch.nn.CrossEntropyLoss(),
        "unlloader": run.loader(image, label),
        "test_set": SimpleNamespace(tensors=[common.to_torch(image)]),
        "poiloader": None,
        "clnloader": None,
        "get_results": lambda *arguments: model.eval() and 0.0,
        "device": "cpu",
        "args": SimpleNamespace(n_rounds=ROUNDS, K=run.terms),
        "logger": SimpleNamespace(info=lambda text: None),
    }
    with quietly():
        exec(compile(ast.Module(kept, []), "defense.py", "exec"), names)
    return names


def halves(made, run, names):
    """The implicit half of the hypergradient at the perturbation of the script's last round, ours and theirs."""
    delta, last = names["pert"].detach(), len(run.orders[0]) - 1
    direct = names["hg"].get_outer_gradients
    model, mark = names["model"], 1
    model.load_state_dict(made.module.state_dict())
    names |= {"batchnum": last, "random": SimpleNamespace(sample=lambda rows, count: [mark])}
    with quietly():
        params = list(model.parameters())
        total = names["hg"].fixed_point(
            delta, params, run.terms, names["inner_opt"], names["loss_outer"], set_grad=False
        )
        at = [delta[0].requires_grad_(True)]
        plain = direct(names["loss_outer"](at, params), at, params)[1]
    with torch.no_grad():
        for parameter, one, two in zip(params, total, plain, strict=True):
            parameter.copy_(one - two)
    theirs = common.weights(made.net, model).params

    def ours(terms):
        first, second = (run.read(run.orders[0][index]) for index in (0, last))
        place = jnp.asarray(delta.detach().numpy()[0].transpose(1, 2, 0))
        chosen = (jnp.arange(second.row.size) == mark).astype(place.dtype)
        return jax.jit(
            lambda weights: unlearning_gradient(
                made.net, weights, place, first, second, chosen, run.given.settings, terms
            )[1]
        )(made.weights)

    return jax.tree.map(jnp.subtract, ours(run.terms), ours(0)), theirs


def compare(folder):
    """Relative differences of the implicit half, the perturbation's length, and what rounds change."""
    image, label = common.batch(ROWS, SIZE)
    made = common.pair(size=SIZE)
    run = Run(made, f"i_bau:{SETTINGS}", image, label)
    names = script(folder, made, run, image, label)
    other = jax.tree.map(jnp.subtract, common.weights(made.net, names["model"]).params, made.weights.params)
    change = jax.tree.map(jnp.subtract, run.weights[-1].params, made.weights.params)
    length = float(torch.norm(names["pert"].detach()))
    return {
        f"parameters, change in {ROUNDS} rounds": common.relative(change, other),
        f"length of the perturbation, round {ROUNDS}": common.relative(run.lengths[-1], length),
        "implicit half of the hypergradient": common.relative(*halves(made, run, names)),
    }


COMPARISON = common.Comparison(
    "YiZeng623/I-BAU",
    "d4bfa526fb9e8adfef1f117e2eb4513240fb1c99",
    compare,
    (
        "Compared without the radius, which their script leaves out and their notebook has.",
        "Their share of a hundredth perturbs no row of a batch this small; both perturb the one that ours draws.",
        "Their batches are the rows as stored; both take ours.",
    ),
)
