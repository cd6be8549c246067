"""`bdjax report DIR`: the table, the page and the exports of a study's folder, from its files alone."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True)
class Report:
    """Print the table of what a study has found so far and write DIR/report.html, results.csv and results.parquet."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """The study's folder."""

    def run(self) -> None:
        """See the class."""
        from bdjax.cli.conduct import present

        present(self.folder)
