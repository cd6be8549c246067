"""What holds for every registered attack: a new one is tested by being registered."""

import os
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdjax.attacks import ATTACKS
from bdjax.cards import lookup
from bdjax.data.poison import counted
from bdjax.errors import InvalidInput
from bdjax.keys import root
from bdjax.models import MODELS
from bdjax.types import CLEAN, POISONED, Data

SHAPE, CLASSES, ROWS, TARGET = (16, 16, 3), 4, 32, 1
QUICK = {"surrogate_epochs": 16, "surrogate_batch": 16, "surrogate_learning_rate": 0.1, "surrogate_steps": 1}
QUICK |= {"steps": 20, "passes": 1, "images": 6, "target": TARGET, "width": 2}
QUICK |= {"covers": "others"}
QUICK |= {"halvings": 3, "epsilon": 0.1}
QUICK |= {"pictures": 4, "fit_steps": 40}
QUICK |= {"encoder_steps": 3, "encoder_batch": 8, "bits": 4}
QUICK |= {
    "ink_steps": 30,
    "ink_batch": 4,
    "extractor_width": 2,
    "edge_threshold": 0.02,
    "ink_learning_rate": 0.01,
    "fidelity": 0.0,
}
COUNTS = (0, 3, 8)
SOURCE_SPECIFIC = {"tact": {"sources": "0"}}


def data() -> Data:
    label = np.arange(ROWS) % CLASSES
    noise = np.random.default_rng(0).normal(60 + 40 * label[:, None, None, None], 20, (ROWS, *SHAPE))
    return Data(jnp.asarray(np.clip(noise, 0, 255), jnp.uint8), jnp.asarray(label, jnp.int32))


def build(name: str, preset: str = "paper", shape=SHAPE, classes=CLASSES, **settings):
    quick = QUICK | SOURCE_SPECIFIC.get(name, {}) | settings
    spec = lookup(f"{name}:preset={preset}", ATTACKS, "attack").fill(ATTACKS[name].card, quick)
    net = MODELS["small_cnn"].make(shape, classes, (0.5,) * shape[2], (0.25,) * shape[2], width=2)
    return ATTACKS[name].make(net, shape, classes, **spec.static), spec.traced, net


@cache
def prepared(name: str):
    """The attack, its float settings and its assets, made once for all tests."""
    attack, settings, net = build(name)
    return attack, settings, () if attack.prepare is None else attack.prepare(root(5), net, data(), settings)


@pytest.fixture(params=sorted(ATTACKS))
def name(request):
    return request.param


@cache
def init(name: str):
    """The attack, its assets and its poison of the test's data as a function of key and count."""
    attack, settings, assets = prepared(name)

    @jax.jit
    def poison(key, count):
        priority = jax.random.uniform(key, (ROWS,))
        return attack.init(key, assets, settings, data().label, priority, count)

    return attack, assets, poison


def test_exactly_count_rows_are_poisoned(name):
    attack, _, poison = init(name)
    for count in COUNTS:
        role = np.asarray(poison(root(0), jnp.int32(count)).role)
        assert role.dtype == np.int8
        assert (role == POISONED).sum() == count
        assert attack.eligible(data().label)[role == POISONED].all()


def test_count_zero_is_the_clean_baseline(name):
    _, _, poison = init(name)
    result = poison(root(0), jnp.int32(0))
    assert (result.role == CLEAN).all()
    assert (result.label == data().label).all()


def test_labels_of_poisoned_rows_are_wanted_and_of_others_true(name):
    attack, _, poison = init(name)
    result = poison(root(0), jnp.int32(8))
    chosen = np.asarray(result.role == POISONED)
    assert (result.label[~chosen] == data().label[~chosen]).all()
    assert (result.label[chosen] == attack.goal(data().label)[chosen]).all()


def test_one_compilation_serves_every_count(name):
    _, _, poison = init(name)
    traces = []
    jitted = jax.jit(lambda key, count: traces.append(1) or poison(key, count))
    for count in COUNTS:
        jitted(root(0), jnp.int32(count))
    assert len(traces) == 1


def test_vmap_of_init_is_a_loop_bit_for_bit(name):
    _, _, poison = init(name)
    keys, counts = [root(seed) for seed in range(3)], jnp.array(COUNTS, jnp.int32)
    lifted = jax.vmap(poison)(jnp.stack(keys), counts)
    for index, key in enumerate(keys):
        alone = poison(key, counts[index])
        for one, many in zip(jax.tree.leaves(alone), jax.tree.leaves(lifted), strict=True):
            np.testing.assert_array_equal(one, many[index])


def test_stamps_keep_shape_dtype_and_range_and_change_the_image(name):
    attack, assets, poison = init(name)
    trigger = poison(root(0), jnp.int32(8)).trigger | {"variant": jnp.int8(0)}
    image = data().image[1].astype(jnp.float32) / 255
    for stamp in filter(None, (attack.stamp, attack.query, attack.cover)):
        result = stamp(assets, trigger, image, jnp.int32(1))
        assert (result.shape, result.dtype) == (image.shape, image.dtype)
        assert result.min() >= 0 and result.max() <= 1
        assert jnp.max(jnp.abs(result - image)) > 1 / 255
        jitted = jax.jit(stamp)(assets, trigger, image, jnp.int32(1))
        np.testing.assert_allclose(jitted, result, atol=2e-6)


def test_float64_is_kept_and_agrees(name):
    attack, assets, poison = init(name)
    trigger = poison(root(0), jnp.int32(8)).trigger
    image = data().image[1].astype(jnp.float32) / 255
    single = attack.query(assets, trigger, image, jnp.int32(1))
    with jax.enable_x64(True):
        wide = jax.tree.map(
            lambda leaf: leaf.astype(jnp.float64) if leaf.dtype == jnp.float32 else leaf, (assets, trigger)
        )
        double = attack.query(*wide, image.astype(jnp.float64), jnp.int32(1))
        assert double.dtype == jnp.float64
        assert poison(root(0), jnp.int32(8)).label.shape == (ROWS,)
    np.testing.assert_allclose(double, single, atol=1e-5)


def test_goal_leaves_out_what_needs_no_moving(name):
    attack, _, _ = prepared(name)
    label = jnp.arange(CLASSES)
    expected = label == 0 if name in SOURCE_SPECIFIC else label != TARGET
    np.testing.assert_array_equal(counted(label, attack.goal), expected)


def test_trigger_is_a_nested_dict_of_small_arrays_that_can_be_saved(name):
    _, _, poison = init(name)
    trigger = poison(root(0), jnp.int32(8)).trigger
    assert isinstance(trigger, dict)
    for leaf in jax.tree.leaves(trigger):
        assert np.asarray(leaf).dtype.kind in "fiub"
        assert leaf.size <= np.prod(SHAPE)


def test_trained_parts_are_measured_and_bars_are_for_what_is(name):
    attack, _, assets = prepared(name)
    card, figures = ATTACKS[name].card, assets.get("figures", {}) if isinstance(assets, dict) else {}
    assert all(jnp.isfinite(value) for value in figures.values())
    assert ("surrogate_epochs" in card.settings) == ("surrogate_accuracy" in figures)
    assert set(card.bar) <= {*figures, *(["cross/acc"] if attack.cross else [])}


def test_every_preset_builds_at_the_smallest_size(name):
    card = ATTACKS[name].card
    assert set(card.presets) == {"paper", "benchmark"}
    for preset in card.presets:
        build(name, preset, (card.smallest, card.smallest, 1), 2)


def test_card_tells_whose_work_it_is(name):
    card = ATTACKS[name].card
    assert card.name == name
    assert str(card.year) in card.citation and "https://" in card.citation
    own = bool(prepared(name)[0].train)
    assert (card.stage, card.controls) == (("training", "training") if own else ("pre-training", "data"))


def test_a_target_that_is_no_class_is_refused(name):
    with pytest.raises(InvalidInput, match=f"{name}: target 4 of 4 classes; choose 0 to 3"):
        build(name, target=4)


CHANGES = {"badnets": 1.19, "blended": 20.2, "sig": 24.3, "low_frequency": 12.1, "wanet": 4.8, "label_consistent": 4.5}
CHANGES |= {"ftrojan": 1.72, "ctrl": 8.8, "bpp": 9.0}
"""Mean absolute change in levels by the benchmark's own transforms, measured on 400 test images of CIFAR-10."""


@pytest.mark.skipif("BDJAX_DATA" not in os.environ, reason="BDJAX_DATA names no folder with cifar10/test/<class>/*")
@pytest.mark.parametrize("name", sorted(CHANGES))
def test_change_of_cifar10_is_the_benchmarks(name):
    from PIL import Image

    folders = sorted((Path(os.environ["BDJAX_DATA"]) / "cifar10" / "test").iterdir())
    paths = [path for folder in folders for path in sorted(folder.iterdir())[:40]]
    image = jnp.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths]) / 255
    attack, settings, _ = build(name, "benchmark", image.shape[1:], 10, target=0)

    def change(key, image):
        trigger = attack.init(key, (), settings, jnp.zeros(4, jnp.int32), jnp.zeros(4), 1).trigger
        return jnp.abs(attack.query((), trigger, image, 0) - image).mean() * 255

    measured = jax.jit(jax.vmap(change))(jax.random.split(root(0), len(paths)), image).mean()
    np.testing.assert_allclose(measured, CHANGES[name], rtol=0.06)
