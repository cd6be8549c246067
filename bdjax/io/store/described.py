"""What the variables and coordinates of results mean, as attributes that xarray shows, prints on axes, and keeps."""

from collections.abc import Iterable

import xarray as xr

FRACTION, SECONDS = "1", "s"
"""Units as the CF conventions write them."""

ABOUT = {
    "acc": ("clean accuracy", FRACTION),
    "asr": ("attack success rate", FRACTION),
    "ra": ("robust accuracy: triggered images classified as what they show", FRACTION),
    "cross": ("cross accuracy: images under another image's trigger classified as what they show", FRACTION),
    "der": ("defense effectiveness rating, against the undefended victim of the same seed", FRACTION),
    "overlap": ("share of the defender's clean rows whose copies are poisoned", FRACTION),
    "seconds": ("training time of the cell's own model", SECONDS),
    "detection_seconds": ("time of the detector", SECONDS),
    "auroc": ("area under the ROC curve", FRACTION),
    "ap": ("average precision", FRACTION),
    "tpr_at_1": ("true positive rate with at most 1% false positives", FRACTION),
    "tpr_at_5": ("true positive rate with at most 5% false positives", FRACTION),
    "tpr_at_10": ("true positive rate with at most 10% false positives", FRACTION),
    "tpr": ("true positive rate of the detector's own decision", FRACTION),
    "fpr": ("false positive rate of the detector's own decision", FRACTION),
    "roc": ("true positive rate along the ROC curve", FRACTION),
    "false_alarms": ("false positive rate", FRACTION),
    "attack": ("attack, as the study writes it", ""),
    "ratio": ("poisoned share of the training set; inf: of victims that were given, not known", FRACTION),
    "seed": ("number of the seed", ""),
    "defense": ("defense, as the study writes it; none: the undefended victim", ""),
    "detector": ("detector, as the study writes it", ""),
    "on": ("what is judged: training rows or test queries", ""),
    "oracle": ("whether the defense uses what a defender would not have", ""),
    "version": ("version of the defense's card", ""),
    "epoch": ("epoch of all stages together", ""),
}
"""Long name and unit."""

STATUS = {0: "ok", 1: "diverged", -1: "not_run", -2: "not_asked_for"}
"""What the codes of `status` mean."""


def describe(found: xr.Dataset, audits: Iterable[str]) -> xr.Dataset:
    """The same results with long_name and units on what is known; status also with flag_values and flag_meanings.

    audits: what the variables of audits begin with, before an underscore.
    """
    for name, variable in found.variables.items():
        for audit in audits:
            if str(name).startswith(f"{audit}_"):
                figure = str(name).removeprefix(f"{audit}_").replace("_", " ")
                variable.attrs["long_name"] = f"{figure}, by the audit {audit}"
        if name in ABOUT:
            text, units = ABOUT[name]
            variable.attrs |= {"long_name": text} | ({"units": units} if units else {})
    if "status" in found:
        meanings = {"flag_values": list(STATUS), "flag_meanings": " ".join(STATUS.values())}
        found["status"].attrs |= {"long_name": "what became of the cell"} | meanings
    return found
