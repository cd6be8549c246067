"""The report: statistics by hand, tables, figures, and a page that is whole, quiet and safe."""

import base64
import hashlib
import itertools
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas
import pytest
import xarray

import bdjax.report
from bdjax.cards import Card, Setting
from bdjax.errors import InvalidInput
from bdjax.report import crossed, export, paired, ratio_figure, summary, table, write
from bdjax.report.figures import COLOURS
from bdjax.report.headline import headline, unfinished
from bdjax.report.page import render
from bdjax.report.pictures import pictures
from bdjax.report.statistics import student
from bdjax.report.tables import pairs, ranked
from bdjax.report.verdicts import COSTLY, DESTROYED, INEFFECTIVE, WEAK
from bdjax.report.wording import discreet, duration, listed, percent, points, size

EVIL = "<script>alert(1)</script>"
ATTACKS = ["badnets", "blended:alpha=0.2", EVIL]
DEFENSES = ["none", "ft", "ft_sam:rho=2", "clean_teacher"]
DIMS = ("attack", "ratio", "seed", "defense")


def synthetic(seeds=4):
    """A study of 3 attacks, 3 ratios and 4 defenses: one diverged seed, one pair not run, one attack of one seed."""
    shape = (len(ATTACKS), 3, seeds, len(DEFENSES))
    rng = np.random.default_rng(0)
    ratios = np.array([0.0, 0.05, 0.1])
    left = np.array([1.0, 0.9, 0.1, 0.02])
    asr = (10 * ratios[None, :, None, None] * left + rng.uniform(0, 0.02, shape)).clip(0, 1)
    acc = 0.97 - 0.005 * np.arange(4) + rng.normal(0, 0.002, shape)
    status = np.zeros(shape, np.int8)
    status[0, 2, 1, 1] = 1
    status[1, 2, :, 3] = -1
    status[2, :, 1:] = -1
    values = {"acc": acc, "asr": asr, "ra": (1 - asr) * 0.9, "der": 0.5 + (asr[..., :1] - asr) / 2}
    values = {name: np.where(status == 0, value, np.nan) for name, value in values.items()}
    data = {name: (DIMS, value) for name, value in values.items()}
    data |= {"seconds": (DIMS, np.ones(shape)), "status": (DIMS, status), "overlap": (DIMS, np.full(shape, 0.05))}
    data["retuning_asr"] = ((*DIMS, "step"), np.broadcast_to(asr[..., None], (*shape, 3)).copy())
    data["reactivation_asr"] = (DIMS, np.where(status == 0, asr / 2 + 0.5, np.nan))
    data["sharpness_trace"] = (DIMS, rng.lognormal(2, 1, shape))
    about = {"oracle": ("defense", [False, False, False, True]), "version": ("defense", [1, 1, 2, 1])}
    axes = {"attack": ATTACKS, "ratio": ratios, "seed": np.arange(seeds), "defense": DEFENSES, "step": [0, 10, 20]}
    return xarray.Dataset(data, axes | about, _attributes())


def _attributes():
    config = {"dataset": "/home/alice/private/digits", "seeds": [0, 1, 2, 3]}
    memory = {"planned": 8.2e8, "held": 7.9e8}
    programs = [{"label": "victims", "capacity": 4, "bytes": 6e8, "compile_seconds": 2.5}]
    texts = {"config": config, "versions": {"bdjax": "0.1.0", "jax": "0.10.2"}, "memory": memory, "programs": programs}
    plain = {
        "device": "1 x cpu",
        "driver": "map",
        "dataset": "digits",
        "dataset_version": "1",
        "dataset_digest": "9f2c41d0",
    }
    plain |= {"model": "small_cnn", "date": "2026-03-01", "compile_seconds": 31.4, "seconds_total": 203.9}
    return plain | {name: json.dumps(value) for name, value in texts.items()}


def curves(results):
    shape = [results.sizes[dim] for dim in DIMS]
    loss = np.broadcast_to(np.exp(-np.arange(6.0)), (*shape, 6)).copy()
    loss[..., 1:, 3:] = np.nan
    return xarray.Dataset({"loss": ((*DIMS, "epoch"), loss)}, {dim: results[dim] for dim in DIMS})


def samples():
    clean = np.full((5, 8, 8, 3), 100, np.uint8)
    triggered = clean.copy()
    triggered[:, -2:, -2:] = 255
    grey = clean[..., :1], triggered[..., :1]
    return {"badnets": (clean, triggered, {"bit_accuracy": 0.91, "psnr": 30.0}), EVIL: (*grey, {})}


CARDS = [
    Card(
        "badnets",
        "BadNets",
        "Gu et al., 2017, https://arxiv.org/abs/1708.06733.",
        2017,
        1,
        "dirty-label",
        "pre-training",
        bar={"bit_accuracy": 0.95, "psnr": 28},
    ),
    Card(
        "evil",
        f"{EVIL}&",
        f'{EVIL} https://example.org/?a=1&b="<i>',
        2024,
        1,
        "distillation",
        "post-training",
        ("clean", "clean_model"),
        settings={"rho": Setting(2.0, "radius", "weights")},
        departures=("Another start.",),
    ),
]


@pytest.fixture(scope="module")
def results():
    return synthetic()


@pytest.fixture(scope="module")
def page(results):
    return render(results, curves(results), samples(), {"attacks": CARDS[:1], "defenses": CARDS[1:]})


# Mean 0.93, squares 0.0009 + 0.0001 + 0.0001 + 0.0009 = 0.002, deviation sqrt(0.002 / 3), t(0.975, 3) = 3.182446.
HALF = 3.182446305 * (0.002 / 3) ** 0.5 / 2


def test_interval_of_four_seeds_by_hand():
    interval = student(np.array([0.90, 0.92, np.nan, 0.94, 0.96]))
    assert interval.count == 4
    np.testing.assert_allclose([*interval[:3]], [0.93, 0.93 - HALF, 0.93 + HALF], rtol=1e-9)


@pytest.mark.parametrize(("values", "mean"), [([0.4, 0.6], 0.5), ([0.4], 0.4), ([np.nan], np.nan)])
def test_too_few_seeds_have_no_interval(values, mean):
    interval = student(np.array(values))
    np.testing.assert_equal(float(interval.mean), mean)
    assert np.isnan(interval.low) and np.isnan(interval.high)


def test_rows_count_what_counts(results):
    rows = {(row.attack, row.ratio, row.defense): row for row in table(results)}
    assert len(rows) == 3 * 3 * 4 - 1
    diverged = rows["badnets", 0.1, "ft"]
    assert (diverged.count, diverged.diverged, diverged.measures["acc"].count) == (3, 1, 3)
    kept = results["asr"].sel(attack="badnets", ratio=0.1, defense="ft", seed=[0, 2, 3]).values
    assert diverged.measures["asr"].values == tuple(kept)
    assert ("blended:alpha=0.2", 0.1, "clean_teacher") not in rows
    assert rows["blended:alpha=0.2", 0.05, "clean_teacher"].oracle
    assert rows[EVIL, 0.05, "none"].count == 1


def test_cells_never_run_have_no_row(results):
    unrun = results.assign(status=results["status"].where(results["defense"] != "ft", -1))
    assert {row.defense for row in table(unrun)} == set(DEFENSES) - {"ft"}


def test_differences_are_paired_by_seed(results):
    """Seeds far apart, differences the same: the interval of the difference has no width."""
    asr = results["asr"].copy()
    asr.loc[{"attack": "badnets", "ratio": 0.05, "defense": "ft"}] = [0.1, 0.5, 0.7, 0.9]
    asr.loc[{"attack": "badnets", "ratio": 0.05, "defense": "ft_sam:rho=2"}] = [0.05, 0.45, 0.65, np.nan]
    rows = paired(results.assign(asr=asr), "ft_sam:rho=2", "ft")
    estimate = next(row for row in rows if (row.attack, row.ratio) == ("badnets", 0.05)).measures["asr"]
    assert estimate.count == 3
    np.testing.assert_allclose(estimate[:3], [-0.05, -0.05, -0.05], atol=1e-12)


def test_paired_refuses_what_is_not_there(results):
    with pytest.raises(InvalidInput, match="choose from none, ft"):
        paired(results, "anp", "none")


def test_pairs_hold_every_defense_against_none_and_the_first():
    assert pairs(["none", "anp", "ft", "ft_sam:rho=2"]) == [
        *(("anp", "none"), ("ft", "none"), ("ft_sam:rho=2", "none")),
        *(("ft", "anp"), ("ft_sam:rho=2", "anp"), ("ft_sam:rho=2", "ft")),
    ]
    assert pairs(["ft", "ft_sam"]) == [("ft_sam", "ft")]
    assert pairs(["none"]) == []


def test_text_table_fits_a_terminal(results):
    text = summary(results)
    assert max(map(len, text.splitlines())) <= 100
    assert re.search(r"badnets +0\.1 +ft +3! +9\d\.\d \[9\d\.\d, \d+\.\d\] ", text)
    assert "* oracle" in text and "(1 in all)" in text
    long = results.assign_coords(attack=["a" * 90, "\x1b[31mred", "c"], defense=["none", "d" * 90, "e:f=1", "g"])
    lines = summary(long).splitlines()
    assert max(map(len, lines)) <= 100
    assert not any("\x1b" in line for line in lines)


def test_long_names_are_spelled_out_below_the_table(results):
    one, two, other = "pam:rounds=2,width=8", "ft:epochs=20,batch=8", "ft:epochs=30,batch=8"
    text = summary(results.assign_coords(defense=["none", one, two, "ft"]))
    assert re.search(r"badnets +0\.1 +pam:… ", text) and "pam:… is rounds=2, width=8" in text.splitlines()
    assert re.search(r"badnets +0\.1 +ft:… ", text) and re.search(r"badnets +0\.1 +ft ", text)
    ambiguous = summary(results.assign_coords(defense=["none", one, two, other]))
    assert "pam:…" in ambiguous and "ft:…" not in ambiguous


def test_export_keeps_every_cell_that_was_run(results, tmp_path):
    names = [path.name for path in export(results, tmp_path / "new")]
    assert names == ["results.csv", "results.parquet", "retuning_asr.csv", "retuning_asr.parquet"]
    ran = int((results["status"] != -1).sum())
    for frame in (pandas.read_csv(tmp_path / "new/results.csv"), pandas.read_parquet(tmp_path / "new/results.parquet")):
        assert len(frame) == ran
        one = frame[(frame.attack == "badnets") & (frame.ratio == 0.1) & (frame.seed == 2) & (frame.defense == "ft")]
        assert one.asr.item() == float(results["asr"].sel(attack="badnets", ratio=0.1, seed=2, defense="ft"))
        assert frame[frame.oracle].defense.unique().tolist() == ["clean_teacher"]
    assert len(pandas.read_csv(tmp_path / "new/retuning_asr.csv")) == 3 * ran


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        (percent(0.9973), "99.7"),
        (percent(-0.0001), "0.0"),
        (points(-0.842), "−84.2"),
        (points(0.05), "+5.0"),
        (percent(np.nan), "–"),
        (duration(203.9), "3 min 24 s"),
        (duration(7505), "2 h 5 min"),
        (size(8.2e8), "820 MB"),
        (listed(["a", "b", "c"]), "a, b and c"),
        (discreet("set:/home/alice/poison.npz"), "set:poison.npz"),
        (discreet(r"file:///home/alice/x and \\server\alice\y"), "x and y"),
        (discreet({"a": ["~/x/y", "C:\\Users\\al\\z", "8/255", "https://arxiv.org/abs/1"]}), None),
    ],
)
def test_wording(said, wanted):
    assert said == (wanted or {"a": ["y", "z", "8/255", "https://arxiv.org/abs/1"]})


def _linear(colour):
    channel = np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)]) / 255
    return np.where(channel <= 0.04045, channel / 12.92, ((channel + 0.055) / 1.055) ** 2.4)


def _oklab(linear):
    """Ottosson's perceptual colour space, 2020."""
    cones = [
        [0.41222147, 0.53633254, 0.05144599],
        [0.2119035, 0.68069955, 0.10739696],
        [0.08830246, 0.28171884, 0.62997870],
    ]
    lab = [
        [0.21045426, 0.79361779, -0.00407205],
        [1.9779985, -2.42859221, 0.45059371],
        [0.02590404, 0.78277177, -0.80867577],
    ]
    return np.array(lab) @ np.cbrt(np.array(cones) @ linear.clip(0, 1))


# Machado, Oliveira and Fernandes, 2009, table 1 at severity 1.
BLINDNESS = {
    "none": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}


def _palettes():
    css = (Path(bdjax.report.__file__).parent / "assets" / "page.css").read_text(encoding="utf-8")
    found = re.findall(r"--series-\d: (#\w{6})", css)
    return {"standalone": (COLOURS, "#ffffff"), "light": (found[:6], "#ffffff"), "dark": (found[6:], "#0f1318")}


@pytest.mark.parametrize("name", ["standalone", "light", "dark"])
def test_colours_keep_apart_for_every_eye(name):
    colours, paper = _palettes()[name]
    papers = (paper, "#0d1117") if name == "standalone" else (paper,)
    for colour, ground in itertools.product(colours, papers):
        bright, dim = sorted((_linear(one) @ [0.2126, 0.7152, 0.0722] for one in (colour, ground)), reverse=True)
        assert (bright + 0.05) / (dim + 0.05) >= 3
    for matrix in BLINDNESS.values():
        seen = [_oklab(np.array(matrix) @ _linear(colour)) for colour in colours]
        assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 0.09


def test_ratio_figure_has_a_panel_an_attack(results):
    figure = ratio_figure(results, "acc")
    assert [axes.get_title() for axes in figure.axes] == ATTACKS
    assert [text.get_text() for text in figure.legends[0].get_texts()] == DEFENSES


def test_cross_accuracy_is_a_share_of_accuracy_at_the_largest_ratio(results):
    """Two of three seeds count, at ratio 0.1: the mean of 0.8/0.9 and 0.4/0.8."""
    assert crossed(results, "badnets") == {}
    cross = xarray.full_like(results.acc, np.nan)
    acc = cross.copy()
    for seed, (one, whole) in enumerate([(0.8, 0.9), (0.4, 0.8)]):
        place = {"attack": "badnets", "ratio": 0.1, "defense": "none", "seed": results.seed[seed]}
        cross.loc[place], acc.loc[place] = one, whole
        cross.loc[place | {"ratio": 0.0}] = acc.loc[place | {"ratio": 0.0}] = 1.0
    found = crossed(results.assign(cross=cross, acc=acc), "badnets")
    assert found == {"cross/acc": pytest.approx((0.8 / 0.9 + 0.5) / 2)}
    assert crossed(results.assign(cross=cross, acc=acc), ATTACKS[1]) == {}


def test_pictures_show_what_changed():
    clean, triggered, figures = samples()["badnets"]
    shown = pictures(clean, triggered, figures)
    assert len(shown.columns) == 4
    assert shown.pixels == 4 / 64 and shown.change == 155
    assert shown.gain == pytest.approx(127 / 155)
    assert all(address.startswith("data:image/png;base64,iVBOR") for column in shown.columns for address in column)


class Page(HTMLParser):
    """Every element with its attributes, and the text of the script."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.script, self.inside = [], "", ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.inside = "data" if "type" in dict(attrs) else tag

    def handle_data(self, data):
        if self.inside == "script":
            self.script += data

    def handle_endtag(self, tag):
        self.inside = ""


def test_page_allows_its_own_script_alone(page):
    parsed = Page(page)
    policy = next(one["content"] for _, one in parsed.elements if one.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; ")
    digest = base64.b64encode(hashlib.sha256(parsed.script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in policy
    assert [attrs.get("type") for tag, attrs in parsed.elements if tag == "script"] == ["application/json", None]
    assert not any(name.startswith("on") for _, attrs in parsed.elements for name in attrs)


def test_page_fetches_nothing(page):
    for tag, attrs in Page(page).elements:
        for name in ("src", "href", "data", "action", "srcset"):
            if name in attrs and not (tag == "a" and name == "href"):
                assert attrs[name].startswith(("#", "data:")), (tag, attrs)
    assert not re.search(r"url\((?!#)|@import|xlink", page)
    outside = set(re.findall(r"https?://[^\s<\"]+", page))
    namespace = "http://www.w3.org/2000/svg"
    assert outside == {"https://arxiv.org/abs/1708.06733", "https://example.org/?a=1&amp;b=", namespace}


def test_page_escapes_and_tells_no_folder(page):
    assert EVIL not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") > 10
    assert "/home" not in page and "alice" not in page and "private" not in page
    assert "&#34;dataset&#34;: &#34;digits&#34;" in page


def test_page_has_unique_ids(page):
    ids = [attrs["id"] for _, attrs in Page(page).elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    links = set(re.findall(r"(?:href=\"#|url\(#)([\w-]+)", page))
    assert links <= set(ids)


def test_page_says_the_main_numbers(results, page):
    asr = sorted(100 * float(one) for one in results["asr"].sel(ratio=0.1, defense="ft_sam:rho=2").mean("seed"))
    assert re.search(rf"the highest DER are those of ft_sam:rho=2 against all 3 attacks \({asr[0]:.1f}% ", page)
    assert '<p class="lead unfinished">Unfinished: 104 of 144 cells have their numbers.' in page
    assert "1 cell diverged in training and is part of no mean." in page
    assert "Up to 5.0% of a defender" in page
    for text in (
        "BadNets",
        "needs",
        "clean, clean model",
        "Another start.",
        "31.4 s",
        "820 MB",
        "790 MB",
        "600 MB",
        "bit accuracy 0.91, <strong>below the bar of 0.95</strong>, psnr 30",
        "9f2c41d0",
        "jax 0.10.2",
    ):
        assert text in page


@pytest.mark.parametrize("chosen", [{"seed": [0]}, {"defense": ["none"]}, {"ratio": [0.1]}, {"ratio": [0.0]}])
def test_small_studies_have_a_page_too(results, chosen, tmp_path):
    small = results.sel(chosen)
    small.attrs = {}
    path = write(tmp_path / "deep/er", small)
    assert path == tmp_path / "deep/er/report.html" and [*path.parent.iterdir()] == [path]
    assert not re.search(r"\bnan\b|\binf\b", path.read_text(encoding="utf-8"))


def test_a_study_without_numbers_has_a_page(results):
    empty = results.drop_vars(["retuning_asr", "sharpness_trace"]).assign(
        status=xarray.full_like(results["status"], -1)
    )
    assert '<p class="lead unfinished">Nothing to show yet: 0 of 144 cells have their numbers.' in render(empty)
    assert summary(empty) == "Nothing to show yet: 0 of 144 cells have their numbers.\n"


def test_what_nobody_asked_for_is_not_missing(results):
    status = results["status"].where((results["attack"] != results["attack"][0]) | (results["ratio"] != 0.1), -2)
    unasked = int((status == -2).sum())
    assert f" of {144 - unasked} cells" in unfinished(results.assign(status=status))


def judged(before, after):
    """A study of one attack with one defense, ACC and ASR by seed: before and after are lists of (acc, asr)."""
    data = np.array([before, after]).transpose(2, 1, 0)[:, None, None]  # measure, attack, ratio, seed, defense
    axes = {"attack": ["badnets"], "ratio": [0.1], "seed": range(len(before)), "defense": ["none", "ft"]}
    values = {"acc": (DIMS, data[0]), "asr": (DIMS, data[1]), "ra": (DIMS, data[0])}
    values["der"] = (DIMS, np.full(data[0].shape, 0.5))
    values["status"] = (DIMS, np.zeros(data[0].shape, np.int8))
    return xarray.Dataset(values, axes)


@pytest.mark.parametrize(
    ("after", "verdicts"),
    [
        ([(0.88, 0.1), (0.87, 0.2)], ()),
        ([(0.90, 0.9), (0.88, 0.97)], (INEFFECTIVE,)),
        ([(0.80, 0.0), (0.90, 0.0)], (COSTLY,)),
        ([(0.80, 0.9), (0.80, 0.9)], (COSTLY, INEFFECTIVE)),
        ([(0.10, 0.0), (0.30, 0.0)], (DESTROYED,)),
        ([(0.10, 0.0), (np.nan, np.nan)], (DESTROYED,)),
        ([(np.nan, np.nan)] * 2, ()),
    ],
)
def test_verdicts_are_of_paired_means(after, verdicts):
    rows = {row.defense: row for row in table(judged([(0.92, 0.95), (0.90, 0.93)], after))}
    assert rows["none"].verdicts == ()
    assert rows["ft"].verdicts == verdicts


def test_a_weak_attack_is_said_to_be_one():
    rows = table(judged([(0.9, 0.1)], [(0.9, 0.09)]))
    assert [row.verdicts for row in rows] == [(WEAK,), ()]


def test_the_bound_is_what_one_asks_for():
    results = judged([(0.9, 0.9)] * 3, [(0.8, 0.1)] * 3)
    assert table(results)[1].verdicts == (COSTLY,)
    assert table(results, bound=0.15)[1].verdicts == ()
    assert "15 points" in " ".join(headline(results, table(results, bound=0.15), 0.15))


def crowned(asr, acc):
    """The lead of a study of attacks a and b with defenses x and y; asr and acc by defense, attack after attack."""
    shape = (2, 1, 3, 3)
    ones = np.ones(shape)
    asr, acc = (np.array(one).T[:, None, None] * ones for one in (asr, acc))
    axes = {"attack": ["a", "b"], "ratio": [0.1], "seed": range(3), "defense": ["none", "x", "y"]}
    data = {"asr": asr, "acc": acc, "ra": asr, "der": (asr[..., :1] - asr - (acc[..., :1] - acc).clip(0) + 1) / 2}
    data = {name: (DIMS, value) for name, value in data.items()} | {"status": (DIMS, np.zeros(shape, np.int8))}
    results = xarray.Dataset(data, axes)
    return " ".join(headline(results, table(results))), ranked(results, table(results))


def test_no_crown_for_a_wrecked_model():
    lead, order = crowned([(0.9, 0.9), (0.5, 0.6), (0.0, 0.0)], [(0.9, 0.9), (0.9, 0.9), (0.1, 0.1)])
    assert (
        "lowest attack success and the highest DER are those of x against all 2 attacks (50.0% (a) to 60.0% (b))"
        in lead
    )
    assert "y kept less than 50% of the accuracy" in lead
    assert order == ["none", "x", "y"]


def test_attacks_that_disagree_are_not_averaged():
    lead, _ = crowned([(0.9, 0.9), (0.1, 0.8), (0.7, 0.2)], [(0.9, 0.9)] * 3)
    assert "x against a (10.0%) and y against b (20.0%)" in lead
    assert "45.0%" not in lead


def test_only_what_has_run_is_told(results):
    """The victims of the first attack at its smaller ratios have run; asked is ratio 0.1 of all three."""
    ran = (results["attack"] == "badnets") & (results["ratio"] < 0.1) & (results["defense"] == "none")
    partial = results.assign(status=results["status"].where(ran, -1))
    partial = partial.assign_attrs(models=30, models_finished=8)
    sentences = headline(partial, table(partial))
    assert sentences[0] == "Unfinished: 8 of 30 models are finished, 8 of 144 cells have their numbers."
    assert len(sentences) == 2 and "applied" not in sentences[1] and "send" not in sentences[1]
    assert summary(partial).startswith(sentences[0])
    victims = results.assign(status=results["status"].where(results["defense"] == "none", -1))
    lead = " ".join(headline(victims, table(victims)))
    assert "undefended victims classify" in lead and "Among defenses" not in lead
    one = results.assign(status=results["status"].where(results["attack"] == "badnets", -1))
    assert "At ratio 0.1 (1 of 3 attacks so far)" in " ".join(headline(one, table(one)))


def test_the_band_goes_on_beyond_a_ratio_that_an_attack_has_not(results):
    whole = results.sel(defense=["none"]).where(results["ratio"] != 0.05)
    attack = str(results["attack"].values[0])
    band = ratio_figure(whole.sel(attack=[attack]), "asr").axes[0].collections[0].get_paths()
    assert len(band) == 1 and band[0].vertices[:, 0].max() == pytest.approx(0.1, abs=0.002)
