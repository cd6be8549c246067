"""The report: statistics by hand, tables, figures, and a page that is whole, quiet and safe."""

import base64
import hashlib
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import threading
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
from bdjax.report.figures import COLOURS, INK, audited_panel, ratio_panel
from bdjax.report.page import render
from bdjax.report.pictures import pictures
from bdjax.report.statistics import student
from bdjax.report.svg import inline
from bdjax.report.tables import pairs
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
    return render(results, curves(results), samples(), CARDS)


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
    css = (Path(bdjax.report.__file__).parent / "page.css").read_text(encoding="utf-8")
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


def test_figures_take_the_pages_ink_and_repeat_themselves(results):
    one, two = (inline(ratio_panel(results, "badnets", "asr"), "a", 'a "label" <b>') for _ in range(2))
    assert one == two
    assert "currentColor" in one and INK not in one
    assert f"var(--series-0, {COLOURS[0]})" in one
    assert {"0", "1", "2", "3"} == set(re.findall(r'data-series="(\d)"', one))
    assert 'aria-label="a &quot;label&quot; &lt;b&gt;"' in one
    assert "metadata" not in one and "font-family" not in one


def test_audited_panel_shows_both_ratios_where_they_are(results):
    axes = audited_panel(results, "badnets", "reactivation_asr").axes[0]
    shown = {(line.get_gid(), line.get_markerfacecolor() == "none"): line for line in axes.lines if line.get_gid()}
    assert set(shown) == {(f"series-{k}", hollow) for k in range(4) for hollow in (False, True)}
    line = shown["series-1", False]
    kept = results["asr"].sel(attack="badnets", ratio=0.1, defense="ft").values[[0, 2, 3]]  # one seed diverged
    np.testing.assert_allclose([*line.get_xdata(), *line.get_ydata()], [100 * kept.mean(), 50 * kept.mean() + 50])


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
        self.inside = tag

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
    assert [tag for tag, _ in parsed.elements].count("script") == 1
    assert not any(name.startswith("on") for _, attrs in parsed.elements for name in attrs)


def test_page_fetches_nothing(page):
    for tag, attrs in Page(page).elements:
        for name in ("src", "href", "data", "action", "srcset"):
            if name in attrs and not (tag == "a" and name == "href"):
                assert attrs[name].startswith(("#", "data:")), (tag, attrs)
    assert not re.search(r"url\((?!#)|@import|xlink", page)
    outside = set(re.findall(r"https?://[^\s<\"]+", page))
    assert outside == {"https://arxiv.org/abs/1708.06733", "https://example.org/?a=1&amp;b="}


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
    asr = 100 * results["asr"].sel(ratio=0.1, defense="ft_sam:rho=2").mean("seed")
    acc = 100 * results["acc"].sel(ratio=0.1, defense="ft_sam:rho=2").mean("seed")
    assert f"ft_sam:rho=2 leaves the least attack success, {float(asr.mean()):.1f}%" in page
    assert f"with a clean accuracy of\n {float(acc.mean()):.1f}%".replace("\n", "") in page
    assert "Of 144 cells 1 diverged and 40 were not run" in page
    assert "Up to 5.0% of a defender" in page
    for text in (
        "BadNets",
        "needs",
        "clean, clean_model",
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
    assert "144 were not run" in render(empty)


def test_what_nobody_asked_for_is_not_missing(results):
    status = results["status"].where((results["attack"] != results["attack"][0]) | (results["ratio"] != 0.1), -2)
    unasked = int((status == -2).sum())
    assert f"Of {144 - unasked} cells" in render(results.assign(status=status))


def test_the_band_goes_on_beyond_a_ratio_that_an_attack_has_not(results):
    whole = results.sel(defense=["none"]).where(results["ratio"] != 0.05)
    attack = str(results["attack"].values[0])
    band = ratio_panel(whole, attack, "asr").axes[0].collections[0].get_paths()
    assert len(band) == 1 and band[0].vertices[:, 0].max() == pytest.approx(0.1, abs=0.002)


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync")
FLAGS += ("--disable-background-networking", "--disable-component-update", "--remote-debugging-pipe")
PIPES = """import fcntl, os, sys
pair = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]
os.dup2(pair[0], 3), os.dup2(pair[1], 4)
os.execv(sys.argv[3], sys.argv[3:])"""


class Browser:
    """Headless Chromium spoken to through pipes 3 and 4, by its DevTools protocol."""

    def __init__(self, folder):
        (theirs, ours), (reading, writing) = os.pipe(), os.pipe()
        self.out, self.into, self.rest = ours, reading, b""
        flags = [CHROMIUM, *FLAGS, f"--user-data-dir={folder}"]
        command = [sys.executable, "-c", PIPES, str(theirs), str(writing), *flags]
        self.process = subprocess.Popen(command, pass_fds=(theirs, writing), stderr=subprocess.DEVNULL)
        os.close(theirs), os.close(writing)
        self.watch = threading.Timer(60, self.process.kill)
        self.watch.start()
        self.number, self.events, self.session = itertools.count(1), [], {}
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        attached = self.send("Target.attachToTarget", targetId=target, flatten=True)
        self.session = {"sessionId": attached["sessionId"]}
        for domain in ("Page", "Runtime", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method, **params):
        number = next(self.number)
        message = {"id": number, "method": method, "params": params, **self.session}
        os.write(self.out, json.dumps(message).encode() + b"\0")
        while (message := self.read()).get("id") != number:
            self.events.append(message)
        return message["result"]

    def read(self):
        while b"\0" not in self.rest:
            piece = os.read(self.into, 1 << 16)
            assert piece, "the browser is gone"
            self.rest += piece
        text, self.rest = self.rest.split(b"\0", 1)
        return json.loads(text)

    def open(self, address, width, scheme):
        size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500}
        self.send("Emulation.setDeviceMetricsOverride", **size)
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.send("Page.navigate", url="about:blank")
        self.events.clear()
        self.send("Page.navigate", url=address)
        while not self.ask("document.readyState === 'complete' && location.protocol === 'file:'"):
            pass

    def ask(self, script):
        return self.send("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def complaints(self):
        kinds = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
        return [event for event in self.events if event.get("method") in kinds]

    def close(self):
        self.process.kill()
        self.process.wait()
        self.watch.cancel()
        os.close(self.out), os.close(self.into)


@pytest.fixture(scope="module")
def browser(page, tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("no Chromium here")
    folder = tmp_path_factory.mktemp("browser")
    (folder / "report.html").write_text(page, encoding="utf-8")
    one = Browser(folder / "profile")
    one.address = (folder / "report.html").as_uri()
    yield one
    one.close()


COLUMN = "[...document.querySelectorAll('#table tbody tr')].map(row => row.cells[%d].dataset.value)"


def test_browser_sorts_by_a_link_and_by_a_key(browser, results):
    browser.open(browser.address + "#sort=-asr", 1280, "light")
    falling = browser.ask(COLUMN % 5)
    assert len(falling) == 36
    numbers = [float(value) for value in falling if value]
    assert numbers == sorted(numbers, reverse=True) and falling[len(numbers) :] == [""]
    assert browser.ask("document.querySelector('#table [aria-sort=descending]').textContent.trim()") == "ASR"
    browser.ask("document.querySelector('#table [data-key=acc]').focus()")
    for kind in ("keyDown", "keyUp"):
        browser.send(
            "Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", text="\r", windowsVirtualKeyCode=13
        )
    rising = [float(value) for value in browser.ask(COLUMN % 4) if value]
    assert rising == sorted(rising)
    assert browser.ask("document.querySelectorAll('#table [aria-sort=ascending]').length") == 1
    assert browser.complaints() == []


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_browser_shows_it_whole_on_laptop_and_phone(browser, width, scheme):
    browser.open(browser.address, width, scheme)
    assert browser.ask("document.documentElement.scrollWidth") <= width
    assert (
        browser.ask("getComputedStyle(document.body).backgroundColor")
        == {
            "light": "rgb(255, 255, 255)",
            "dark": "rgb(15, 19, 24)",
        }[scheme]
    )
    assert browser.ask("[...document.images].every(one => one.complete && one.naturalWidth === 8)")
    browser.ask("document.querySelector('#ratios .legend button').click()")
    assert browser.ask("document.querySelectorAll('figure .faded').length") > 0
    assert browser.complaints() == []
