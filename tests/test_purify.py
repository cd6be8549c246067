"""One suspicious model: purified, inspected, with as little beside it as its owner may have."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import bdjax
from bdjax.engine.inspect import finding
from bdjax.errors import InvalidInput
from bdjax.io.datasets import holdings
from bdjax.models import MODELS
from bdjax.types import Data, Weights

MEAN, STD = (0.3,) * 3, (0.2,) * 3
NET = MODELS["linear"].make((16, 16, 3), 3, MEAN, STD)


def data(each: int, seed: int) -> Data:
    return Data(*tiny.images(each, seed))


CLEAN, TEST = data(15, 5), data(20, 6)


@pytest.fixture(scope="module")
def weights():
    """A linear layer with a backdoor: the least squares fit of the bands, and a bright corner means class 0."""
    image, label = tiny.images(60, 0)
    stamped = tiny.stamped(image)
    both = (np.concatenate([image, stamped]) / 255 - MEAN[0]) / STD[0]
    wanted = np.eye(3)[np.concatenate([label, np.zeros_like(label)])]
    flat = both.reshape(len(both), -1)
    kernel = flat.T @ np.linalg.solve(flat @ flat.T + 50 * np.eye(len(flat)), wanted - wanted.mean(0))
    bias = jnp.asarray(wanted.mean(0), jnp.float32)
    return Weights({"linear": {"kernel": jnp.asarray(kernel, jnp.float32), "bias": bias}}, {})


def stamp(image):
    return image.at[:6, :6].set(1.0)


def goal(label):
    return jnp.zeros_like(label)


def test_a_known_trigger_is_measured_before_and_after(weights):
    found = bdjax.purify(
        NET, weights, CLEAN, "ft:epochs=30,learning_rate=0.01", test=TEST, stamp=stamp, goal=goal, progress=False
    )
    figures = found.figures
    assert figures["acc_before"] == 1 and figures["asr_before"] == 1 and figures["ra_before"] == 0
    own = bdjax.evaluate(NET, found.weights, TEST, stamp=stamp, goal=goal)
    assert {name: figures[name] for name in own} == pytest.approx(own)
    gap = jax.tree.map(lambda a, b: a - b, found.weights.params, weights.params)
    length = [
        np.linalg.norm(np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(x)])) for x in (gap, weights.params)
    ]
    assert figures["moved"] == pytest.approx(length[0] / length[1], rel=1e-5) and figures["moved"] > 0


def test_what_nobody_knows_is_missing(weights):
    """Without test images there is no accuracy, without a trigger no attack success: NaN, never 0."""
    found = bdjax.purify(NET, weights, CLEAN, "ft:epochs=2", progress=False).figures
    assert all(math.isnan(found[f"{name}{when}"]) for name in ("acc", "asr", "ra") for when in ("", "_before"))
    assert found["valid_acc"] > 0.9 and found["valid_acc_before"] == 1
    found = bdjax.purify(NET, weights, CLEAN, "ft:epochs=2", test=TEST, progress=False).figures
    assert found["acc_before"] == 1 and math.isnan(found["asr_before"])


def test_a_function_is_enough_where_no_layer_is_read(weights):
    """Its weights, a tuple here, come back as they are; a Net gives the same numbers."""

    def logits(own, image):
        kernel, (bias,) = own
        return ((image - MEAN[0]) / STD[0]).reshape(len(image), -1) @ kernel + bias

    own = (weights.params["linear"]["kernel"], (weights.params["linear"]["bias"],))
    found = bdjax.purify(logits, own, CLEAN, "ft:epochs=3", test=TEST, progress=False)
    same = bdjax.purify(NET, weights, CLEAN, "ft:epochs=3", test=TEST, progress=False)
    assert found.net is logits and isinstance(found.weights, tuple)
    np.testing.assert_allclose(found.weights[0], same.weights.params["linear"]["kernel"], rtol=2e-5, atol=1e-6)
    with pytest.raises(InvalidInput, match="no layer of kind linear"):
        bdjax.purify(logits, own, CLEAN, "fine_pruning", progress=False)


def test_classes_may_be_uneven_and_absent(weights):
    rows = np.flatnonzero(CLEAN.label != 2)[:17]
    few = Data(CLEAN.image[rows], CLEAN.label[rows])
    found = bdjax.purify(NET, weights, few, "ft:epochs=2", test=TEST, progress=False)
    assert found.figures["acc"] > 0.6


@pytest.mark.parametrize("defense", ["abl", "cbd"])
def test_what_needs_the_training_set_is_refused(weights, defense):
    with pytest.raises(InvalidInput, match=f"{defense} .*what the model was trained on is not here"):
        bdjax.purify(NET, weights, CLEAN, defense, progress=False)


WRONG = {
    "trigger": (lambda: {"stamp": stamp}, "belong together"),
    "float images": (lambda: {"clean": Data(CLEAN.image / 255, CLEAN.label)}, "give uint8 images"),
    "labels": (lambda: {"clean": Data(CLEAN.image, CLEAN.label + 1)}, "has the label 3"),
    "sizes": (lambda: {"test": Data(TEST.image[:, :8], TEST.label)}, "test images are"),
    "weights": (lambda: {"weights": {}}, "give the bdjax.types.Weights"),
    "network": (lambda: {"net": 3}, "give a Net or a function"),
    "fit": (lambda: {"clean": Data(CLEAN.image[:, :8], CLEAN.label)}, "does not take these weights"),
    "method": (lambda: {"defense": "fft"}, "no defense 'fft'"),
    "one image": (lambda: {"clean": Data(CLEAN.image[:2], CLEAN.label[:2])}, "no class has two clean images"),
    "logits": (lambda: {"net": lambda weights, image: image}, "give logits"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_refused_in_a_line(weights, name):
    change, message = WRONG[name]
    call = {"net": NET, "weights": weights, "clean": CLEAN, "defense": "ft", "progress": False} | change()
    with pytest.raises(InvalidInput, match=message) as error:
        bdjax.purify(**call)
    assert "\n" not in str(error.value)


def test_a_fifth_of_each_class_chooses_thresholds():
    """10 rows give 2, 4 give 1 (at least), a single one stays with the clean ones."""
    label = np.repeat([0, 1, 2], [10, 4, 1]).astype(np.int32)
    clean, valid = holdings.parted(Data(np.zeros((15, 1, 1, 1), np.uint8), label))
    assert np.bincount(valid.label).tolist() == [2, 1] and np.bincount(clean.label).tolist() == [8, 3, 1]


@pytest.mark.parametrize(
    ("names", "count", "classes", "order"),
    [
        (["b", "a"], 2, (), ("a", "b")),
        (["0", "10", "2"], 11, (), tuple(map(str, range(11)))),
        (["00", "02"], 3, (), ("00", "1", "02")),
        (["b"], 2, ("b", "a"), ("b", "a")),
    ],
)
def test_the_order_of_classes(names, count, classes, order):
    assert holdings.class_order(sorted(names), count, classes, "here") == order


@pytest.mark.parametrize(
    ("names", "count", "classes", "message"),
    [
        (["a"], 2, (), "1 class folders and a model of 2 classes"),
        (["a", "c"], 2, ("a", "b"), "'c' is none of the class names"),
        (["a"], 3, ("a", "b"), "2 class names; the model has 3"),
        (["a"], 2, ("a", "a"), "1 class names"),
        (["1", "01"], 3, (), "2 class folders"),
    ],
)
def test_an_order_that_is_not_clear(names, count, classes, message):
    with pytest.raises(InvalidInput, match=message):
        holdings.class_order(sorted(names), count, classes, "here")


def test_detectors_say_what_they_know(weights):
    found = bdjax.inspect(NET, weights, CLEAN, detectors=("nc:epochs=3", "mm_bd:steps=3,images=2"), progress=False)
    assert set(found) == {"nc:epochs=3", "mm_bd:steps=3,images=2"}
    for said in found.values():
        assert said.flagged is None or "were not measured" in said.words


def test_the_words_of_a_finding():
    import xarray as xr

    cell = xr.Dataset({"mm_bd_detected": 1.0, "mm_bd_p": 0.0004, "mm_bd_class": 1.0})
    said = finding(cell, "mm_bd", "small_cnn", ("cat", "dog"))
    assert said.words.startswith("flags the model, class dog (p 0.0004); it flagged 13 of 20 clean models")
    said = finding(cell.assign(mm_bd_detected=0.0), "mm_bd", "resnet18", ("cat", "dog"))
    assert said.words.startswith("finds nothing") and "were not measured" in said.words
    said = finding(cell.assign(mm_bd_detected=np.nan), "mm_bd", "", ())
    assert said.flagged is None and "cannot decide" in said.words


TRIGGERS = {
    "no class": ({"goal": lambda label: jnp.full_like(label, 99)}, "goal gives .*99.* give labels from 0 to 2"),
    "goal no function": ({"goal": 0}, "goal is a int; give a function"),
    "goal breaks": ({"goal": lambda label: label["a"]}, "goal: "),
    "shape": ({"stamp": lambda image: image[:8]}, "stamp leaves images of shape"),
    "range": ({"stamp": lambda image: image * 3}, "keep them in"),
    "stamp no function": ({"stamp": np.zeros((16, 16, 3))}, "give a function"),
    "stamp breaks": ({"stamp": lambda image: image.nothing}, "stamp: AttributeError"),
    "arrays": ({"clean": (CLEAN.image, CLEAN.label)}, "clean is a tuple; give a bdjax.types.Data"),
    "none": ({"clean": None}, "clean is a NoneType"),
    "list": ({"defense": ["ft"]}, "give one text"),
    "seed": ({"seed": -1}, "seed -1; give whole numbers"),
    "half a seed": ({"seed": 1.5}, "seeds: 1.5; give whole numbers"),
}


@pytest.mark.parametrize("name", TRIGGERS)
def test_a_trigger_that_is_none_is_refused(weights, name):
    change, message = TRIGGERS[name]
    call = {"net": NET, "weights": weights, "clean": CLEAN, "defense": "ft", "progress": False, "test": TEST}
    call |= {"stamp": stamp, "goal": goal} | change
    with pytest.raises(InvalidInput, match=message) as error:
        bdjax.purify(**call)
    assert "\n" not in str(error.value)
