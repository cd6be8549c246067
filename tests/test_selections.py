"""Searches for rows to poison: what they count, keep and draw, and that they are the same in any batch and resumed."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import bdjax
from bdjax import train
from bdjax.attacks import ATTACKS
from bdjax.cards import lookup
from bdjax.cells import functions
from bdjax.cells.functions import Cell, Scene, Shared
from bdjax.cells.lift import batched, pick, stack
from bdjax.engine import chunks
from bdjax.errors import InvalidInput
from bdjax.io.store.checkpoints import Checkpoint
from bdjax.io.store.trees import load_trained
from bdjax.keys import number
from bdjax.models import MODELS
from bdjax.selections import SELECTIONS
from bdjax.selections.fus import filtered
from bdjax.selections.lps import classwise
from bdjax.selections.parts.rounds import candidates, log_odds, pooled, remembered, round_of, rows_of
from bdjax.study.groups import groups
from bdjax.study.jobs import plan
from bdjax.study.resolve import resolve
from bdjax.train import State
from bdjax.types import Batch, Data, Given, Net, Source, Weights

NEVER = -np.inf
KEY = jax.random.key(0)


def test_a_copy_is_forgotten_when_it_loses_the_label_that_it_was_given_before():
    """Rows 0 to 3 are clean, 4 to 7 their copies; copies of rows 1 and 3 are seen in four passes."""
    never = jnp.zeros(4, bool)
    still = {"pool": jnp.array([0, 1, 0, 1], bool), "right": never, "forgotten": never.astype(int)}
    seen = {1: [False, True, False, True], 3: [True, False, True, False]}
    for first, second in zip(*seen.values(), strict=True):
        still = remembered(still, jnp.array([5, 2, 7, -1]), jnp.array([first, False, second, True]))
        still = remembered(still, jnp.array([1, 3, 0, -1]), jnp.array([False, False, True, False]))
    assert still["forgotten"].tolist() == [0, 1, 0, 2]
    assert still["right"].tolist() == [False, True, False, False]


def test_filtering_keeps_what_is_forgotten_most_and_updating_draws_the_rest():
    pool = jnp.array([1, 1, 1, 1, 0, 0, 0, 0], bool)
    candidate = jnp.array([1, 1, 1, 1, 1, 1, 0, 0], bool)
    forgotten = jnp.array([0, 3, 1, 2, 9, 0, 9, 9])  # of rows outside the pool nothing counts
    drawn = set()
    for seed in range(40):
        priority = filtered(jax.random.key(seed), forgotten, pool, candidate, jnp.int32(2))
        assert (priority > NEVER).tolist() == candidate.tolist()
        chosen = np.flatnonzero(pooled(priority, jnp.int32(4))).tolist()
        assert {1, 3} < set(chosen) and len(chosen) == 4
        drawn |= set(chosen) - {1, 3}
    assert drawn == {0, 2, 4, 5}  # among them rows that filtering has just left out


def test_among_rows_forgotten_as_often_chance_decides():
    pool = jnp.ones(6, bool)
    kept = {
        tuple(np.flatnonzero(filtered(jax.random.key(seed), jnp.zeros(6, int), pool, pool, jnp.int32(2)) >= 1))
        for seed in range(60)
    }
    assert len(kept) > 8 and {len(rows) for rows in kept} == {2}


def test_candidates_are_rows_that_get_another_label_where_there_are_enough():
    priority, label = jnp.array([0.1, 0.2, 0.3, 0.4, NEVER]), jnp.array([0, 0, 1, 2, 1])
    for count, expected in ((1, [2, 3]), (2, [2, 3]), (3, [0, 1, 2, 3])):
        found = candidates(priority, jnp.int32(count), label, jnp.zeros_like(label))
        assert np.flatnonzero(found > NEVER).tolist() == expected
    same = candidates(priority, jnp.int32(1), label, label)  # an attack that keeps labels
    assert np.flatnonzero(same > NEVER).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("poisoning", ["append", "replace"])
def test_a_pass_reads_every_row_once_in_an_order_that_room_does_not_change(poisoning):
    pool = jnp.array([0, 1, 0, 0, 1, 0, 0], bool)
    clean = range(7) if poisoning == "append" else [0, 2, 3, 5, 6]
    orders = [rows_of(KEY, pool, poisoning, most, 4) for most in (2, 3, 7)]
    for order, most in zip(orders, (2, 3, 7), strict=True):
        assert order.shape == (-(-(7 + most * (poisoning == "append")) // 4), 4)
        flat = np.ravel(order)
        assert sorted(flat[flat >= 0]) == sorted([*clean, 8, 11])
        assert (flat[len(clean) + 2 :] == -1).all()
        np.testing.assert_array_equal(flat[: len(clean) + 2], np.ravel(orders[0])[: len(clean) + 2])
    assert rows_of(KEY, pool, poisoning, 2, 100).shape == ((2, 7) if poisoning == "append" else (1, 7))


@pytest.mark.parametrize(("warm", "rates"), [(True, [0.1, 0.01, 0.01, 0.001]), (False, [0.1, 0.01, 0.1, 0.01])])
def test_the_rate_falls_by_passes_and_by_those_of_all_rounds_where_the_model_goes_on(warm, rates):
    """Two rounds of two passes over 8 rows and 2 copies by 4, with room for 8 copies; drops after passes 1 and 3."""
    image, label = jnp.zeros((8, 1, 1, 1)), jnp.arange(8) % 2

    def read(row):
        return Batch(image[row], jnp.zeros_like(row), row, (row >= 0).astype(image.dtype))

    def apply(weights, image, train=False, weight=None):
        return jnp.stack([weights.params * jnp.ones(len(image)), jnp.zeros(len(image))], 1), weights.batch_stats, {}

    def slope(point, right):
        return jnp.mean(jnp.where(right, -jax.nn.sigmoid(-point), jax.nn.sigmoid(point)))

    net = Net(lambda key: Weights(jnp.float32(0.3), {}), apply, ())
    parts = {"epochs": 2, "batch": 4, "first_drop": 1, "second_drop": 3, "poisoning": "append", "most": 8}
    stage = round_of(net, lambda key, state, given: given.carry["priority"], lambda p, label: p, warm=warm, **parts)
    settings = {"learning_rate": jnp.float32(0.1), "momentum": jnp.float32(0), "weight_decay": jnp.float32(0)}
    sources = {"whole": Source(8, lambda row: read(row).replace(label=label[row])), "stamped": Source(8, read)}
    given = Given(settings, lambda key, image: image, **sources)
    carry, weights, found = {"priority": jnp.arange(8.0), "count": jnp.int32(2), "round": jnp.int32(0)}, None, []
    for _ in range(2):
        given = given._replace(carry=carry)
        state = train.begin(stage, KEY, given, weights)[0]
        assert train.steps_in(stage, state, given) == 4
        for epoch in range(2):
            batches = [stage.source(given).read(row) for row in stage.order(KEY, state, epoch, given)]
            before, first = state.moving, stage.step(KEY, state, batches[0], given)[0].moving
            found.append(float((before - first) / slope(before, batches[0].label == 0)))
            for batch in batches:
                state, info = stage.step(KEY, state, batch, given)
            assert (int(state.step), float(info["steps"])) == (4 * epoch + 4, 0)  # the last step reads nothing
        left = train.finish(stage, KEY, state, given)
        carry, weights = left.carry, left.weights
    np.testing.assert_allclose(found, rates, rtol=1e-4)


def test_classes_give_as_many_rows_each_and_those_of_largest_value():
    value = jnp.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, NEVER, NEVER])
    label = jnp.array([1, 1, 1, 2, 2, 1, 0, 2])
    priority = classwise(value, label)
    assert np.argsort(-priority)[:6].tolist() == [0, 3, 1, 4, 2, 5]  # in turns; class 2 has no third row
    assert (priority > NEVER).tolist() == (value > NEVER).tolist()
    for count in (2, 4):
        chosen = label[pooled(priority, jnp.int32(count))]
        assert np.bincount(chosen, minlength=3).tolist() == [0, count // 2, count // 2]
    np.testing.assert_array_equal(classwise(priority, label), priority)


SHAPE, CLASSES, ROWS = (8, 8, 3), 3, 48
PARTS = ("fus:rounds=2,epochs=3,batch=16,learning_rate=0.1,first_drop=1", "lps:rounds=2,epochs=2,batch=16")
PAIRS = [(0, 4), (1, 7)]


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


@cache
def shared() -> Shared:
    label = np.arange(ROWS, dtype=np.int32) % CLASSES
    noise = np.random.default_rng(0).integers(0, 256, (ROWS, *SHAPE))
    data = Data(jnp.asarray(noise * (1 + label[:, None, None, None]) // CLASSES, jnp.uint8), jnp.asarray(label))
    return Shared(data, data)


@cache
def network():
    return MODELS["small_cnn"].make(SHAPE, CLASSES, (0.4,) * 3, (0.3,) * 3, width=2)


def searched(text: str, most: int, driver: str, pairs, reserved: bool = False):
    """What a search leaves for cells of these seeds and counts: the cells as drawn, and Trained, stacked."""
    spec = lookup(text, SELECTIONS, "selection")
    net, trigger = network(), lookup("badnets:size=2", ATTACKS, "attack")
    attack = ATTACKS[trigger.name].make(net, SHAPE, CLASSES, **trigger.static)
    selection = SELECTIONS[spec.name].make(net, SHAPE, CLASSES, **spec.static)
    place = Scene(
        net, CLASSES, 1, True, selection, 3, 1, reserved, np.zeros(ROWS, bool), attack, own=True, searching=True
    )

    def function(state, cell: Cell, shared: Shared):
        cell, _ = functions.draw(place, cell, shared)
        drawn = cell
        cell, running = cell.replace(left=functions.left_before(place, cell)), selection.search(most)
        numbers = [number(f"search {index}") for index in range(len(running))]
        cell, _ = functions.run_stages(place, running, ("whole", "stamped"), numbers, cell, shared)
        return state, (drawn, cell.left)

    settings = functions.scalars(spec.traced)
    cells = stack([Cell(jnp.uint32(seed), jnp.int32(count), {}, settings) for seed, count in pairs], len(pairs))
    program = jax.jit(batched(function, driver)).lower((), cells, shared(), jnp.int32(len(pairs)))
    compiled = program.compile(compiler_options={"xla_backend_optimization_level": 0})
    return place, compiled((), cells, shared(), jnp.int32(len(pairs)))[1]


@pytest.mark.parametrize("text", PARTS)
def test_a_search_in_a_batch_is_what_it_is_alone_whatever_the_largest_count(float64, text):
    there = pick(searched(text, 13, "vmap", PAIRS)[1][1], 0)
    alone = pick(searched(text, 4, "map", PAIRS[:1])[1][1], 0)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), there, alone)
    chosen = np.flatnonzero(pooled(alone.carry["priority"], 4))
    assert len(chosen) == 4 and (np.asarray(shared().train.label)[chosen] != 0).all()


@pytest.mark.parametrize("constraint", [True, False])
def test_lps_takes_the_rows_of_largest_loss_of_each_class_or_of_all(float64, constraint):
    count = 6
    text = f"{PARTS[1]},constraint={str(constraint).lower()}"
    place, (drawn, trained) = searched(text, count, "map", [(0, count)], reserved=True)
    drawn, trained = pick(drawn, 0), pick(trained, 0)
    given = functions.make_given(place, ("whole", "stamped"), drawn, shared())
    clean, batch = given.whole.read(jnp.arange(ROWS)), given.stamped.read(jnp.arange(ROWS))
    assert (batch.label == 0).all() and (clean.label == shared().train.label).all()
    changed = np.abs(clean.image - batch.image).max((0, -1)) > 0
    assert changed[-2:, -2:].any() and not changed[:5].any() and not changed[:, :5].any()
    logits = np.asarray(network().apply(trained.weights, batch.image)[0], float)
    loss = np.log(np.exp(logits).sum(1)) - logits[:, 0]
    odds = log_odds(network(), trained.weights, given.stamped)
    np.testing.assert_allclose(np.log1p(np.exp(odds)), loss, rtol=1e-9)
    label = np.asarray(shared().train.label)
    held = np.isin(np.arange(ROWS), np.concatenate([drawn.clean, drawn.valid]))  # the defender's, which are reserved
    loss[held | (label == 0)] = NEVER
    if constraint:
        expected = np.concatenate([np.argsort(np.where(label == each, -loss, np.inf))[: count // 2] for each in (1, 2)])
    else:
        expected = np.argsort(-loss)[:count]
    chosen = np.flatnonzero(pooled(trained.carry["priority"], count))
    assert sorted(chosen) == sorted(expected) and not np.isin(chosen, np.flatnonzero(held)).any()


FUS, LPS = "fus:rounds=2,epochs=3,batch=32,learning_rate=0.05", "lps:rounds=3,epochs=2,batch=32,learning_rate=0.05"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


def priorities(folder) -> dict[str, np.ndarray]:
    found = {path.stem: load_trained(path) for path in (folder / "models").iterdir()}
    return {name: held.carry["priority"] for name, (held, about) in found.items() if about["kind"] == "select"}


def test_a_search_is_compiled_once_and_done_once(data, tmp_path):
    asked = {"selection": FUS, "ratios": (0.0, 0.05, 0.1), "recipe": "epochs=1,batch=32"}
    recorder = tiny.Recorder()
    found = bdjax.run(tiny.study(data, **asked), tmp_path, recorder)
    label = f"{FUS} {tiny.ATTACK}"
    # Drawing, begin without and with a round before, advance, finish: for all rounds, seeds and ratios.
    assert recorder.compiled_labels.count(label) == 5
    assert recorder.models == 2 + 4 + 4 and np.isfinite(found["acc"]).all()
    before, again = priorities(tmp_path), tiny.Recorder()
    assert len(before) == 4 and len({held.tobytes() for held in before.values()}) == 4
    more = {"defenses": ("none", "ft:epochs=1,batch=8"), "audits": ("retuning:epochs=1,poisoned=2",)}
    bdjax.run(tiny.study(data, **asked | more), tmp_path, again)
    assert label not in again.compiled_labels and again.models == 6
    other = tiny.Recorder()
    bdjax.run(tiny.study(data, **asked | {"ratios": (0.05, 0.2)}), tmp_path, other)
    assert other.models == 4  # a larger ratio searches for itself alone
    after = priorities(tmp_path)
    assert len(after) == 6 and all(np.array_equal(after[name], held) for name, held in before.items())


def test_the_victim_is_trained_on_the_rows_that_were_found(data, tmp_path):
    study = tiny.study(data, selection=LPS, ratios=(0.1,), seeds=(3,), recipe="epochs=1,batch=32")
    drawn, real_draw = [], chunks._drawn

    def spied(*arguments):
        cells, *rest = real_draw(*arguments)
        drawn.append((arguments[1].kind, np.asarray(cells.poison.role[0])))
        return cells, *rest

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "_drawn", spied)
        bdjax.run(study, tmp_path)
    (priority,) = priorities(tmp_path).values()
    roles = dict(drawn)
    for kind in ("train", "score"):
        np.testing.assert_array_equal(roles[kind] == 1, np.asarray(pooled(priority, 18)))
    assert np.any(roles["select"] != roles["train"])


@pytest.mark.parametrize(("selection", "at"), [(FUS, (1, 1, 4)), (LPS, (2, 0, 3))])
def test_a_search_that_was_killed_goes_on(data, tmp_path, monkeypatch, selection, at):
    study = tiny.study(data, selection=selection, ratios=(0.05, 0.1), recipe="epochs=1,batch=32")
    straight = bdjax.run(study, tmp_path / "straight")
    monkeypatch.setattr(chunks, "CALL_SECONDS", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(chunks, "CHECKPOINT_SECONDS", 0.0)
        save = Checkpoint.save

        def killed(self, state, jobs, held):
            save(self, state, jobs, held)
            if (held["stage"], held["epoch"], held["step"]) == at:
                raise SystemExit

        patch.setattr(Checkpoint, "save", killed)
        with pytest.raises(SystemExit):
            bdjax.run(study, tmp_path / "out")
    assert not list((tmp_path / "out" / "models").iterdir())
    found = bdjax.run(study, tmp_path / "out")
    for name in ("acc", "asr", "ra", "status"):
        np.testing.assert_array_equal(found[name], straight[name])
    jax.tree.map(np.testing.assert_array_equal, priorities(tmp_path / "out"), priorities(tmp_path / "straight"))


@pytest.mark.parametrize("attack", ["wanet", "input_aware"])
def test_attacks_that_poison_batches_leave_no_rows_to_search_for(data, attack):
    with pytest.raises(InvalidInput, match=r"leaves no choice of rows before training.*give --selection random"):
        resolve(tiny.study(data, selection=FUS, attacks=("badnets", attack)))


def test_there_is_room_for_the_largest_count_of_the_study_alone(data):
    work = resolve(tiny.study(data, selection=FUS, ratios=(0.0, 0.05, 0.3)))
    (group,) = (group for group in groups(work, plan(work).jobs) if group.kind == "select")
    assert len(group.jobs) == 4 and len(group.stages) == 2
    state = State(None, {"pool": jnp.zeros(180, bool)}, None, None)
    assert group.stages[0].order(KEY, state, 0, None).shape == (-(-(180 + 54) // 32), 32)


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        ({"defenses": ("none", "abl"), "audits": ("retuning",), "recipe": "epochs=7"}, True),
        ({"selection": FUS + ",alpha=0.25"}, False),
        ({"attacks": ("badnets:size=5",)}, False),
        ({"clean_ratio": 0.3}, True),
        ({"clean_ratio": 0.3, "clean": "reserved"}, False),
    ],
)
def test_a_search_depends_on_attack_count_seed_and_itself_alone(data, change, kept):
    before, after = (
        {job.address for job in plan(resolve(tiny.study(data, **asked))).jobs if job.kind == "select"}
        for asked in ({"selection": FUS}, {"selection": FUS} | change)
    )
    assert len(before) == len(after) == 2 and (before == after) == kept
