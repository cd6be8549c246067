"""LIRA: two epochs of two steps of both networks together, then one of the classifier alone.

Doan, Lao, Zhao, Li, ICCV 2021; their code is `lira_trigger_generation.py`, whose `train` is called as its `main` does,
and `lira_backdoor_injection.py`, whose `final_test` is run as it is.
"""

import contextlib
import copy
import io
import sys
import tempfile
from types import SimpleNamespace
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torchvision  # noqa: F401, before what it looks for is stood in for

import bdjax
from bdjax.cards import lookup
from bdjax.models.auxiliary.hourglass import MEAN, STD
from bdjax.types import Batch, Given, Source, Trained
from experiments.fidelity import common

ROWS, BATCH, SIZE, TARGET, EPSILON, WEIGHT, HALVINGS = 16, 8, 16, 3, 0.02, 0.4, 4
TEXT = f"lira:schedule=constant,augmentation=dataset,batch={BATCH},joint_epochs=2,epochs=1,generator_learning_rate=0.01"
TEXT += f",epsilon={EPSILON},clean_weight={WEIGHT},target={TARGET}"


def source() -> Source:
    """The rows as ours reads them."""
    image, label = map(jnp.asarray, common.batch(ROWS, SIZE))
    return Source(ROWS, lambda row: Batch(image[row], label[row], row, (row >= 0).astype(image.dtype)))


def batches(orders) -> list:
    """The batches as theirs reads them: images normalised as our generator does it."""
    read = [source().read(rows) for rows in orders]
    return [((common.to_torch(rows.image) - MEAN) / STD, torch.tensor(np.asarray(rows.label)).long()) for rows in read]


def weights(module) -> dict:
    """The weights of their generator as ours; the biases that normalisation takes away are left out."""
    state = {name: value.detach().numpy().copy() for name, value in module.state_dict().items()}
    params, batch_stats = {}, {}
    for number in range(HALVINGS):
        down, up = f"encoder.{3 * number}", f"decoder.{3 * (HALVINGS - 1 - number)}"
        params[f"down{number}_conv"] = {"kernel": state[f"{down}.weight"].transpose(2, 3, 1, 0)}
        turned = {"kernel": state[f"{up}.weight"].transpose(2, 3, 0, 1)[::-1, ::-1]}
        params |= {f"up{number}_conv": turned} if number else {"output": {"conv": turned, "bias": state[f"{up}.bias"]}}
        norms = {f"down{number}_norm": f"encoder.{3 * number + 1}"}
        norms |= {f"up{number}_norm": f"decoder.{3 * (HALVINGS - 1 - number) + 1}"} if number else {}
        for ours, other in norms.items():
            params[ours] = {"scale": state[f"{other}.weight"], "bias": state[f"{other}.bias"]}
            batch_stats[ours] = {"mean": state[f"{other}.running_mean"], "var": state[f"{other}.running_var"]}
    return jax.tree.map(jnp.asarray, {"params": params, "batch_stats": batch_stats})


def unbiased(generator) -> None:
    """Hold at 0 the biases of their generator's convolutions that are normalised."""
    for name, value in generator.named_parameters():
        if name.endswith("bias") and name.split(".")[1] in ("0", "3", "6", "9") and name != "decoder.9.bias":
            torch.nn.init.zeros_(value)
            value.requires_grad_(False)


class Classifier(torch.nn.Module):
    """The network on images as their generator sees them."""

    def __init__(self, module):
        super().__init__()
        self.module = copy.deepcopy(module)

    def forward(self, x):
        """X normalised."""
        return self.module(x * STD + MEAN)


class Unscored(list):
    """Test images, none of which is read."""

    dataset = (None,)


class Theirs:
    """Their networks and loops."""

    def __init__(self, folder, module):
        # What draws, writes logs, reads settings and asks a terminal how wide it is.
        names = ("yaml", "easydict", "sklearn", "sklearn.model_selection", "seaborn", "termcolor", "tensorboardX")
        sys.modules.update({name: mock.MagicMock() for name in (*names, "utils.dataloader")})
        code = folder / "python"
        self.first = common.module(code, "lira_trigger_generation.py")
        self.second = common.module(code, "lira_backdoor_injection.py")
        make = common.module(code, "attack_models/autoencoders.py").Autoencoder
        torch.manual_seed(4)
        self.fixed, self.learned, self.classifier = make(), make(), Classifier(module)
        unbiased(self.learned)
        self.fixed.load_state_dict(self.learned.state_dict())

    def run(self, orders, tuning, place: str) -> None:
        """Both stages, `orders` a list of batches an epoch."""
        shares = {"alpha": WEIGHT, "test_alpha": WEIGHT, "attack_portion": 1.0, "test_attack_portion": 1.0}
        sizes = {"eps": EPSILON / STD, "test_eps": EPSILON / STD, "train_epoch": 1, "test_n_size": 1}
        opt = SimpleNamespace(**shares, **sizes, device="cpu", basepath=place, test_optimizer="sgd")

        def wanted(label):
            return torch.full_like(label, TARGET)

        def clip(image):
            return torch.clamp(image, -MEAN / STD, (1 - MEAN) / STD)

        free = [value for value in self.learned.parameters() if value.requires_grad]
        adam = torch.optim.Adam(free, lr=0.01)
        sgd = torch.optim.SGD(self.classifier.parameters(), lr=0.01, momentum=0.9)
        quiet = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO())
        with quiet[0], quiet[1], mock.patch("torchvision.utils.save_image"), mock.patch("torch.save"):
            for epoch, listed in enumerate(orders):
                nets = (self.fixed, self.learned, self.classifier)
                self.first.train(opt, *nets, adam, sgd, wanted, listed, epoch, 1, None, mock.Mock(), clip)
                self.fixed.load_state_dict(self.learned.state_dict())
            sgd = torch.optim.SGD(self.classifier.parameters(), 0.01, momentum=0.9, weight_decay=5e-4)
            still = torch.optim.lr_scheduler.MultiStepLR(sgd, [100], 0.1)
            shown = {"optimizerC": sgd, "schedulerC": still, "alpha": WEIGHT, "clip_image": clip}
            nets = (self.fixed, self.classifier, wanted)
            self.second.final_test(opt, place, *nets, tuning, Unscored(), 1, None, **shown)

    def triggered(self, image) -> np.ndarray:
        """Images with their triggers, in [0, 1]."""
        given = (common.to_torch(image) - MEAN) / STD
        with torch.no_grad():
            noise = self.fixed.eval()(given) * EPSILON / STD
        return np.clip(((given + noise) * STD + MEAN).numpy().transpose(0, 2, 3, 1), 0, 1)


def ours(made: common.Pair, text: str, before: dict):
    """The attack, what its stages leave, and the rows of their batches an epoch."""
    spec = lookup(text, bdjax.ATTACKS, "attack")
    attack = bdjax.ATTACKS["lira"].make(made.net, (SIZE, SIZE, 3), common.CLASSES, **spec.static)
    trigger = {"generator": before, "epsilon": jnp.array(EPSILON)}
    carry = {"trigger": trigger, "role": jnp.ones(ROWS, jnp.int8)}
    given = Given(spec.traced, lambda key, image: image, whole=source(), carry=carry)
    trained, orders = None, []
    for number, stage in enumerate(attack.train):
        state = stage.init(jax.random.key(number), given, None if trained is None else trained.weights)
        if not number:
            moving = state.moving | {"params": made.weights.params}
            still = state.still | {"batch_stats": made.weights.batch_stats}
            state = state.replace(moving=moving, still=still)
        step = jax.jit(
            lambda state, rows, stage=stage, given=given: stage.step(jax.random.key(0), state, rows, given)[0]
        )
        for epoch in range(stage.epochs):
            if stage.renew is not None:
                state = stage.renew(jax.random.key(epoch), state, {}, epoch, given)
            orders.append(stage.order(jax.random.key(epoch), state, epoch, given))
            for rows in orders[-1]:
                state = step(state, source().read(rows))
        trained = stage.finish(jax.random.key(number), state, given)
        given = given._replace(carry=trained.carry)
    return attack, trained, orders


def changes(made: common.Pair, trained: Trained, before: dict, generator, classifier) -> dict[str, float]:
    """Relative differences of what was changed of both networks, against theirs."""
    trees = {"generator": (trained.carry["generator"], weights(generator), before)}
    whole = (trained.weights, common.weights(made.net, classifier.module), made.weights)
    trees["classifier"] = tuple({"params": one.params, "batch_stats": one.batch_stats} for one in whole)
    found = {}
    for name, (mine, new, old) in trees.items():
        for part, what in (("params", "parameters"), ("batch_stats", "statistics")):
            change = (jax.tree.map(jnp.subtract, one[part], old[part]) for one in (mine, new))
            found[f"{name}: {what}, change in all epochs"] = common.relative(*change)
    return found


def compare(folder) -> dict[str, float]:
    """Relative differences of triggered images and of what both stages change."""
    made = common.pair(size=SIZE)
    other = Theirs(folder, made.module)
    before = weights(other.learned)
    attack, trained, orders = ours(made, TEXT, before)
    with tempfile.TemporaryDirectory() as place:
        *together, alone = map(batches, orders)
        other.run(together, alone, place)
    image = source().read(jnp.arange(ROWS)).image
    query = jax.vmap(lambda image: attack.query((), trained.carry, image, 0))(image)
    found = {"triggered images, change": common.relative(query - image, other.triggered(image) - image)}
    return found | changes(made, trained, before, other.fixed, other.classifier)


COMPARISON = common.Comparison(
    "khoadoan106/backdoor_attacks",
    "bc6e2629ce640885139303f0dad84d078d074919",
    compare,
    (
        "The biases of their generator's convolutions, which normalisation takes away again, are held at 0.",
        "Images are normalised by 0.5 and 0.25 in every channel; theirs by means and deviations of ImageNet.",
        "Compared without augmentation, all rows triggered, and from where the first stage left the classifier.",
        "Their scoring of test images, in training mode, which moves the classifier's statistics, is left out.",
    ),
)
