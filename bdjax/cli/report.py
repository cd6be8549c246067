"""`bdjax report DIR`: the table, the page and the exports of a study's folder, from its files alone."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True)
class Report:
    """Write DIR/report.html, results.parquet and results.csv from what a study has found so far."""

    folder: Annotated[Path, tyro.conf.Positional]
    """The study's folder."""

    def run(self) -> None:
        """See the class."""
        present(self.folder)


def present(folder: Path) -> None:
    """Print the table of a study and write its page and exports."""
    from bdjax import report, samples
    from bdjax.cards import Card
    from bdjax.io import results
    from bdjax.io.store import read_json

    found = results.load(folder)
    cards = [Card.from_dict(card) for card in read_json(folder / "study.json")["cards"]]
    path = report.write(folder, found, results.load_curves(folder), samples.load(folder), cards)
    report.export(found, folder)
    print(report.summary(found))
    print(f"\nThe page: {path}")
