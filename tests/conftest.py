"""Two CPU devices, caches of this run's own, so that nothing of the user's is touched, and the slow files first."""

import atexit
import gc
import os
import shutil
import tempfile

import pytest

if "PYTEST_XDIST_WORKER" not in os.environ:  # workers share what the process that started them has made
    cache = tempfile.mkdtemp(prefix="bdjax-tests-")
    atexit.register(shutil.rmtree, cache, ignore_errors=True)
    os.environ["XDG_CACHE_HOME"] = cache
    # Most of these tests' time is compiling, and many compile the same; little of it is running. What is compiled is
    # kept compressed: JAX takes zstandard for it where that is installed, else zlib, which is slow. Fusion emitters
    # double the time of compiling, splitting a program for threads that two workers leave no cores for adds a tenth;
    # where a new jaxlib no longer knows one of these flags it says so and stops.
    os.environ["JAX_COMPILATION_CACHE_DIR"] = os.path.join(cache, "compiled")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
    flags = (
        "--xla_force_host_platform_device_count=2",
        "--xla_backend_optimization_level=0",
        "--xla_cpu_use_fusion_emitters=false",
        "--xla_cpu_parallel_codegen_split_count=1",
    )
    os.environ["XLA_FLAGS"] = " ".join((os.environ.get("XLA_FLAGS", ""), *flags))

gc.set_threshold(200_000, 50, 100)  # tracing makes many objects that stay: looking for garbage was a tenth of the time

SLOW = ("style", "poisoned_study", "engine", "resume", "docs", "selections", "processes", "lift", "common", "analysis")
"""Files that take longest: two workers end at about the same time if these do not come last."""


def pytest_collection_modifyitems(items):
    order = {f"test_{name}": place for place, name in enumerate(SLOW)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


@pytest.fixture(scope="module", autouse=True)
def forgotten_programs():
    """What a file of tests compiled is given up after it, or a worker would come to hold many gigabytes."""
    yield
    import jax

    from bdjax.cells import memory

    jax.clear_caches()
    memory.release()


@pytest.fixture
def usual_driver(monkeypatch):
    """Studies that name no driver take the usual one unmeasured: measuring compiles several programs."""
    monkeypatch.setattr("bdjax.engine.drivers.measured", lambda *asked: {})
