"""SCAn: covariances, statistics, anomalies and decisions beside BackdoorBench's class `SCAn`.

Tang et al., USENIX Security 2021. The class runs as it is on the output of the last block summed over pixels; its
random starts are repeated and the one with the largest statistic is taken, as ours takes the tightest of its own.
"""

import jax.numpy as jnp
import numpy as np

from bdjax.detection.scan import fit_components
from experiments.fidelity import common

ROWS, CLEAN, CLASSES, STARTS = 400, 200, 10, 40


def compare(folder):
    """Relative differences of both covariances, of the ten statistics and anomalies, and of decisions."""
    made = common.pair()
    code = common.pieces(folder, "detection_pretrain/scan.py", "SCAn", EPS=1e-5)
    (image, label), (clean, clean_label) = common.poisoned(ROWS), common.poisoned(CLEAN, share=0, seed=2)
    feature, known = (common.hooked(made, "layer4.1", one)[1].sum((2, 3)) for one in (image, clean))
    theirs = code.SCAn()
    model = theirs.build_global_model(known, clean_label, CLASSES)
    every, labels = np.concatenate([feature, known]), np.concatenate([label, clean_label])
    best = None
    for seed in range(STARTS):
        np.random.seed(seed)
        found = theirs.build_local_model(every, labels, model, CLASSES)
        if best is None:
            best = found
        for number in np.flatnonzero(found["sts"][:, 1] > best["sts"][:, 1]):
            best["sts"][number], best["subg"][number] = found["sts"][number], found["subg"][number]
    anomaly, flagged = theirs.calc_final_score(best), np.zeros(ROWS, bool)
    for number in np.flatnonzero(anomaly > np.exp(2)):
        rows, side = np.flatnonzero(labels == number), best["subg"][number] == 1
        suspect = ~side if np.sum(rows[~side] >= ROWS) < np.sum(rows[side] >= ROWS) else side
        flagged[rows[suspect & (rows < ROWS)]] = True
    asked = f"scan:preset=benchmark,tap=layer4_1.add,restarts={STARTS}", made, common.source(image, label)
    ours = common.detect(*asked, clean=common.source(clean, clean_label))
    found = common.fitted(*asked, clean=common.source(clean, clean_label))
    between, within = fit_components(jnp.asarray(known), jnp.asarray(clean_label), CLASSES, 100, 1e-5)
    return {
        "covariances between and within classes": common.relative((between, within), (model["Su"], model["Se"])),
        "ten statistics": common.relative(found["statistic"], best["sts"][:, 1]),
        f"ten anomalies, the largest {anomaly.max():.0f}": common.relative(found["anomaly"], anomaly),
        f"decisions that differ, {flagged.sum()} of {ROWS} flagged": np.mean(np.asarray(ours["flagged"]) != flagged),
    }


COMPARISON = common.Comparison(
    "SCLBD/BackdoorBench",
    "f02e353",
    compare,
    ("Their loop that picks the smaller group counts the first clean row among the suspects; here it does not.",),
)
