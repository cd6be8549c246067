"""What every comparison needs: one network in both libraries, a batch, and a measure of difference."""

import ast
import contextlib
import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch

import bdjax
from bdjax import train
from bdjax.bench import torch_networks
from bdjax.cards import lookup
from bdjax.detection.parts.scoring import score_all
from bdjax.io.foreign.torch_weights import from_torch
from bdjax.types import Batch, Detector, Given, Net, Source, Trained, Weights

TOLERANCE = 1e-4
CLASSES = 10


class Comparison(NamedTuple):
    """A method beside its authors' code."""

    repository: str  # owner/name
    revision: str  # commit
    compare: Callable[[Path], dict[str, float]]  # folder with that code -> relative differences by name
    departures: tuple[str, ...] = ()


class Pair(NamedTuple):
    """One network in both libraries, float64, the same weights."""

    net: Net
    weights: Weights
    module: torch.nn.Module


def pair(name: str = "preact_resnet18", width: int = 4, size: int = 32, seed: int = 0) -> Pair:
    """A random network without normalisation of its images: ours takes [0, 1], as theirs then does.

    Args:
        name: preact_resnet18 or resnet18.
        width: channels of its first stage.
        size: pixels a side.
        seed: of its weights.
    """
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(seed)
    module = torch_networks.network(name, width, CLASSES)
    with torch.no_grad():  # statistics and scales away from 0 and 1, so that a mix-up shows
        for key, value in module.state_dict().items():
            if value.ndim == 1 and key.rsplit(".", 1)[-1] in ("weight", "running_var"):
                value.uniform_(0.5, 1.5)
            elif value.ndim == 1:
                value.normal_(0.0, 0.1)
    model = bdjax.MODELS[name]
    static = {key: setting.default for key, setting in model.card.settings.items()} | {"width": width}
    net = model.make((size, size, 3), CLASSES, (0.0,) * 3, (1.0,) * 3, **static)
    return Pair(net, weights(net, module), module)


def keen(made: Pair, image: np.ndarray, scale: float = 4.0) -> Pair:
    """The pair with a head that tells images apart: under a random one all have the same prediction."""
    with torch.no_grad():
        logits = made.module.eval()(to_torch(image))
        factor = scale / logits.std(0).mean()
        made.module.linear.bias.copy_(factor * (made.module.linear.bias - logits.mean(0)))
        made.module.linear.weight.mul_(factor)
    return made._replace(weights=weights(made.net, made.module))


def weights(net: Net, module: torch.nn.Module) -> Weights:
    """The weights of a PyTorch module as ours."""
    return from_torch({name: value.detach().numpy().copy() for name, value in module.state_dict().items()}, net)


def batch(count: int = 8, size: int = 32, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Images float64 (count, size, size, 3) in [0, 1] and labels int32 (count,)."""
    draw = np.random.RandomState(seed)
    return draw.uniform(size=(count, size, size, 3)), draw.randint(CLASSES, size=count).astype(np.int32)


def to_torch(image: np.ndarray) -> torch.Tensor:
    """Images (b, height, width, channels) as PyTorch wants them, (b, channels, height, width)."""
    return torch.tensor(np.asarray(image).transpose(0, 3, 1, 2).copy())


def relative(ours, theirs) -> float:
    """norm(ours - theirs) / norm(theirs) over all leaves of two trees alike."""
    pairs = list(zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True))
    difference = sum(float(np.sum((np.asarray(a) - np.asarray(b)) ** 2)) for a, b in pairs)
    return float(np.sqrt(difference / sum(float(np.sum(np.asarray(b) ** 2)) for _, b in pairs)))


def module(folder: Path, path: str):
    """One file of the authors' code as a module; the folder itself is importable from then on."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    spec = importlib.util.spec_from_file_location(Path(path).stem, folder / path)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def pieces(folder: Path, path: str, *names: str, **scope) -> SimpleNamespace:
    """Functions and classes of one file or notebook, without the imports that a comparison does not need.

    scope: what they find beside torch and numpy when they run.
    """
    text = (folder / path).read_text()
    if path.endswith(".ipynb"):
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
        text = "\n\n".join("".join(cell["source"]) for cell in cells)
    wanted = [one for one in ast.parse(text).body if getattr(one, "name", None) in names]
    scope = {"torch": torch, "nn": torch.nn, "F": torch.nn.functional, "np": np, "tqdm": lambda rows: rows} | scope
    exec(compile(ast.Module(wanted, []), path, "exec"), scope)
    return SimpleNamespace(**{name: scope[name] for name in names})


def loop(folder: Path, path: str, function: str, over: str) -> Callable[[dict], None]:
    """One `for` statement of a function or method whose rest needs files or a GPU: it runs in the dict it is given.

    over: the expression that it iterates over.
    """
    tree = ast.walk(ast.parse((folder / path).read_text()))
    defined = [one for one in tree if isinstance(one, ast.FunctionDef) and one.name == function]
    (wanted,) = [one for one in ast.walk(defined[0]) if isinstance(one, ast.For) and ast.unparse(one.iter) == over]
    code = compile(ast.Module([wanted], []), path, "exec")

    def run(scope: dict) -> None:
        exec(code, {"torch": torch, "nn": torch.nn, "F": torch.nn.functional, "np": np, "print": _silent} | scope)

    return run


def _silent(*_arguments, **_named) -> None:
    """In place of `print`."""


@contextlib.contextmanager
def without_cuda():
    """Code that moves tensors and modules to a GPU leaves them where they are."""
    kept = torch.Tensor.cuda, torch.nn.Module.cuda
    torch.Tensor.cuda = torch.nn.Module.cuda = lambda self, *_args, **_named: self
    try:
        yield
    finally:
        torch.Tensor.cuda, torch.nn.Module.cuda = kept


def source(image: np.ndarray, label: np.ndarray | None = None) -> Source:
    """Images (n, height, width, channels) as a source; without labels as queries are."""
    image, label = jnp.asarray(image), jnp.full(len(image), -1) if label is None else jnp.asarray(label)
    return Source(len(image), lambda row: Batch(image[row], label[row].astype(jnp.int32), row, (row >= 0) * 1.0))


def detect(text: str, made: Pair, judged: Source, seed: int = 0, **given) -> dict[str, jax.Array]:
    """What a detector of ours leaves: `score` and, where it decides, `flagged`, of all rows of `judged`."""
    detector, asked = _asked(text, made, judged, given)
    left = None
    for number, stage in enumerate((*detector.stages, score_all(made.net, detector))):
        left = train.fit(jax.random.key(seed + number), stage, lambda _: asked, (), left)
    return left.carry


def fitted(text: str, made: Pair, judged: Source, **given) -> dict[str, jax.Array]:
    """What the `fit` of a detector without stages finds."""
    detector, asked = _asked(text, made, judged, given)
    return jax.jit(lambda key: detector.fit(key, made.net, Trained(made.weights), asked))(jax.random.key(0))


def _asked(text: str, made: Pair, judged: Source, given: dict) -> tuple[Detector, Given]:
    spec = lookup(text, bdjax.DETECTORS, "detector")
    shape = judged.read(jnp.arange(1)).image.shape[1:]
    detector = bdjax.DETECTORS[spec.name].make(made.net, shape, CLASSES, **spec.static)
    return detector, Given(spec.traced, lambda key, image: image, suspects=judged, victim=made.weights, **given)


def poisoned(count: int, classes: int = CLASSES, share: float = 0.25, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels as `batch` gives them that a random network tells apart: each class with a picture of its own.

    That share of class 0 has another picture instead. All vary along three more, far from normally.
    """
    draw = np.random.RandomState(seed)
    label = (np.arange(count) % classes).astype(np.int32)
    own = np.where((label == 0) & (draw.uniform(size=count) < share), classes, label)
    picture = np.random.RandomState(0).uniform(size=(classes + 4, 32, 32, 3))
    varied = np.tensordot(draw.exponential(size=(count, 3)), picture[-3:], 1)
    return 0.5 * picture[own] + 0.1 * varied + 0.1 * draw.uniform(size=(count, 32, 32, 3)), label


def hooked(made: Pair, layer: str, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What a layer of the PyTorch network reads and gives, channels after the rows, by a hook, as the field does it."""
    seen = []
    made.module.eval()
    module = made.module.get_submodule(layer)
    hook = module.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output)))
    with torch.no_grad():
        made.module(to_torch(image))
    hook.remove()
    return tuple(one.numpy() for one in seen[0])
