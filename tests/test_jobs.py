"""Addresses depend on what a job depends on and on nothing else; groups on what shapes a program."""

import dataclasses
import math

import numpy as np
import pytest
import tiny

from bdjax.cards import Method
from bdjax.cells import functions
from bdjax.data import poison
from bdjax.defenses import DEFENSES
from bdjax.errors import InvalidInput
from bdjax.study.groups import groups
from bdjax.study.jobs import plan, share_of
from bdjax.study.resolve import resolve
from bdjax.types import Data


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("jobs")


def planned(folder, **changes):
    return plan(resolve(tiny.study(folder, **changes)))


def addresses(found, kind=None):
    return {job.address for job in found.jobs if kind in (None, job.kind)}


USUAL = {"attacks": ("badnets", "blended"), "defenses": ("none", "ft:epochs=1"), "audits": ("retuning:epochs=1",)}


@pytest.mark.parametrize(
    "more",
    [
        {"seeds": (0, 1, 2)},
        {"ratios": (0.0, 0.05, 0.1)},
        {"attacks": ("blended", "sig", "badnets"), "ratios": (0.0, 0.1)},
        {"defenses": ("abl", "ft:epochs=1", "none")},
        {"audits": ("retuning:epochs=2", "retuning:epochs=1")},
        {"driver": "vmap", "memory": "100GB"},
    ],
)
def test_what_is_added_changes_no_other_job(folder, more):
    before, after = planned(folder, **USUAL), planned(folder, **USUAL | more)
    assert addresses(before) <= addresses(after)
    assert len(after.jobs) > len(before.jobs) or "driver" in more


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        ({"recipe": "epochs=3,batch=32"}, set()),
        ({"model": "linear", "dataset": 1}, set()),
        ({"flip": True}, set()),
        ({"clean_ratio": 0.1}, {"victim"}),  # the overlap that a score tells is another
        ({"valid_ratio": 0.04}, {"victim"}),
        ({"selection": "random"}, {"victim", "defended", "score", "audit"}),
    ],
)
def test_what_is_changed_changes_what_depends_on_it(folder, change, kept):
    if "dataset" in change:
        change = change | {"dataset": tiny.dataset(folder, change["dataset"])}
    before, after = planned(folder, **USUAL), planned(folder, **USUAL | change)

    def parts(found):
        victims = {job.address for job in found.jobs if job.kind == "train" and job.method is None}
        defended = addresses(found, "train") - victims
        return {"victim": victims, "defended": defended} | {kind: addresses(found, kind) for kind in ("score", "audit")}

    for name, there in parts(before).items():
        assert (there == parts(after)[name]) == (name in kept), name
        assert name in kept or not there & parts(after)[name]


def test_one_clean_victim_serves_all_attacks_that_train_plainly(folder):
    found = planned(folder, attacks=("badnets", "badnets:size=5", "sig"), ratios=(0.0, 0.1), defenses=("none", "ft"))
    clean = [cell for cell in found.cells if cell["ratio"] == 0]
    for defense in ("none", "ft"):
        assert len({cell["model"] for cell in clean if cell["defense"] == defense}) == 2  # one a seed
        assert len({cell["score"] for cell in clean if cell["defense"] == defense}) == 6  # one an attack and seed
    assert sum(job.kind == "train" for job in found.jobs) == (2 + 3 * 2) * 2


def test_the_way_of_writing_an_attack_does_not_matter(folder):
    one, two = (planned(folder, attacks=(text,)) for text in ("badnets", "badnets:size=3,target=0"))
    assert addresses(one) == addresses(two)


def raised(method: Method) -> Method:
    return method._replace(card=dataclasses.replace(method.card, version=method.card.version + 1))


def test_a_mended_defense_makes_its_own_models_anew_and_no_others(folder, monkeypatch):
    asked = {"defenses": ("none", "ft", "ft_sam")}
    before = planned(folder, **asked)
    monkeypatch.setitem(DEFENSES, "ft", raised(DEFENSES["ft"]))
    after = planned(folder, **asked)
    pairs = list(zip(before.cells, after.cells, strict=True))
    assert all((one["model"] == two["model"]) == (one["defense"] != "ft") for one, two in pairs)
    assert all((one["score"] == two["score"]) == (one["defense"] != "ft") for one, two in pairs)


def test_a_mended_attack_leaves_clean_victims_alone(folder, monkeypatch):
    from bdjax.attacks import ATTACKS

    before = planned(folder, attacks=("badnets", "blended"))
    monkeypatch.setitem(ATTACKS, "badnets", raised(ATTACKS["badnets"]))
    after = planned(folder, attacks=("badnets", "blended"))
    pairs = list(zip(before.cells, after.cells, strict=True))
    assert all((one["model"] == two["model"]) == (one["attack"] != "badnets" or not one["ratio"]) for one, two in pairs)
    assert all((one["score"] == two["score"]) == (one["attack"] != "badnets") for one, two in pairs)


def keys(folder, **changes):
    work = resolve(tiny.study(folder, **changes))
    return {group.key: len(group.jobs) for group in groups(work, plan(work).jobs)}


def test_float_settings_share_a_program(folder):
    one = keys(folder, attacks=("blended",), defenses=("ft",))
    more = keys(folder, attacks=("blended", "blended:alpha=0.3"), defenses=("ft", "ft:learning_rate=0.1"))
    assert set(one) == set(more)
    assert set(keys(folder, attacks=("blended",), defenses=("ft",), recipe=tiny.RECIPE + ",momentum=0.5")) == set(one)
    assert not set(keys(folder, attacks=("blended",), defenses=("ft:epochs=7",))) >= set(one)
    assert not set(keys(folder, attacks=("blended",), defenses=("ft",), recipe="epochs=7")) & set(one)


def test_jobs_come_after_what_they_take(folder):
    found = planned(folder, **USUAL | {"attacks": ("badnets", "wanet")})
    seen = set()
    for job in found.jobs:
        assert {job.model, job.clean_model, job.trigger} - {None} <= seen
        seen.add(job.address)
    assert any(job.trigger for job in found.jobs)


def test_a_defense_takes_only_what_it_needs(folder, monkeypatch):
    card = dataclasses.replace(DEFENSES["ft"].card, needs=("clean", "victim", "clean_model"))
    monkeypatch.setitem(DEFENSES, "oracle", DEFENSES["ft"]._replace(card=card))
    found = planned(folder, defenses=("none", "ft", "abl", "oracle"))
    by = {}
    for job in found.jobs:
        by.setdefault((job.kind, job.method), []).append(job)
    assert all(job.model and job.attack is None and job.count == 0 for job in by["train", "ft"])
    assert all(job.model is None and job.clean_model is None for job in by["train", "abl"])
    assert {(job.attack, job.count) for job in by["train", "abl"]} == {(None, 0), (tiny.ATTACK, 18)}
    assert all(job.clean_model for job in by["train", "oracle"])
    clean = {(cell["seed"], cell["model"]) for cell in found.cells if not cell["ratio"] and cell["defense"] == "none"}
    assert {(job.seed, job.clean_model) for job in by["train", "oracle"]} == clean


def test_an_impossible_ratio_names_the_largest_that_is_possible(folder):
    with pytest.raises(
        InvalidInput, match=r"sig at ratio 0\.4 poisons 72 rows; 60 can be; the largest ratio is 0\.3333"
    ):
        planned(folder, attacks=("sig",), ratios=(0.4,))
    assert {job.count for job in planned(folder, attacks=("sig",), ratios=(0.3333,)).jobs} == {60}
    # 6 of a class go to the defender's 0.1 and 1 to thresholds
    reserved = {"clean": "reserved", "clean_ratio": 0.1, "valid_ratio": 0.01, "attacks": ("sig",)}
    with pytest.raises(InvalidInput, match=r"53 can be; the largest ratio is 0\.2944"):
        planned(folder, ratios=(0.3,), **reserved)
    assert {job.count for job in planned(folder, ratios=(0.2944,), **reserved).jobs} == {53}


@pytest.mark.parametrize("ratio", [-0.1, 1.1, math.nan, math.inf, "nan", "all", 0.001, "sig=0.1", "=0.1", "badnets="])
def test_ratios_that_make_no_sense_are_refused(folder, ratio):
    with pytest.raises(InvalidInput, match="ratio"):
        planned(folder, ratios=(ratio,))


def test_ratios_of_an_attacks_own(folder):
    ratios = (0.1, "sig=0.05", "blended:alpha=0.3=0.2", "blended=0.15", 0.0)
    found = planned(folder, attacks=("badnets", "sig", "blended", "blended:alpha=0.3"), ratios=ratios, seeds=(0,))
    had = {}
    for cell in found.cells:
        had.setdefault(cell["attack"], set()).add(cell["ratio"])
    assert had == {"badnets": {0.0, 0.1}, "sig": {0.05}, "blended": {0.15}, "blended:alpha=0.3": {0.15, 0.2}}


def test_numpy_numbers_are_numbers(folder):
    numpy = planned(folder, ratios=np.asarray([0.0, 0.1]), seeds=np.arange(2))
    assert addresses(numpy) == addresses(planned(folder))


@pytest.mark.parametrize("clean", ["reserved", "any"])
def test_the_defenders_rows_and_the_poisoned_ones(folder, clean):
    work = resolve(tiny.study(folder, clean=clean, clean_ratio=0.5, valid_ratio=0.1, attacks=("badnets",)))
    scene = work.scene._replace(attack=work.attacks["badnets"][1])
    data = functions.Shared(Data(work.dataset.train.image, work.dataset.train.label), work.dataset.test)
    cell, overlap = functions.draw(scene, functions.Cell(np.uint32(3), np.int32(40), {}, {}), data)
    label = work.dataset.train.label
    assert np.bincount(label[cell.clean]).tolist() == [30] * 3
    assert np.bincount(label[cell.valid]).tolist() == [6] * 3
    assert not set(np.asarray(cell.clean).tolist()) & set(np.asarray(cell.valid).tolist())
    poisoned = np.flatnonzero(np.asarray(cell.poison.role) == poison.POISONED)
    assert poisoned.size == 40
    both = len(set(poisoned.tolist()) & set(np.asarray(cell.clean).tolist()))
    assert overlap == pytest.approx(both / 90)
    assert (both == 0) == (clean == "reserved")
    if clean == "reserved":
        assert not set(poisoned.tolist()) & set(np.asarray(cell.valid).tolist())


def test_shares_are_whole_and_need_no_other(tmp_path):
    """Every job is in a share; victims and all that belongs to them in one; what they take is in it, too."""
    asked = tiny.study(
        tmp_path, attacks=(tiny.ATTACK, "wanet"), seeds=range(4), defenses=("none", "ft"), audits=("retuning",)
    )
    jobs = plan(resolve(asked)).jobs
    shares = [share_of(jobs, number, 3) for number in (1, 2, 3)]
    assert {job.address for share in shares for job in share} == {job.address for job in jobs}
    for share in shares:
        there = {job.address for job in share}
        assert 0 < len(there) < len(jobs)
        for job in share:
            assert {job.model, job.clean_model, job.backdoored, job.trigger, job.selection} - {None} <= there
    owners = {}
    for number, share in enumerate(shares):
        for job in share:
            if job.method == "ft":
                assert owners.setdefault(job.victim, number) == number
    assert share_of(jobs, 1, 1) == jobs
