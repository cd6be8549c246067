"""MOTH: the authors' whole hardening function beside our two stages, with the same draws.

Tao et al., S&P 2022; their code is `src_torch` in Gwinhen/MOTH at 5133fb2.
"""

import inspect
import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import torch

import bdjax
from bdjax.cards import lookup
from bdjax.defenses.moth import drawn
from bdjax.keys import stream
from bdjax.types import Given
from experiments.fidelity import common

CLASSES, EACH, STEPS, SIZE = 3, 20, 12, 16
PASSES = {500: 6, 200: 4, 50: 2}
RATE = 1e-5


def text(success, pair_success):
    """Our settings: `released`, with fewer passes."""
    return (
        f"moth:preset=released,warmup_steps={PASSES[500]},pair_steps={PASSES[200]},short_steps={PASSES[50]},"
        f"learning_rate={RATE},success={success},pair_success={pair_success}"
    )


def keys():
    """That of each step."""
    return [jax.random.key(100 + number) for number in range(STEPS)]


def rows():
    """A batch for every step, int (steps, rows), as many rows of each class in each."""
    draw = np.random.RandomState(3)
    return np.stack([draw.permutation(CLASSES * EACH) for _ in range(STEPS)])


def ours(made, image, label, asked):
    """Parameters after each step, the rows of the warm-up, and the distances in the end."""
    spec, clean = lookup(asked, bdjax.DEFENSES, "defense"), common.source(image, label)
    warm, harden = bdjax.DEFENSES["moth"].make(made.net, image.shape[1:], CLASSES, **spec.static)
    given = Given(spec.traced, None, clean=clean, victim=made.weights)
    state, found = warm.init(jax.random.key(1), given, None), []
    extra = np.asarray(state.still["extra"])
    step = jax.jit(lambda key, state, batch: warm.step(key, state, batch, given)[0])
    for number, (key, row) in enumerate(zip(keys(), rows(), strict=True)):
        if number == CLASSES:
            left = warm.finish(jax.random.key(2), state, given)
            given = given._replace(carry=left.carry)
            state = harden.init(jax.random.key(3), given, left.weights)
            step = jax.jit(lambda key, state, batch, given=given: harden.step(key, state, batch, given)[0])
        state = step(key, state, clean.read(jnp.asarray(row, jnp.int32)))
        found.append(state.moving)
    return found, extra, harden.finish(jax.random.key(4), state, given).weights.batch_stats


class Draws:
    """What their code draws: as ours does."""

    def __init__(self, label, extra):
        self.label, self.extra, self.number, self.turn = label, extra, -1, 0

    @property
    def key(self):
        """That of the step."""
        return keys()[self.number]

    def batch_labels(self):
        """Labels of the step's batch."""
        return self.label[rows()[self.number]]

    def begin_search(self, members):
        """The rows of ours, numbered in their order; a search begins."""
        self.members, self.current, self.index, self.turn = list(members), np.arange(len(members)), -1, 0

    def _pass(self):
        return jax.random.fold_in(stream(self.key, "search"), self.index)

    def random(self, size):
        """A mask (height, width) or a pattern (channels, height, width) to start with."""
        name = "mask" if len(size) == 2 else "pattern"
        shape = (1, *size, 1) if name == "mask" else (1, *size[1:], size[0])
        value = np.asarray(jax.random.uniform(stream(self.key, name), shape, jnp.float64))[0]
        return value[..., 0] if name == "mask" else value.transpose(2, 0, 1)

    def shuffle(self, indices):
        """The order of a pass, from that of the pass before."""
        self.index += 1
        count = len(self.extra) if self.number < CLASSES else CLASSES * EACH
        draw = np.asarray(jax.random.uniform(stream(self._pass(), "order"), (count,), jnp.float64))
        new = np.argsort(draw[self.members])
        indices[:] = [int(np.flatnonzero(self.current == one)[0]) for one in new]
        self.current = new

    def noise(self, shape):
        """A mask, then a pattern."""
        frame = inspect.currentframe().f_back.f_back
        side, count = frame.f_locals.get("cb", 0), 1 if self.number < CLASSES else 2
        name = "pattern" if self.turn % 2 else "mask"
        self.turn += 1
        key = stream(stream(self._pass(), "noise"), name)
        channels = 1 if name == "mask" else 3
        value = jax.random.uniform(key, (count, SIZE, SIZE, channels), jnp.float64, -1, 1)[side]
        return torch.tensor(0.01 * np.asarray(value).transpose(2, 0, 1)).reshape(shape)

    def rand(self):
        """Whether a pair is drawn."""
        return float(jax.random.uniform(stream(stream(self.key, "pair"), "whether"), (), jnp.float64))

    def choice(self, indices, count, replace=False):
        """A pair of classes, or rows to stamp."""
        key = self.key
        if len(indices) == CLASSES:  # a pair
            own = stream(key, "pair")
            first = int(jax.random.randint(stream(own, "first"), (), 0, CLASSES))
            return np.asarray(
                [first, (first + int(jax.random.randint(stream(own, "second"), (), 1, CLASSES))) % CLASSES]
            )
        labels = self.batch_labels()
        member = np.isin(np.arange(len(labels)), indices)
        caller = inspect.currentframe().f_back.f_locals
        name = "which" if self.number < CLASSES else ("source", "target")[caller["cb"]]
        return np.flatnonzero(drawn(stream(key, name), jnp.asarray(member), count))


class Loader:
    """Their training data: first the rows of the warm-up, then a batch a step; what comes of each is noted."""

    def __init__(self, image, label, draws, module):
        self.image, self.label, self.draws, self.module = (
            common.to_torch(image),
            torch.tensor(label).long(),
            draws,
            module,
        )
        self.asked, self.found = 0, []

    def __len__(self):
        return STEPS

    def __iter__(self):
        self.asked += 1
        if self.asked == 1:
            yield self.image[self.draws.extra.copy()], self.label[self.draws.extra.copy()]
            return
        for number, row in enumerate(rows()):
            self.draws.number = number
            yield self.image[row], self.label[row]
            self.found.append({name: value.detach().clone() for name, value in self.module.state_dict().items()})


class Other:
    """A module of which some attributes are others."""

    def __init__(self, module, **others):
        self._module, self._others = module, others

    def __getattr__(self, name):
        return self._others[name] if name in self._others else getattr(self._module, name)


def theirs(folder, made, image, label, extra, success, pair_success):
    """The same by their `moth`, whose searches are shorter."""
    draws = Draws(label, extra)
    loader = Loader(image, label, draws, made.module)
    random = Other(np.random, random=draws.random, shuffle=draws.shuffle, rand=draws.rand, choice=draws.choice)
    uniform = SimpleNamespace(Uniform=lambda low, high: SimpleNamespace(sample=draws.noise))
    state = {name: value.clone() for name, value in made.module.state_dict().items()}
    others = {"device": lambda _name: "cpu", "distributions": uniform, "load": lambda _path: state}
    scope = {
        "torch": Other(torch, save=lambda *_: None, **others),
        "np": Other(np, random=random, save=lambda *_: None),
        "sys": SimpleNamespace(stdout=SimpleNamespace(write=lambda _: None, flush=lambda: None)),
        "get_num": lambda _: CLASSES,
        "get_size": lambda _: (SIZE, SIZE, 3),
        "preprocess": lambda x, *_, **__: x,
        "deprocess": lambda x, *_, **__: x,
        "print": lambda *_, **__: None,
    }
    code = common.pieces(folder, "src_torch/inversion.py", "Trigger", "TriggerCombo", **scope)

    class Trigger(code.Trigger):
        def __init__(self, *given, asr_bound, **named):
            super().__init__(*given, asr_bound=success, **named)

        def generate(self, pair, x_set, y_set, steps, **named):
            draws.begin_search(np.flatnonzero(label[extra] != pair[1]))
            return super().generate(pair, x_set, y_set, steps=PASSES[steps], **named)

    class TriggerCombo(code.TriggerCombo):
        def __init__(self, *given, **named):
            super().__init__(*given, asr_bound=pair_success, **named)

        def generate(self, pair, x_set, y_set, m_set, steps, **named):
            here = draws.batch_labels()
            draws.begin_search(np.concatenate([np.flatnonzero(here == one) for one in pair]))
            return super().generate(pair, x_set, y_set, m_set, steps=PASSES[steps], **named)

    args = {"dataset": "", "model": "", "suffix": "", "type": "nat", "device": "cpu", "lr": RATE, "epochs": 1}
    scope |= {
        "args": SimpleNamespace(**args, data_ratio=1.0, warm_ratio=0.5, portion=0.1),
        "get_model": lambda _args: made.module,
        "get_dataloader": lambda _name, training, *_: loader if training else [(loader.image[:2], loader.label[:2])],
        "Trigger": Trigger,
        "TriggerCombo": TriggerCombo,
        "time": time,
    }
    common.pieces(folder, "src_torch/main.py", "moth", **scope).moth()
    made.module.load_state_dict(state)
    return loader.found


def compare(folder):
    """Relative differences of what each step changes."""
    label = (np.arange(CLASSES * EACH) % CLASSES).astype(np.int32)
    image = np.random.RandomState(1).uniform(size=(len(label), SIZE, SIZE, 3))
    figures = {}
    for success, pair_success in ((0.0, 0.0), (0.3, 0.4)):
        made = common.keen(common.pair("resnet18", size=SIZE), image)
        mine, extra, statistics = ours(made, image, label, text(success, pair_success))
        before = made.weights
        other = theirs(folder, made, image, label, extra, success, pair_success)
        for number, (one, state) in enumerate(zip(mine, other, strict=True), 1):
            after = common.weights(made.net, SimpleNamespace(state_dict=lambda state=state: state))
            moved = [jax.tree.map(jnp.subtract, params, before.params) for params in (one, after.params)]
            stage = "warm-up" if number <= CLASSES else "hardening"
            figures[f"success {success:g} and {pair_success:g}, {stage}, step {number}"] = common.relative(*moved)
        figures["statistics, in the end"] = common.relative(statistics, after.batch_stats)
    return figures


COMPARISON = common.Comparison(
    "Gwinhen/MOTH",
    "5133fb2069cf85bc1dc7085508f25d287bc4960b",
    compare,
    (
        "Three classes, and searches of 6, 4 and 2 passes in place of 500, 200 and 50; what counts as success is lower "
        "than theirs, once so low that every search finds a trigger, once not.",
        "Every batch has as many rows of each class, so that their batch of inversion never shrinks.",
        "All draws are ours: starts, noise, orders, rows that are stamped and pairs.",
    ),
)
