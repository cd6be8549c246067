"""IBD-PSC: which layers are amplified, how many are enough, and the score as a mean of probabilities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from detecting import CLASSES, SHAPE, build, by_hand, detect, images, network, source

from bdjax.detection.ibd_psc import amplify, first_count
from bdjax.errors import InvalidInput
from bdjax.keys import root


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def keen(net):
    """Weights whose logits differ from image to image."""
    weights = net.init(root(3))
    feature = net.apply(weights, jnp.asarray(images(30)))[2]["pool"]
    kernel = 100 * weights.params["linear"]["kernel"]
    head = {"kernel": kernel, "bias": -jnp.mean(feature, 0) @ kernel}
    return weights.replace(params={**weights.params, "linear": head})


def test_amplifying_the_last_layer_multiplies_what_the_head_reads():
    """Normalization, rectifier, pooling, head: logits - bias grow by the factor."""
    net, image = network(), jnp.asarray(images(4))
    weights = net.init(root(0))
    bias = weights.params["linear"]["bias"]
    before = net.apply(weights, image)[0] - bias
    after = net.apply(amplify(net, weights, jnp.int32(1), 1.5), image)[0] - bias
    np.testing.assert_allclose(after, 1.5 * before, rtol=1e-12)


@pytest.mark.parametrize("count", [0, 2, 3, 5])
def test_the_last_layers_are_amplified_and_nothing_else(count):
    net = network()
    weights = net.init(root(0))
    params = amplify(net, weights, jnp.int32(count), 2.0).params
    for name, own in params.items():
        factor = 2 if name in ("bn3", "bn2", "bn1")[:count] else 1
        for leaf in own:
            np.testing.assert_array_equal(own[leaf], factor * weights.params[name][leaf])


def test_the_first_count_that_exceeds_the_error():
    error = jnp.array([0.1, 0.6, 0.7, 0.2, 0.9])
    assert [int(first_count(error, bound)) for bound in (0.05, 0.5, 0.6, 0.7, 0.9)] == [1, 2, 3, 5, 5]


@pytest.mark.parametrize(("offset", "counts"), [(0, (1, 2)), (1, (2, 3))])
def test_the_score_is_the_mean_probability_under_nested_models(offset, counts):
    """Labels that no prediction meets: one layer is enough errors, and the models follow on it."""
    net, image = network(), jnp.asarray(images(6))
    weights = keen(net)
    label = jnp.argmax(net.apply(weights, image)[0], 1)
    valid = source(images(5, 1), jnp.full(5, CLASSES))
    found = detect(f"ibd_psc:models=2,offset={offset}", net, source(image), CLASSES, victim=weights, valid=valid)
    expected = [
        jax.nn.softmax(net.apply(amplify(net, weights, jnp.int32(count), 1.5), image)[0])[jnp.arange(6), label]
        for count in counts
    ]
    np.testing.assert_allclose(found["score"], np.mean(expected, 0), rtol=1e-10)
    np.testing.assert_array_equal(found["flagged"], found["score"] >= 0.9)


def test_a_network_without_normalization_is_refused():
    with pytest.raises(InvalidInput, match="choose another network"):
        build("ibd_psc", by_hand(lambda image: image[:, 0, 0]), SHAPE, CLASSES)
