"""ANP: steps of the authors' mask from the same perturbations, and the threshold that the benchmark then chooses.

Wu, Wang, NeurIPS 2021; their code is `optimize_mask_cifar.py` of csdongxian/ANP_backdoor at ec7b179, of which
`defense/anp.py` of BackdoorBench has the same functions.
"""

import copy
import tempfile
from types import SimpleNamespace
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import torch

import bdjax
from bdjax import train
from bdjax.cards import lookup
from bdjax.defenses import anp
from bdjax.models.parts.norms import norms
from bdjax.types import Batch, Given, Source, Trained
from experiments.fidelity import common
from experiments.fidelity.fine_pruning import settled

STEPS, BUDGET, RATE, ALPHA = 3, 0.4, 0.2, 0.2


def noisy(code, module):
    """Theirs with the authors' masked and perturbed normalisation in place of PyTorch's."""
    module = copy.deepcopy(module)
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, torch.nn.BatchNorm2d):
                replaced = code.anp_model.NoisyBatchNorm2d(child.num_features)
                replaced.load_state_dict(child.state_dict(), strict=False)
                setattr(parent, name, replaced)
    return module


def read(made, module, name):
    """One of their parameters of every normalisation, layer -> float (channels,), as ours are named."""
    modules = dict(module.named_modules())

    def find(layer):
        return modules[layer.name.replace("_", ".")]

    return {layer.name: jnp.array(getattr(find(layer), name).detach().numpy()) for layer in norms(made.net, "anp")}


def theirs(code, made, image, label, inner_steps):
    """Where each step's perturbation began, and the mask after it."""
    code.args = SimpleNamespace(anp_eps=BUDGET, anp_steps=inner_steps, anp_alpha=ALPHA, device="cpu")
    module = noisy(code, made.module)
    parts = dict(module.named_parameters())
    mask = torch.optim.SGD([v for n, v in parts.items() if "neuron_mask" in n], lr=RATE, momentum=0.9)
    noise = torch.optim.SGD([v for n, v in parts.items() if "neuron_noise" in n], lr=BUDGET / inner_steps)
    rows = [(common.to_torch(image), torch.tensor(label).long())]
    found = []
    for step in range(STEPS):
        torch.manual_seed(step)
        code.reset(module, rand_init=True)
        start = anp.Noise(read(made, module, "neuron_noise"), read(made, module, "neuron_noise_bias"))
        torch.manual_seed(step)
        code.mask_train(code.args, module, torch.nn.CrossEntropyLoss(), mask, noise, rows)
        found.append((start, read(made, module, "neuron_mask")))
    return found


def ours(made, image, label, inner_steps, starts):
    """The masks after each step from these perturbations."""
    text = f"anp:budget={BUDGET},learning_rate={RATE},alpha={ALPHA},inner_steps={inner_steps}"
    spec = lookup(text, bdjax.DEFENSES, "defense")
    stage = bdjax.DEFENSES["anp"].make(made.net, image.shape[1:], common.CLASSES, **spec.static)[0]
    rows = Batch(jnp.asarray(image), jnp.asarray(label), jnp.arange(len(label)), jnp.ones(len(label)))
    source = Source(len(label), lambda row: rows)
    given = Given(spec.traced, lambda key, image: image, clean=source, victim=made.weights)

    def step(state, start):
        with mock.patch.object(anp, "random_noise", lambda *arguments: start):
            return stage.step(jax.random.key(0), state, rows, given)[0]

    state, step, found = stage.init(None, given, None), jax.jit(step), []
    for start in starts:
        state = step(state, start)
        found.append(state.moving)
    return found


def chosen(code, made, mask):
    """What the choice of a threshold on one test set changes in the parameters: ours and theirs."""
    made, image, label = settled(made)
    attacked = int(np.bincount(label).argmax())
    counted = label != attacked
    module = noisy(code, made.module)
    for layer in norms(made.net, "anp"):
        dict(module.named_modules())[layer.name.replace("_", ".")].neuron_mask.data = torch.tensor(mask[layer.name])
    best = _their_choice(code, made, module, image, label, attacked, counted)
    rows = Batch(jnp.asarray(image), jnp.asarray(label), jnp.arange(len(label)), jnp.ones(len(label)))
    flipped = rows.replace(image=1 - rows.image)
    spec = lookup("anp:preset=benchmark", bdjax.DEFENSES, "defense")
    stage = bdjax.DEFENSES["anp"].make(made.net, image.shape[1:], common.CLASSES, **spec.static)[1]

    def source(batch):
        return Source(len(label), lambda row: jax.tree.map(lambda leaf: leaf[row], batch).replace(row=row))

    def given(weights):
        target = lambda label: jnp.full_like(label, attacked)  # noqa: E731
        fields = {"test": source(rows), "queries": source(flipped), "target": target}
        return Given(spec.traced, None, victim=weights, **fields)

    left = train.fit(jax.random.key(0), stage, given, made.weights, Trained(made.weights, {"mask": mask}))
    return tuple(jax.tree.map(jnp.subtract, each.params, made.weights.params) for each in (left.weights, best))


def _their_choice(code, made, module, image, label, attacked, counted):
    """What the benchmark's sweep keeps; the trigger of this comparison turns an image into its negative."""

    def predict(model, image):
        with torch.no_grad():
            return model.eval()(common.to_torch(image)).argmax(1).numpy()

    def rates(model):
        accuracy = np.mean(predict(model, image) == label)
        return 0.0, 0.0, accuracy, np.mean(predict(model, 1 - image[counted]) == attacked), 0.0

    defense = object.__new__(code.anp)
    defense.args = args = SimpleNamespace(
        device="cpu", amp=False, frequency_save=0, save_path="", prefetch=False, non_blocking=False, acc_ratio=0.1
    )
    model = copy.deepcopy(made.module)

    def set_trainer(model):
        defense.trainer = SimpleNamespace(
            set_with_dataloader=lambda **rest: None, test_current_model=lambda *rest: rates(model)
        )

    defense.set_trainer = set_trainer
    with tempfile.TemporaryDirectory() as place, mock.patch.object(code, "general_plot_for_epoch"):
        args.save_path = f"{place}/"
        code.save_mask_scores(module.state_dict(), f"{place}/mask.txt")
        values = sorted(code.read_data(f"{place}/mask.txt"), key=lambda value: float(value[2]))
        before = rates(model)
        _, best = defense.evaluate_by_threshold(
            args, model, values, 0.9, 0.05, None, {"bd_test_dataloader": None}, before[3], before[2]
        )
    return common.weights(made.net, best)


def compare(folder):
    """Relative differences of perturbations, masks and the chosen network's parameters."""
    code = common.module(folder, "defense/anp.py")
    image, label = common.batch()
    made = common.pair()
    figures = {}
    for inner in (1, 2):
        other = theirs(code, made, image, label, inner)
        mine = ours(made, image, label, inner, [start for start, _ in other])
        before = jax.tree.map(jnp.ones_like, mine[0])
        for number, (mask, (_, expected)) in enumerate(zip(mine, other, strict=True), 1):
            one, two = (jax.tree.map(jnp.subtract, each, before) for each in (mask, expected))
            figures[f"mask less 1, step {number}, {inner} inner"] = common.relative(one, two)
    keys = jax.random.split(jax.random.key(3), len(before))
    few = {name: key for key, name in zip(keys, before, strict=True) if name.startswith("layer4_1")}
    random = {name: jnp.round(jax.random.uniform(key, before[name].shape) ** 0.3, 4) for name, key in few.items()}
    one, two = chosen(code, made, before | random)
    count = sum(int(jnp.sum(leaf != 0)) for leaf in jax.tree.leaves(two))
    figures[f"change of parameters, threshold by test ASR, {count} neurons gone"] = common.relative(one, two)
    return figures


COMPARISON = common.Comparison(
    "SCLBD/BackdoorBench",
    "f02e3534645f0ee63d6848653062cd6c0d6c400d",
    compare,
    ("Masks of the choice are rounded to four decimals, as theirs are in the file that they are read back from.",),
)
