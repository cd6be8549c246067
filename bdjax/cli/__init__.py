"""The command `bdjax`. Every command is a frozen dataclass with a `run` method; tyro reads the shell into one."""

import errno
import logging
import os
import sys
import warnings
from typing import Annotated

from bdjax.errors import InvalidInput


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status: 0; 1 for a full disk or an internal error; 2 for input that cannot
    be used; 128 + n after signal n.
    """
    import tyro

    from bdjax.chunks import Interrupted
    from bdjax.cli.bench import Bench
    from bdjax.cli.doctor import Doctor
    from bdjax.cli.listing import List
    from bdjax.cli.quickstart import Quickstart
    from bdjax.cli.report import Report
    from bdjax.cli.run import Run

    commands = (Quickstart, Run, Report, List, Doctor, Bench)
    union = tuple(Annotated[command, tyro.conf.subcommand(command.__name__.lower())] for command in commands)
    command = tyro.cli(_union(union), prog="bdjax", args=arguments, config=(tyro.conf.OmitSubcommandPrefixes,))
    _quiet()
    try:
        _compile_cache()
        command.run()
    except InvalidInput as error:
        return _fail(str(error), 2)
    except Interrupted as error:
        return _fail(f"{error}; what is done is kept: the same command goes on from here", 128 + error.number)
    except KeyboardInterrupt:
        return _fail("stopped at once; the running chunk goes back to its last checkpoint", 130)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return _fail(f"the disk is full ({error.filename}); make room and run the same command again", 1)
    return 0


def _union(types: tuple) -> type:
    joined = types[0]
    for other in types[1:]:
        joined = joined | other
    return joined


def _fail(message: str, status: int) -> int:
    print("bdjax: " + " ".join(message.split()), file=sys.stderr)
    return status


def _quiet() -> None:
    for name in ("absl", "jax", "orbax"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=DeprecationWarning)


def _compile_cache() -> None:
    """Keep compiled programs in the user's own cache: they are code, so nobody else may write there."""
    import jax

    from bdjax.io.cache import home

    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    path = home() / "compiled"
    path.mkdir(mode=0o700, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
