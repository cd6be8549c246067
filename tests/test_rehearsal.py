"""Mistakes in methods that are not the library's: each is one line that names the method, the place and the cure."""

import importlib
import sys

import pytest
import tiny

import bdjax
from bdjax.errors import InvalidInput
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

SLIPS = {
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


def defense(changes) -> str:
    values = PLAIN | changes
    return DEFENSE.format(**values | {"entry": values["entry"].replace("{more}", values["more"])})


@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_in_a_defense_is_one_line(plugin, tmp_path, slip):
    changes, wanted = SLIPS[slip]
    name = plugin(defense(changes), "DEFENSES")
    with pytest.raises(InvalidInput, match=wanted) as caught:
        resolve(tiny.study(tmp_path, defenses=("none", name), plugins=(name,)))
    assert str(caught.value).startswith(f"plugin {name!r}: ")


def test_a_defense_without_a_slip_passes(plugin, tmp_path):
    name = plugin(defense({}), "DEFENSES")
    resolve(tiny.study(tmp_path, defenses=("none", name), plugins=(name,)))


OPTIONAL = {
    "by a condition": "(given.valid if given.valid is not None else given.clean).read(jnp.arange(2))",
    "by its truth": "(given.valid or given.clean).read(jnp.arange(2))",
    "by a search": "next(one for one in (given.train, given.clean) if one is not None)",
}


@pytest.mark.parametrize("how", OPTIONAL)
def test_a_field_that_may_be_there_may_be_asked_for(plugin, tmp_path, how):
    name = plugin(defense({"line": OPTIONAL[how]}), "DEFENSES")
    resolve(tiny.study(tmp_path, defenses=("none", name), plugins=(name,)))


@pytest.mark.parametrize(
    ("entry", "wanted"),
    [
        (lambda *_, **__: (), "is of type function; register a cards.Method"),
        (bdjax.DEFENSES["ft"]._replace(make=lambda net, shape: ()), "TypeError: .*; mend"),
        (
            bdjax.DEFENSES["ft"]._replace(make=lambda net, shape, classes, **_: 1),
            "returned a int; let it return a tuple",
        ),
    ],
)
def test_a_slip_in_what_is_registered_from_python(monkeypatch, tmp_path, entry, wanted):
    monkeypatch.setitem(bdjax.DEFENSES, "mine", entry)
    with pytest.raises(InvalidInput, match=r"DEFENSES\['mine'\].*" + wanted):
        resolve(tiny.study(tmp_path, defenses=("none", "mine")))


ATTACK = """
import jax.numpy as jnp

from bdjax.attacks.badnets import BADNETS
from bdjax.cards import Card, Method


def make(net, shape, classes, **static):
    settings = {{name: about.default for name, about in BADNETS.card.settings.items() if not about.traced}}
    plain = BADNETS.make(net, shape, classes, **settings)

    def stamp(assets, trigger, image, row):
        {line}

    return plain._replace(stamp=stamp, query=stamp)


REGISTRY['NAME'] = Method(Card('NAME', 'Mine', 'nobody', 2026, 1, 'odd', controls='data'), make)
"""
ATTACK_SLIPS = {
    "return image * trigger['mask']": "KeyError: 'mask'",
    "return imgae": "NameError: .*'imgae'.*; mend it there",
    "return image[..., 0]": "mend it there",
}


@pytest.mark.parametrize("line", ATTACK_SLIPS)
def test_a_slip_in_an_attack_is_one_line(plugin, tmp_path, line):
    name = plugin(ATTACK.format(line=line), "ATTACKS")
    with pytest.raises(InvalidInput, match=ATTACK_SLIPS[line]) as caught:
        resolve(tiny.study(tmp_path, attacks=(name,), plugins=(name,)))
    assert str(caught.value).startswith(f"plugin {name!r}: attack {name!r}")


def test_an_attack_without_a_slip_passes(plugin, tmp_path):
    name = plugin(ATTACK.format(line="return 1 - image"), "ATTACKS")
    resolve(tiny.study(tmp_path, attacks=(name,), plugins=(name,)))


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

    return {made}


REGISTRY['NAME'] = Method(Card('NAME', 'Mine', 'nobody', 2026, 1, 'odd', needs=({needs})), make)
"""
OWN = {"fit": "", "line": "", "made": 'Detector(("rows",), score, fit)', "needs": "'suspects', 'victim'"}
DETECTOR_SLIPS = {
    "a field that is not needed": ({"line": "given.clean.size"}, r"given\.clean, .* add 'clean' there"),
    "one in its fit": ({"fit": "given.test.size"}, r"given\.test, .* add 'test' there"),
    "a score of another shape": ({"line": "return jnp.zeros((3, 2))"}, "mend it there"),
    "a score that is none": ({"line": "return None"}, "AttributeError: 'NoneType' object has no attribute 'astype'"),
    "what it has not fitted": ({"line": "return found['mean']"}, r"KeyError: 'mean' in plugin_\w+\.py, line 16"),
    "an if on an array": ({"line": "if rows.label[0] > 1: pass"}, "TracerBoolConversionError: .*line 16"),
    "numpy on a traced array": ({"line": "__import__('numpy').asarray(rows.image)"}, "TracerArrayConversionError"),
    "rows as a text": ({"made": "Detector('rows', score)"}, "on is 'rows'; let it be a tuple of 'rows', 'queries'"),
    "what is none": ({"made": "Detector(('row',), score)"}, r"on is \('row',\); let it be"),
    "rows that are none": (
        {"made": "Detector(('rows',), score, calibrate='test')"},
        "calibrate is 'test'; choose clean",
    ),
    "an audit in its place": ({"made": "Audit((), measure)"}, "returned a Audit; let it return a types.Detector"),
}
AUDIT = {"made": "Audit((), measure)", "needs": "'victim',"}
AUDIT_SLIPS = {
    "a field that is not needed": ({"line": "given.queries.size"}, r"given\.queries, .* add 'queries' there"),
    "a name that is none": ({"line": "trained.weight"}, "AttributeError: .*'weight'.* line 20"),
    "shapes that do not fit": ({"line": "jnp.ones(2) + jnp.ones(3)"}, "TypeError: .*incompatible shapes.* line 20"),
    "stages that are none": ({"made": "Audit((1,), measure)"}, "AttributeError: 'int' object has no attribute"),
}


@pytest.mark.parametrize("slip", DETECTOR_SLIPS)
def test_a_slip_in_a_detector_is_one_line(plugin, tmp_path, slip):
    changes, wanted = DETECTOR_SLIPS[slip]
    name = plugin(DETECTOR.format(**OWN | changes), "DETECTORS")
    with pytest.raises(InvalidInput, match=wanted) as caught:
        resolve(tiny.study(tmp_path, detectors=(name,), plugins=(name,)))
    assert str(caught.value).startswith(f"plugin {name!r}: ")


@pytest.mark.parametrize("slip", AUDIT_SLIPS)
def test_a_slip_in_an_audit_is_one_line(plugin, tmp_path, slip):
    changes, wanted = AUDIT_SLIPS[slip]
    name = plugin(DETECTOR.format(**OWN | AUDIT | changes), "AUDITS")
    with pytest.raises(InvalidInput, match=wanted) as caught:
        resolve(tiny.study(tmp_path, audits=(name,), plugins=(name,)))
    assert str(caught.value).startswith(f"plugin {name!r}: ")


def test_a_detector_and_an_audit_without_a_slip_pass(plugin, tmp_path):
    detector = plugin(DETECTOR.format(**OWN), "DETECTORS")
    audit = plugin(DETECTOR.format(**OWN | AUDIT), "AUDITS")
    resolve(tiny.study(tmp_path, detectors=(detector,), audits=(audit,), plugins=(detector, audit)))
