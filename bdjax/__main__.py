"""`python -m bdjax` is the command `bdjax`."""

from bdjax.cli import console

console()
