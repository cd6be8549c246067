"""The command `bdjax`. Every command is a frozen dataclass with a `run` method; tyro reads the shell into one.

What is slow to import is imported by the command that needs it, so that help comes at once.
"""

import contextlib
import errno
import logging
import os
import signal
import sys
import threading
import types
import warnings
from collections.abc import Callable, Iterator
from importlib.machinery import ExtensionFileLoader
from typing import NoReturn

from bdjax.errors import OUT_OF_MEMORY, InvalidInput, Unreadable, choice, is_out_of_memory

AGAIN = 1.0
"""Seconds after which a signal that ends the command comes again, until the command is gone."""

PATIENCE = 50
"""So many tenths of that a signal waits for a compiled module that is being imported."""


class Stopped(KeyboardInterrupt):
    """A signal ends the command. CPython itself ends by SIGINT after a plain KeyboardInterrupt that passed `exec`."""

    def __init__(self, number: int):
        self.number = number


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status (see `status`)."""
    arguments = sys.argv[1:] if arguments is None else arguments
    return status(lambda: _command(arguments or ["--help"]).run())


def console() -> NoReturn:
    """Run the command and end the process; after a signal at once, or a thread that compiles would crash the end."""
    ended = main()
    if ended > 128:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(ended)
    sys.exit(ended)


def status(action: Callable[[], None]) -> int:
    """Do it and return what a process that did it exits with, after one line on stderr for all but 0.

    That is 0; 1 for a full or failing disk or an internal error; 2 for input that cannot be used; 128 + n for signal n.
    """
    _quiet()
    try:
        with _terminable():
            action()
            sys.stdout.flush()
    except InvalidInput as error:
        return _fail(str(error), 1 if isinstance(error, Unreadable) else 2)
    except KeyboardInterrupt as error:
        number = getattr(error, "number", signal.SIGINT)
        return _fail(
            f"stopped by {signal.Signals(number).name}; the same command again goes on from here", 128 + number
        )
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the flush at exit fails again
        return 128 + signal.SIGPIPE
    except OSError as error:
        return _unusable(error)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return _fail(OUT_OF_MEMORY, 2)
    return 0


def _command(arguments: list[str]):
    """What the arguments ask for; tyro ends the process itself for help and for what it cannot parse."""
    import tyro

    from bdjax.cli.bench import Bench
    from bdjax.cli.doctor import Doctor
    from bdjax.cli.export import Export
    from bdjax.cli.importing import Import
    from bdjax.cli.listing import List
    from bdjax.cli.purify import Purify
    from bdjax.cli.quickstart import Quickstart
    from bdjax.cli.report import Report
    from bdjax.cli.run import Run
    from bdjax.cli.version import Version

    if arguments == ["--version"]:
        return Version()
    commands = Quickstart | Run | Report | Purify | Import | Export | List | Doctor | Bench
    names = [command.__name__.lower() for command in commands.__args__]
    if arguments[0] not in names and not arguments[0].startswith("-"):
        raise InvalidInput(f"no command {arguments[0]!r}{choice(arguments[0], names)}")
    _check_paths(arguments)
    options = [text.partition("=")[0] for text in arguments if text.startswith("--")]
    twice = [option for option in options if options.count(option) > 1]
    if twice:  # tyro would take the last
        raise InvalidInput(f"{twice[0]} is given twice; give it once, with all its values after it")
    return tyro.cli(
        commands,
        prog="bdjax",
        description="Backdoor attacks on image classifiers and defenses against them, many seeds and ratios at a time.",
        args=arguments,
        config=(tyro.conf.OmitSubcommandPrefixes,),
    )


def _check_paths(arguments: list[str]) -> None:
    """Refuse empty paths, such as those of a shell's unset variable: they would mean the working folder."""
    for before, text in zip(["", *arguments], [*arguments, "--"], strict=True):
        if text == "--out=" or (text == "" and (before == "--out" or not before.startswith("--"))):
            raise InvalidInput("an empty path is given; give a folder, or . for the working folder")


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends a command as SIGINT does; while a study runs the engine answers both, after a checkpoint.

    Where Python drops what a handler raises, as in callbacks of its garbage collector, the signal comes again; what
    Python would print of that is left out. Compiled modules are imported to their end: some abort where one is raised.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    ending = False

    def stop(number: int, frame: types.FrameType | None) -> None:
        if ending:
            return
        received.append(number)
        wait = _is_importing_compiled(frame) and len(received) < PATIENCE
        again = threading.Timer(AGAIN / 10 if wait else AGAIN, os.kill, (os.getpid(), number))
        again.daemon = True
        again.start()
        if not wait:
            raise Stopped(number)

    heeded = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) != signal.SIG_IGN]
    before, hook = {number: signal.signal(number, stop) for number in heeded}, sys.unraisablehook
    sys.unraisablehook = lambda found: None if isinstance(found.exc_value, KeyboardInterrupt) else hook(found)
    try:
        yield
        if received:  # and dropped, and all was done before it came again
            raise Stopped(received[0])
    finally:
        ending = True  # or one that comes again now would leave handlers and timers behind
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)
        for thread in threading.enumerate() if received else []:
            if isinstance(thread, threading.Timer):  # ours, and one of a minute that JAX leaves if it is broken off
                thread.cancel()


def _is_importing_compiled(frame: types.FrameType | None) -> bool:
    while frame is not None and not isinstance(frame.f_locals.get("self"), ExtensionFileLoader):
        frame = frame.f_back
    return frame is not None


def _unusable(error: OSError) -> int:
    """The answer to a full disk and to a path that cannot be used; an error of no path is our own."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _fail(
            f"the disk is full ({error.filename or 'in writing'}); make room and run the same command again", 1
        )
    if error.errno in (errno.EIO, errno.EFBIG, errno.ESTALE, errno.EMFILE, errno.ENFILE):
        where = error.filename or "in writing"
        return _fail(f"{where}: {error.strerror}; nothing finished is lost, run the same command again", 1)
    if error.filename is None or error.errno is None:
        raise error
    return _fail(f"{error.filename}: {error.strerror}; give a path that can be used", 2)


def _fail(message: str, status: int) -> int:
    line = " ".join(message.split())
    print("bdjax: " + "".join(letter if letter.isprintable() else "?" for letter in line), file=sys.stderr)
    return status


def _quiet() -> None:
    for name in ("absl", "jax", "orbax"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # what a full disk broke off, which the command says itself
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = _print_unraisable
    warnings.filterwarnings("ignore", category=DeprecationWarning)


def _print_unraisable(found: "sys.UnraisableHookArgs") -> None:
    """All but what threads of tensorstore print of writes that end after the one that failed."""
    if str(found.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(found)
