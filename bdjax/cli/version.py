"""`bdjax --version`."""

from dataclasses import dataclass
from importlib.metadata import version


@dataclass(frozen=True)
class Version:
    """Print the version of bdjax and of what decides results beside it."""

    def run(self) -> None:
        """See the class."""
        print(f"bdjax {version('bdjax')} (jax {version('jax')}, numpy {version('numpy')})")
