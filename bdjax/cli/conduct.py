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
    from bdjax.engine import run as engine

    use_cores()
    _conduct(lambda: engine.run(study, out, True, share), out)


def conduct_resolved(work, out: Path) -> None:
    """The same with a study that is resolved, of a model that was given."""
    from bdjax.engine import compiled, progress
    from bdjax.engine import run as engine
    from bdjax.io.store.store import Store

    compiled.keep()
    several = len(work.study.seeds) > 1  # of one seed the figures stand in a table of their own
    _conduct(lambda: engine.run_resolved(work, Store.at(out), progress.of(True)), out, several)


def _conduct(run, out: Path, tables: bool = True) -> None:
    from bdjax.engine.failures import Failed
    from bdjax.io.store.store import Store

    failed, store = None, Store.at(out)
    with timed(store.folder):
        try:
            run()
        except Failed as error:
            failed = error
    store.refresh()
    present([store.folder], store.folder, tables=tables)
    store.publish()
    if failed:
        raise failed


def preview(study, out: Path, share: tuple[int, int] = (1, 1)) -> None:
    """Print what a run would do and about how long it would take; nothing is trained."""
    from bdjax.engine import compiled
    from bdjax.engine import preview as previews

    use_cores()
    compiled.keep()
    print("\n".join(outline(previews.preview(study, out, share), out)))


def outline(seen, out: Path) -> list[str]:
    """A `bdjax.engine.preview.Preview` in lines."""
    from bdjax.engine.forecast import seconds
    from bdjax.engine.progress import duration

    rows = [("what", "missing", "of", "a cell", "in all", "")]
    rows += [(f"prepare {text}", str(int(not there)), "1", "", "", "") for text, there in seen.prepares.items()]
    for part in seen.left:
        cell = f"{part.cell:.2g} s" if part.missing and part.cell else ""
        total = duration(part.missing * part.cell) if cell else ""
        source = ("counted" if part.guessed else "measured") if cell else ""
        rows.append((part.group.label, str(part.missing), str(len(part.group.jobs)), cell, total, source))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [f"{out}: {seen.finished} of {seen.models} models are there; driver {seen.driver}", ""]
    for first, *others in rows:
        texts = [first.ljust(widths[0]), *(text.rjust(width) for text, width in zip(others, widths[1:], strict=True))]
        lines.append("  ".join(texts).rstrip())
    groups = sum(bool(part.compile) for part in seen.left)
    compiling = duration(sum(part.compile for part in seen.left))
    lines += ["", f"Compiling the programs of {groups} groups: {compiling}."] if groups else [""]
    if seen.planned:
        lines.append(f"Memory: {seen.planned / 1e9:.2f} GB of {seen.allowed / 1e9:.2f} GB allowed.")
    else:
        lines.append(f"Memory: known once programs are compiled; {seen.allowed / 1e9:.2f} GB are allowed.")
    guessed = any(part.guessed and part.missing for part in seen.left)
    lines.append(f"In all {'roughly' if guessed else 'about'} {duration(seconds(seen.left))}.")
    if guessed:
        lines.append(
            "Counted: every row of a step as long as in plain training; inner loops take more. Compilation that"
        )
        lines.append("was never measured counts as 15 s a group.")
    unmade = [text for text, there in seen.prepares.items() if not there]
    if unmade:
        lines.append(f"Not counted, for only a run tells: what it takes to prepare {', '.join(unmade)}.")
    unknown = [part.group.label for part in seen.left if part.guessed and part.missing and not part.cell]
    if unknown:
        lines.append(f"Not counted, for what the attack prepares is not there yet: {', '.join(unknown)}.")
    return lines


def present(folders: list[Path], out: Path, bound: float | None = None, forms=(), name="", tables: bool = True) -> None:
    """Print the tables of studies and write one page and the exports of all of them.

    Args:
        folders: the studies' own.
        out: where page and exports go.
        bound: loss of clean accuracy, a fraction, up to which defenses are compared; None: the report's own.
        forms: further forms of the table to write: latex, markdown.
        name: what the data set is called; "" as the studies call it.
        tables: whether they are printed.
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
    for label, found in zip(report.labels(results), results, strict=True) if tables else ():
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
