"""How a detector is judged: ranking of its scores, and its own decisions, against the truth."""

import numpy as np

LEVELS = (0.01, 0.05, 0.1)
"""False positive rates at which the true positive rate is read off."""

GRID = np.linspace(0, 1, 101)
"""False positive rates at which a ROC curve is kept."""

FIGURES = ("auroc", "ap", "tpr_at_1", "tpr_at_5", "tpr_at_10", "tpr", "fpr")


def judge(score: np.ndarray, truth: np.ndarray, flagged: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Figures of one detector on one victim.

    Args:
        score: float (n,), larger is more suspect.
        truth: int8 (n,): 1 has the trigger, 0 has not, -1 does not count.
        flagged: bool (n,), the detector's own decision; None where it makes none.

    Returns:
        Fractions: auroc, ties counted half, and ap, the average precision; tpr_at_1, tpr_at_5 and tpr_at_10, the
        largest true positive rate of a threshold with at most 1, 5 and 10% false positives; tpr and fpr of `flagged`;
        and roc float (101,), the true positive rate at the false positive rates of `GRID`, by straight lines. NaN where
        a figure has no rows to count, and all of them where a score is NaN.
    """
    counts = truth >= 0
    truth, score = truth[counts] == 1, np.asarray(score, float)[counts]
    found = dict.fromkeys(FIGURES, np.nan) | {"roc": np.full(GRID.shape, np.nan)}
    if np.isnan(score).any():
        return found
    if flagged is not None:
        flagged = flagged[counts]
        for name, rows in (("tpr", truth), ("fpr", ~truth)):
            found[name] = np.mean(flagged[rows]) if rows.any() else np.nan
    if truth.all() or not truth.any():
        return found
    return found | rank(np.nan_to_num(score), truth)


def rank(score: np.ndarray, truth: np.ndarray) -> dict[str, np.ndarray]:
    """The figures that thresholds over finite scores, float (n,), give; truth: bool (n,), both kinds among it."""
    from sklearn.metrics import auc, average_precision_score, roc_curve

    fpr, tpr, _ = roc_curve(truth, score, drop_intermediate=False)
    at = {f"tpr_at_{round(100 * level)}": tpr[fpr <= level].max() for level in LEVELS}
    roc = np.interp(GRID, fpr, tpr)
    return {"auroc": auc(fpr, tpr), "ap": average_precision_score(truth, score), "roc": roc} | at
