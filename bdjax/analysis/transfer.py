"""Transfer: does the perturbation that wakes one purified model wake models that other defenses have purified?

Min, Qin, Zhang, Shen, Cheng, Uncovering, Explaining, and Mitigating the Superficial Safety of Backdoor Defense, NeurIPS
2024, arXiv:2410.09838, the figure of transferred reactivation: generators are trained against the models of one defense
and applied to those of another, seed by seed.
"""

from pathlib import Path

from bdjax.cards import Card, Method, Setting, split
from bdjax.errors import InvalidInput

CARD = Card(
    name="transfer",
    title="Transfer of reactivation",
    citation="Min, Qin, Zhang, Shen, Cheng, Uncovering, Explaining, and Mitigating the Superficial Safety of Backdoor "
    "Defense, NeurIPS 2024, arXiv:2410.09838",
    year=2024,
    version=1,
    kind="analysis of stored models",
    needs=("clean", "victim", "poisoned", "queries", "target", "test", "clean_model", "triggered"),
    changes="nothing",
    settings={
        "audit": Setting("reactivation", "the audit whose generators are applied, with its settings"),
    },
    departures=("The paper shows means over attacks; this is one attack, with intervals over seeds.",),
)


def make(
    folder: str | Path,
    attack: str,
    ratio: float,
    defenses: tuple[str, ...] = (),
    seeds: tuple[int, ...] = (),
    *,
    audit: str = "reactivation",
):
    """Train a generator against each stored model and apply it to the models of all defenses of the same seed.

    Args:
        folder: a study's `out`; the study had the audit among its audits, so that clean models are there.
        attack, ratio: coordinates in its results.
        defenses, seeds: coordinates too; () for all.
        audit: see the card.

    Returns:
        An `xarray.Dataset` with the audit's figures, float64 fractions of dims (trained_on, applied_to, seed), and
        asr_mean, asr_low and asr_high, the mean over seeds and its 95% Student interval (NaN below 3 seeds). Where
        both defenses are one it is what the audit itself says of that defense.

    Raises:
        InvalidInput: the folder has no such cells or lacks a model, or the audit trains no generator.
    """
    import jax
    import numpy as np
    import xarray as xr

    from bdjax.analysis.parts import stored
    from bdjax.report.statistics import student

    if split(audit)[0] != "reactivation":
        raise InvalidInput(f"transfer:audit={audit}: it trains no generator; give reactivation, with its settings")
    study = stored.opened(folder, attack, ratio, defenses, seeds, audit)
    models = list(study.models.values())
    train = {one.group.key: stored.trained(one) for one in models}
    measure = {one.group.key: stored.measure(one) for one in models}
    # On the host, and without the retuned models: the generators of all defenses are held at once.
    left = [jax.device_get(train[one.group.key](one.cells).replace(weights=None)) for one in models]
    columns = [[measure[one.group.key](one.cells, generators) for generators in left] for one in models]
    dims, names = ("trained_on", "applied_to", "seed"), list(study.models)
    found = {
        figure: (dims, np.stack([[rates[figure] for rates in column] for column in columns], axis=1))
        for figure in columns[0][0]
    }
    interval = student(found["asr"][1])
    found |= {f"asr_{name}": (dims[:2], getattr(interval, name)) for name in ("mean", "low", "high")}
    coordinates = {"trained_on": names, "applied_to": names, "seed": list(study.seeds)}
    return xr.Dataset(found, coordinates, {"attack": attack, "ratio": ratio, "audit": audit})


TRANSFER = Method(CARD, make)
