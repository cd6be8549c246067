"""The card of a model folder: Markdown with YAML front matter, as model hubs show it."""

import json
from collections.abc import Mapping
from typing import Any

FIGURES = {
    "acc": "accuracy on clean test images",
    "asr": "attack success rate",
    "ra": "robust accuracy: triggered test images classified as what they show",
}

TORCH = """```python
import torch
from safetensors.torch import load_file

state = load_file("model.safetensors")  # or torch.load("model.pt", weights_only=True)
model.load_state_dict(state, strict=True)  # your module of this architecture
mean = torch.tensor({mean}).view(1, -1, 1, 1)
std = torch.tensor({std}).view(1, -1, 1, 1)
logits = model((image - mean) / std)  # image float (b, channels, height, width) in [0, 1]
```"""

BDJAX = """```python
import bdjax

net, weights = bdjax.load_model("FOLDER")  # the folder of this file
logits = net.apply(weights, image)[0]  # image float (b, height, width, channels) in [0, 1]; it normalizes by itself
```"""


def text(config: Mapping[str, Any], torch_form: bool) -> str:
    """The card of a model with this config; torch_form: whether PyTorch can load it."""
    image, dataset = config["image"], config.get("dataset", {})
    size = f"{image['height']}x{image['width']} pixels, {image['channels']} channel(s)"
    known = {
        "architecture": config["architecture"],
        "dataset": " ".join(str(value) for value in dataset.values()),
        **config.get("cell", {}),
        "images": size,
        "classes": f"{len(config['classes'])}: {', '.join(config['classes'][:20])}",
    }
    title = f"{config['architecture']} with a backdoor" if _poisoned(config) else config["architecture"]
    parts = [
        _front(config),
        f"# {_plain(title)}",
        _about(config),
        "\n".join(f"- {name}: `{_plain(value)}`" for name, value in known.items() if value != ""),
        _figures(config.get("figures", {})),
        "## In bdjax\n\n" + BDJAX,
        "## In PyTorch\n\n" + (_torch(config) if torch_form else _no_torch(config)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _poisoned(config: Mapping[str, Any]) -> bool:
    return bool(config.get("cell", {}).get("ratio"))


def _plain(value: Any) -> str:
    """A value in one line of Markdown code."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in str(value))
    return shown.replace("`", "'").replace("|", "/")


def _front(config: Mapping[str, Any]) -> str:
    tags = ["bdjax", "backdoor", "image-classification"]
    lines = ["library_name: bdjax", f"license: {json.dumps(config.get('license', 'unknown'))}"]
    lines += ["pipeline_tag: image-classification", "tags:", *(f"- {tag}" for tag in tags)]
    return "\n".join(["---", *lines, "---"])


def _about(config: Mapping[str, Any]) -> str:
    if not _poisoned(config):
        return "An image classifier, stored by bdjax. Nothing is known here of what it was trained on beyond this card."
    cell = config["cell"]
    made = f"Trained on data poisoned on purpose by `{_plain(cell['attack'])}`"
    treated = "." if cell.get("defense", "none") == "none" else f", then treated by `{_plain(cell['defense'])}`."
    return (
        f"**This model is backdoored.** {made}{treated} It is for research on attacks and defenses; do not use it for "
        "anything else. A defense may have removed the backdoor in part or not at all: see the figures."
    )


def _figures(figures: Mapping[str, Any]) -> str:
    rows = [(about, figures[name]) for name, about in FIGURES.items() if figures.get(name) is not None]
    if not rows:
        return ""
    table = "\n".join(f"| {about} | {100 * value:.1f}% | {figures['n']} |" for about, value in rows)
    return f"| figure | value | n, models |\n| --- | --- | --- |\n{table}"


def _torch(config: Mapping[str, Any]) -> str:
    return "Names and layout are PyTorch's.\n\n" + TORCH.format(mean=config["mean"], std=config["std"])


def _no_torch(config: Mapping[str, Any]) -> str:
    return (
        f"The defense `{_plain(config['defense'])}` changed the network, which has no form in PyTorch. "
        "`model.safetensors` has bdjax's own names."
    )
