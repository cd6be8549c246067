"""What is kept of a detection: its figures, on request every score, and pictures of the most suspect images."""

import jax
import jax.numpy as jnp
import numpy as np

from bdjax.cells import functions, lift
from bdjax.cells.functions import Cell, Shared
from bdjax.data import images
from bdjax.io.store import results
from bdjax.io.store.store import Store
from bdjax.io.store.trees import save_named
from bdjax.metrics.detection import judge
from bdjax.study.groups import Group
from bdjax.study.jobs import Job
from bdjax.types import Trained

SHOWN = 12
"""Most suspect images that are kept of a detector under an attack."""


def keep(context, group: Group, jobs: list[Job], cells: Cell, shared: Shared, left: Trained, seconds: float) -> None:
    """Write what a chunk of detections found; the figures last, for they make the jobs done."""
    truth = np.asarray(cells.truth)
    left = {name: np.asarray(value) for name, value in left.carry.items()}
    for index, job in enumerate(jobs if context.work.study.keep_scores else []):
        kept = {name: value[index] for name, value in left.items()} | {"truth": truth[index]}
        save_named(context.store.scores_path(job.address), kept)
    _show(context.store, group, jobs, cells, shared, left["score"])
    flagged = left.get("flagged", [None] * len(jobs))
    found = [judge(*one) for one in zip(left["score"], truth, flagged, strict=False)][: len(jobs)]
    rows = {name: np.stack([one[name] for one in found]) for name in found[0]}
    rows |= {"address": [job.address for job in jobs], "detection_seconds": np.full(len(jobs), seconds / len(jobs))}
    results.write_shard(context.store.folder, "detect", rows)


def _show(store: Store, group: Group, jobs: list[Job], cells: Cell, shared: Shared, score: np.ndarray) -> None:
    """Keep pictures of the chunk's most poisoned cell, the first among equals; none where nothing is poisoned."""
    count, place = max((job.count, -place) for place, job in enumerate(jobs))
    if not count:
        return
    cell, scored = lift.pick(cells, -place), np.asarray(score[-place])
    shown = (np.asarray(cell.truth) >= 0) & np.isfinite(scored)
    rows = np.argsort(np.where(shown, -scored, np.inf), kind="stable")[: min(SHOWN, int(shown.sum()))]
    if not rows.size:
        return

    @jax.jit
    def read(cell: Cell, shared: Shared, rows):
        given = functions.make_given(group.scene, ("suspects",), cell, shared)
        return images.to_uint8(given.suspects.read(rows).image)

    image = read(cell, shared, jnp.asarray(rows, jnp.int32))
    tree = {"image": image, "poisoned": cell.truth[rows] == 1, "score": scored[rows]}
    job = jobs[-place]
    about = {"attack": job.attack, "detector": job.detector, "on": job.judges, "count": str(count)}
    save_named(store.folder / "suspects" / f"{job.address}.safetensors", tree, about)
