"""PAM: the authors' scripts, run whole on two small batches: pretraining, one inversion and two rounds of unlearning.

Min et al., NeurIPS 2024; their code is `fine_tune/BTIDBF/btidbfu.py` and `sam.py`.
"""

from pathlib import Path

from experiments.fidelity import common
from experiments.fidelity.bti_dbf import COMPARISON as BTI_DBF
from experiments.fidelity.bti_dbf import OPTIONS, ROUNDS, whole

RHO = 0.5


def compare(folder: Path) -> dict[str, float]:
    """Relative differences of the changes of the generator and of the model."""
    options = OPTIONS | {"nround": ROUNDS, "use_pam": True, "rho": RHO}
    return whole(folder / "fine_tune" / "BTIDBF", "pam", f"rho={RHO}", options, 100.0)


COMPARISON = common.Comparison(
    "AISafety-HKUST/stable_backdoor_purification",
    "37d2ef5cf4a0a0adb517813113808baad56f53f5",
    compare,
    (
        *BTI_DBF.departures,
        "What is compared is `released`, under which the generator stays as the first round left it; `paper` inverts "
        "anew in every round.",
    ),
)
