"""bdjax: backdoor attacks on image classifiers and the defenses against them, many seeds and ratios at a time.

Importing it sets no JAX option and needs only jax, flax, optax and numpy; what reads files is imported on first use.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what editors see; it is imported on first use
    from bdjax.analysis import ANALYSES
    from bdjax.attacks import ATTACKS
    from bdjax.audits import AUDITS
    from bdjax.defenses import DEFENSES
    from bdjax.detection import DETECTORS
    from bdjax.engine.inspect import inspect
    from bdjax.engine.purify import purify
    from bdjax.engine.run import run
    from bdjax.errors import InvalidInput
    from bdjax.io.datasets import DATASETS
    from bdjax.io.store.pictures import load_suspects
    from bdjax.io.store.results import load, load_curves, load_scores
    from bdjax.metrics import evaluate
    from bdjax.models import MODELS
    from bdjax.selections import SELECTIONS
    from bdjax.study import Study
    from bdjax.study.stored import load_model

_WHERE = {
    "ANALYSES": "analysis",
    "ATTACKS": "attacks",
    "AUDITS": "audits",
    "DATASETS": "io.datasets",
    "DEFENSES": "defenses",
    "DETECTORS": "detection",
    "InvalidInput": "errors",
    "MODELS": "models",
    "SELECTIONS": "selections",
    "Study": "study",
    "evaluate": "metrics",
    "inspect": "engine.inspect",
    "load": "io.store.results",
    "load_curves": "io.store.results",
    "load_model": "study.stored",
    "load_scores": "io.store.results",
    "load_suspects": "io.store.pictures",
    "purify": "engine.purify",
    "run": "engine.run",
}

__all__ = [
    "ANALYSES",
    "ATTACKS",
    "AUDITS",
    "DATASETS",
    "DEFENSES",
    "DETECTORS",
    "MODELS",
    "SELECTIONS",
    "InvalidInput",
    "Study",
    "evaluate",
    "inspect",
    "load",
    "load_curves",
    "load_model",
    "load_scores",
    "load_suspects",
    "purify",
    "run",
]


def __getattr__(name: str):
    if name not in _WHERE:
        raise AttributeError(f"module 'bdjax' has no attribute {name!r}")
    return getattr(importlib.import_module(f"bdjax.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_WHERE])
