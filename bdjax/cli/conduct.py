"""What commands and experiments share: running a study, showing what it found, keeping compiled programs."""

import contextlib
import os
from pathlib import Path

from bdjax.cli.clock import timed, wall_seconds


def conduct(study, out: Path, share: tuple[int, int] = (1, 1)) -> None:
    """Run a study, or a share of it, with its progress shown, then print its table and write its page and exports.

    Raises:
        Failed: something went wrong in some groups of cells; what the others found has been shown then.
    """
    from bdjax.engine import progress
    from bdjax.engine import run as engine
    from bdjax.engine.failures import Failed
    from bdjax.io.store.store import Store

    use_cores()
    keep_compiled()
    failed, store = None, Store.at(out)
    with timed(store.folder):
        try:
            engine.run(study, out, progress.automatic(), share)
        except Failed as error:
            failed = error
    store.refresh()
    present([store.folder], store.folder)
    store.publish()
    if failed:
        raise failed


def present(folders: list[Path], out: Path, bound: float | None = None, forms=(), name="") -> None:
    """Print the tables of studies and write one page and the exports of all of them.

    Args:
        folders: the studies' own.
        out: where page and exports go.
        bound: loss of clean accuracy, a fraction, up to which defenses are compared; None: the report's own.
        forms: further forms of the table to write: latex, markdown.
        name: what the data set is called; "" as the studies call it.
    """
    from bdjax import report

    bound = report.BOUND if bound is None else bound
    studies = [shown(folder) for folder in folders]
    results = [study.results for study in studies]
    for found in results if name else []:
        found.attrs["dataset"] = name
    path = report.write_several(out, studies, bound)
    report.export(results, out)
    report.write_tables(results, out, forms, bound)
    for label, found in zip(report.labels(results), results, strict=True):
        texts = [report.summary(found, bound), report.differences(found), report.detections(found)]
        print("\n".join([f"{label}:"] * (len(studies) > 1) + [text for text in texts if text]))
    print(f"The page: {path}")


def shown(folder: Path):
    """What a page shows of the study in a folder: a `bdjax.report.Shown`."""
    from bdjax import report
    from bdjax.cards import Card
    from bdjax.io.store import pictures, results

    held = results.read_index(folder)["cards"]
    cards = {kind: tuple(map(Card.from_dict, named.values())) for kind, named in held.items()}
    suspects, scores = pictures.load_suspects(folder), results.load_scores(folder)
    found, curves = results.load(folder), results.load_curves(folder)
    if seconds := wall_seconds(folder):
        found.attrs["wall_seconds"] = seconds
    return report.Shown(found, curves, pictures.load_samples(folder), cards, suspects, scores)


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

    from bdjax.paths import home

    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    path = home() / "compiled"
    path.mkdir(mode=0o700, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
