"""Networks: every entry's `make(shape, classes, mean, std, **static)` gives a `Net`."""

from bdjax.models.airbench import AIRBENCH
from bdjax.models.preact_resnet18 import PREACT_RESNET18
from bdjax.models.resnet18 import RESNET18
from bdjax.models.small_cnn import SMALL_CNN

MODELS = {"small_cnn": SMALL_CNN, "preact_resnet18": PREACT_RESNET18, "resnet18": RESNET18, "airbench": AIRBENCH}
