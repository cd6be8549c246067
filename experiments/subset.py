"""A smaller copy of a dataset of class folders: the first images of every class by name.

    python -m experiments.subset FOLDER OUT --train 1000 --test 200

FOLDER holds train/<class>/* and test/<class>/*; OUT then holds the same with so many images a class.
"""

import argparse
import shutil
from pathlib import Path


def subset(folder: Path, out: Path, train: int, test: int) -> Path:
    """Copy `train` and `test` images a class from `folder` to `out`, which is left alone where it is there already."""
    if not out.exists():
        whole = out.with_name(out.name + ".part")
        for split, count in (("train", train), ("test", test)):
            for source in sorted(path for path in (folder / split).iterdir() if path.is_dir()):
                target = whole / split / source.name
                target.mkdir(parents=True, exist_ok=True)
                for image in sorted(source.iterdir())[:count]:
                    shutil.copy(image, target)
        whole.rename(out)
    return out


def main() -> None:
    """Read the arguments and copy."""
    parser = argparse.ArgumentParser(prog="python -m experiments.subset")
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--train", type=int, default=1000)
    parser.add_argument("--test", type=int, default=200)
    given = parser.parse_args()
    subset(given.folder, given.out, given.train, given.test)


if __name__ == "__main__":
    main()
