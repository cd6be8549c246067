"""FT and its variants: two steps of each of the modes of the script that names them, from the head that it drew.

Min et al., NeurIPS 2023; see fst.py beside this file.
"""

from experiments.fidelity import common, fst

RECIPE = "batch=8,weight_decay=0"
MODES = {
    "ft": "rescale=true",
    "lp": "trained=head,rescale=true",
    "ft-init": "head=new,rescale=true",
    "fe-tuning": "head=new,trained=features,rescale=true",
}
"""Their modes in our settings."""


def compare(folder):
    """Relative differences of what two steps change, by mode."""
    figures = {}
    for mode, variant in MODES.items():
        figures |= fst.differences(folder, mode, f"ft:{RECIPE},{variant}")
    return figures


COMPARISON = common.Comparison(
    fst.COMPARISON.repository,
    fst.COMPARISON.revision,
    compare,
    ("Their script rescales the head after every step of every mode; ours does so where rescale=true.",),
)
