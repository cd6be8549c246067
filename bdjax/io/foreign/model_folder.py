"""One model as a folder, in the layout that model hubs use.

    model.safetensors   the weights, under PyTorch's names and in its layout (see `torch_weights`)
    config.json         what they are the weights of: CONFIG
    README.md           a model card
    model.pt            the same state_dict for PyTorch, where torch was installed when the folder was written

A network that a defense has changed has no form in PyTorch: its file has this library's own names, `params/...` and
`batch_stats/...`, there is no model.pt, and the config says `"names": "bdjax"` and which defense.
"""

import json
import math
import re
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bdjax.cards import Spec, lookup
from bdjax.cells.functions import wrapped
from bdjax.defenses import DEFENSES
from bdjax.errors import InvalidInput
from bdjax.io.files import read_regular, write_atomically
from bdjax.io.foreign import model_card, torch_files
from bdjax.io.foreign.torch_weights import to_torch
from bdjax.io.foreign.weights import load_weights, read_weights
from bdjax.io.store.documents import NUMBER, check
from bdjax.io.store.trees import save_tree
from bdjax.models import MODELS
from bdjax.types import Net, Weights, real

FILE, PICKLE, CONFIG_FILE, CARD_FILE = "model.safetensors", "model.pt", "config.json", "README.md"

FORMAT = 1
LARGEST = 10**7
"""Bytes of a config."""

SIDE = range(1, 2**14)
CONFIG = {
    "format": range(FORMAT, FORMAT + 1),
    "bdjax": str,  # its version
    "architecture": str,  # such as preact_resnet18:width=16
    "names": re.compile("torch|bdjax"),
    "classes": [str],  # names, in order
    "image": {"height": SIDE, "width": SIDE, "channels": range(1, 4)},
    **{"mean": [NUMBER], "std": [NUMBER]},  # a channel, of images in [0, 1]; the network of bdjax normalizes by itself
}
"""What config.json must have. It may have `defense`, `dataset`, `cell`, `figures` and `license` besides."""


def write(
    folder: Path, net: Net, weights: Weights, config: Mapping[str, Any], state: Mapping[str, np.ndarray] | None = None
) -> Path:
    """Write a model folder and return it. The config comes last, so that a folder with one is whole.

    Args:
        folder: made where it is missing.
        net, weights: the model.
        config: `architecture`, `classes`, `image`, `mean` and `std` as CONFIG says; `defense`, its text, where that
            changed the network; and whatever else is known: `dataset` and `cell`, dicts; `figures`, a dict with `n`,
            the number of models that they are of; `license`.
        state: the state_dict to write in the place of `torch_weights.to_torch(weights, net)`.

    Raises:
        InvalidInput: something of the config is missing or cannot be, or the network is changed and no defense named.
    """
    torch_form = net.plain is None
    config = {"format": FORMAT, "bdjax": version("bdjax"), "names": "torch" if torch_form else "bdjax"} | dict(config)
    _check(config, str(folder))
    if torch_form == ("defense" in config):
        raise InvalidInput(f"{folder}: config names a defense where it changed the network, and only there; mend it")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG_FILE).unlink(missing_ok=True)
    (folder / PICKLE).unlink(missing_ok=True)
    if torch_form:
        state = dict(to_torch(weights, net) if state is None else state)
        if torch_files.is_available():
            torch_files.save(folder / PICKLE, state)
    save_tree(folder / FILE, state if torch_form else weights)
    _write_text(folder / CARD_FILE, model_card.text(config, torch_form))
    _write_text(folder / CONFIG_FILE, json.dumps(config, indent=1) + "\n")
    return folder


def _write_text(path: Path, text: str) -> None:
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def read(folder: Path) -> tuple[Net, Weights, dict[str, Any]]:
    """The network, its weights and the config in a model folder; the weights have the bits that were written.

    Raises:
        InvalidInput: a file is missing or damaged, or the weights are not those of the network that the config names.
    """
    config = read_config(folder)
    try:
        net = network(config)
        if config["names"] == "torch":
            return net, load_weights(folder / FILE, net), config
        weights = _own(read_weights(folder / FILE), net, config)
    except InvalidInput:
        raise
    except Exception as error:  # a network of sizes that nobody meant can fail in any way
        reason = " ".join(str(error).split())[:120]
        raise InvalidInput(
            f"{folder}: {config['architecture']} cannot be made or does not fit ({reason}); mend config.json"
        ) from error
    return net, weights, config


def read_config(folder: Path) -> dict[str, Any]:
    """The config of a model folder.

    Raises:
        InvalidInput: it is missing, damaged, of another program or of a later format.
    """
    path = folder / CONFIG_FILE
    try:
        config = json.loads(read_regular(path, LARGEST).decode("utf-8"))
    except InvalidInput:
        raise
    except (ValueError, RecursionError):
        raise InvalidInput(f"{path}: no JSON; give a model folder that bdjax export has written") from None
    _check(config, str(path))
    return config


def _check(config: Any, where: str) -> None:
    try:
        check(config, CONFIG)
        channels = config["image"]["channels"]
        if len(config["mean"]) != channels or len(config["std"]) != channels:
            raise ValueError(f"mean and std do not have {channels} numbers")
        if not all(map(math.isfinite, config["mean"])) or not all(0 < one < math.inf for one in config["std"]):
            raise ValueError("a mean is not finite or a std is not above 0")
        if not 2 <= len(config["classes"]) <= 2**16:
            raise ValueError(f"{len(config['classes'])} classes")
        if not isinstance(config.get("defense", ""), str):
            raise ValueError("defense is no text")
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{where}: no config of a model folder ({error}); give one that bdjax wrote") from None


def network(config: Mapping[str, Any]) -> Net:
    """The network of a config, as the defense that it names left it.

    Raises:
        InvalidInput: no such network or defense, or a setting that it does not allow.
    """
    image = config["image"]
    shape, count = (image["height"], image["width"], image["channels"]), len(config["classes"])
    spec = lookup(config["architecture"], MODELS, "model")
    net = make(spec, shape, count, tuple(config["mean"]), tuple(config["std"]))
    if "defense" not in config:
        return net
    defense = lookup(config["defense"], DEFENSES, "defense")
    return wrapped(net, DEFENSES[defense.name].make(net, shape, count, **defense.static))


def make(spec: Spec, shape: tuple[int, int, int], count: int, mean: tuple[float, ...], std: tuple[float, ...]) -> Net:
    """A network for weights that are there, without the data that it was trained on."""
    method = MODELS[spec.name]
    # Only where training starts depends on the covariance.
    more = {"covariance": np.eye(4 * shape[2])} if "covariance" in method.card.needs else {}
    return method.make(shape, count, mean, std, **more, **spec.static)


def _own(tree: Mapping[str, Any], net: Net, config: Mapping[str, Any]) -> Weights:
    """Weights under this library's own names, found to be such that the network can be applied."""
    if set(tree) != {"params", "batch_stats"}:
        raise InvalidInput(f"{FILE}: holds no params and batch_stats, as its config says; export it again")
    weights = jax.tree.map(jnp.asarray, Weights(tree["params"], tree["batch_stats"]))
    floats = [leaf.dtype for leaf in jax.tree.leaves(weights) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    if any(kind != real() for kind in floats):  # an order of classes, which a defense may leave, is of whole numbers
        raise InvalidInput(f"{FILE}: weights of another type than {np.dtype(real())}; export it again")
    image = jax.ShapeDtypeStruct((1, *(config["image"][side] for side in ("height", "width", "channels"))), real())
    logits = jax.eval_shape(lambda weights, image: net.apply(weights, image)[0], weights, image)
    if logits.shape != (1, len(config["classes"])):
        raise InvalidInput(f"{FILE}: gives logits of shape {logits.shape}; its config says otherwise; export it again")
    return weights
