"""`python -m bdjax` is the command `bdjax`."""

import sys

from bdjax.cli import main

sys.exit(main())
