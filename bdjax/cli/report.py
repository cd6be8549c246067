"""`bdjax report DIR...`: the tables, the page and the exports of studies, from their folders alone."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from bdjax.errors import InvalidInput


@dataclass(frozen=True)
class Report:
    """Print what studies have found so far and write report.html, results.csv and results.parquet.

    Of one study they go into its folder; several stand on one page, in --out. A folder may be a place in an object
    store, as s3://bucket/study.
    """

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """A study's folder."""
    others: Annotated[
        tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[DIR ...]", help_behavior_hint="")
    ] = ()
    """Those of further studies."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = None
    """Where page and exports go. Else: the study's own folder, or ./report for several and for object stores."""
    name: Annotated[str, tyro.conf.arg(metavar="TEXT", help_behavior_hint="")] = ""
    """What the data set is called on the page and in the tables. Else: as the study calls it."""
    bound: Annotated[float, tyro.conf.arg(metavar="POINTS")] = 5.0
    """Loss of clean accuracy up to which defenses are compared by ASR."""
    latex: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Write results.tex, the table at each attack's largest ratio, too."""
    markdown: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Write results.md, the same table, too."""

    def run(self) -> None:
        """See the class."""
        from bdjax.cli.conduct import present
        from bdjax.io.store import remote

        if not 0 <= self.bound <= 100:
            raise InvalidInput(f"--bound {self.bound:g}; give points of accuracy between 0 and 100")
        forms = [form for form in ("latex", "markdown") if getattr(self, form)]
        folders = list(map(remote.local, (self.folder, *self.others)))
        out = self.out or Path("report" if self.others or remote.of(self.folder) else self.folder)
        present(folders, out, self.bound / 100, forms, self.name)
