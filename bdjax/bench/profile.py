"""Where the time of a step goes: what an accelerator runs under JAX's profiler, by kernel."""

import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from jax.profiler import ProfileData


def kernels(call: Callable[[], None]) -> dict[str, Any]:
    """What the first accelerator runs while `call` does.

    Args:
        call: runs something, and waits for its end.

    Returns:
        seconds: by the clock; busy: how much of it the longest stream had something to run, 0 on a CPU, which has no
        streams; kernels: for each pair of kernel and the operation of XLA it belongs to, how often it ran and its
        seconds in all, the longest first.
    """
    call()
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            begun = time.perf_counter()
            call()
            seconds = time.perf_counter() - begun
        streams = [_events(path) for path in Path(folder).rglob("*.xplane.pb")]
    events = [event for found in streams for stream in found for event in stream]
    total: dict[tuple[str, str], list[float]] = defaultdict(list)
    for kernel, operation, duration in events:
        total[kernel, operation].append(duration)
    rows = [
        {"kernel": kernel, "operation": operation, "calls": len(times), "seconds": sum(times)}
        for (kernel, operation), times in total.items()
    ]
    busy = max((sum(duration for *_, duration in stream) for found in streams for stream in found), default=0.0)
    return {"seconds": seconds, "busy": busy, "kernels": sorted(rows, key=lambda row: -row["seconds"])}


def _events(path: Path) -> list[list[tuple[str, str, float]]]:
    """(kernel, operation, seconds) of what ran on each stream of the first accelerator in a profile."""
    planes = [plane for plane in ProfileData.from_file(str(path)).planes if plane.name.startswith("/device:GPU:0")]
    lines = [line for plane in planes for line in plane.lines if line.name.startswith("Stream")]
    return [[_event(event) for event in line.events] for line in lines]


def _event(event) -> tuple[str, str, float]:
    known = dict(event.stats)
    return event.name, str(known.get("hlo_op", "")), event.duration_ns / 1e9
