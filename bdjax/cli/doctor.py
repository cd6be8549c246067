"""`bdjax doctor`: what this machine has and what bdjax would choose on it, or what is wrong with a study's folder."""

import os
import platform
from collections import Counter
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated

import tyro

from bdjax.errors import InvalidInput, Unreadable

PACKAGES = (
    "bdjax",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "numpy",
    "xarray",
    "h5netcdf",
    "pandas",
    "pyarrow",
    "safetensors",
    "scikit-learn",
    "pillow",
    "matplotlib",
    "jinja2",
    "rich",
    "tyro",
    "tensorflow-datasets",
    "array_record",
    "torch",
    "chex",
)


@dataclass(frozen=True)
class Doctor:
    """Show versions, devices, memory, datasets found, and the drivers chosen and why; or check a study's folder."""

    folder: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="[DIR]", help_behavior_hint="")] = None
    """A study's folder, or its place in an object store: what in it is damaged, belongs to no cell or was left over.
    Status 2 if any is damaged."""

    def run(self) -> None:
        """See the class."""
        if self.folder is not None:
            _examine(self.folder)
            return
        from bdjax.cli.conduct import use_cores
        from bdjax.engine import compiled

        use_cores()
        compiled.keep()
        for part in (_versions, _devices, _datasets, _drivers):
            part()


def _examine(folder: Path) -> None:
    from bdjax.io.store import remote
    from bdjax.io.store.examine import examine

    far = remote.of(folder)
    if far:
        far.pull()
        far.fetch_all()
        folder = far.folder
    found = list(examine(folder))
    where = far.url if far else str(folder)
    for finding in found:
        print(f"{finding.kind}: {finding.path}: {finding.about}".replace(str(folder), where))
    kinds = Counter(finding.kind for finding in found)
    if kinds["damaged"]:
        raise InvalidInput(f"{where}: {kinds['damaged']} damaged; remove them there and run the study again")
    if kinds["unreadable"]:
        raise Unreadable(f"{where}: {kinds['unreadable']} cannot be read now; make them readable and look again")
    print(f"{where}: nothing is damaged")


def _versions() -> None:
    print(f"python {platform.python_version()} on {platform.system()} {platform.machine()}")
    for name in PACKAGES:
        try:
            print(f"  {name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            print(f"  {name} is not installed")


def _devices() -> None:
    import jax

    from bdjax.cells import memory

    print(f"devices: {jax.device_count()} on {jax.process_count()} process(es), {os.cpu_count()} CPU cores")
    for device in jax.devices():
        print(f"  {device.device_kind} ({device.platform})")
    print(f"  a study may take {memory.budget() / 1e9:.1f} GB on each (--memory says otherwise)")
    where = jax.config.jax_compilation_cache_dir
    print(f"  compiled programs are kept in {where}" if where else "  compiled programs are not kept")


def _datasets() -> None:
    import bdjax
    from bdjax.io.datasets.tfds import prepared

    print("datasets")
    for name in bdjax.DATASETS:
        print(f"  {name}, built in")
    names = prepared()
    for name in names:
        print(f"  {name}, prepared TFDS")
    if not names:
        print("  no prepared TFDS dataset; class folders and .npz files are given by their path")


def _drivers() -> None:
    from bdjax.engine import drivers

    print("drivers")
    known = drivers.remembered()
    for entry in known.values():
        times = ", ".join(f"{how} {seconds * 1e3:.2f} ms" for how, seconds in entry["seconds"].items())
        best = drivers.best(entry["seconds"])
        shape = "x".join(map(str, entry["shape"]))
        model = entry["model"]["name"]
        print(f"  {best} for {model} on {shape} images ({entry['device']}): {times} a step a cell")
    if not known:
        print("  none measured yet: `driver=auto` measures once a model and remembers")
