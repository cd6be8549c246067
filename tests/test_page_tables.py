"""Tables beside the page: of several studies, of detectors, for papers; and the command that writes them."""

import made_up
import numpy as np
import pandas
import pytest
import tiny
import xarray

import bdjax
from bdjax import cli, report
from bdjax.cli import clock
from bdjax.io.store import documents
from bdjax.report.content import content
from bdjax.report.detection import detected, false_alarms, histogram
from bdjax.report.markup import latex, markdown
from bdjax.report.names import paper
from bdjax.report.page import render_several
from bdjax.report.studies import Shown, labels

DETECTORS = ["strip:overlays=20", "scale_up"]


@pytest.fixture(scope="module")
def results():
    """Seed 1 of badnets has no backdoor."""
    found = made_up.study(["badnets", "sig"], ["none", "ft", "ft_sam"], detectors=DETECTORS)
    asr = found["asr"].copy()
    asr.loc[{"attack": "badnets", "ratio": 0.1, "seed": 1, "defense": "none"}] = 0.4
    return found.assign(asr=asr)


def other(results, **changes):
    return results.assign_attrs(results.attrs | changes)


def test_a_victim_without_a_backdoor_is_counted_and_not_averaged(results):
    rows = {(row.attack, row.ratio, row.detector, row.on): row for row in detected(results)}
    row = rows["badnets", 0.1, "scale_up", "rows"]
    assert (row.count, row.weak) == (2, 1)
    kept = results["auroc"].sel(attack="badnets", ratio=0.1, detector="scale_up", on="rows", seed=[0, 2]).values
    assert row.measures["auroc"].values == tuple(kept)
    assert (rows["sig", 0.1, "scale_up", "rows"].count, rows["sig", 0.1, "scale_up", "rows"].weak) == (3, 0)
    clean = rows["badnets", 0.0, DETECTORS[0], "queries"]
    assert (clean.count, clean.measures["auroc"].count, clean.measures["fpr"].count) == (3, 0, 3)
    assert ("badnets", 0.1, "scale_up", "queries") not in rows


def test_a_long_table_of_detectors_leaves_no_attack_out_and_says_what_it_leaves():
    attacks = [f"attack{number}" for number in range(30)]
    large = made_up.study(attacks, ["none"], detectors=["a", "b"])
    text = report.detections(large)
    assert all(f" {name} " in text for name in attacks)
    rows, shown = detected(large), [line for line in text.splitlines() if line.startswith(" attack") and "0.1 " in line]
    assert len(rows) > 200 and f"{len(rows) - len(shown):,} further rows" in text


def test_false_alarms_are_a_value_a_seed(results):
    found = false_alarms(results)
    assert set(found) == {(DETECTORS[0], "rows"), (DETECTORS[0], "queries")}
    per_seed = results["fpr"].sel(ratio=0.0, detector=DETECTORS[0], on="rows").mean("attack").values
    assert found[DETECTORS[0], "rows"].values == pytest.approx(tuple(per_seed))
    assert false_alarms(results.sel(ratio=[0.1])) == {}


def test_histograms_share_out_each_kind_and_leave_out_what_is_not_judged():
    truth = np.array([0, 0, 0, 1, -1], np.int8)
    found = histogram(np.array([0.0, 1.0, 2.0, 5.0, 1e9]), truth, np.array([0, 0, 1, 1, 1], bool))
    assert sum(found.clean) == pytest.approx(1) and sum(found.poisoned) == pytest.approx(1)
    assert found.edges[-1] < 6 and found.poisoned[-1] == 1 and found.lowest == 2


def test_detectors_are_no_audits(results):
    assert report.statistics.audited(results) == []
    assert "AUROC" in report.detections(results) and "AUROC" not in report.summary(results)
    assert report.detections(results.drop_dims(["detector", "on"])) == ""
    text = report.detections(results)
    assert max(map(len, text.splitlines())) <= 100
    assert "strip:… is overlays=20" in text and "(4 in all)" not in text and " 2? " in text


def test_studies_are_told_apart_by_what_differs(results):
    resnet = other(results, model="resnet18")
    assert labels([results, resnet]) == ["small_cnn", "resnet18"]
    assert labels([results, other(resnet, dataset="cifar10")]) == ["digits · small_cnn", "cifar10 · resnet18"]
    assert labels([results, results]) == ["(study 1)", "(study 2)"]


def test_exports_of_several_studies_say_what_each_row_is_of(results, tmp_path):
    added = results.assign(retuning_asr=((*made_up.CELL, "step"), np.zeros((*results["asr"].shape, 2))))
    written = report.export([results, other(added, model="resnet18")], tmp_path)
    assert [path.stem for path in written[::2]] == ["results", "retuning_asr", "detectors"]
    for frame in (pandas.read_csv(tmp_path / "results.csv"), pandas.read_parquet(tmp_path / "results.parquet")):
        assert frame.columns[:3].tolist() == ["dataset", "model", "recipe"]
        assert frame.groupby("model").size().to_dict() == {"resnet18": 54, "small_cnn": 54}
    assert set(pandas.read_csv(tmp_path / "retuning_asr.csv").model) == {"resnet18"}
    judged = pandas.read_csv(tmp_path / "detectors.csv")
    assert len(judged) == 2 * (2 * 2 * 3 * 3 + 2 * 3 * 2)  # all that has AUROC, and at ratio 0 what has a threshold
    one = judged[(judged.attack == "sig") & (judged.ratio == 0.1) & (judged.seed == 2) & (judged.on == "queries")]
    assert one.auroc.iloc[0] == float(results["auroc"].sel(attack="sig", ratio=0.1, seed=2)[0, 1])


def test_a_page_of_several_studies_has_a_lead_of_each(results):
    partial = other(results, dataset="cifar10").assign(status=results["status"].where(results["seed"] == 0, -1))
    page = render_several([Shown(results), Shown(partial)])
    assert page.count('class="lead unfinished"') == 1
    assert "on digits and cifar10</h1>" in page and '"label":"cifar10"' in page


def test_papers_get_the_table_at_the_largest_ratio(results):
    lines = markdown([results, other(results, model="a_b")]).splitlines()
    assert lines[0].startswith("| Study | Attack |") and len(lines) == 2 + 2 * 2 * 3
    assert len({line.count("|") for line in lines}) == 1
    text = latex([other(results.assign_coords(attack=["a_b&c", "d"]))])
    assert r"a\_b\&c & 0.1 & none & 3 & " in text and r"\begin{tabular}{lrlrrrrrl}" in text
    assert text.count(r" \\") == 1 + 6


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A study's folder as it is before the first model is finished."""
    folder = tmp_path_factory.mktemp("begun")
    study = tiny.study(folder, model="linear", recipe="epochs=1", driver="map", ratios=(0.0,), seeds=(0,))
    bdjax.run(study, folder / "study")
    for path in (folder / "study" / "results").iterdir():
        path.unlink()
    return folder / "study"


def test_a_study_without_results_is_one_plain_line(begun, capsys):
    assert cli.main(["report", str(begun)]) == 0
    out, err = capsys.readouterr()
    lines = [line for line in out.splitlines() if line]
    assert lines[0] == "Nothing to show yet: 0 of 1 models are finished, 0 of 1 cells have their numbers."
    assert len(lines) == 2 and err == ""


def test_the_command_puts_several_studies_on_one_page(begun, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["report", str(begun), str(begun), "--latex", "--markdown", "--bound", "2"]) == 0
    names = {path.name for path in (tmp_path / "report").iterdir()}
    assert names == {"report.html", "results.csv", "results.parquet", "results.tex", "results.md"}


def test_a_bound_that_is_none_is_refused_in_a_line(begun, capsys):
    assert cli.main(["report", str(begun), "--bound", "-1"]) == 2
    assert capsys.readouterr().err == "bdjax: --bound -1; give points of accuracy between 0 and 100\n"


def test_results_that_lack_the_undefended_rank_nobody(results):
    alone = results.sel(defense=["ft", "ft_sam"])
    assert "none is ranked" in " ".join(report.headline.headline(alone, report.table(alone)))
    assert isinstance(alone, xarray.Dataset) and {row.verdicts for row in report.table(alone)} == {()}


def test_wall_time_counts_what_overlaps_once(tmp_path):
    (tmp_path / "times").mkdir()
    for name, one in {"a": [100, 160], "b": [130, 150], "c": [150, 170], "d": [1000, 1001]}.items():
        documents.write_json(tmp_path / "times" / f"{name}.json", dict(zip(("begun", "ended"), one, strict=True)))
    assert clock.wall_seconds(tmp_path) == 71
    assert clock.wall_seconds(tmp_path / "elsewhere") == 0


def test_a_command_is_timed_where_it_added_results(tmp_path):
    (tmp_path / "results").mkdir()
    with clock.timed(tmp_path):
        pass
    assert not (tmp_path / "times").exists()
    with pytest.raises(KeyboardInterrupt), clock.timed(tmp_path):
        (tmp_path / "results" / "run-0.nc").touch()
        raise KeyboardInterrupt
    assert len(list((tmp_path / "times").iterdir())) == 1 and clock.wall_seconds(tmp_path) > 0


def test_seeds_that_disagree_are_told(results):
    asr = results["asr"].copy()
    asr.loc[{"attack": "sig", "ratio": 0.1, "defense": "ft"}] = [0.0, 0.5, 0.9]
    found = results.assign(asr=asr)
    said = report.headline.remarks(found, report.table(found))
    assert any(one.startswith("In 2 of 6 cells at the largest ratios seeds differ") for one in said)


def test_what_is_awaited_is_told_from_what_nobody_asked_for(results):
    status = results["status"].where((results["defense"] != "ft") | (results["attack"] != "sig"), -1)
    status = status.where((results["defense"] != "ft_sam") | (results["attack"] != "sig"), -2)
    partial = results.assign(status=status)
    found = content([Shown(partial)], [report.table(partial)], 0.05)
    names = [found["defenses"][one[3]]["text"] for one in found["awaited"]]
    assert names == ["ft"] * 3


def test_every_method_links_to_its_paper():
    for registry in (bdjax.ATTACKS, bdjax.DEFENSES, bdjax.AUDITS, bdjax.DETECTORS):
        for name, method in registry.items():
            assert paper(method.card.citation).startswith("https://"), name
