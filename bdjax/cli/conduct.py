"""What commands and experiments share: running a study, showing what it found, keeping compiled programs."""

import contextlib
import os
from pathlib import Path


def conduct(study, out: Path) -> None:
    """Run a study with its progress shown, then print its table and write its page and exports."""
    from bdjax.engine import progress
    from bdjax.engine import run as engine

    use_cores()
    keep_compiled()
    engine.run(study, out, progress.automatic())
    present(out)


def present(folder: Path) -> None:
    """Print the table of a study and write its page and exports."""
    from bdjax import report
    from bdjax.cards import Card
    from bdjax.engine import samples
    from bdjax.io.store import results
    from bdjax.io.store.store import read_json

    found = results.load(folder)
    cards = [Card.from_dict(card) for card in read_json(folder / "study.json")["cards"]]
    path = report.write(folder, found, results.load_curves(folder), samples.load(folder), cards)
    report.export(found, folder)
    print(report.summary(found))
    if compared := report.differences(found):
        print(compared)
    print(f"The page: {path}")


def use_cores() -> None:
    """Make every core of a CPU a device, over which `shard` spreads cells: small networks gain little by threads."""
    import jax

    if "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "") or jax.config.jax_num_cpu_devices > 0:
        return
    with contextlib.suppress(RuntimeError):  # JAX was used before, and has the devices that it has
        jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))


def keep_compiled() -> None:
    """Keep compiled programs in the user's own cache: they are code, so nobody else may write there."""
    import jax

    from bdjax.io.datasets.cache import home

    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    path = home() / "compiled"
    path.mkdir(mode=0o700, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
