"""MM-BD: the margins that the authors' script finds in a few steps of ascent, and its test on margins.

The script reads a model from a folder and runs on import: its loop and its test are run on a network of ours.
"""

import ast
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch

import bdjax
from bdjax import train
from bdjax.audits.mm_bd import p_value
from bdjax.cards import lookup
from bdjax.types import Given
from experiments.fidelity import common

STEPS, IMAGES = 5, 30


def theirs(folder: Path, module: torch.nn.Module, images: list) -> dict:
    """Run the authors' loop over classes from `images` (b, channels, height, width), one a class, and their test."""
    tree = ast.parse((folder / "univ_bd.py").read_text())
    first = next(i for i, node in enumerate(tree.body) if ast.unparse(node) == "res = []")
    body = [node for node in tree.body if isinstance(node, ast.FunctionDef)] + tree.body[first:]
    body = [node for node in body if not ast.unparse(node).startswith(("np.save", "print(args"))]
    waiting = list(images)

    class Torch:
        """torch, but that random images are those given."""

        def __getattr__(self, name):
            return (lambda shape: waiting.pop(0).clone()) if name == "rand" else getattr(torch, name)

    names = {"torch": Torch(), "F": torch.nn.functional, "np": np, "NC": common.CLASSES, "NSTEP": STEPS}
    names |= {"device": "cpu", "model": module.eval(), "print": lambda *_: None}
    exec(compile(ast.Module(body, []), "univ_bd.py", "exec"), names)
    return names


def compare(folder: Path) -> dict[str, float]:
    """Relative differences of all classes' margins, and of the probability under the null."""
    found = {}
    for name in ("resnet18", "preact_resnet18"):
        made = common.pair(name)
        spec = lookup(f"mm_bd:steps={STEPS},images={IMAGES}", bdjax.AUDITS, "audit")
        (stage,) = bdjax.AUDITS["mm_bd"].make(made.net, (32, 32, 3), common.CLASSES, **spec.static).stages
        given = Given(spec.traced, lambda key, image: image, victim=made.weights)
        key = jax.random.key(0)
        start = train.begin(stage, key, given, None)[0].moving
        margin = train.fit(key, stage, lambda victim, given=given: given._replace(victim=victim), made.weights).carry[
            "margin"
        ]
        names = theirs(folder, made.module, [common.to_torch(one) for one in start])
        found[f"{name}: margins after {STEPS} steps"] = common.relative(margin, np.array(names["res"]))
        found[f"{name}: p"] = common.relative(jnp.asarray(p_value(np.asarray(margin))), np.asarray(names["pv"]))
    return found


COMPARISON = common.Comparison("wanghangpsu/MM-BD", "903338d69162504767d947d5b923cbf36d497765", compare)
