"""Networks with torchvision's numbers: narrow members beside modules of plain PyTorch, where that is installed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference.filling import fill, images
from shallow import CLASSES, ROWS, SHORT, SIZE, STAGES, WIDTH, network

from bdjax.io.foreign.torch_weights import from_torch, to_torch
from bdjax.models.parts.layers import max_pool3, merge_pairs
from bdjax.models.parts.visual_geometry import shares

torch = pytest.importorskip("torch")
nn = torch.nn


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def conv(inputs, outputs, size, stride=1):
    return nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)


def stem(width, large):
    first = conv(3, width, 7, 2) if large else conv(3, width, 3)
    return first, nn.MaxPool2d(3, 2, 1) if large else nn.Identity()


class Block(nn.Module):
    """A residual block of torchvision's names: two 3x3 convolutions, or a bottleneck of three."""

    def __init__(self, inputs, features, stride, deep):
        super().__init__()
        shapes = [(inputs, features, 3, stride), (features, features, 3, 1)]
        if deep:
            shapes = [(inputs, features, 1, 1), (features, features, 3, stride), (features, 4 * features, 1, 1)]
        for number, shape in enumerate(shapes, 1):
            setattr(self, f"conv{number}", conv(*shape))
            setattr(self, f"bn{number}", nn.BatchNorm2d(shape[1]))
        self.count, outputs = len(shapes), shapes[-1][1]
        self.downsample = None
        if stride > 1 or inputs != outputs:
            self.downsample = nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x):
        side = x if self.downsample is None else self.downsample(x)
        for number in range(1, self.count + 1):
            x = getattr(self, f"bn{number}")(getattr(self, f"conv{number}")(x))
            x = torch.relu(x if number < self.count else x + side)
        return x


class Residual(nn.Module):
    def __init__(self, deep, large=True, counts=(3, 4, 6, 3)):
        super().__init__()
        self.conv1, self.pool = stem(WIDTH, large)
        self.bn1, inputs = nn.BatchNorm2d(WIDTH), WIDTH
        for stage, count in enumerate(counts):
            features, blocks = WIDTH << stage, []
            for number in range(count):
                blocks.append(Block(inputs, features, 2 if stage and not number else 1, deep))
                inputs = features * (4 if deep else 1)
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(inputs, CLASSES)

    def forward(self, x):
        x = self.pool(torch.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))


class PreActBlock(nn.Module):
    def __init__(self, inputs, features, stride):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), conv(inputs, features, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(features), conv(features, features, 3)
        self.shortcut = None
        if stride > 1 or inputs != features:
            self.shortcut = nn.Sequential(conv(inputs, features, 1, stride))

    def forward(self, x):
        active = torch.relu(self.bn1(x))
        side = x if self.shortcut is None else self.shortcut(active)
        return self.conv2(torch.relu(self.bn2(self.conv1(active)))) + side


class PreActivated(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, inputs = conv(3, WIDTH, 3), WIDTH
        for stage, count in enumerate((3, 4, 6, 3)):
            blocks = []
            for number in range(count):
                blocks.append(PreActBlock(inputs, WIDTH << stage, 2 if stage and not number else 1))
                inputs = WIDTH << stage
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.linear = nn.Linear(inputs, CLASSES)

    def forward(self, x):
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.conv1(x)))))
        return self.linear(x.mean((2, 3)))


class Plain(nn.Module):
    """VGG-19: convolutions in sequence, averages in 7x7 places, two hidden layers."""

    def __init__(self, normalized):
        super().__init__()
        layers, inputs = [], 3
        for factor, count in ((1, 2), (2, 2), (4, 4), (8, 4), (8, 4)):
            for _ in range(count):
                layers.append(nn.Conv2d(inputs, factor * WIDTH, 3, padding=1))
                layers += [nn.BatchNorm2d(factor * WIDTH)] * normalized + [nn.ReLU()]
                inputs = factor * WIDTH
            layers.append(nn.MaxPool2d(2))
        self.features, hidden = nn.Sequential(*layers), 64 * WIDTH
        first, second = nn.Linear(49 * inputs, hidden), nn.Linear(hidden, hidden)
        rest = (nn.ReLU(), nn.Identity(), second, nn.ReLU(), nn.Identity(), nn.Linear(hidden, CLASSES))
        self.classifier = nn.Sequential(first, *rest)

    def forward(self, x):
        return self.classifier(nn.functional.adaptive_avg_pool2d(self.features(x), 7).flatten(1))


class DenseLayer(nn.Module):
    def __init__(self, inputs):
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inputs), conv(inputs, 4 * WIDTH, 1)
        self.norm2, self.conv2 = nn.BatchNorm2d(4 * WIDTH), conv(4 * WIDTH, WIDTH, 3)

    def forward(self, x):
        inner = self.conv1(torch.relu(self.norm1(x)))
        return torch.cat([x, self.conv2(torch.relu(self.norm2(inner)))], 1)


class Dense(nn.Module):
    def __init__(self):
        super().__init__()
        parts, inputs = {}, 2 * WIDTH
        parts["conv0"], pool = stem(inputs, True)
        parts |= {"norm0": nn.BatchNorm2d(inputs), "relu0": nn.ReLU(), "pool0": pool}
        for block, count in enumerate(SHORT, 1):
            layers = {}
            for number in range(1, count + 1):
                layers[f"denselayer{number}"] = DenseLayer(inputs)
                inputs += WIDTH
            parts[f"denseblock{block}"] = named(layers)
            if block < len(SHORT):
                halved = conv(inputs, inputs // 2, 1)
                step = {"norm": nn.BatchNorm2d(inputs), "relu": nn.ReLU(), "conv": halved, "pool": nn.AvgPool2d(2)}
                parts[f"transition{block}"], inputs = named(step), inputs // 2
        self.features = named(parts | {"norm5": nn.BatchNorm2d(inputs)})
        self.classifier = nn.Linear(inputs, CLASSES)

    def forward(self, x):
        return self.classifier(torch.relu(self.features(x)).mean((2, 3)))


def named(modules):
    sequence = nn.Sequential()
    for name, module in modules.items():
        sequence.add_module(name, module)
    return sequence


THEIRS = {
    "preact_resnet34": PreActivated,
    "resnet34": lambda: Residual(False),
    "shallow residual": lambda: Residual(False, False, STAGES),
    "shallow bottleneck": lambda: Residual(True, counts=STAGES),
    "resnet50": lambda: Residual(True),
    "vgg19_bn": lambda: Plain(True),
    "vgg19": lambda: Plain(False),
    "shallow dense": Dense,
}


def filled(text):
    """PyTorch's module with arrays from a seed, and these by name."""
    module = THEIRS[text]()
    state = module.state_dict()
    state = fill(list(state), [tuple(value.shape) for value in state.values()])
    module.load_state_dict({name: torch.tensor(value) for name, value in state.items()})
    return module.double(), state


DEEP = ("preact_resnet34", "resnet34", "resnet50")


@pytest.mark.parametrize("text", [pytest.param(text, marks=[pytest.mark.slow] * (text in DEEP)) for text in THEIRS])
def test_a_training_step_is_pytorch_s(text):
    """Logits in both modes, loss, every gradient and every running statistic, in float64."""
    module, state = filled(text)
    net, image = network(text, width=WIDTH), images(ROWS, SIZE).astype(float)
    label = np.arange(ROWS) % CLASSES
    weights = from_torch(state, net)

    def loss(params):
        logits, batch_stats, _ = net.apply(weights.replace(params=params), jnp.asarray(image), train=True)
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(ROWS), label]), (logits, batch_stats)

    (value, (logits, batch_stats)), slope = jax.jit(jax.value_and_grad(loss, has_aux=True))(weights.params)
    evaluated = jax.jit(net.apply)(weights, jnp.asarray(image))[0]

    rows = torch.tensor(image).permute(0, 3, 1, 2)
    close(evaluated, module.eval()(rows).detach())
    found = module.train()(rows)
    cost = nn.functional.cross_entropy(found, torch.tensor(label))
    cost.backward()
    close(logits, found.detach())
    close(value, cost.detach())
    ours = to_torch(weights.replace(params=slope, batch_stats=batch_stats), net)
    for name, each in module.named_parameters():
        close(ours[name], each.grad, name)
    for name, each in module.named_buffers():
        if "running" in name:
            close(ours[name], each, name)


def close(ours, theirs, name=""):
    theirs = np.asarray(theirs)
    scale = np.abs(theirs).max() + 1e-9  # of a bias before normalisation the gradient is 0 up to rounding
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-8 * max(scale, 1e-4), err_msg=name)


@pytest.mark.parametrize("text", THEIRS)
def test_names_and_a_round_trip(text):
    """All of PyTorch's keys, and every number as it was."""
    with jax.enable_x64(False):
        _, state = filled(text)
        net = network(text, width=WIDTH)
        back = to_torch(from_torch(state, net), net)
    assert set(back) == set(state)
    for name, value in state.items():
        assert value.dtype == back[name].dtype and np.array_equal(value, back[name]), name


@pytest.mark.parametrize("side", [1, 2, 5, 8])
def test_pooling_is_pytorch_s(side):
    image = np.random.default_rng(0).normal(size=(2, side, side + 1, 3))
    rows = torch.tensor(image).permute(0, 3, 1, 2)
    wanted = nn.functional.max_pool2d(rows, 3, 2, 1).permute(0, 2, 3, 1)
    np.testing.assert_array_equal(max_pool3(jnp.asarray(image)), wanted)
    if side > 1:
        wanted = nn.functional.max_pool2d(rows, 2).permute(0, 2, 3, 1)
        np.testing.assert_array_equal(merge_pairs(jnp.asarray(image), jnp.maximum), wanted)


@pytest.mark.parametrize("side", [1, 2, 5, 7, 10])
def test_shares_of_places_are_pytorch_s(side):
    """An image whose only bright pixel is each in turn."""
    rows = torch.eye(side, dtype=torch.float64)[None, :, :, None]
    wanted = nn.functional.adaptive_avg_pool2d(rows, (7, 1))[0, :, :, 0].T
    np.testing.assert_allclose(shares(side), wanted, rtol=1e-12)
