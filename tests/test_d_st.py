"""Facts of D-ST: which views are alike, the rates, views without blur, the head alone, and what each stage reads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdjax.cards import lookup
from bdjax.data import sources, views
from bdjax.defenses.d_st import D_ST, cosine, drawn_together, rising
from bdjax.keys import root
from bdjax.models import MODELS
from bdjax.train import contrastive
from bdjax.train.descend import Clock
from bdjax.types import Batch, Data, Given

SHAPE, CLASSES = (8, 8, 3), 3


def test_to_a_clean_row_all_rows_of_its_label_are_alike_to_others_their_own_views():
    """Rows 0 to 2 have label 5, row 0 alone is clean: it is drawn to rows 1 and 2, they are not to it."""
    rows = Batch(None, jnp.array([5, 5, 5, 7]), jnp.array([3, 1, 0, 2]), jnp.ones(4))
    given = Given({}, None, carry={"clean": jnp.array([False, False, True, True])})
    one = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    one[0] = [1, 1, 1, 0]  # row 3 of the set
    np.testing.assert_array_equal(drawn_together(rows, given), np.tile(np.array(one, bool), (2, 2)))


def test_loss_of_two_clean_rows_by_hand():
    """Points a, b = (1, 0), (0, 1) of one label, both views equal, temperature 1; row b is not clean.

    Anchors of a: positives are its other view (log-softmax 1 - z) and two of b (-z), z = ln(e + 2): z - 1/3.
    Anchors of b: its other view, z - 1. The mean over all four: z - 2/3.
    """
    point = jnp.tile(jnp.eye(2), (2, 1))
    rows = Batch(None, jnp.array([5, 5]), jnp.array([0, 1]), jnp.ones(2))
    alike = drawn_together(rows, Given({}, None, carry={"clean": jnp.array([True, False])}))
    found = contrastive.contrast(point, alike, jnp.ones(4), 1.0)
    np.testing.assert_allclose(found, np.log(np.e + 2) - 2 / 3, rtol=1e-6)


def rate_at(rule, settings, epoch, index=0, steps=4, epochs=200):
    """By how much a gradient of 1 moves a parameter of 0."""
    clock = Clock(jnp.int32(epoch * steps + index), steps, epochs)
    made = rule(Given(settings, None), clock)
    updates, _ = made.update(jnp.ones(()), made.init(jnp.zeros(())), jnp.zeros(()))
    return -float(updates)


SETTINGS = {"rate": 0.5, "decay": 0.0, "momentum": 0.9, "warmup_from": 0.01}


@pytest.mark.parametrize(
    ("epoch", "index", "wanted"),
    [
        (0, 0, 0.01),
        (5, 2, 0.01 + 0.55 * (0.0005 + 0.4995 * (1 + np.cos(np.pi / 20)) / 2 - 0.01)),
        (10, 3, 0.0005 + 0.4995 * (1 + np.cos(np.pi * 11 / 200)) / 2),
        (99, 0, 0.25025),
        (199, 3, 0.0005),
    ],
)
def test_rate_of_the_features(epoch, index, wanted):
    """From .01 in 40 steps to the cosine's value after ten epochs; then the cosine, one epoch ahead, to .5 / 1000."""
    assert rate_at(rising("rate", "decay", 10, cosine), SETTINGS, epoch, index) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize(("warmup", "wanted"), [(0, [5, 5]), (10, [0.01, 0.01 + 0.975 * 4.99])])
def test_rate_of_the_head(warmup, wanted):
    """Constant, or in the benchmark on its way to 5 until its last step, the 39th of 40."""
    rule, settings = rising("rate", "decay", warmup), SETTINGS | {"rate": 5.0}
    found = [rate_at(rule, settings, *when, epochs=10) for when in ((0, 0), (9, 3))]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_views_without_blur_and_with_a_linear_crop():
    """The whole image under either kernel is itself; half of a ramp is linear again where it is enlarged linearly."""
    ramp = jnp.broadcast_to(jnp.arange(8.0)[:, None, None] / 10, SHAPE)
    for kernel in ("cubic", "linear"):
        np.testing.assert_allclose(views.crop(ramp, jnp.array([0.0, 0, 8, 8]), kernel), ramp, atol=1e-6)
    half = views.crop(ramp, jnp.array([2.0, 0, 4, 8]), "linear")[:, 0, 0]
    np.testing.assert_allclose(half, 0.2 + (np.arange(8) - 0.5) / 20, atol=1e-6)
    image = jnp.asarray(np.random.default_rng(0).uniform(size=(6, *SHAPE)), jnp.float32)

    def seen(blurred):
        return jax.jit(lambda: views.strong(root(0), image, lambda key, image, shift: image, blurred=blurred))()

    plain, blurred = seen(False), seen(True)
    same = [np.allclose(*pair, atol=1e-6) for pair in zip(plain, blurred, strict=True)]
    assert any(same) and not all(same)


def made(text):
    net = MODELS["small_cnn"].make(SHAPE, CLASSES, (0.5,) * 3, (0.25,) * 3, width=2)
    spec = lookup(text, {"d_st": D_ST}, "defense")
    draw = np.random.default_rng(0)
    data = Data(jnp.asarray(draw.integers(0, 256, (24, *SHAPE)), jnp.uint8), jnp.arange(24, dtype=jnp.int32) % CLASSES)
    carry = {"score": jnp.arange(24.0), "clean": jnp.arange(24) < 10, "poisoned": jnp.arange(24) > 20}
    given = Given(spec.traced, lambda key, image, **_: image, train=sources.split(data), carry=carry)
    return net, D_ST.make(net, SHAPE, CLASSES, **spec.static), given


@pytest.mark.parametrize(("uncertain", "wanted"), [("false", [*range(10), 21, 22, 23]), ("true", range(24))])
def test_rows_that_the_head_reads(uncertain, wanted):
    net, (*_, stage), given = made(f"d_st:batch=8,read_uncertain={uncertain}")
    state = stage.init(root(0), given, net.init(root(1)))
    rows = np.asarray(stage.order(root(2), state, jnp.int32(0), given))
    assert sorted(rows[rows >= 0]) == list(wanted)


def unseen(monkeypatch):
    """Views are the images themselves."""
    monkeypatch.setattr(views, "strong", lambda _key, image, *_, **__: image)


def test_the_head_learns_alone(monkeypatch):
    unseen(monkeypatch)
    net, (*_, stage), given = made("d_st:batch=8,epochs=2,learning_rate=0.5")
    before = net.init(root(1))
    state = stage.init(root(0), given, before)
    assert not np.allclose(state.moving["kernel"], before.params["linear"]["kernel"])  # a new one
    after, info = stage.step(root(3), state, given.train.read(jnp.array([0, 1, 2, 11, 12, 21, 22, -1])), given)
    left = stage.finish(root(4), after, given)
    assert np.abs(after.moving["kernel"] - state.moving["kernel"]).max() > 0 and np.isfinite(info["loss"])
    jax.tree.map(np.testing.assert_array_equal, left.weights.batch_stats, before.batch_stats)
    rest = [{name: leaf for name, leaf in each.params.items() if name != "linear"} for each in (left.weights, before)]
    jax.tree.map(np.testing.assert_array_equal, *rest)
    assert set(left.carry) == {"score", "clean", "poisoned"}


def test_features_keep_the_split_and_their_loss_has_a_base(monkeypatch):
    """A base twice as large halves the loss of the first step."""
    unseen(monkeypatch)
    _, (*_, stage, _), given = made("d_st:contrastive_batch=24")
    rows, first = given.train.read(jnp.arange(24)), stage.init(root(0), given, None)

    @jax.jit
    def step(base):
        return stage.step(root(1), first, rows, given._replace(settings=given.settings | {"base": base}))

    (state, one), (_, other) = step(0.07), step(0.14)
    assert float(one["loss"]) == pytest.approx(2 * float(other["loss"]), rel=1e-5) and one["loss"] > 0
    assert set(stage.finish(root(2), state, given).carry) == {"score", "clean", "poisoned"}


def test_presets():
    paper, bench = (lookup(f"d_st:preset={each}", {"d_st": D_ST}, "defense") for each in ("paper", "benchmark"))
    names = "redraw", "contrastive_batch", "batch", "warmup", "contrastive_warmup", "read_uncertain"
    assert [paper.static[name] for name in names] == [False, 512, 512, 0, 10, False]
    assert [bench.static[name] for name in names] == [True, 128, 128, 10, 10, True]
    assert [each.traced["weight_decay"] for each in (paper, bench)] == pytest.approx([0, 5e-4])
