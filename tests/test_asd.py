"""Facts of ASD: seeds, splits by class, by loss and by how the loss of a copy falls, and what the copy trains."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdjax import train
from bdjax.cards import lookup
from bdjax.data import images, sources
from bdjax.defenses.asd import ASD, later_layers, lowest_by_class, trained_copy
from bdjax.keys import root
from bdjax.models import MODELS
from bdjax.types import Data, Given

SHAPE, CLASSES, ROWS, CLEAN = (8, 8, 3), 3, 24, 9
TEXT = "asd:class_epochs=3,loss_epochs=1,epochs=1,every=1,growth=2,seeds=2,copy_batch=8,batch=4,steps=2"


def network(name="small_cnn"):
    return MODELS[name].make(SHAPE, CLASSES, (0.5,) * 3, (0.25,) * 3, width=2)


def data(count=ROWS + CLEAN) -> Data:
    label = np.arange(count, dtype=np.int32) % CLASSES
    noise = np.random.default_rng(0).integers(0, 120, (count, *SHAPE))
    return Data(jnp.asarray(noise + 60 * label[:, None, None, None], jnp.uint8), jnp.asarray(label))


def given(settings, data):
    whole = sources.split(data)
    parts = (sources.subset(whole, rows) for rows in (jnp.arange(ROWS), jnp.arange(ROWS, ROWS + CLEAN)))
    return Given(settings, images.augmentation(1, True), **dict(zip(("train", "clean"), parts, strict=True)))


def test_lowest_of_each_class_without_those_that_are_barred():
    """Class 0 has losses 3, 1, 2 and a barred 0: the two lowest are the second and the third. Class 1 has one row."""
    loss, label = jnp.array([3.0, 1, 2, 0, 5]), jnp.array([0, 0, 0, 0, 1])
    barred = jnp.array([0, 0, 0, 1, 0], bool)
    np.testing.assert_array_equal(lowest_by_class(loss, label, barred, 2), [0, 1, 1, 0, 1])
    assert not lowest_by_class(loss, label, barred, 0).any()


@pytest.mark.parametrize("name", ["resnet18", "preact_resnet18"])
def test_a_copy_trains_the_last_two_stages_and_the_head_of_residual_networks(name):
    found = later_layers(network(name))
    assert found == {"layer3_0", "layer3_1", "layer4_0", "layer4_1", "linear"}


def test_a_copy_trains_the_later_layers_alone_and_learns():
    net, spec = network(), lookup(TEXT + ",copy_rate=0.05", {"asd": ASD}, "defense")
    assert later_layers(net) == {"conv2", "bn2", "conv3", "bn3", "linear"}
    weights, known = net.init(root(0)), given(spec.traced, data())

    def loss(weights):
        rows = known.train.read(jnp.arange(ROWS))
        return train.cross_entropy(net.apply(weights, rows.image, train=True)[0], rows.label, rows.weight)

    copy = jax.jit(lambda key: trained_copy(key, net, weights, known.train, known, batch=4, border="black"))(root(1))
    jax.tree.map(np.testing.assert_array_equal, copy.params["conv1"], weights.params["conv1"])
    assert np.any(copy.params["conv2"]["kernel"] != weights.params["conv2"]["kernel"])
    assert loss(copy) < loss(weights)


@pytest.mark.parametrize(("stage", "epoch", "grown"), [(0, 0, 0), (0, 1, 6), (0, 2, 12), (0, 3, None), (1, 0, None)])
def test_how_many_rows_keep_their_labels(stage, epoch, grown):
    """Two seeds a class always; two more rows a class every epoch; from the fourth epoch on half of 24 + 6 rows."""
    spec = lookup(TEXT, {"asd": ASD}, "defense")
    known = given(spec.traced, data())
    net = network()
    weights = net.init(root(0))
    known = known._replace(carry={"adam": train.adam()(known, None).init(weights.params)})
    one = ASD.make(net, SHAPE, CLASSES, **spec.static)[stage]

    @jax.jit
    def labeled(key):
        state = one.init(key, known, weights)
        state = state.replace(still=state.still | {"step": jnp.int32(2 * epoch)})
        return one.renew(key, state, {}, jnp.int32(0), known).still["labeled"]

    found = np.asarray(labeled(root(0)))
    assert found.shape == (ROWS + 6,)
    if grown is None:
        assert found.sum() == 15
    else:
        assert found[ROWS:].all() and found[:ROWS].sum() == grown
        assert np.bincount(np.arange(ROWS)[found[:ROWS]] % CLASSES, minlength=CLASSES).tolist() == 3 * [grown // 3]


def test_defaults():
    spec = lookup("asd", {"asd": ASD}, "defense")
    names = "class_epochs", "loss_epochs", "epochs", "seeds", "every", "steps", "batch"
    assert [spec.static[name] for name in names] == [60, 30, 30, 10, 5, 1024, 64]
    assert (spec.traced["growth"], spec.traced["ramp"], spec.traced["labeled"]) == (10, 120, 0.5)
