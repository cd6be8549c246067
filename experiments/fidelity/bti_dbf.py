"""BTI-DBF: the authors' scripts, run whole on two small batches: pretraining, then two rounds of all that follows.

Xu et al., ICLR 2024; their code is `pretrain.py` and `btidbfu.py`.
"""

import contextlib
import copy
import io
import runpy
import shutil
import sys
import tempfile
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import torch

import bdjax
from bdjax.cards import lookup
from bdjax.types import Batch, Given, Source
from experiments.fidelity import common

WIDTH, BLOCKS, SIZE = 2, 3, 16
ROWS = (4, 3)
"""Of the two batches; ours pads the second."""
PRETRAINING, EPOCHS, ROUNDS = 10, 2, 2
THEIRS = ("models", "loader", "evaluate", "cfg", "cifar", "sam")
"""Modules of the authors' code, which are forgotten after a run."""


class Scripts:
    """A copy of the authors' scripts that can be run on a network and batches of ours.

    Their generators are as narrow and as low as WIDTH and BLOCKS say; masks begin as `masks` say and the first rows of
    a batch are those that are replaced, since ours cannot draw what theirs draws.
    """

    def __init__(self, folder: Path, place: Path):
        self.folder = place / "code" / "copy"
        shutil.copytree(folder, self.folder, ignore=shutil.ignore_patterns("datasets", "__pycache__"))
        self.kept, self.start = place, {}

    def box(self, module, batches):
        """What stands in for their `loader`: it gives the network and the batches."""
        loader = ModuleType("loader")
        loader.Box = lambda opt: SimpleNamespace(
            device="cpu",
            num_classes=opt.num_classes,
            attack_type=opt.attack_type,
            get_save_path=lambda: str(self.kept),
            get_state_dict=lambda path=None: (None, None, module),
            get_dataloader=lambda **_: batches,
        )
        return loader

    def narrowed(self, begin):
        """The generator's `__init__`, but of WIDTH channels and BLOCKS; what it is at first is remembered."""

        def narrow(made, **settings):
            begin(made, **settings | {"base_filter_num": WIDTH, "num_blocks": BLOCKS})
            self.start = {name: value.clone() for name, value in made.state_dict().items()}

        return narrow

    def run(self, script: str, options: dict, module, batches, masks=()) -> dict:
        """The script's names and values after it has run."""
        drawn = iter([torch.tensor(mask.transpose(2, 0, 1)[None].copy()) for mask in masks])
        words = [f"--{name}={value}" if value is not True else f"--{name}" for name, value in options.items()]
        with contextlib.ExitStack() as stack:
            stack.callback(forget)
            sys.modules["loader"] = self.box(module, batches)
            stack.enter_context(contextlib.chdir(self.folder))
            stack.enter_context(mock.patch.object(sys, "path", [str(self.folder), *sys.path]))
            stack.enter_context(mock.patch.object(sys, "argv", [script, "--device=cpu", f"--size={SIZE}", *words]))
            stack.enter_context(mock.patch("torch.randn", lambda *size: next(drawn)))
            stack.enter_context(mock.patch("random.sample", lambda rows, count: list(rows)[:count]))
            for stream in (contextlib.redirect_stdout, contextlib.redirect_stderr):
                stack.enter_context(stream(io.StringIO()))
            import cfg
            from models import unet_model

            parser = cfg.get_arguments()
            parser.add_argument("--attack_target", type=int, default=0)  # which PAM's script reads and does not define
            cfg.get_arguments = lambda: parser
            unet_model.UNet.__init__ = self.narrowed(unet_model.UNet.__init__)
            return runpy.run_path(script, run_name="__main__")


def forget() -> None:
    """Drop the authors' modules, whose names others use as well."""
    for name in [name for name in sys.modules if name.partition(".")[0] in THEIRS]:
        del sys.modules[name]


class Split:
    """What their networks offer besides `forward`."""

    def from_input_to_features(self, x):
        """The last feature map (b, channels, height, width)."""
        x = torch.relu(self.bn1(self.conv1(x)))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))

    def from_features_to_output(self, x):
        """Logits (b, classes)."""
        return self.linear(x.mean((2, 3)))


def pair() -> common.Pair:
    """A residual network in both libraries, PyTorch's with the halves that the authors' networks have."""
    made = common.pair("resnet18", 4, SIZE)
    made.module.__class__ = type("Network", (Split, type(made.module)), {})
    return made


def data() -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of both batches."""
    return common.batch(sum(ROWS), SIZE)


def torch_batches() -> list:
    """Their batches."""
    image, label = data()
    parts = np.split(np.arange(sum(ROWS)), np.cumsum(ROWS)[:-1])
    return [(common.to_torch(image[part]), torch.tensor(label[part]).long()) for part in parts]


def batches() -> list[Batch]:
    """Ours, of one shape."""
    most, ends = max(ROWS), np.cumsum(ROWS)
    return [
        source().read(jnp.r_[end - rows : end, jnp.full(most - rows, -1)]) for rows, end in zip(ROWS, ends, strict=True)
    ]


def source() -> Source:
    """The rows of all batches."""
    image, label = (jnp.asarray(part) for part in data())
    return Source(len(label), lambda row: Batch(image[row], label[row], row, (row >= 0).astype(image.dtype)))


def generator(state: dict) -> dict:
    """The parameters of their U-Net as ours; the biases that normalisation takes away are left out."""
    state = {name: np.asarray(value.detach()) for name, value in state.items()}

    def conv(name):
        return state[f"{name}.weight"].transpose(2, 3, 1, 0)

    def double(name):
        layers = {f"conv{number}": {"kernel": conv(f"{name}.conv{number}")} for number in (1, 2)}
        for number in (1, 2):
            part = f"{name}.bn_op_{number}"
            layers[f"norm{number}"] = {"scale": state[f"{part}.weight"], "bias": state[f"{part}.bias"]}
        return layers

    found = {"bottom": double("bottle_neck_layer")}
    found["output"] = {"conv": {"kernel": conv("output")}, "bias": state["output.bias"]}
    for block in range(BLOCKS):
        path = f"expanding_path.{BLOCKS - 1 - block}"
        kernel = state[f"{path}.up_sample_tranposed.weight"][:, :, ::-1, ::-1].transpose(2, 3, 0, 1)
        rise = {"conv": {"kernel": kernel}, "bias": state[f"{path}.up_sample_tranposed.bias"]}
        found |= {f"down{block}": double(f"contracting_path.{block}"), f"rise{block}": {"conv": rise}}
        found[f"up{block}"] = double(f"{path}.down_sample")
    return jax.tree.map(jnp.asarray, found)


def masks(size: tuple[int, ...]) -> list[np.ndarray]:
    """What the masks of the rounds begin as, (height, width, channels)."""
    return list(np.random.RandomState(2).normal(size=(ROUNDS, *size)))


def ours(text: str, made: common.Pair, start: dict) -> list:
    """What every stage of the defense `text` leaves, run on the batches in turn.

    start: the generator before pretraining.
    """
    spec = lookup(f"{text},preset=released,width={WIDTH}", bdjax.DEFENSES, "defense")
    stages = bdjax.DEFENSES[spec.name].make(made.net, (SIZE, SIZE, 3), common.CLASSES, **spec.static)
    given = Given(spec.traced, lambda key, image: image, clean=source(), victim=made.weights)
    key, left, weights, mask = jax.random.key(0), [], None, None
    for stage in stages:
        state = stage.init(key, given, weights)
        if weights is None:
            pixels = {"mean": jnp.zeros(3), "deviation": jnp.ones(3)}
            state = state.replace(moving=start, still=state.still | {"pixels": pixels})
        elif "statistics" in state.still:
            mask = iter(masks(state.moving.shape)) if mask is None else mask
            state = state.replace(moving=jnp.asarray(next(mask)))
        step = jax.jit(lambda state, rows, stage=stage, given=given: stage.step(key, state, rows, given)[0])
        for _ in range(stage.epochs):
            for rows in batches():
                state = step(state, rows)
        left.append(stage.finish(key, state, given))
        weights, given = left[-1].weights, given._replace(carry=left[-1].carry)
    return left


def lengths(options: dict) -> str:
    """Our settings for the lengths that are in their options."""
    names = {"mround": "mask_epochs", "uround": "generator_epochs", "ul_round": "unlearning_epochs", "nround": "rounds"}
    return ",".join([f"pretraining_epochs={PRETRAINING}", *(f"{names[name]}={options[name]}" for name in names)])


def whole(folder: Path, method: str, words: str, options: dict, value: float) -> dict[str, float]:
    """Relative differences after pretraining and after all rounds, under both bounds `value`.

    Args:
        folder: of their scripts.
        method: our name of it.
        words: our further settings.
        options: theirs for `btidbfu.py`.
        value: of the bounds.
    """
    made, bound = pair(), {"norm_bound": value, "feat_bound": value}
    size = (SIZE // 8, SIZE // 8, made.weights.params["linear"]["kernel"].shape[0])
    with tempfile.TemporaryDirectory() as place:
        scripts = Scripts(folder, Path(place))
        torch.manual_seed(3)
        named = {"attack_name": "badnet", "pratio": 0.1} if "use_pam" in options else {}
        first = scripts.run("pretrain.py", {"preround": PRETRAINING, **named}, made.module, torch_batches())
        start = scripts.start
        model = copy.deepcopy(made.module)
        last = scripts.run("btidbfu.py", options | bound | named, model, torch_batches(), masks(size))
    text = f"{method}:{lengths(options)},image_bound={value},feature_bound={value}" + f",{words}" * bool(words)
    left = ours(text, made, generator(start))
    generators = [trained.carry["generator"] for trained in left if "generator" in trained.carry]
    after, weights = common.weights(made.net, model), left[-1].weights
    pairs = {
        "generator after pretraining": (generators[0], generator(first["generator"].state_dict()), generator(start)),
        "generator after all rounds": (generators[-1], generator(last["bd_gen"].state_dict()), generators[0]),
        "weights": (weights.params, after.params, made.weights.params),
        "statistics": (weights.batch_stats, after.batch_stats, made.weights.batch_stats),
    }
    figures = {f"{what}, change": changed(*three) for what, three in pairs.items()}
    return figures | {"target": float(left[-1].carry["target"] != last["detected_tlabel"])}


def changed(mine, other, before) -> float:
    """The relative difference of what was changed."""
    return common.relative(*(jax.tree.map(lambda a, b: a - b, one, before) for one in (mine, other)))


OPTIONS = {"mround": EPOCHS, "uround": EPOCHS, "ul_round": EPOCHS}


def compare(folder: Path) -> dict[str, float]:
    """Relative differences of the changes of the generator and of the model, in both branches of its loss."""
    found = {}
    for name, value, rounds in (("apart", 100.0, ROUNDS), ("near", 0.0, 1)):
        figures = whole(folder, "bti_dbf", "", OPTIONS | {"nround": rounds}, value)
        found |= {f"{name}: {what}": figure for what, figure in figures.items()}
    return found


COMPARISON = common.Comparison(
    "xuxiong0214/BTIDBF",
    "e680dda83f607f54c7ede0dab13c016295b3b7eb",
    compare,
    (
        "The generator's convolutions that are normalised have a bias there, which has no effect; here they have none.",
        "The first rows of a batch are replaced, where theirs draws them: batches are random as they are.",
    ),
)
