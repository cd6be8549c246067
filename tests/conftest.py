"""Two CPU devices, and caches of this test run's own: nothing of the user's is touched."""

import atexit
import os
import shutil
import tempfile

if "PYTEST_XDIST_WORKER" not in os.environ:  # workers share what the process that started them has made
    cache = tempfile.mkdtemp(prefix="bdjax-tests-")
    atexit.register(shutil.rmtree, cache, ignore_errors=True)
    os.environ["XDG_CACHE_HOME"] = cache
    # Most of these tests' time is compiling, and many compile the same; little of it is running. Fusion emitters double
    # the time of compiling; where a new jaxlib no longer knows one of these flags it says so and stops.
    os.environ["JAX_COMPILATION_CACHE_DIR"] = os.path.join(cache, "compiled")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
    flags = (
        "--xla_force_host_platform_device_count=2",
        "--xla_backend_optimization_level=0",
        "--xla_cpu_use_fusion_emitters=false",
    )
    os.environ["XLA_FLAGS"] = " ".join((os.environ.get("XLA_FLAGS", ""), *flags))
