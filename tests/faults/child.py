"""The study in a process of its own: `python -m faults.child '{"data": DIR, "out": DIR}'`, tests/ on the path.

Further options: those of `common.run`; `kill_at`, the operation before which it is killed; `no_locks`; `file_size`, the
largest file in bytes that it may write; `page`, whether it writes the page too. The exit status and stderr are the
command's own; on stdout is "ready" once signals are answered, "running" once the folder is entered, and the time when
all was done.
"""

import json
import resource
import signal
import sys
import time
from pathlib import Path

from bdjax import cli
from bdjax.cli import conduct
from bdjax.engine.progress import Silent
from faults import common, operations


class Printed(Silent):
    """Tells when the study begins to run."""

    def begin(self, models: int, done: int) -> None:
        print("running", flush=True)


def main(asked: dict) -> int:
    """Run it and return what the command would."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs ignore
    data, out = Path(asked.pop("data")), Path(asked.pop("out"))
    if asked.pop("no_locks", False):
        from bdjax.io.store import store

        store.fcntl.flock = lambda *_: None  # as on NFS that is mounted with nolock
    kill_at, file_size, page = (asked.pop(name, None) for name in ("kill_at", "file_size", "page"))

    def act() -> None:
        print("ready", flush=True)
        if kill_at is not None:
            operations.Operations().watch(out, operations.kill_at(kill_at))
        if file_size is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
        common.run(data, out, progress=Printed(), **asked)
        if page:
            conduct.present([out], out)
        print(f"done {time.time()}", flush=True)

    return cli.status(act)


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
