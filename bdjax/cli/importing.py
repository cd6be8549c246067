"""`bdjax import PATH --out DIR`: what other tools have found, as files that this library reads."""

import contextlib
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from bdjax.errors import InvalidInput


@dataclass(frozen=True)
class Import:
    """Read another tool's result and write what `bdjax run` takes: a poisoned set and weights.

    PATH: a record of BackdoorBench (its folder or attack_result.pt) or its leaderboard (.csv), a poisoned set of
    backdoor-toolbox, or a model folder of `bdjax export`. Files are not trusted: no code in them is run.
    """

    path: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="PATH")]
    """What to read; what it is is told by its content."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Where the files go."""
    dataset: Annotated[str | None, tyro.conf.arg(metavar="NAME_OR_PATH", help_behavior_hint="")] = None
    """The clean data set that the poison was made from, in the tool's order, as of `bdjax run`. Else: weights alone."""

    def run(self) -> None:
        """See the class."""
        from bdjax.io.foreign import leaderboard, model_folder, records

        if not self.path.exists():
            raise InvalidInput(f"{self.path}: no such file or folder; give what another tool has written")
        if self.out.exists() and not self.out.is_dir():
            raise InvalidInput(f"--out {self.out}: no folder; give one")
        if records.is_one(self.path):
            self._record()
        elif self.path.is_dir() and all((self.path / name).is_file() for name in ("imgs", "labels", "poison_indices")):
            self._toolbox()
        elif self.path.is_file() and leaderboard.is_one(self.path):
            self._leaderboard()
        elif (self.path / model_folder.CONFIG_FILE).exists():
            self._model_folder()
        else:
            raise InvalidInput(
                f"{self.path}: neither a record of BackdoorBench (attack_result.pt), a set of backdoor-toolbox (imgs, "
                "labels, poison_indices), its leaderboard (.csv) nor a model folder (config.json); give one of them"
            )

    def _record(self) -> None:
        from bdjax.io.datasets.poisoned_sets import save_set
        from bdjax.io.files import slug
        from bdjax.io.foreign import poison, records
        from bdjax.io.foreign.torch_files import load_state_dict
        from bdjax.io.store.trees import save_tree

        record = records.read(self.path)
        laid = poison.from_record(record, self._data(), str(self.path)) if self.dataset else None
        states = {slug(name): load_state_dict(path) for name, path in records.defended(self.path).items()}
        self.out.mkdir(parents=True, exist_ok=True)
        if laid:
            save_set(self.out / "set.npz", laid.arrays)
        save_tree(self.out / "victim.safetensors", record.state)
        for name, state in states.items():
            (self.out / "defended").mkdir(exist_ok=True)
            save_tree(self.out / "defended" / f"{name}.safetensors", state)
        about = {"network": record.network, "dataset": record.dataset, "classes": record.classes}
        about |= {"size": list(record.size), "defenses": list(states), "set": laid.counts if laid else None}
        self._note("BackdoorBench record", about)
        _print_counts(laid.counts if laid else {})
        if laid is None:
            print("weights alone; give --dataset, the clean data that the poison was made from, for the poisoned set")
        for name in states:
            print(f"{self.out / 'defended' / name}.safetensors")
        network, own = records.NETWORKS.get(record.network), records.NORMALIZATIONS.get(record.dataset)
        if not self._fits(network, record):
            print(f"no network of bdjax is BackdoorBench's {record.network}; register one to use its weights")
            network = None
        self._print_next(network, own, laid is not None)

    def _fits(self, name: str | None, record: Any) -> bool:
        """Whether the weights are those of a registered network at its usual settings."""
        from bdjax.io.foreign.torch_weights import from_torch
        from bdjax.models import MODELS

        with contextlib.suppress(InvalidInput):
            if name:
                channels = record.size[2]
                net = MODELS[name].make(record.size, record.classes, (0.0,) * channels, (1.0,) * channels)
                from_torch(record.state, net)
                return True
        return False

    def _toolbox(self) -> None:
        import numpy as np

        from bdjax.io.files import write_atomically
        from bdjax.io.foreign import poison

        if not self.dataset:
            raise InvalidInput(
                f"{self.path}: true labels are not in it; give --dataset, the clean data it was made from"
            )
        laid = poison.from_toolbox(self.path, self._data())
        self.out.mkdir(parents=True, exist_ok=True)
        write_atomically(self.out / "rows.npz", lambda temporary: np.savez(temporary, **laid.arrays))
        self._note("backdoor-toolbox set", {"set": laid.counts})
        _print_counts(laid.counts)
        print(
            f"{self.out / 'rows.npz'}: the training rows; the tool stores no triggered test images, so set:PATH takes "
            "it only with query_image and query_label added (bdjax/io/datasets/poisoned_sets.py)"
        )

    def _leaderboard(self) -> None:
        from bdjax.io.files import write_atomically
        from bdjax.io.foreign import leaderboard

        found = leaderboard.read(self.path)
        self.out.mkdir(parents=True, exist_ok=True)
        path = self.out / "leaderboard.nc"
        write_atomically(path, lambda temporary: found.to_netcdf(temporary, engine="h5netcdf"))
        self._note("BackdoorBench leaderboard", {"sizes": dict(found.sizes), **found.attrs})
        sizes = ", ".join(f"{size} {name}" for name, size in found.sizes.items())
        counts = f"{found.attrs['measured']} of {found.attrs['rows']} results, {found.attrs['sentinels']} sentinels"
        print(f"{path}: {counts}; {sizes}")
        print(f"next: python -c {shlex.quote(f'import xarray; print(xarray.open_dataset({str(path)!r}))')}")

    def _model_folder(self) -> None:
        from bdjax.io.foreign import model_folder
        from bdjax.io.foreign.torch_weights import to_torch
        from bdjax.io.store.trees import save_tree

        net, weights, config = model_folder.read(self.path)
        torch_form = config["names"] == "torch"
        self.out.mkdir(parents=True, exist_ok=True)
        save_tree(self.out / "victim.safetensors", to_torch(weights, net) if torch_form else weights)
        self._note("model folder", config)
        print(f"{config['architecture']}, {len(config['classes'])} classes, {config.get('cell', 'no cell')}")
        if not torch_form:
            print(f"changed by {config['defense']}; bdjax.load_model({str(self.path)!r}) gives it back")
            return
        own = "/".join(",".join(f"{one:.9g}" for one in config[name]) for name in ("mean", "std"))
        self._print_next(config["architecture"], own, False)

    def _data(self):
        from bdjax.io import datasets

        return datasets.load(self.dataset)

    def _note(self, kind: str, about: dict[str, Any]) -> None:
        from bdjax.io.store.documents import write_json

        write_json(self.out / "import.json", {"kind": kind, "source": self.path.name} | about)

    def _print_next(self, network: str | None, normalization: str | None, with_set: bool) -> None:
        """The command that uses what was written."""
        if network is None:
            return
        words = ["bdjax", "run", "--dataset", self.dataset or "NAME_OR_PATH", "--model", network]
        words += ["--normalization", normalization] if normalization else []
        words += ["--attacks", f"set:{self.out / 'set.npz'}"] if with_set else []
        words += ["--victims", f"victim={self.out / 'victim.safetensors'}", "--defenses", "none", "ft", "sau"]
        print("next: " + shlex.join([*words, "--out", str(self.out / "study")]))


def _print_counts(counts: dict[str, int | float]) -> None:
    if counts:
        print(
            ", ".join(f"{name} {value:g}" if name == "ratio" else f"{name} {value:,}" for name, value in counts.items())
        )
