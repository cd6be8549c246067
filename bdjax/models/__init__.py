"""Networks: every entry's `make(shape, classes, mean, std, **static)` gives a `Net`."""

from bdjax.models.airbench import AIRBENCH
from bdjax.models.densenet161 import DENSENET161
from bdjax.models.preact_resnet18 import PREACT_RESNET18
from bdjax.models.preact_resnet34 import PREACT_RESNET34
from bdjax.models.resnet18 import RESNET18
from bdjax.models.resnet34 import RESNET34
from bdjax.models.resnet50 import RESNET50
from bdjax.models.small_cnn import SMALL_CNN
from bdjax.models.vgg19 import VGG19
from bdjax.models.vgg19_bn import VGG19_BN

MODELS = {
    "small_cnn": SMALL_CNN,
    "preact_resnet18": PREACT_RESNET18,
    "preact_resnet34": PREACT_RESNET34,
    "resnet18": RESNET18,
    "resnet34": RESNET34,
    "resnet50": RESNET50,
    "vgg19_bn": VGG19_BN,
    "vgg19": VGG19,
    "densenet161": DENSENET161,
    "airbench": AIRBENCH,
}
