"""What holds for every registered defense, audit, detector, model and selection: registered, and so tested."""

import inspect
from functools import cache
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from bdjax.analysis import ANALYSES
from bdjax.attacks import ATTACKS
from bdjax.audits import AUDITS
from bdjax.cards import NEEDS, OF_DATASET, ORACLE, Card, Method, lookup
from bdjax.cells import functions
from bdjax.cells.functions import Cell, Scene, Shared
from bdjax.cells.lift import batched, pick, stack
from bdjax.data import sources
from bdjax.defenses import DEFENSES
from bdjax.detection import DETECTORS
from bdjax.detection.parts.scoring import score_all
from bdjax.io.store.trees import load_trained, save_trained
from bdjax.keys import number, root
from bdjax.models import MODELS
from bdjax.selections import SELECTIONS
from bdjax.types import Audit, Data, Given, Stage, Trained, real

SHAPE, CLASSES, ROWS, TESTED = (8, 8, 3), 3, 48, 12

INVERSION = (
    "width=1,blocks=0,batch=8,pretraining_epochs=1,mask_epochs=1,generator_epochs=1,unlearning_epochs=1,rounds=1,"
    "image_bound=100,feature_bound=100"
)

CHOSEN = "relative=true,allowed=0.1"

SMALLEST = {
    "none": "epochs=1,batch=16",
    "ft": "epochs=1,batch=8",
    "ft_sam": "epochs=1,batch=8",
    "npd": "warmup_epochs=1,epochs=1,batch=8,inner_steps=2",
    "exact_purification": "epochs=1,batch=8",
    "sau": "epochs=1,batch=8,inner_steps=2,radius=1,inner_rate=1",
    "pdb": "epochs=1,batch=16,size=2,copies=1,angle=90",
    "abl": "isolation_epochs=1,epochs=1,unlearning_epochs=1,batch=16,one_in=8,drop_epoch=0",
    "nad": "teacher_epochs=1,epochs=1,batch=8",
    "fst": "epochs=1,batch=8",
    "bti_dbf": INVERSION,
    "pam": INVERSION,
    "anp": f"iterations=3,batch=8,inner_steps=2,learning_rate=5,choose=valid,tried=4,threshold=0.9,{CHOSEN}",
    "clp": f"choose=valid,tried=4,u=0.5,{CHOSEN}",
    "fine_pruning": f"epochs=1,batch=8,{CHOSEN}",
    "i_bau": "rounds=1,batch=8,terms=2",
    "tsbd": "unlearning_epochs=2,unlearning_rate=0.1,epochs=1,batch=8",
    "rnp": f"unlearning_epochs=2,stop=0,recovery_epochs=2,batch=8,recovery_rate=5,choose=valid,tried=4,{CHOSEN}",
    "nc": "inversion_epochs=7,inversion_batch=8,batch=8,median=lower",
    "spectral": "epochs=1,batch=16",
    "ac": "epochs=1,batch=16,dims=2,restarts=2,share=0.5",
    "scan": "epochs=1,batch=16,restarts=2,rounds=3,bound=0.5",
    "spectre": "epochs=1,batch=16,dims=9,share=0.1,every_class=true,tap=conv3",
    "bnp": f"rows=9,choose=valid,tried=4,u=0.5,{CHOSEN}",
    "ep": f"rows=24,bin_width=0.3,choose=valid,tried=4,u=0.5,{CHOSEN}",
    "d3": "epochs=1,batch=8",
    "super_ft": "epochs=2,forgetting_epochs=1,batch=8,rise=2",
    "nft": "epochs=2,steps=2,batch=8,learning_rate=5,floor=0.95,fall=0.05",
    "mcr": "tuning_epochs=1,epochs=2,batch=8,rows=20,augment=true,accumulate=true,statistics=moved",
    "awm": "epochs=2,passes=2,batch=8,learning_rate=0.5,rate_factor=0.5,ascent_rate=1e4,bound=30",
    "ims": "initial_rounds=3,rounds=3,batch=8,inner_steps=2,inner_rate=0.2,bound=0.3,patience=0,learning_rate=0.1",
    "moth": "epochs=3,batch=8,images=2,warmup_steps=2,pair_steps=2,short_steps=2,inversion_batch=2,success=0,"
    "pair_success=0,small=1,portion=0.6,period=2,ramp=1,random_pairs=0,learning_rate=0.1",
    "mm_bm": "epochs=3,batch=8,stages=0,start=0.3,correct_rows=false,augment=true,first=0,period=1",
    "unit": "steps=6,patience=1,learning_rate=0.2",
    "dbd": "contrastive_epochs=1,warmup_epochs=2,epochs=2,contrastive_batch=16,warmup_batch=16,batch=6,steps=5",
    "asd": "class_epochs=2,loss_epochs=1,epochs=1,every=1,growth=4,copy_batch=16,batch=6,steps=4",
    "nab": "isolation_epochs=2,isolation_batch=16,shuffle=false,share=0.5,labels=centers,label_epochs=2,label_batch=16,"
    "label_rate=0.4,epochs=1,batch=16",
    "cbd": "backdoor_epochs=1,epochs=1,batch=16",
    "tsc": "rounds=2,epochs=2,batch=8,feature_batch=8,tuning_epochs=1,tuning_rate=0.01",
    "d_st": "split_epochs=1,split_tuning_epochs=1,split_batch=16,redraw=true,contrastive_epochs=2,contrastive_batch=16,"
    "contrastive_warmup=1,epochs=2,batch=16,warmup=1,poisoned_share=0.2",
    "d_br": "split_epochs=1,split_tuning_epochs=1,split_batch=16,epochs=1,batch=16,poisoned_share=0.2",
    "refine": "width=2,halvings=2,epochs=3,batch=8,drop_last=false,first_drop=1,second_drop=2",
    "audit retuning": "rows=10,poisoned=2,epochs=1,batch=5",
    "audit reactivation": "rows=10,poisoned=2,epochs=1,batch=5,width=6,generator_epochs=2,generator_batch=15",
    "audit connectivity": "points=3,epochs=1,batch=8",
    "audit nc": "epochs=2,batch=8",
    "audit ban": "epochs=2,batch=8,steps=2,bound=0.35",
    "audit mm_bd": "images=2,steps=3,learning_rate=0.1",
    "detector spectral": "percentile=60",
    "detector strip": "overlays=3,fpr=0.5",
    "detector ac": "dims=2,restarts=2,share=0.5",
    "detector beatrix": "orders=2,per_class=9,width=1,quantile=0.5,tap=bn1",
    "detector spectre": "dims=9,share=0.1,every_class=true,tap=conv3",
    "detector agpd": "tau=0.2,bound=1e9,gap=0.05",
    "detector fct": "epochs=1,tuning_epochs=1,batch=16,share=0.4",
    "detector scan": "restarts=2,rounds=3,bound=0.5",
    "detector scale_up": "largest=5,noise=0.1,standardized=false",
    "detector ibd_psc": "models=2,error=0.3,bound=0.5",
    "detector cd": "steps=3,deviations=0.5",
    "detector psbd": "passes=2,rates=3,moved=0.2,quantile=0.4",
    "detector abl": "isolation_epochs=1,batch=16,share=0.3",
    "detector bad_expert": "clean_epochs=3,drop_every=1,clean_batch=8,backdoor_batch=8,clean_rate=1e-3,fpr=1",
    "detector ted": "correct=false,contamination=0.5",
    "detector teco": "fpr=0.5",
    "detector mspc": "rounds=2,epochs=2,batch=16,largest=4",
    "detector sentinet": "overlays=4,limit=0.5",
    "detector asset": "batch=16,filter_steps=3,filter_width=4,outlying=0.5,density=0.9",
}
"""Settings at which a method takes a moment and shows on a few small images; names of audits and detectors follow
their kind."""

NARROW = {"image_bound": 0.0, "feature_bound": 0.0, "reversed": 0.5}

OTHER = {
    "abl": {"gamma": 2.0},
    "npd": {"radius": 0.1, "enough": 1.0},
    "pdb": {"dimmed": 1.0},
    "sau": {"adversarial_weight": 0.0, "divergence_weight": 1000.0},
    "bti_dbf": NARROW,
    "pam": NARROW,
    "anp": {"allowed": 0.0},
    "i_bau": {"radius": 0.01},
    "tsbd": {"unlearning_rate": 1.0, "stop": 0.0},
    "clp": {"allowed": 0.0, "u": 2.0},
    "rnp": {"allowed": 0.0, "stop": 1.0},
    "nc": {"enough": 0.0},
    "scan": {"bound": 100.0, "tolerance": 1e9},
    "spectre": {"share": 0.025},
    "fine_pruning": {"allowed": 0.0},
    "bnp": {"allowed": 0.0, "u": 2.0},
    "ep": {"allowed": 0.0, "u": 2.0},
    "mm_bm": {"allowed": -1.0},
    "unit": {"allowed": -1.0},
    "nab": {"gamma": 3.0, "away": 0.9, "label_rate": 4.0, "temperature": 0.05, "share": 0.2},
    "ims": {"gain": 1.5},
    "moth": {"success": 1.0, "pair_success": 1.0, "small": 0.01, "random_pairs": 1.0, "ramp": 1e6},
    "asd": {"forward": 100.0, "reverse": 0.0},
    "audit nc": {"enough": 0.0},
    "audit ban": {"bound": 1.5},
    "audit mm_bd": {"tolerance": 0.5, "significance": 0.01},
    "detector scale_up": {"noise": 1.0, "bound": 0.9},
    "detector spectre": {"share": 0.025},
    "detector agpd": {"tau": 1.0, "bound": 0.5, "gap": 10.0},
    "detector scan": {"bound": 100.0, "tolerance": 1e9},
    "detector ibd_psc": {"factor": 3.0, "error": 1.0, "bound": 1.0},
    "detector cd": {"deviations": 2.0, "gamma": 1.0},
    "detector psbd": {"moved": 0.6, "quantile": 0.9},
    "detector abl": {"gamma": 2.0},
    "detector bad_expert": {"fpr": 0.0},
    "detector ted": {"contamination": 0.0},
    "detector teco": {"fpr": 0.0},
    "detector mspc": {"shift": 0.8, "weight_decay": 5.0, "sparsity": 1.0},
    "detector sentinet": {"extent": 0.6, "limit": 0.0},
    "detector asset": {"filter_rate": 1.0, "density": 1e-300},
}
"""Values of float settings that show an effect; else half of what it was, or a quarter where that is 0."""

QUICKLY = {"xla_backend_optimization_level": 0}
"""How programs are compiled here: compiling is most of this file's time."""


def own(registry: dict[str, Method]) -> dict[str, Method]:
    """The package's entries, without those that other tests have registered."""
    return {name: method for name, method in registry.items() if method.make.__module__.startswith("bdjax.")}


KINDS = {"": DEFENSES, "audit ": AUDITS, "detector ": DETECTORS}
METHODS = {kind + name: method for kind, registry in KINDS.items() for name, method in own(registry).items()}
CARDED = [own(each) for each in (ATTACKS, SELECTIONS, DEFENSES, AUDITS, DETECTORS, ANALYSES, MODELS)]
CARDS = [
    pytest.param(name, method, id=f"{name} {method.card.stage}") for each in CARDED for name, method in each.items()
]


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


@cache
def network():
    return MODELS["small_cnn"].make(SHAPE, CLASSES, (0.4,) * 3, (0.3,) * 3, width=2)


@cache
def shared() -> Shared:
    def split(size: int, seed: int) -> Data:
        label = np.arange(size, dtype=np.int32) % CLASSES
        noise = np.random.default_rng(seed).integers(0, 256, (size, *SHAPE))
        return Data(jnp.asarray(noise * (1 + label[:, None, None, None]) // CLASSES, jnp.uint8), jnp.asarray(label))

    return Shared(split(ROWS, 0), split(TESTED, 1))


@cache
def scene() -> Scene:
    net = network()
    spec = lookup("badnets:size=2", ATTACKS, "attack")
    attack = ATTACKS["badnets"].make(net, SHAPE, CLASSES, **spec.static)
    select = SELECTIONS["random"].make(net, SHAPE, CLASSES)
    return Scene(
        net, CLASSES, 1, True, select, clean=5, valid=2, reserved=False, barred=np.zeros(ROWS, bool), attack=attack
    )._replace(judges="rows")


class Built(NamedTuple):
    """A method as a study would run it."""

    card: Card
    needs: tuple[str, ...]
    stages: tuple[Stage, ...]
    audit: Audit | None
    settings: dict[str, float]
    detects: bool = False


def build(name: str) -> Built:
    kind, _, plain = name.rpartition(" ")
    registry = KINDS[f"{kind} " if kind else ""]
    spec = lookup(f"{plain}:{SMALLEST[name]}", registry, "method")
    made, card = registry[plain].make(network(), SHAPE, CLASSES, **spec.static), registry[plain].card
    stages = made if registry is DEFENSES else made.stages
    if registry is DETECTORS:
        stages = (*stages, score_all(network(), made))
    audit = made if registry is AUDITS else None
    return Built(card, card.needs_of(spec.static), stages, audit, dict(spec.traced), registry is DETECTORS)


def keen(net, weights, data: Data):
    """The weights with a head that tells images apart: under a random one all look alike and nothing changes that."""
    feature = net.apply(weights, data.image.astype(real()) / 255)[2]["pool"]
    kernel = 200 * weights.params["linear"]["kernel"]
    head = {"kernel": kernel, "bias": -jnp.mean(feature, 0) @ kernel}
    return weights.replace(params={**weights.params, "linear": head})


def compiled(function, how: str, *arguments):
    """A lifted cell function, compiled once and for all for arguments of these shapes."""
    return jax.jit(batched(function, how)).lower(*arguments).compile(compiler_options=QUICKLY)


@cache
def drawing():
    """(seed, count) of two cells -> the cells, drawn, with models of their own."""

    place = scene()

    def function(state, cell: Cell, shared: Shared):
        cell, _ = functions.draw(place, cell, shared)
        names = ("victim", "clean_model", "backdoored")
        keys = [jax.random.fold_in(root(cell.seed), number) for number in range(len(names))]
        return state, cell.replace(**{name: place.net.init(key) for name, key in zip(names, keys, strict=True)})

    def blank(pairs) -> Cell:
        return stack([Cell(jnp.uint32(seed), jnp.int32(count), {}, {}) for seed, count in pairs], 2)

    program = compiled(function, "map", (), blank([(0, 0)]), shared(), jnp.int32(2))
    return lambda pairs: program((), blank(pairs), shared(), jnp.int32(2))[1]


def cells(pairs, settings: list[dict[str, float]]) -> Cell:
    """Cells of these seeds and counts, stacked, each with its settings; filled up to two."""
    scalars = [{name: jnp.asarray(value, real()) for name, value in one.items()} for one in settings]
    return drawing()(pairs).replace(settings=stack(scalars, 2))


AT_ONCE = 10**6
"""More steps than any epoch here has: see `whole`."""


def whole(built: Built):
    """All that a method does with a drawn cell: what its stages leave, sums of the last infos, an audit's figures.

    Every epoch is advanced in two calls, `cut` steps and the rest.
    """
    place, needs = scene(), built.needs

    def function(state, cell: Cell, shared: Shared, cut):
        sums, figures = {}, {}
        if built.detects:
            cell = cell.replace(victim=keen(place.net, cell.victim, shared.train))
        for index, one in enumerate(built.stages):
            lifted, streams = functions.stage(place, one, needs), number(f"method {index}")
            steps = functions.steps(place, one, needs, cell, shared)
            carry, cell = lifted.begin((), cell, shared, streams)[1], functions.begun(one, cell)

            def piece(index, carry, lifted=lifted, streams=streams, cell=cell, steps=steps):
                middle = jnp.minimum(cut, steps)
                start, stop = jnp.where(index % 2, middle, 0), jnp.where(index % 2, steps, middle)
                return lifted.advance(carry, cell, shared, streams, index // 2, start, stop)[0]

            carry = jax.lax.fori_loop(0, 2 * one.epochs, piece, carry)
            left, sums = lifted.finish(carry, cell, shared, streams)[1][0], carry[1]
            cell = cell.replace(left=left)
        if built.audit:
            net = functions.wrapped(place.net, built.stages)
            figures = functions.measure(place, built.audit, needs, net)(state, cell, shared)[1]
        return state, (cell.left, sums, figures)

    return function


class Run(NamedTuple):
    """What a method made of two cells that differ in seed, count and settings."""

    built: Built
    call: Any  # (cells, how many of them) -> results, stacked, one cell after the other, by one compiled program
    alone: list[Any]
    mapped: Any
    batched: Any


PAIRS = [(0, 6), (1, 9)]


@cache
def run(name: str) -> Run:
    built = build(name)
    several = [built.settings, {key: 0.9 * value for key, value in built.settings.items()}]
    both = cells(PAIRS, several)
    fixed = (), both, shared(), jnp.int32(2), jnp.int32(AT_ONCE)
    programs = {how: compiled(whole(built), how, *fixed) for how in ("map", "vmap")}

    def call(cells: Cell, count: int = 1, how: str = "map", cut: int = AT_ONCE):
        return programs[how]((), cells, shared(), jnp.int32(count), jnp.int32(cut))[1]

    alone = [pick(call(cells([pair], [settings])), 0) for pair, settings in zip(PAIRS, several, strict=True)]
    return Run(built, call, alone, call(both, 2), call(both, 2, "vmap"))


@pytest.fixture(params=sorted(METHODS))
def name(request):
    return request.param


def differ(one, two) -> bool:
    return any(not np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True))


def test_there_is_a_small_size_for_every_method():
    assert set(SMALLEST) == set(METHODS)


def test_cells_in_a_batch_are_what_they_are_alone(name):
    found = run(name)
    for index in range(2):
        chex.assert_trees_all_equal(pick(found.mapped, index), found.alone[index])
        chex.assert_trees_all_close(pick(found.batched, index), found.alone[index], rtol=1e-9, atol=1e-9)
    assert differ(found.alone[0], found.alone[1])


@pytest.mark.parametrize("name", sorted(own(DETECTORS)))
def test_the_size_of_a_batch_changes_no_score(name):
    built = build(f"detector {name}")
    spec = lookup(f"{name}:{SMALLEST[f'detector {name}']}", DETECTORS, "detector")
    made = DETECTORS[name].make(network(), SHAPE, CLASSES, **spec.static)
    small = score_all(network(), made._replace(batch=5))
    program = compiled(whole(built._replace(stages=(*made.stages, small))), "map", (), *_first(built))
    found = pick(program((), *_first(built))[1], 0)[0].carry["score"]
    chex.assert_trees_all_close(found, run(f"detector {name}").alone[0][0].carry["score"], rtol=1e-9, atol=1e-9)


def _first(built: Built):
    return cells(PAIRS[:1], [built.settings]), shared(), jnp.int32(1), jnp.int32(AT_ONCE)


@pytest.mark.parametrize("how", ["map", "vmap"])
def test_an_epoch_in_pieces_is_an_epoch(name, how):
    found = run(name)
    settings = [found.built.settings, {key: 0.9 * value for key, value in found.built.settings.items()}]
    pieces = found.call(cells(PAIRS, settings), 2, how, cut=1)
    chex.assert_trees_all_equal(pieces, found.mapped if how == "map" else found.batched)


def test_one_program_serves_other_seeds_and_counts(name):
    found = run(name)
    needs = set(found.built.needs).union(*(stage.sees for stage in found.built.stages))
    settings, sees = found.built.settings, {"train", "suspects"} & needs
    before = found.alone[0]
    assert differ(pick(found.call(cells([(5, 6)], [settings])), 0), before)
    assert differ(pick(found.call(cells([(0, 12)], [settings])), 0), before) == bool(sees)


def test_every_float_setting_has_an_effect_in_the_same_program(name):
    found = run(name)
    for setting, about in found.built.card.settings.items():
        if about.traced:
            settings = found.built.settings
            value = about.parse(OTHER.get(name, {}).get(setting, settings[setting] / 2 or 0.25), setting)
            after = found.call(cells(PAIRS[:1], [settings | {setting: value}]))
            assert differ(pick(after, 0), found.alone[0]), setting


def test_infos_are_a_flat_dict_of_finite_scalars(name):
    for _, sums, _ in run(name).alone:
        assert sums and all(isinstance(key, str) and np.shape(value) == () for key, value in sums.items())
        assert all(np.isfinite(value) for value in sums.values())


def test_what_is_left_is_finite_and_can_be_kept(name, tmp_path):
    for trained, _, _ in run(name).alone:
        assert isinstance(trained, Trained) and isinstance(trained.carry, dict)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(trained))
        save_trained(tmp_path / "one.safetensors", trained)
        found = load_trained(tmp_path / "one.safetensors")[0]
        chex.assert_trees_all_equal(found, jax.tree.map(np.asarray, trained))


def test_weights_fit_the_network_that_is_left(name):
    found = run(name)
    net = functions.wrapped(network(), found.built.stages)
    weights = found.alone[0][0].weights
    wanted = jax.eval_shape(net.init, root(0))
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), weights) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), wanted
    )
    logits, _, taps = net.apply(weights, jnp.full((2, *SHAPE), 0.5))
    assert logits.shape == (2, CLASSES) and np.isfinite(logits).all()
    assert set(taps) == {layer.tap for layer in net.layers}


@pytest.mark.parametrize("audit", sorted(own(AUDITS)))
def test_audits_measure_numbers(audit):
    for _, _, figures in run(f"audit {audit}").alone:
        assert figures and all(isinstance(key, str) for key in figures)
        assert all(np.isfinite(value).all() for value in figures.values())


def test_a_method_is_given_what_its_card_names_and_no_more(name):
    built, place = build(name), scene()
    seen = []

    def look(cell: Cell, shared: Shared):
        seen.append(functions.make_given(place, built.needs, cell, shared))
        return ()

    jax.eval_shape(look, pick(cells(PAIRS, [built.settings]), 0), shared())
    for field in NEEDS:
        assert (getattr(seen[0], field) is not None) == (field in built.needs), field
    assert set(Given._fields) == NEEDS | {"settings", "augment", "carry"}
    assert built.card.oracle == bool(ORACLE & set(built.card.needs))


@pytest.mark.parametrize(("name", "method"), CARDS)
def test_make_takes_the_static_settings_of_the_card(name, method):
    fixed = ("net", "shape", "classes")
    if name in MODELS:
        fixed = ("shape", "classes", "mean", "std", *method.card.needs)
    if name in ANALYSES:
        fixed = ("folder", "attack", "ratio", "defenses", "seeds")
    parameters = inspect.signature(method.make).parameters
    assert tuple(parameters)[: len(fixed)] == fixed
    taken = list(parameters.values())[len(fixed) :]
    named = {one.name for one in taken if one.kind is not one.VAR_KEYWORD}
    static = {setting for setting, about in method.card.settings.items() if not about.traced}
    rest = any(one.kind is one.VAR_KEYWORD for one in taken)
    assert named <= static if rest else named == static


@pytest.mark.parametrize("name", sorted(own(DEFENSES)))
def test_a_defense_that_the_reference_benchmark_lacks_says_so(name):
    card = DEFENSES[name].card
    assert "benchmark" in card.presets or "reference benchmark has no" in " ".join(card.departures)


@pytest.mark.parametrize(("name", "method"), CARDS)
def test_card_is_complete(name, method):
    card = method.card
    assert card.name == name
    assert card.title and card.kind and card.version >= 1 and card.smallest >= 1
    assert str(card.year) in card.citation
    assert "https://" in card.citation or "arXiv" in card.citation or "doi" in card.citation
    assert (card.stage is None) == (name in MODELS or name in ANALYSES)
    assert bool(card.controls) == (name in ATTACKS)
    assert set(card.needs) <= (OF_DATASET if name in MODELS else NEEDS) and len(set(card.needs)) == len(card.needs)
    for text in card.more_needs:
        setting, value = text.split("=")
        card.settings[setting].parse(value, text)
    assert all(isinstance(one, str) and one.strip() for one in card.departures)
    for setting, about in card.settings.items():
        assert setting.isidentifier() and about.about, setting
        assert about.parse(about.default, setting) == about.default
        assert type(about.parse(str(about.default).lower(), setting)) is type(about.default)
    registry = next(each for each in CARDED if name in each and each[name] is method)
    assert "paper" in card.presets
    for preset in card.presets:
        spec = lookup(f"{name}:preset={preset}", registry, "method")
        assert set(spec.static) | set(spec.traced) == set(card.settings)


@pytest.mark.parametrize("name", sorted(name for name in METHODS if not name.startswith("detector")))
def test_defenses_and_audits_say_when_they_act_and_what_they_change(name):
    assert METHODS[name].card.stage
    assert METHODS[name].card.changes


@pytest.mark.parametrize("name", sorted(own(SELECTIONS)))
def test_selections_rank_all_rows_the_same_alone_and_in_a_batch(name):
    static = lookup(name, SELECTIONS, "selection").static
    select = SELECTIONS[name].make(network(), SHAPE, CLASSES, **static)
    given = Given({}, lambda key, image: image, train=sources.split(shared().train))

    def priority(seed):
        return select.rank(root(seed), network(), scene().attack, (), given)

    many = jax.vmap(priority)(jnp.arange(2, dtype=jnp.uint32))
    assert many.shape == (2, ROWS) and many.dtype == real() and np.isfinite(many).all()
    for seed in range(2):
        chex.assert_trees_all_close(many[seed], priority(jnp.uint32(seed)), rtol=1e-12, atol=1e-12)
    assert differ(many[0], many[1])


@pytest.mark.parametrize("name", sorted(own(MODELS)))
def test_models_work_at_their_smallest_size_alone_and_in_a_batch(name):
    card = MODELS[name].card
    shape = (card.smallest, card.smallest, 1)
    net = tiny.network(name, shape, 2, (0.5,), (0.2,), width=2)
    image = jax.random.uniform(jax.random.key(0), (3, *shape))

    def logits(state, seed, shared):
        return state, net.apply(net.init(root(seed)), image, train=True)[:2]

    seeds = jnp.arange(2, dtype=jnp.uint32)
    many = compiled(logits, "vmap", (), seeds, (), jnp.int32(2))((), seeds, (), jnp.int32(2))[1]
    alone = compiled(logits, "map", (), seeds, (), jnp.int32(2))
    assert many[0].shape == (2, 3, 2) and np.isfinite(many[0]).all()
    for index in range(2):
        one = pick(alone((), seeds[index:].repeat(2)[:2], (), jnp.int32(1))[1], 0)
        chex.assert_trees_all_close(one, pick(many, index), rtol=1e-9, atol=1e-9)
