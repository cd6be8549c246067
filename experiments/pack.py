"""CIFAR-10, or any class folders, as one .npz: from a folder, or from the archive of one, decoded by all cores.

    python -m experiments.pack FOLDER-OR-ARCHIVE OUT.npz

For a machine without network to which an archive of JPEG files can be carried and decoded images cannot: CIFAR-10 is
18 MB as .tar.xz and 184 MB as pixels. Nothing is compressed in OUT, which is whole or not there.
"""

import argparse
import os
import sys
import tarfile
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from bdjax.cli import status
from bdjax.io.datasets import decode
from bdjax.io.datasets.folders import listing

CHUNK = 500
"""Files a process reads at a time."""


def arrays(root: Path) -> dict[str, np.ndarray]:
    """What `bdjax.io.datasets.npz` reads, from class folders of images of one size, all gray or all RGB."""
    found = listing(root)
    height, width, _ = decode.image(root / found.files["train"][0][0]).shape
    read, made = partial(decode.image, size=(height, width)), {}
    with ProcessPoolExecutor() as pool:
        for split, files in found.files.items():
            paths = [root / path for path, _ in files]
            made[f"{split}_image"] = np.stack(list(pool.map(read, paths, chunksize=CHUNK)))
            made[f"{split}_label"] = np.array([label for _, label in files], np.int32)
    return made


def write(path: Path, made: dict[str, np.ndarray]) -> None:
    """Write the arrays beside `path`, then move them there."""
    part = path.with_name(f".{path.name}.part.npz")
    np.savez(part, **made)
    os.replace(part, path)


def main() -> None:
    """Read the arguments, unpack an archive into a folder of its own, decode, write."""
    parser = argparse.ArgumentParser(prog="python -m experiments.pack")
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    if given.source.is_dir():
        write(given.out, arrays(given.source))
        return
    with tempfile.TemporaryDirectory(dir=given.out.parent) as folder:
        with tarfile.open(given.source) as archive:
            archive.extractall(folder, filter="data")
        write(given.out, arrays(Path(folder)))


if __name__ == "__main__":
    sys.exit(status(main))
