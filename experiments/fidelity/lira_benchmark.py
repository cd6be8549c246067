"""LIRA as the reference benchmark runs it: two epochs of two steps of both networks, gradients that leak included.

The code is `train` of `attack/lira.py` of BackdoorBench, called as its `main` does, compared with
`lira:preset=benchmark`.
"""

import sys
from types import SimpleNamespace
from unittest import mock

import torch
import torchvision  # noqa: F401, before what it looks for is stood in for

from experiments.fidelity import common, lira

TEXT = f"lira:preset=benchmark,augmentation=dataset,storage=float,batch={lira.BATCH},joint_epochs=2"
TEXT += f",generator_learning_rate=0.01,epsilon={lira.EPSILON},clean_weight={lira.WEIGHT},target={lira.TARGET}"


def loaded(folder):
    """Their file, without what reads data, scores and saves."""
    names = ("dataset_and_transform_generate", "model_trainer_generate", "train_settings_generate")
    whole = [f"utils.aggregate_block.{name}" for name in names]
    for name in (*whole, "utils.trainer_cls", "utils.bd_dataset_v2", "utils.save_load_attack", "attack.badnet"):
        sys.modules[name] = mock.MagicMock()
    return common.module(folder, "attack/lira.py")


def theirs(code, fixed, learned, classifier, orders) -> None:
    """Both networks trained in place, `orders` a list of batches an epoch."""
    opt = SimpleNamespace(eps=lira.EPSILON / lira.STD, alpha=lira.WEIGHT, amp=False)
    adam = torch.optim.Adam([value for value in learned.parameters() if value.requires_grad], lr=0.01)
    sgd = torch.optim.SGD(classifier.parameters(), lr=0.01, momentum=0.9)
    code.scaler = torch.amp.GradScaler("cpu", enabled=False)

    def wanted(label):
        return torch.full_like(label, lira.TARGET)

    def clip(image):
        return torch.clamp(image, -lira.MEAN / lira.STD, (1 - lira.MEAN) / lira.STD)

    for epoch, listed in enumerate(orders):
        code.train(opt, fixed, learned, classifier, adam, sgd, wanted, listed, epoch, 1, None, clip)
        fixed.load_state_dict(learned.state_dict())


def compare(folder) -> dict[str, float]:
    """Relative differences of what two epochs change."""
    made, code = common.pair(size=lira.SIZE), loaded(folder)
    torch.manual_seed(4)
    fixed, learned, classifier = code.Autoencoder(), code.Autoencoder(), lira.Classifier(made.module)
    lira.unbiased(learned)
    fixed.load_state_dict(learned.state_dict())
    before = lira.weights(learned)
    _, trained, orders = lira.ours(made, TEXT, before)
    stays = {"new": lambda self: self}
    with mock.patch.object(torch.nn.Module, "cuda", **stays), mock.patch.object(torch.Tensor, "cuda", **stays):
        theirs(code, fixed, learned, classifier, list(map(lira.batches, orders)))
    return lira.changes(made, trained, before, fixed, classifier)


COMPARISON = common.Comparison(
    "SCLBD/BackdoorBench",
    "f02e3534645f0ee63d6848653062cd6c0d6c400d",
    compare,
    (
        "The biases of their generator's convolutions, which normalisation takes away again, are held at 0.",
        "Images are normalised by 0.5 and 0.25 in every channel; theirs by the dataset's means and deviations.",
        "Compared without augmentation, and before images are stored.",
    ),
)
