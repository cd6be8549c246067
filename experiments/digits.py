"""Every attack and defense that there is, on handwritten digits: does each do what it should on real images?

    python -m experiments.digits runs/digits

Machine: 2 CPU cores, no accelerator. Time, figures and n: experiments/README.md. Choices that are not the papers' own,
because digits are 16 pixels wide and the papers' images 32: wanet's displacement is doubled (in half pixels), the
surrogates of label_consistent and low_frequency train for 30 epochs, and npd's radius is 1, its largest perturbation
per pixel that of radius 2 on 32 pixels. sig and label_consistent poison 8% of the training set, four fifths of the
target class, the others 10%.
"""

import sys
from pathlib import Path

import bdjax
from bdjax.cli import status
from bdjax.cli.conduct import conduct

STUDY = bdjax.Study(
    dataset="digits",
    attacks=(
        "badnets",
        "blended",
        "sig",
        "low_frequency:surrogate_epochs=30",
        "wanet:strength=1",
        "label_consistent:surrogate_epochs=30",
    ),
    ratios=(0.0, 0.1, "sig=0.0", "sig=0.08", "label_consistent=0.0", "label_consistent=0.08"),
    seeds=range(4),
    defenses=("none", "ft", "ft_sam", "npd:radius=1", "abl", "exact_purification"),
    audits=("retuning",),
    driver="map",
)

if __name__ == "__main__":
    sys.exit(status(lambda: conduct(STUDY, Path(sys.argv[1]))))
