"""A bounded part of what `python tests/faults` tries: bad input, damaged files, kills, signals, writers, full disks."""

import importlib

import pytest
from faults import common

from bdjax.cells import memory
from bdjax.engine import chunks, programs
from bdjax.engine import run as engine
from bdjax.io.store import store

pytestmark = pytest.mark.slow

TRIES = {
    **{"commands": 8, "data": 40, "weights": 40, "folders": 8},
    **{"files": 8, "operations": 10, "kills": 1, "signals": 2, "writers": 3, "shares": 1, "disks": 6},
}

CHANGED = {
    memory: ("release",),
    programs: ("_compile", "LARGEST"),
    chunks: ("CALL_SECONDS", "CHECKPOINT_SECONDS"),
    engine: ("POLL_SECONDS",),
    store: ("HEARTBEAT", "SILENCE"),
}
"""What `common.run` changes, so that a study takes a second."""


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        for module, names in CHANGED.items():
            for name in names:
                patch.setattr(module, name, getattr(module, name))
        yield common.Alone(tmp_path_factory.mktemp("faults"))


@pytest.mark.parametrize("block", TRIES)
def test_nothing_is_lost_and_nothing_lies(alone, block):
    said = []
    tally = common.Tally(said.append)
    importlib.import_module(f"faults.{block}").run(tally, alone, TRIES[block], 1)
    assert tally.passed == tally.tried > 0, "\n".join(said)
