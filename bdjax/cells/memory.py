"""How much memory a study may take."""

import ctypes
import gc
import re
import resource
from pathlib import Path

import jax

from bdjax.errors import InvalidInput

SHARE = 0.8
"""Of what there is, for a study that names no size."""

UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
MOST = 2**60
"""Bytes from which a size is taken for a slip."""


def size(text: str) -> int:
    """Bytes from a text like `1GB`, `800MB` or `1.5GiB`.

    Raises:
        InvalidInput: it is no size.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?i?B?)\s*", text, re.IGNORECASE)
    unit = found and (found[2].upper() + ("" if found[2].upper().endswith("B") or not found[2] else "B"))
    if not found or unit not in UNITS or not 0 < float(found[1]) * UNITS[unit] < MOST:
        raise InvalidInput(f"memory {text[:40]!r}; give a size such as 800MB or 1.5GiB")
    return int(float(found[1]) * UNITS[unit])


def budget(text: str = "", devices: int = 1) -> int:
    """Bytes that programs may hold on one device; on a CPU what the process holds already is taken off.

    Args:
        text: the size of the whole process on a CPU, of what is on a device elsewhere; "" is 80% of what there is.
        devices: how many are used; those of a CPU share its memory.
    """
    device = jax.local_devices()[0]
    statistics = device.memory_stats() or {}
    if device.platform != "cpu" and "bytes_limit" in statistics:
        return size(text) if text else int(SHARE * statistics["bytes_limit"])
    return (size(text) - resident() if text else int(SHARE * _meminfo("/proc/meminfo", "MemAvailable"))) // devices


def resident() -> int:
    """Bytes of memory that this process holds now."""
    return _meminfo("/proc/self/status", "VmRSS")


def peak() -> int:
    """The most bytes held so far: on the fullest device of this process, or on a CPU by the process."""
    held = [(device.memory_stats() or {}).get("peak_bytes_in_use") for device in jax.local_devices()]
    if jax.default_backend() != "cpu" and all(held):
        return max(held)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def before() -> int:
    """Bytes that are held beside the programs: on a CPU by the process as it is now, elsewhere none."""
    return resident() if jax.default_backend() == "cpu" else 0


def release() -> None:
    """Give back to the system what compiling has left behind: hundreds of megabytes that glibc keeps otherwise."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _meminfo(path: str, field: str) -> int:
    try:
        lines = Path(path).read_text().splitlines()
    except FileNotFoundError:
        raise InvalidInput(f"{path} is not there to tell the memory; give --memory SIZE") from None
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))
