"""`bdjax purify WEIGHTS --model M --clean DIR`: a suspicious model and a few clean images, purified and given back."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from bdjax.errors import InvalidInput

if TYPE_CHECKING:
    from bdjax.engine.purify import Outcome
    from bdjax.engine.suspects import Suspect
    from bdjax.study.work import Work

USUAL = ("ft_sam", "sau", "npd")
"""Defenses where none are named."""


def _option(kind: Any, metavar: str) -> Any:
    return Annotated[kind | None, tyro.conf.arg(metavar=metavar, help_behavior_hint="")]


@dataclass(frozen=True)
class Purify:
    """Purify a suspicious model with a few clean images, and write the models, a table and a page.

    A folder of images holds one folder a class, DIR/<class>/*. Nothing else is needed: no training set, no trigger.
    """

    weights: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="WEIGHTS")]
    """A PyTorch file with a state_dict, a .safetensors file, or a model folder of `bdjax export`."""
    clean: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Clean images, a few hundred; classes may be uneven or missing."""
    model: _option(str, "MODEL") = None
    """The network, e.g. preact_resnet18 or resnet18:width=16. A model folder says it itself."""
    normalization: _option(str, "NAME_OR_MEAN/STD") = None
    """What the model subtracts and divides by: cifar10, imagenet, half, none, or numbers. Else: you are asked."""
    classes: _option(Path, "FILE") = None
    """Class names in the model's order, a line each. Else: the order of the folders' names."""
    valid: _option(Path, "DIR") = None
    """Further clean images, on which thresholds are chosen. Else: a fifth of the clean ones."""
    test: _option(Path, "DIR") = None
    """Images to measure accuracy on. Else: it is not measured."""
    triggered: _option(Path, "DIR") = None
    """Images with the trigger: in class folders by what they show, or as they are. Needs --target."""
    target: _option(str, "CLASS") = None
    """The class that the trigger leads to, by name or number."""
    defenses: _option(tuple[str, ...], "DEFENSE ...") = None
    """As of `bdjax run`. Else: ft_sam sau npd."""
    seeds: _option(tuple[str, ...], "SEED ...") = None
    """Of the defenses: numbers, or a range such as 0:4. Else: 0:1."""
    inspect: Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help_behavior_hint="")] = False
    """Ask detectors of backdoored models before and after."""
    flip: Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help_behavior_hint="")] = False
    """Mirror images in training: right for most natural images, wrong for digits and signs."""
    memory: _option(str, "SIZE") = None
    """What it may take, e.g. 1GB. Else: 80% of what there is."""
    plugin: _option(tuple[str, ...], "MODULE ...") = None
    """Modules that register methods of your own: installed, or files in the working folder."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("runs/purified")
    """Where all of it goes; what is finished there is not done again."""

    def run(self) -> None:
        """See the class."""
        from bdjax.cli.conduct import conduct_resolved, use_cores
        from bdjax.cli.run import seeds
        from bdjax.engine import suspects
        from bdjax.engine.failures import Failed
        from bdjax.engine.purify import outcomes
        from bdjax.io.store.store import Store
        from bdjax.study import plugins
        from bdjax.study.building import lookup

        if (self.triggered is None) != (self.target is None):
            raise InvalidInput("--triggered and --target belong together; give both or neither")
        if self.out.exists() and not self.out.is_dir():
            raise InvalidInput(f"{self.out}: no folder; give one, or where none is yet")
        use_cores()
        numbers = seeds(self.seeds) if self.seeds else (0,)
        plugins.load(self.plugin or ())
        for text in self.defenses or ():  # before anything slow
            lookup(text, "defense")
        suspect = suspects.open_suspect(
            self.weights,
            self.model,
            self.clean,
            valid=self.valid,
            test=self.test,
            triggered=self.triggered,
            names=self.classes,
            normal=self.normalization,
        )
        print("\n".join(_told(suspect)), flush=True)
        work = self._resolve(suspect, numbers)
        failed = None
        try:
            conduct_resolved(work, self.out)
        except Failed as error:  # of some defenses; the others are there
            failed = error
        store = Store.at(self.out)
        found = list(outcomes(work, store))
        print("\n".join([*_table(found), *(_inspected(work, store) if self.inspect else [])]))
        print("\n".join(_written(work, suspect, found, self.out)))
        if failed:
            raise failed

    def _resolve(self, suspect: "Suspect", seeds: tuple[int, ...]) -> "Work":
        from bdjax.data.poison import all_to_one
        from bdjax.engine.inspect import DETECTORS
        from bdjax.study import purifying

        trigger = None
        if self.triggered is not None:
            trigger = purifying.Trigger(all_to_one(_target(self.target, suspect.held.classes)))
        return purifying.resolve(
            suspect.net,
            suspect.weights,
            suspect.held,
            model=suspect.model,
            name=self.clean.resolve().name,
            defenses=self.defenses or USUAL,
            audits=DETECTORS if self.inspect else (),
            seeds=seeds,
            trigger=trigger,
            normalization=suspect.normalization,
            flip=self.flip,
            memory=self.memory or "",
            modules=self.plugin or (),
        )


def _target(text: str, classes: tuple[str, ...]) -> int:
    """The number of a class."""
    if text in classes:
        return classes.index(text)
    if text.isdecimal() and int(text) < len(classes):
        return int(text)
    raise InvalidInput(f"target {text!r}; give one of {', '.join(classes)[:200]}, or a number below {len(classes)}")


def _told(suspect: "Suspect") -> list[str]:
    """What the model and the images are, before hours are spent on them."""
    from bdjax.engine.suspects import logits

    held = suspect.held
    counts = {"clean": held.clean, "for thresholds": held.valid, "to test on": held.test, "triggered": held.triggered}
    images = ", ".join(f"{len(data.label)} {name}" for name, data in counts.items() if data is not None)
    lines = [f"{suspect.model.text}, {len(held.classes)} classes; images: {images}"]
    if held.absent:
        lines.append(f"No clean image of {', '.join(held.absent)}: a defense may hurt what it does not see.")
    lines.append(f"Right on {suspect.accuracy:.1%} of clean images. Logits of some:")
    return [*lines, *logits(suspect), ""]


def _table(found: "list[Outcome]") -> list[str]:
    """Before and after, in percent; a dash for what is not known."""

    def share(value: float) -> str:
        return f"{100 * value:.1f}" if value == value else "–"

    heads = ("", "seed", "ACC", "ACC on valid", "ASR", "RA", "moved", "seconds")
    rows = [heads]
    for one in found:
        ruined = one.figures["valid_acc"] < found[0].figures["valid_acc"] / 2
        mark = " (diverged)" if one.diverged else " (ruined)" if ruined else ""
        name = "as it was given" if one.defense == "none" else one.defense + mark
        known = [share(one.figures[figure]) for figure in ("acc", "valid_acc", "asr", "ra", "moved")]
        rows.append((name, "" if one.defense == "none" else str(one.seed), *known, f"{one.figures['seconds']:.1f}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        texts = [first.ljust(widths[0]), *(text.rjust(width) for text, width in zip(others, widths[1:], strict=True))]
        lines.append("  ".join(texts).rstrip())
    notes = [
        "In percent. Thresholds are chosen on valid, so accuracy there flatters. moved: how far the weights went, of"
    ]
    notes += ["their length. ruined: it keeps less than half of the accuracy on valid."]
    if all(one.figures["asr"] != one.figures["asr"] for one in found):
        notes += ["No trigger is given: nobody knows from this whether there is a backdoor, or whether it is gone."]
    return ["", *lines, *notes]


def _inspected(work: "Work", store) -> list[str]:
    """What detectors say before and after."""
    from bdjax.engine.inspect import finding
    from bdjax.io.store import results

    found = results.load(store.folder).isel(attack=0, ratio=0, seed=0)
    lines = ["", "Detectors of backdoored models (what they flag may be clean, what they pass may be backdoored):"]
    for name in work.defenses:
        called = "as it was given" if name == "none" else name
        for audit in work.audits:
            said = finding(found.sel(defense=name), audit, work.model.text, work.dataset.classes)
            lines.append(f"  {called}: {audit} {said.words}")
    return lines


def _written(work: "Work", suspect: "Suspect", found: "list[Outcome]", out: Path) -> list[str]:
    """Every purified model as a folder; lines that say where."""
    from bdjax.io.files import slug
    from bdjax.io.foreign import model_folder
    from bdjax.io.foreign.torch_weights import to_torch

    height, width, channels = work.dataset.shape
    shared = {
        "architecture": suspect.model.text,
        "classes": list(work.dataset.classes),
        "image": {"height": height, "width": width, "channels": channels},
        "mean": list(suspect.normalization.mean),
        "std": list(suspect.normalization.std),
        "dataset": {"name": work.dataset.name, "digest": work.dataset.digest},
    }
    lines = [""]
    for one in found:
        if one.defense == "none" or one.diverged:
            continue
        several = len(work.study.seeds) > 1
        folder = out / "purified" / (slug(one.defense) + (f"-{one.seed}" if several else ""))
        figures = {name: value for name, value in one.figures.items() if value == value} | {"n": 1}
        own = {"cell": {"defense": one.defense, "seed": one.seed}, "figures": figures}
        changed = one.net.plain is not None
        like = suspect.state if suspect.is_torch else None
        state = None if changed else to_torch(one.weights, one.net, like)
        model_folder.write(
            folder, one.net, one.weights, shared | own | ({"defense": one.defense} if changed else {}), state
        )
        form = f"{model_folder.FILE}, {model_folder.CONFIG_FILE}"
        if changed:
            lines.append(f"{folder}: {form}; {one.defense} changes the network, so there is no PyTorch form")
            continue
        pickle = (folder / model_folder.PICKLE).exists()
        lines.append(
            f"{folder}: {form}" + (f", {model_folder.PICKLE}" if pickle else "; no .pt, for torch is not here")
        )
    return lines
