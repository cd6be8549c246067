"""Mistakes in methods that are not the library's: each is one line that names the method, the place and the cure."""

import importlib
import re
import sys
from dataclasses import replace

import pytest
import tiny

import bdjax
from bdjax.engine.failures import Failed
from bdjax.errors import InvalidInput
from bdjax.study import rehearsal
from bdjax.study.resolve import resolve

CARD = "Card('NAME', 'Mine', 'nobody', 2026, 1, 'odd', needs=('clean', 'victim'), settings=SETTINGS{more})"
DEFENSE = """
import jax
import jax.numpy as jnp

from bdjax import train
from bdjax.cards import Card, Method, Setting


SETTINGS = {{"learning_rate": Setting(0.1, "constant")}}


def make(net, shape, classes, **static):
    def gradient(net, weights, image, rows, given):
        logits = net.apply(weights, image, train=True)[0]
        value = jnp.mean(logits)
        {line}
        return train.loss_gradient(net, weights, image, rows)

    def finish(key, state, given):
        {last}
        return train.leave_weights(key, state, given)

    def stage(gradient=gradient):
        source = lambda given: given.{source}
        return train.supervised(net, source, epochs=1, batch=8, gradient=gradient, leave=finish)

    return {stages}


REGISTRY['NAME'] = {entry}
"""
PLAIN = {
    "line": "",
    "last": "",
    "source": "clean",
    "stages": "(stage(),)",
    "entry": f"Method({CARD}, make)",
    "more": "",
}
LINE = 17
"""Of `{line}` in the file."""

DEFENSE_SLIPS = {
    "a field that is not needed": ({"source": "train"}, r"it reads given\.train, which .* add 'train' there"),
    "one in a loss": ({"line": "given.valid.read(jnp.arange(2))"}, r"given\.valid, .* add 'valid' there"),
    "one at the end": ({"last": "given.target(jnp.zeros(2, int))"}, r"given\.target, .* add 'target' there"),
    "one by its length": ({"last": "len(given.test)"}, r"given\.test, .* add 'test' there"),
    "a setting that is none": ({"line": "given.settings['rho']"}, rf"KeyError: 'rho' in plugin_\w+\.py, line {LINE}"),
    "a name that is none": ({"line": "value = valeu"}, rf"NameError: .*'valeu'.* line {LINE}; mend it there"),
    "shapes that do not fit": ({"line": "logits @ logits"}, rf"TypeError: .*dot_general.* line {LINE}"),
    "a value where it is traced": ({"line": "float(value)"}, rf"ConcretizationTypeError: .* line {LINE}"),
    "in a later stage": ({"stages": "(stage(), stage(1))"}, "TypeError: 'int' object is not callable"),
    "a stage alone": ({"stages": "stage()"}, "make returned a"),
    "no stage": ({"stages": "None"}, "make returned a NoneType; let it return a tuple of types.Stage"),
    "a function": ({"entry": "make"}, "is of type function; register a cards.Method"),
    "a card that needs what there is not": (
        {"more": ", stage='training', needs_more=1"},
        "unexpected keyword argument",
    ),
    "an unknown need": (
        {"entry": f"Method({CARD.replace('victim', 'victims')}, make)"},
        r"unknown needs \['victims'\]",
    ),
    "a stage of life that is none": ({"more": ", stage='after'"}, "stage 'after'; choose from pre-training"),
    "an info that is a vector": (
        {"line": "return *train.loss_gradient(net, weights, image, rows)[:2], {'loss': logits[:, 0]}"},
        r"gradient: it returned float32 \(8,\) at \[2\]\['loss'\]; let it return \(moving .* a dict of scalars\)$",
    ),
    "no state at all": (
        {"stages": "(stage()._replace(step=lambda key, state, rows, given: None),)"},
        r"step: it returned None; let it return \(the state .*, a dict of scalars\)$",
    ),
    "weights of another structure": (
        {"last": "state = state.replace(moving={})"},
        r"leave: it returned a Weights at \.weights without \.params\['linear'\]",
    ),
    "weights of other shapes": (
        {"last": "state = state.replace(moving=jax.tree.map(lambda leaf: leaf[:2], state.moving))"},
        r"leave: it returned float32 \(2,\) at .*\['bias'\] in place of float32 \(3,\); let it return a Trained",
    ),
    "nothing left": ({"last": "return None"}, "leave: it returned None; let it return a Trained"),
    "a wrap without a network": (
        {"stages": "(stage()._replace(wrap=lambda net: None),)"},
        "wrap: it returned None; let it return a Net$",
    ),
    "a wrap whose network gives no logits": (
        {"stages": "(stage()._replace(wrap=lambda net: net._replace(apply=lambda *_, **__: (0.0, {}, {}))),)"},
        r"apply of wrap's network: it returned float32 \(\) at \[0\]; let it return \(float \(2, 3\)",
    ),
    "a field that nobody gives": (
        {"stages": "(stage()._replace(sees=('trian',)),)"},
        r"a Stage whose sees is \('trian',\); let it be a tuple of backdoored, clean",
    ),
    "epochs that are no number": (
        {"stages": "(stage()._replace(epochs='2'),)"},
        "a Stage whose epochs is '2'; let it be a whole number",
    ),
    "an order of one step alone": (
        {"stages": "(stage()._replace(order=lambda *_: jnp.arange(8)),)"},
        r"order: it returned int32 \(8,\); let it return a jax.Array of int \(steps, b\)",
    ),
}


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Writes a plugin of one method and gives its name; what it registers is removed after the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    written = []

    def write(text: str, registry: str) -> str:
        name = f"plugin_{abs(hash(text))}"
        written.append((getattr(bdjax, registry), name))
        text = text.replace("NAME", name).replace("REGISTRY", registry)
        (tmp_path / f"{name}.py").write_text(f"from bdjax import {registry}\n{text}")
        importlib.invalidate_caches()
        return name

    yield write
    for registry, name in written:
        registry.pop(name, None)
        sys.modules.pop(name, None)


OPTIONAL = {
    "by a condition": "(given.valid if given.valid is not None else given.clean).read(jnp.arange(2))",
    "by its truth": "(given.valid or given.clean).read(jnp.arange(2))",
    "by a search": "next(one for one in (given.train, given.clean) if one is not None)",
}


DESCENT = """
import jax
import jax.numpy as jnp
import optax

from bdjax import train
from bdjax.cards import Card, Method, Setting


def make(net, shape, classes, **static):
    def begin(key, given, weights):
        {begin}
        return given.victim.params, {{"batch_stats": given.victim.batch_stats, "steps": jnp.zeros((), jnp.int32)}}

    def loss(key, moving, still, rows, given):
        value = jnp.mean(moving["linear"]["bias"])
        {loss}
        return value, (still, {{"loss": value}})

    def rule(given, clock):
        {rule}
        return optax.sgd(given.settings["learning_rate"])

    return (
        train.descend(
            lambda given: given.clean,
            epochs=1,
            batch=8,
            begin=begin,
            loss=loss,
            rule=rule,
            leave=train.leave_weights{more}
        ),
    )


SETTINGS = {{"learning_rate": Setting(0.1, "constant")}}
card = Card('NAME', 'Mine', 'nobody', 2026, 1, 'odd', needs=('clean', 'victim'), settings=SETTINGS)
REGISTRY['NAME'] = Method(card, make)
"""
CALM = {"begin": "", "loss": "", "rule": "", "more": ""}
DESCENT_SLIPS = {
    "a beginning of one thing": (
        {"begin": "return given.victim"},
        r"begin: it returned a Weights; let it return \(moving,",
    ),
    "an error in the beginning": ({"begin": "return given.victim.param"}, "begin: AttributeError: .* line 13"),
    "a loss alone": ({"loss": "return value"}, r"loss: it returned float32 \(\); let it return \(float \(\), \(still"),
    "a loss of every row": (
        {"loss": "return rows.weight, (still, {})"},
        r"loss: it returned float32 \(8,\) at \[0\]; let it return \(float \(\),",
    ),
    "a state that grows": (
        {"loss": "still = still | {'more': value}"},
        r"loss: it returned a dict of .* at \[1\]\[0\] with \['more'\] added; .*still with structure, shapes and types",
    ),
    "a state of another type": (
        {"loss": "still = still | {'steps': still['steps'] + 1.0}"},
        r"loss: it returned float32 \(\) at \[1\]\[0\]\['steps'\] in place of int32 \(\)",
    ),
    "an error in the loss": ({"loss": "still['stats']"}, "loss: KeyError: 'stats' in .* line 18; mend it there"),
    "no optimizer": ({"rule": "return None"}, "rule: it returned None; let it return a GradientTransformation"),
    "an end without an answer": (
        {"more": ", until=lambda info, given: None"},
        r"until: it returned None; .* bool \(\)",
    ),
    "an augmentation of images alone": (
        {"more": ", augment=lambda key, rows, *_: rows.image"},
        r"augment: it returned float32 \(8, .*\); let it return a Batch, or a dict of them",
    ),
    "a projection that forgets": (
        {"more": ", project=lambda moving, *_: moving"},
        r"project: it returned a dict of 'linear'; let it return \(moving .*, still",
    ),
}

ATTACK = """
import jax.numpy as jnp

from bdjax import train
from bdjax.attacks.badnets import BADNETS
from bdjax.cards import Card, Method, Setting
from bdjax.types import Trained


def make(net, shape, classes, **static):
    settings = {{name: about.default for name, about in BADNETS.card.settings.items() if not about.traced}}
    plain = BADNETS.make(net, shape, classes, **settings)

    def stamp(assets, trigger, image, row):
        {line}

    def init(*asked):
        drawn = plain.init(*asked)
        {init}
        return drawn

    def prepare(key, net, data, settings):
        {prepare}
        return {{"level": jnp.ones(())}}

    def leave(key, state, given):
        {leave}
        return Trained(train.leave_weights(key, state, given).weights, given.carry["trigger"])

    stage = train.supervised(net, lambda given: given.train, epochs=1, batch=8, fresh=True, leave=leave)
    return plain._replace(init=init, stamp=stamp, query=stamp{more})


SETTINGS = {{"learning_rate": Setting(0.1, "constant")}}
card = Card('NAME', 'Mine', 'nobody', 2026, 1, 'odd', controls='data', settings=SETTINGS)
REGISTRY['NAME'] = Method(card, make)
"""
DATA = {"line": "return 1 - image", "init": "", "prepare": "", "leave": "", "more": ""}
TRAINS = {"more": ", train=(stage,)"}
PREPARES = {"more": ", prepare=prepare", "line": "return image * assets['level']"}
ATTACK_SLIPS = {
    "a trigger that is none": ({"line": "return image * trigger['mask']"}, "stamp: KeyError: 'mask' in .* line 16"),
    "a name that is none": ({"line": "return imgae"}, "stamp: NameError: .*'imgae'.*; mend it there"),
    "an image without channels": (
        {"line": "return image[..., 0]"},
        r"stamp: it returned float32 \(16, 16\); let it return float \(16, 16, 3\)",
    ),
    "an image of bytes": ({"line": "return (255 * image).astype('uint8')"}, r"stamp: it returned uint8 \(16, 16, 3\)"),
    "nothing stamped": ({"line": "pass"}, r"stamp: it returned None; let it return float \(16, 16, 3\)"),
    "roles of another type": (
        {"init": "drawn = drawn.replace(role=drawn.role + 0.0)"},
        r"init: it returned float32 \(180,\) at \.role; let it return a Poison of role int8 \(180,\)",
    ),
    "roles of some rows": (
        {"init": "drawn = drawn.replace(role=drawn.role[:9])"},
        r"init: it returned int8 \(9,\) at \.role",
    ),
    "no poison": ({"init": "return drawn.role"}, r"init: it returned int8 \(180,\); let it return a Poison"),
    "rows by number": ({"more": ", eligible=lambda label: label"}, r"eligible: it returned int32 .* bool \(180,\)"),
    "a goal of one class": ({"more": ", goal=lambda label: 0"}, r"goal: it returned int32 \(\); let it return int"),
    "an error where training ends": (TRAINS | {"leave": "state.params"}, "leave: AttributeError: .*'params'.* line 28"),
    "training that leaves no weights": (
        TRAINS | {"leave": "return Trained({}, {})"},
        r"leave: it returned a dict of nothing at \.weights without .* a Trained of weights the network's weights",
    ),
    "a trigger that queries lack": (
        TRAINS | {"leave": "given = given._replace(carry={'trigger': {}})", "line": "return image * trigger['mask']"},
        "stamp: KeyError: 'mask'",
    ),
    "an exit": ({"init": "raise SystemExit(3)"}, "init: SystemExit: 3 in .*; mend it there"),
    "stages that are none": ({"more": ", train=(1,)"}, "AttributeError: 'int' object has no attribute"),
}
PREPARED_SLIPS = {
    "an error in what it prepares": (
        {"prepare": "data.images"},
        "prepare: AttributeError: .*'images'.* line 24; mend it there",
    ),
    "what it has not prepared": ({"line": "return image * assets['mask']"}, "stamp: KeyError: 'mask'"),
    "no arrays": (
        {"prepare": "return {'level': 'high'}"},
        r"prepare: it returned a str at \['level'\]; .* a dict of arrays",
    ),
}


NUMBERS = "__import__('numpy').asarray(data.image)"
"""What a function of data cannot do while it is traced."""


def prepared(plugin, folder, changes, traced=True):
    """A study of an attack that prepares, resolved, and the attack's name; traced: whether that can be traced."""
    changes = DATA | PREPARES | changes
    if not traced:
        changes["prepare"] = f"{NUMBERS}; {changes['prepare']}"
    name = plugin(ATTACK.format(**changes), "ATTACKS")
    return (lambda: resolve(tiny.study(folder, attacks=(name,), plugins=(name,)))), name


@pytest.mark.parametrize("slip", PREPARED_SLIPS)
def test_a_slip_in_an_attack_that_prepares_is_one_line(plugin, tmp_path, slip):
    changes, wanted = PREPARED_SLIPS[slip]
    work, name = prepared(plugin, tmp_path, changes)
    with pytest.raises(InvalidInput, match=wanted) as caught:
        work()
    assert str(caught.value).startswith(f"plugin {name!r}: attack {name!r}: ")


@pytest.mark.parametrize("slip", PREPARED_SLIPS)
def test_a_slip_in_an_attack_that_prepares_by_numbers_is_one_line_once_it_has(plugin, tmp_path, slip):
    changes, wanted = PREPARED_SLIPS[slip]
    work, name = prepared(plugin, tmp_path, changes, traced=False)
    resolved = work()
    with pytest.raises(InvalidInput, match=wanted) as caught:
        rehearsal.prepare(resolved, name, resolved.dataset.train)
    assert str(caught.value).startswith(f"plugin {name!r}: attack {name!r}: ")


def test_what_is_prepared_is_kept_only_where_the_attack_can_use_it(plugin, tmp_path):
    work, name = prepared(plugin, tmp_path, {})
    resolved = work()
    assert rehearsal.prepare(resolved, name, resolved.dataset.train) == {"level": 1}
    work, name = prepared(plugin, tmp_path, {"line": "return image * assets['mask']"}, traced=False)
    with pytest.raises(Failed, match=rf"plugin '{name}': attack '{name}': stamp: KeyError: 'mask'"):
        bdjax.run(replace(work().study, dataset=tiny.dataset(tmp_path), seeds=(0,)), tmp_path / "out")
    assert not list((tmp_path / "out").glob("assets/*"))


SELECTION = """
import jax
import jax.numpy as jnp

from bdjax import train
from bdjax.cards import Card, Method, Setting
from bdjax.types import Selection, Trained


def make(net, shape, classes, **static):
    def rank(key, net, attack, assets, given):
        {line}
        return jax.random.uniform(key, (given.train.size,))

    def leave(key, state, given):
        {leave}
        return Trained(train.leave_weights(key, state, given).weights, given.carry)

    def search(most):
        return (train.supervised(net, lambda given: given.whole, epochs=1, batch=8, fresh=True, leave=leave),)

    return Selection(rank, {search})


card = Card('NAME', 'Mine', 'nobody', 2026, 1, 'odd', settings={{"learning_rate": Setting(0.1, "constant")}})
REGISTRY['NAME'] = Method(card, make)
"""
RANKS = {"line": "", "leave": "", "search": "search"}
SELECTION_SLIPS = {
    "an error in the rank": ({"line": "given.train.label"}, "rank: AttributeError: .*'label'.* line 13; mend it there"),
    "a rank of some rows": (
        {"line": "return jnp.zeros(9)"},
        r"rank: it returned float32 \(9,\); let it return float \(180,\)$",
    ),
    "a rank without search": ({"line": "return None", "search": "None"}, "rank: it returned None"),
    "an error in the search": ({"leave": "given.carry['rank']"}, "leave: KeyError: 'rank' in .* line 17"),
    "a search without stages": ({"search": "lambda most: most"}, "search: it returned int32 .* a tuple of types.Stage"),
    "a search without an answer": (
        {"leave": "given = given._replace(carry={})"},
        r"leave: it returned a dict of nothing at \.carry without 'priority'; .* a dict with priority, float \(n,\)",
    ),
}

MODEL = """
import jax.numpy as jnp

from bdjax.cards import Card, Method
from bdjax.types import Layer, Net, Weights


def make(shape, classes, mean, std):
    size = shape[0] * shape[1] * shape[2]

    def init(key):
        {init}
        return Weights({{"linear": {{"kernel": jnp.zeros((size, classes))}}}}, {{"seen": jnp.zeros(())}})

    def apply(weights, image, train=False, weight=None, edit={{}}):
        logits, stats = image.reshape(len(image), -1) @ weights.params["linear"]["kernel"], weights.batch_stats
        taps = {{"linear": logits}}
        {line}
        return logits, stats, taps

    return Net(init, apply, {layers})


REGISTRY['NAME'] = Method(Card('NAME', 'Mine', 'nobody', 2026, 1, 'odd'), make)
"""
NETWORK = {"init": "", "line": "", "layers": '(Layer("linear", "linear", ("linear",), "linear"),)'}
MODEL_SLIPS = {
    "an error in its weights": ({"init": "shape.size"}, "init: AttributeError: .* line 13; mend it there"),
    "a dict of weights": ({"init": "return {}"}, "init: it returned a dict of nothing; let it return a Weights"),
    "weights that are no floats": (
        {"init": "return Weights({'linear': {'kernel': jnp.zeros((size, classes), int)}}, {})"},
        r"init: it returned .* at \.params; .*float arrays",
    ),
    "an error in its logits": ({"line": "logits @ logits"}, "apply: TypeError: .* line 19; mend it there"),
    "logits alone": (
        {"line": "return logits"},
        r"apply: it returned float32 \(2, 3\); let it return \(float \(2, 3\), batch",
    ),
    "too few logits": (
        {"line": "logits = logits[:, :2]"},
        r"apply: it returned float32 \(2, 2\) at \[0\]; .*\(float \(2, 3\), batch_stats",
    ),
    "statistics that training loses": (
        {"line": "stats = {} if train else stats"},
        r"apply: it returned a dict of nothing at \[1\] without \['seen'\]",
    ),
    "no tap of a layer": ({"line": "taps = {}"}, r"apply: it returned a dict of nothing at \[2\] without 'linear'"),
    "layers by name": (
        {"layers": "('linear',)"},
        r"a Net whose layers is \('linear',\); let it be a tuple of types.Layer",
    ),
}

DETECTOR = """
import jax
import jax.numpy as jnp

from bdjax.cards import Card, Method
from bdjax.types import Audit, Detector


def make(net, shape, classes, **static):
    def fit(key, net, trained, given):
        {fit}
        return {{}}

    def score(key, net, trained, found, rows, given):
        {line}
        return jnp.zeros(rows.label.shape)

    def measure(key, net, trained, given):
        {line}
        return {{"size": jnp.zeros(())}}

    def threshold(found, score, clean, given):
        {decide}
        return score > 0

    return {made}


REGISTRY['NAME'] = Method(Card('NAME', 'Mine', 'nobody', 2026, 1, 'odd', needs=({needs})), make)
"""
OWN = {
    "fit": "",
    "line": "",
    "decide": "",
    "made": 'Detector(("rows",), score, fit, threshold)',
    "needs": "'suspects', 'victim'",
}
DETECTOR_SLIPS = {
    "a field that is not needed": ({"line": "given.clean.size"}, r"given\.clean, .* add 'clean' there"),
    "one in its fit": ({"fit": "given.test.size"}, r"given\.test, .* add 'test' there"),
    "a score of another shape": (
        {"line": "return jnp.zeros((3, 2))"},
        r"score: it returned float32 \(3, 2\); let it return numbers \(180,\)$",
    ),
    "a score that is none": ({"line": "return None"}, r"score: it returned None; let it return numbers \(180,\)"),
    "a threshold of another type": ({"decide": "return score"}, r"threshold: it returned float32 .* bool \(180,\)$"),
    "a threshold of one answer": ({"decide": "return jnp.any(score > 0)"}, r"threshold: it returned bool \(\); .*"),
    "a fit that is a text": ({"fit": "return {'mean': 'high'}"}, r"fit: it returned a str at \['mean'\]; .* of arrays"),
    "what it has not fitted": ({"line": "return found['mean']"}, r"KeyError: 'mean' in plugin_\w+\.py, line 16"),
    "an if on an array": ({"line": "if rows.label[0] > 1: pass"}, "TracerBoolConversionError: .*line 16"),
    "numpy on a traced array": ({"line": "__import__('numpy').asarray(rows.image)"}, "TracerArrayConversionError"),
    "rows as a text": ({"made": "Detector('rows', score)"}, "on is 'rows'; let it be a tuple of 'rows', 'queries'"),
    "what is none": ({"made": "Detector(('row',), score)"}, r"on is \('row',\); let it be"),
    "rows that are none": (
        {"made": "Detector(('rows',), score, calibrate='test')"},
        "calibrate is 'test'; let it be clean or valid",
    ),
    "an audit in its place": ({"made": "Audit((), measure)"}, "returned a Audit; let it return a types.Detector"),
}
AUDIT = {"made": "Audit((), measure)", "needs": "'victim',"}
AUDIT_SLIPS = {
    "a field that is not needed": ({"line": "given.queries.size"}, r"given\.queries, .* add 'queries' there"),
    "a name that is none": ({"line": "trained.weight"}, "AttributeError: .*'weight'.* line 20"),
    "shapes that do not fit": ({"line": "jnp.ones(2) + jnp.ones(3)"}, "TypeError: .*incompatible shapes.* line 20"),
    "figures alone": (
        {"line": "return jnp.zeros(())"},
        r"measure: it returned float32 \(\); let it return a dict of numbers",
    ),
    "a figure that is a text": ({"line": "return {'size': 'large'}"}, r"measure: it returned a str at \['size'\]"),
    "stages that are none": ({"made": "Audit((1,), measure)"}, "AttributeError: 'int' object has no attribute"),
}


KINDS = {
    "defense": ("DEFENSES", DEFENSE, PLAIN, DEFENSE_SLIPS),
    "descending defense": ("DEFENSES", DESCENT, CALM, DESCENT_SLIPS),
    "attack": ("ATTACKS", ATTACK, DATA, ATTACK_SLIPS),
    "selection": ("SELECTIONS", SELECTION, RANKS, SELECTION_SLIPS),
    "detector": ("DETECTORS", DETECTOR, OWN, DETECTOR_SLIPS),
    "audit": ("AUDITS", DETECTOR, OWN | AUDIT, AUDIT_SLIPS),
    "model": ("MODELS", MODEL, NETWORK, MODEL_SLIPS),
}
"""Of a kind of method: its registry, the text of a plugin, what fills it where nothing is wrong, and slips."""

FIELDS = {
    "DEFENSES": lambda name: {"defenses": ("none", name)},
    "ATTACKS": lambda name: {"attacks": (name,)},
    "SELECTIONS": lambda name: {"selection": name},
    "DETECTORS": lambda name: {"detectors": (name,)},
    "AUDITS": lambda name: {"audits": (name,)},
    "MODELS": lambda name: {"model": name},
}
"""Of a registry, the fields of a study that asks for one of its methods."""


def check(plugin, folder, kind: str, changes) -> str:
    """Resolve a study of a plugin's method; the plugin's name."""
    registry, text, values, _ = KINDS[kind]
    values = values | changes
    if "entry" in values:
        values |= {"entry": values["entry"].replace("{more}", values["more"])}
    name = plugin(text.format(**values), registry)
    resolve(tiny.study(folder, **FIELDS[registry](name), plugins=(name,)))
    return name


@pytest.mark.parametrize(("kind", "slip"), [(kind, slip) for kind, (*_, slips) in KINDS.items() for slip in slips])
def test_a_slip_is_one_line(plugin, tmp_path, kind, slip):
    changes, wanted = KINDS[kind][-1][slip]
    with pytest.raises(InvalidInput, match=wanted) as caught:
        check(plugin, tmp_path, kind, changes)
    line = str(caught.value)
    assert (
        re.match(rf"plugin '(\w+)': ({kind.split()[-1]} '\1'|{KINDS[kind][0]}\['\1'\]|\w+: )", line)
        and "\n" not in line
    )


@pytest.mark.parametrize(
    ("kind", "changes"),
    [(kind, {}) for kind in KINDS]
    + [
        ("attack", TRAINS),
        ("attack", PREPARES),
        ("selection", {"search": "None"}),
        ("detector", {"fit": "return None"}),
    ]
    + [("defense", {"line": line}) for line in OPTIONAL.values()]
    + [("defense", {"stages": "(stage()._replace(wrap=lambda net: net._replace(layers=())),) * 3"})],
)
def test_a_method_without_a_slip_passes(plugin, tmp_path, kind, changes):
    check(plugin, tmp_path, kind, changes)


def settings_of(settings):
    method = bdjax.DEFENSES["ft"]
    return method._replace(
        card=replace(method.card, settings=settings, presets={"paper": {}}), make=lambda net, shape, classes: ()
    )


@pytest.mark.parametrize(
    ("entry", "wanted"),
    [
        (lambda *_, **__: (), "is of type function; register a cards.Method"),
        (bdjax.DEFENSES["ft"]._replace(make=lambda net, shape: ()), "TypeError: .*; mend"),
        (
            bdjax.DEFENSES["ft"]._replace(make=lambda net, shape, classes, **_: 1),
            "returned a int; let it return a tuple",
        ),
        (settings_of({"lr": 0.05}), "whose setting 'lr' is of type float, not cards.Setting"),
        (settings_of(["lr"]), "settings of type list, not a dict of cards.Setting"),
    ],
)
def test_a_slip_in_what_is_registered_from_python(monkeypatch, tmp_path, entry, wanted):
    monkeypatch.setitem(bdjax.DEFENSES, "mine", entry)
    with pytest.raises(InvalidInput, match=r"DEFENSES\['mine'\].*" + wanted):
        resolve(tiny.study(tmp_path, defenses=("none", "mine")))


@pytest.mark.parametrize(
    "fields",
    [
        {"attacks": ("wanet",)},
        {"selection": "lps"},
        {"defenses": ("none", "npd", "anp:iterations=3")},
        {"detectors": ("strip", "bad_expert")},
        {"audits": ("nc", "retuning")},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_the_librarys_own_methods_return_what_is_asked_of_others(monkeypatch, tmp_path, fields):
    monkeypatch.setattr(rehearsal, "owner", lambda kind, method, text: f"{kind} {text}")
    resolve(tiny.study(tmp_path, model="small_cnn:width=2", **fields))
