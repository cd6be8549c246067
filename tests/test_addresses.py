"""Content addresses of a canonical study are pinned: whoever moves one makes everybody's stored models anew.

An address may change only with the version of a card, or with `work.ENGINE`. Then `python tests/test_addresses.py`
writes the new ones, and the difference belongs into the same commit as the raised version.
"""

import json
import sys
import tempfile
from pathlib import Path

import pytest
import tiny

from bdjax.audits import AUDITS
from bdjax.defenses import DEFENSES
from bdjax.detection import DETECTORS
from bdjax.study import resolve
from bdjax.study.jobs import plan

PINNED = Path(__file__).parent / "reference" / "addresses.json"


def own(registry) -> tuple[str, ...]:
    """The package's entries, without those that other tests have registered."""
    return tuple(name for name, method in registry.items() if method.make.__module__.startswith("bdjax."))


COMMON = {"model": "small_cnn:width=2", "ratios": (0.1,), "seeds": (0,)}
STUDIES = {
    "plain": {"attacks": ("badnets",), "defenses": own(DEFENSES), "audits": own(AUDITS), "detectors": own(DETECTORS)},
    "own training": {
        "attacks": ("wanet",),
        "defenses": ("none", "ft", "abl", "exact_purification"),
        "audits": own(AUDITS),
    },
    "search": {"attacks": ("badnets",), "defenses": ("none", "ft"), "selection": "fus:rounds=2"},
    "reserved": {"attacks": ("badnets", "wanet"), "defenses": ("none", "ft"), "clean": "reserved"},
}


def addresses(folder: Path) -> dict[str, str]:
    """The first sixteen digits of the address of everything that the studies come to, by what it is."""
    found = {}
    for study, fields in STUDIES.items():
        planned = plan(resolve.resolve(tiny.study(folder, **COMMON | fields)))
        for job in planned.jobs:
            names = (study, job.kind, job.attack, job.method, job.audit, job.count, job.model and job.model[:4])
            names += (job.detector, job.judges or None)
            found[" ".join(str(name) for name in names if name is not None)] = job.address[:16]
    return found


def test_addresses_are_those_that_stored_studies_have(tmp_path, monkeypatch):
    monkeypatch.setattr(resolve, "rehearse", lambda resolved: None)
    pinned, found = json.loads(PINNED.read_text()), addresses(tmp_path)
    changed = [name for name in sorted({*pinned, *found}) if pinned.get(name) != found.get(name)]
    assert not changed, "raise the card's version, then run: python tests/test_addresses.py"


@pytest.mark.parametrize(("kind", "registry"), [("train", DEFENSES), ("audit", AUDITS), ("detect", DETECTORS)])
def test_every_method_is_pinned(kind, registry):
    pinned = [text.split() for text in json.loads(PINNED.read_text())]
    names = {word for words in pinned if kind in words for word in words}
    assert {*own(registry)} - {"none"} <= names


def test_what_changes_the_clean_model_changes_what_reads_it(tmp_path, monkeypatch):
    # Under an attack that trains its victim by itself the study's recipe makes the clean model alone.
    monkeypatch.setattr(resolve, "rehearse", lambda resolved: None)
    own = "wanet:epochs=3,batch=32,learning_rate=0.05,momentum=0.9,weight_decay=0.0005"
    asked = {"attacks": (own,), "audits": ("reactivation", "retuning"), "model": "small_cnn:width=2", "ratios": (0.1,)}
    recipes = (f"{tiny.RECIPE},smoothing={share}" for share in (0, 0.1))
    one, two = (plan(resolve.resolve(tiny.study(tmp_path, **asked, recipe=recipe))).cells for recipe in recipes)
    for before, after in zip(one, two, strict=True):
        assert before["model"] == after["model"]
        assert before["audits"]["retuning"] == after["audits"]["retuning"]
        assert before["audits"]["reactivation"] != after["audits"]["reactivation"]


if __name__ == "__main__":
    resolve.rehearse = lambda resolved: None
    with tempfile.TemporaryDirectory() as folder:
        PINNED.write_text(json.dumps(addresses(Path(folder)), indent=1, sort_keys=True) + "\n")
    sys.stdout.write(f"{PINNED}\n")
