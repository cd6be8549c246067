"""`bdjax quickstart`: the main job at small size, on handwritten digits, in minutes on two CPU cores."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True)
class Quickstart:
    """Two attacks, three poison ratios, four seeds and three defenses on digits: a table, figures and a page."""

    out: Path = Path("runs/quickstart")
    """The study's folder; what is finished there is not done again."""
    memory: str = "1GB"
    """What it may take."""
    dry_run: Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help_behavior_hint="")] = False
    """Say what would be done, how much of it is there, and about how long the rest takes; train nothing."""

    def run(self) -> None:
        """See the class."""
        from bdjax.cli.conduct import conduct, preview

        (preview if self.dry_run else conduct)(study(self.memory), self.out)


def study(memory: str = "1GB"):
    """The study that the quickstart runs."""
    from bdjax.study import Study

    return Study(
        dataset="digits",
        model="small_cnn",
        attacks=("badnets", "blended"),
        ratios=(0.0, 0.05, 0.1),
        seeds=range(4),
        defenses=("none", "ft", "ft_sam"),
        driver="map",  # the same bits in any batch and after any interruption
        memory=memory,
    )
