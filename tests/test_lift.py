"""Cells in a batch are what they are alone, whatever the driver; one compile serves every ratio, seed and setting."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from bdjax.attacks import ATTACKS
from bdjax.cards import lookup
from bdjax.cells import functions, lift
from bdjax.cells.functions import Cell, Scene, Shared
from bdjax.defenses.none import NONE
from bdjax.keys import number
from bdjax.models import MODELS
from bdjax.selections import SELECTIONS
from bdjax.types import Data, real

SHAPE = (16, 16, 3)
RATIOS_AND_SEEDS = [(0, 0), (18, 0), (0, 1), (18, 1)]
STREAMS = number("victim 0")
AS_USERS = {"xla_backend_optimization_level": 3, "xla_cpu_use_fusion_emitters": True}
"""How XLA compiles where these tests do not say otherwise: the same bits are not a thing of every way."""


def parts():
    """The cell functions of plain training of small_cnn under BadNets: draw, and those of its one stage."""
    net = MODELS["small_cnn"].make(SHAPE, tiny.CLASSES, (0.4,) * 3, (0.2,) * 3, width=2)
    attack = ATTACKS["badnets"].make(net, SHAPE, tiny.CLASSES, **lookup("badnets", ATTACKS, "attack").static)
    select = SELECTIONS["random"].make(net, SHAPE, tiny.CLASSES)
    barred = np.zeros(tiny.CLASSES * tiny.EACH, bool)
    scene = Scene(net, tiny.CLASSES, 2, False, select, clean=6, valid=3, reserved=False, barred=barred, attack=attack)
    spec = lookup(f"none:{tiny.RECIPE}", {"none": NONE}, "defense")
    running = NONE.make(net, SHAPE, tiny.CLASSES, **spec.static)[0]
    settings = {name: jnp.asarray(value, real()) for name, value in spec.traced.items()}
    return functions.stage(scene, running, NONE.card.needs), scene, settings


def shared() -> Shared:
    found = tiny.arrays()
    train, test = (
        Data(jnp.asarray(found[f"{name}_image"]), jnp.asarray(found[f"{name}_label"])) for name in ("train", "test")
    )
    return Shared(train, test)


def cells(settings, places=RATIOS_AND_SEEDS) -> list[Cell]:
    return [Cell(np.uint32(seed), np.int32(count), {}, settings) for count, seed in places]


def whole(stage, scene):
    """Draw, begin, all epochs and finish as one cell function, whose state counts how often a cell was run."""

    def run(state, cell, shared, steps):
        cell, overlap = functions.draw(scene, cell, shared)
        carry = stage.begin((), cell, shared, STREAMS)[1]

        def epoch(index, carry):
            return stage.advance(carry, cell, shared, STREAMS, index, 0, steps)[0]

        carry = jax.lax.fori_loop(0, tiny.EPOCHS, epoch, carry)
        trained, finite = stage.finish(carry, cell, shared, STREAMS)[1]
        return state + 1, (trained.weights, finite, overlap, cell.poison, carry[1])

    return run


def lifted(how, run, stacked, count, data):
    """The states and results of the driver `how`, of which `count` cells are really there."""
    capacity = jax.tree.leaves(stacked)[0].shape[0]
    mesh = lift.mesh(how, capacity)
    return lift.Program(run, how, mesh)(jnp.zeros(capacity, jnp.int32), stacked, data, count, 5)


@pytest.fixture(scope="module")
def alone():
    """The four cells one by one, without any driver, in float64."""
    with jax.enable_x64(True):
        stage, scene, settings = parts()
        run = jax.jit(whole(stage, scene))
        return [run(jnp.int32(0), cell, shared(), 5)[1] for cell in cells(settings)]


@pytest.mark.parametrize("how", lift.DRIVERS)
def test_a_cell_is_the_same_alone_and_in_a_batch(alone, how):
    assert jax.device_count() == 2  # so that `shard` has something to do
    with jax.enable_x64(True):
        stage, scene, settings = parts()
        stacked = lift.stack(cells(settings), 4)
        _, outs = lifted(how, whole(stage, scene), stacked, 4, shared())
        for index, one in enumerate(alone):
            for there, here in zip(jax.tree.leaves(lift.pick(outs, index)), jax.tree.leaves(one), strict=True):
                assert there.dtype == here.dtype
                np.testing.assert_allclose(there, here, rtol=1e-9, atol=1e-12)
    weights = [jax.tree.leaves(one[0].params)[0] for one in alone]
    assert all(np.abs(weights[0] - other).max() > 1e-3 for other in weights[1:])  # or equality would show nothing


@pytest.mark.parametrize("how", lift.DRIVERS)
def test_copies_that_fill_a_stack_are_not_run(how):
    def step(state, cell, shared):
        return state + cell, state * shared

    stacked = jnp.asarray([10.0, 20.0, 30.0, 40.0])
    mesh = lift.mesh(how, 4)
    states, outs = lift.Program(step, how, mesh)(jnp.ones(4), stacked, jnp.float32(5), 3)
    np.testing.assert_array_equal(states[:3], [11, 21, 31])
    np.testing.assert_array_equal(outs[:3], [5, 5, 5])
    if how != "vmap":  # which runs them all
        assert (states[3], outs[3]) == (1, 0)


def test_map_gives_the_same_bits_in_any_batch():
    stage, scene, settings = parts()
    data, listed, programs = shared(), cells(settings), {}

    def results(places: list[int], capacity: int):
        arguments = (jnp.zeros(capacity, jnp.int32), lift.stack([listed[place] for place in places], capacity), data)
        arguments += (jnp.int32(len(places)), jnp.int32(5))
        if capacity not in programs:
            lifted = jax.jit(lift.batched(whole(stage, scene), "map"))
            programs[capacity] = lifted.lower(*arguments).compile(compiler_options=AS_USERS)
        stacked = programs[capacity](*arguments)[1]
        return {place: lift.pick(stacked, index) for index, place in enumerate(places)}

    wanted = results([0, 1, 2], 4)
    for places, capacity in (([0], 4), ([0, 1], 4), ([2, 1, 0], 4), ([0], 1)):
        for place, found in results(places, capacity).items():
            jax.tree.map(np.testing.assert_array_equal, found, wanted[place])


def test_one_compile_serves_ratios_seeds_settings_and_steps():
    traced, results = [], []
    stage, scene, settings = parts()
    run = whole(stage, scene)

    def counted(*arguments):
        traced.append(len(results))
        return run(*arguments)

    program, data = lift.Program(counted, "vmap"), shared()
    for places, rate in (((0, 0), (18, 1)), 0.1), (((9, 5), (90, 7)), 0.1), (((9, 5), (90, 7)), 0.01):
        changed = settings | {"learning_rate": jnp.asarray(rate, real())}
        stacked = lift.stack(cells(changed, places), 2)
        results.append(program(jnp.zeros(2, jnp.int32), stacked, data, 2, 5)[1])
    assert set(traced) == {0}
    poisoned = [np.sum(np.asarray(one[3].role) == 1, axis=1).tolist() for one in results]
    assert poisoned == [[0, 18], [9, 90], [9, 90]]
    assert np.abs(results[1][0].params["linear"]["kernel"] - results[2][0].params["linear"]["kernel"]).max() > 1e-3


@pytest.mark.parametrize("how", lift.DRIVERS)
def test_states_are_donated(how):
    mesh = lift.mesh(how, 2)
    program = lift.Program(lambda state, cell, shared: (state + cell, cell.sum()), how, mesh)
    states, stacked = jnp.zeros((2, 5)), jnp.ones((2, 5))
    if how == "shard":
        states = jax.device_put(states, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("cell")))
    program(states, stacked, (), 2)
    assert states.is_deleted() and not stacked.is_deleted()


def test_typed_keys_and_trees_without_leaves_pass_every_driver():
    def split(state, cell, shared):
        return {"key": jax.random.split(state["key"])[0], "none": {}}, (jax.random.split(state["key"])[1], cell)

    for how in lift.DRIVERS:
        states = {"key": jax.random.split(jax.random.key(3), 2), "none": {}}
        wanted = [jax.random.key_data(jax.random.split(key)[1]) for key in states["key"]]
        mesh = lift.mesh(how, 2)
        _, (keys, _) = lift.Program(split, how, mesh)(states, jnp.arange(2), (), 2)
        np.testing.assert_array_equal(jax.random.key_data(keys), wanted)
