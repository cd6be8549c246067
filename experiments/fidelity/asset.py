"""ASSET: the detector after 3 steps, outlyingness and threshold beside BackdoorBench.

Pan et al., USENIX Security 2023. `MLP`, `adjusted_outlyingness` and `get_t` of BackdoorBench run as they are, with
statsmodels and scikit-learn; the loop of its one method, which loads files, is repeated around them, over our order of
rows and our first weights. Both networks' features are those before the linear layer.
"""

import copy
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import torch

import bdjax
from bdjax import train
from bdjax.cards import lookup
from bdjax.detection.asset import find_bound, start_filter
from bdjax.detection.parts.outlyingness import outlyingness
from bdjax.keys import root, stream
from bdjax.types import Given
from experiments.fidelity import common

ROWS, CLEAN, BATCH, STEPS, WIDTH = 48, 24, 16, 20, 16
RATE, FILTER_RATE, OUTLYING = 1e-3, 1e-3, 1.0
TEXT = (
    f"asset:batch={BATCH},filter_steps={STEPS},filter_width={WIDTH},rate={RATE},filter_rate={FILTER_RATE},"
    f"outlying={OUTLYING}"
)


def ours(made, rows, clean):
    """Our detector, the orders of both sets, and the first filter of every step."""
    spec = lookup(TEXT, bdjax.DETECTORS, "detector")
    net = made.net._replace(init=lambda key: made.weights)
    (stage,) = bdjax.DETECTORS["asset"].make(net, (32, 32, 3), common.CLASSES, **spec.static).stages
    given = Given(spec.traced, lambda key, image: image, train=rows, clean=clean, victim=made.weights)
    left = train.fit(root(0), stage, lambda _: given, ()).weights
    order = stage.order(jax.random.fold_in(stream(root(0), "order"), 0), SimpleNamespace(still=None), 0, given)
    base = jax.random.fold_in(stream(root(0), "step"), 0)
    inputs = made.weights.params["linear"]["kernel"].shape[0]
    keys = [stream(jax.random.fold_in(base, number), "filter") for number in range(ROWS // BATCH)]
    return left, order, [start_filter(key, inputs, WIDTH) for key in keys]


def load(vnet, layers):
    """Our first filter into theirs."""
    theirs = vnet.first_hidden_layer.fc, vnet.rest_hidden_layers[0].fc, vnet.output_layer
    with torch.no_grad():
        for own, layer in zip(layers, theirs, strict=True):
            layer.weight.copy_(torch.tensor(np.array(own["kernel"]).T.copy()))
            layer.bias.copy_(torch.tensor(np.array(own["bias"])))


def theirs(code, made, rows, clean, order, filters):
    """Their detector, and how many rows each step suspected."""
    model, victim = copy.deepcopy(made.module).train(), copy.deepcopy(made.module).train()
    features = []
    victim.linear.register_forward_hook(lambda _module, inputs, _output: features.append(inputs[0].detach()))
    one, two = (torch.optim.Adam(model.parameters(), lr=RATE) for _ in range(2))
    suspects = []
    for mixed, other, layers in zip(*(np.asarray(order[name]) for name in ("train", "clean")), filters, strict=True):
        pos_img, pos_lab = common.to_torch(rows[0][mixed]), torch.tensor(rows[1][mixed]).long()
        neg_img = common.to_torch(clean[0][other])
        loss = torch.mean(torch.var(model(neg_img), dim=1))
        one.zero_grad()
        loss.backward()
        one.step()
        vnet = code.MLP(input_size=made.module.linear.in_features, hidden_size=WIDTH, num_layers=2)
        load(vnet, layers)
        first, second = (torch.optim.Adam(vnet.parameters(), lr=FILTER_RATE) for _ in range(2))
        for _ in range(STEPS):
            for image, goal, optimizer in ((pos_img, 1.0, first), (neg_img, 0.0, second)):
                victim(image)
                value = torch.nn.functional.mse_loss(vnet(features[-1]).view(-1), torch.full((len(image),), goal))
                vnet.zero_grad()
                value.backward()
                optimizer.step()
        victim(pos_img)
        found = code.adjusted_outlyingness(vnet(features[-1]).view(-1), "cpu")
        chosen = torch.where(found > OUTLYING)[0]
        suspects.append(len(chosen))
        if len(chosen) <= 1:
            continue
        loss = -torch.nn.functional.cross_entropy(model(pos_img[chosen]), pos_lab[chosen])
        two.zero_grad()
        loss.backward()
        two.step()
    return model, suspects


def compare(folder):
    """Relative differences of what training changes, of outlyingness and of the threshold."""
    import sklearn.mixture
    import statsmodels.api

    quantile = np.quantile  # an argument of theirs has another name today
    numbers = SimpleNamespace(**vars(np))
    numbers.quantile = lambda data, share, interpolation: quantile(data, share, method=interpolation)
    scope = {"statsmodels": statsmodels, "GaussianMixture": sklearn.mixture.GaussianMixture, "np": numbers}
    names = "adjusted_outlyingness", "get_t", "HiddenLayer", "MLP"
    code = common.pieces(folder, "detection_pretrain/asset.py", *names, **scope)
    made = common.pair()
    rows, clean = common.batch(ROWS), common.batch(CLEAN, seed=2)
    left, order, filters = ours(made, common.source(*rows), common.source(*clean))
    model, suspects = theirs(code, made, rows, clean, order, filters)
    moved = [jax.tree.map(np.subtract, one, made.weights) for one in (left, common.weights(made.net, model))]
    figures = {f"parameters and statistics, {suspects} suspects": common.relative(*moved)}
    for skew in (0.3, 1.5):
        value = np.random.RandomState(0).gamma(skew, size=101)
        for sign in (1, -1):
            expected = code.adjusted_outlyingness(torch.tensor(sign * value), "cpu").numpy()
            found = outlyingness(jnp.asarray(sign * value), jnp.ones(101, bool))
            figures[f"outlyingness of {sign} x gamma({skew})"] = common.relative(found, expected)
    score = np.random.RandomState(1).gamma(2.0, size=200)
    bound = code.get_t(score, 1e-6).item()
    figures["threshold"] = common.relative(find_bound(jnp.asarray(score), 1e-6), bound)
    return figures


COMPARISON = common.Comparison("SCLBD/BackdoorBench", "f02e353", compare)
