"""The page in a real browser: its choices, tables, figures and downloads, on a laptop and on a phone."""

import csv
import io
import re
import shutil
from xml.etree import ElementTree

import made_up
import pytest

from bdjax.cards import Card
from bdjax.report.page import render

pytestmark = pytest.mark.slow

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ATTACKS = ["badnets", "blended:alpha=0.2", "sig"]
DEFENSES = ["none", "ft", "ft_sam:rho=2,epochs=20,batch=128", "wrecker", *(f"defense_{k}" for k in range(8))]
DETECTORS = ["strip", "scale_up"]
SCREEN = 844


@pytest.fixture(scope="module")
def results():
    return made_up.study(ATTACKS, DEFENSES, detectors=DETECTORS)


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the extra `browser`")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as running:
        one = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-quic"])
        yield one
        one.close()


@pytest.fixture(scope="module")
def address(results, tmp_path_factory):
    badnets = Card("badnets", "BadNets", "Gu, arXiv:1708.06733", 2017, 1, "dirty-label", "pre-training")
    ft = Card("ft", "Fine-tuning", "Liu, arXiv:1805.12185", 2018, 1, "tuning", "post-training", ("clean",))
    cards = {"attacks": [badnets], "defenses": [ft]}
    extra = (made_up.suspects(results), made_up.scores(results))
    text = render(results, made_up.curves(results), made_up.samples(ATTACKS), cards, *extra)
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(text, encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def open_page(browser, address):
    """Opens the page at a place behind #; whatever it complains of fails the test."""
    complaints, opened = [], []

    def open_one(fragment="", width=1366, scheme="light", where=address):
        page = browser.new_page(viewport={"width": width, "height": SCREEN}, color_scheme=scheme)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(where + fragment)
        opened.append(page)
        return page

    yield open_one
    for page in opened:
        page.close()
    assert complaints == []


def column(page, key, table="table"):
    return page.locator(f"#{table} tbody td[data-key={key}]").all_inner_texts()


def choose(page, key, *names):
    box = page.locator(f".box[data-key={key}]")
    box.locator("summary").click()
    for name in names:
        box.locator(f"input[value='{name}']").check()
    page.locator("h1").click()


def test_choices_are_in_the_address_and_a_link_brings_them_back(open_page):
    page = open_page()
    assert len(column(page, "attack")) == 100  # of 108
    assert page.locator("#matrix tbody tr").count() == len(DEFENSES)
    choose(page, "attack", "blended:alpha=0.2")
    choose(page, "defense", "none", DEFENSES[2])
    choose(page, "ratio", "0.05")
    page.locator("[data-measure=der]").click()
    assert column(page, "ratio") == ["0.05"] * 2
    assert page.locator("#matrix thead th").count() == 1
    assert page.locator("#matrix tbody th").all_inner_texts() == ["none", "ft_sam:…"]
    again = open_page(re.sub(r"^[^#]*", "", page.url))
    assert again.locator("#matrix").inner_text() == page.locator("#matrix").inner_text()
    assert "DER, defense effectiveness rating" in again.locator("#matrix").inner_text()
    assert column(again, "defense") == column(page, "defense")


def test_filter_matches_names_and_ratios_but_no_figures(open_page):
    page = open_page()
    page.locator("#results input").fill("ft 0.1")
    assert set(column(page, "defense")) == {"ft"} and set(column(page, "ratio")) == {"0.1"}
    assert len(column(page, "attack")) == 3
    page.locator("#results input").fill("fine sig")
    assert list(zip(column(page, "attack"), column(page, "defense"), strict=True)) == [("sig", "ft")] * 3
    page.locator("#results input").fill("destroyed")
    assert set(column(page, "defense")) == {"wrecker"}


def test_table_sorts_by_a_link_and_by_a_key(open_page):
    page = open_page("#sort=-asr")
    falling = [float(re.match(r"[\d.]+", text)[0]) for text in column(page, "asr")]
    assert falling == sorted(falling, reverse=True)
    assert page.locator("#table [aria-sort=descending]").inner_text().startswith("ASR")
    page.locator("#table thead [data-key=acc]").press("Enter")
    rising = [float(re.match(r"[\d.]+", text)[0]) for text in column(page, "acc")]
    assert rising == sorted(rising) and "sort=acc" in page.url


def test_what_was_destroyed_is_hatched_and_says_so(open_page):
    page = open_page()
    cell = page.locator("#matrix tbody tr", has_text="wrecker").locator("td").first
    assert "hatched" in cell.get_attribute("class") and "destroyed the model" in cell.inner_text()
    cell.hover()
    assert "keeps less than 50%" in page.locator("#tip").inner_text()
    order = page.locator("#matrix tbody th").all_inner_texts()
    hatched = page.locator("#matrix tbody tr:has(td.hatched) th").all_inner_texts()
    assert order[0] == "none" and order[-1] in hatched and order[1] not in hatched


def test_figures_begin_with_the_best_five_and_show_values(open_page):
    page = open_page()
    assert page.locator("#ratio-figures .legend button").count() == 6
    assert "The best 5 of 12 defenses" in page.locator("#ratio-figures").inner_text()
    point = page.locator("#ratio-figures figure").first.locator("circle").last
    point.hover()
    assert re.search(r"under badnets at 0.1, n = 3\nASR [\d.]+ \[", page.locator("#tip").inner_text())
    page.locator("#ratio-figures .legend button").first.click()
    assert page.locator("#ratio-figures figure .faded").count() > 0
    choose(page, "defense", *DEFENSES)
    assert page.locator("#ratio-figures .legend button").count() == len(DEFENSES)


def test_training_curves_are_shown_one_at_a_time(open_page):
    page = open_page()
    assert page.locator("#training h4").all_inner_texts() == ["Loss"]
    page.locator("#training select").select_option("accuracy")
    assert page.locator("#training h4").all_inner_texts() == ["Accuracy, %"]
    assert "curve=accuracy" in page.url
    assert page.locator("#training figure svg").first.locator("path[fill-opacity]").count() == 6  # bands


def saved(page, button):
    with page.expect_download() as one:
        button.click()
    path = one.value.path()
    return one.value.suggested_filename, path.read_text(encoding="utf-8")


def test_tables_and_figures_can_be_saved(open_page, results):
    page = open_page("#attack=sig&ratio=0.1&defense=ft")
    tools = page.locator("#result-table .tools")
    name, text = saved(page, tools.locator("[data-form=csv]"))
    (row,) = csv.DictReader(io.StringIO(text))
    mean = float(results["asr"].sel(attack="sig", ratio=0.1, defense="ft").mean())
    assert name == "table.csv" and float(row["ASR, %"]) == pytest.approx(100 * mean, abs=0.01)
    assert float(row["ASR, % low"]) < 100 * mean < float(row["ASR, % high"])
    _, markdown = saved(page, tools.locator("[data-form=md]"))
    assert len({line.count("|") for line in markdown.splitlines()}) == 1 and "| sig | 0.1 | ft |" in markdown
    _, latex = saved(page, tools.locator("[data-form=tex]"))
    assert r"ASR, \%" in latex and latex.count(r"\\") == 2 and latex.rstrip().endswith(r"\end{tabular}")
    name, drawing = saved(page, page.locator("#scatter .save").first)
    root = ElementTree.fromstring(drawing)
    assert name == "sig_at_0.1.svg" and root.tag.endswith("svg") and "var(" not in drawing


def test_detectors_have_matrices_curves_scores_and_suspects(open_page, results):
    page = open_page()
    assert page.locator("#detection-0 tbody tr").count() == 2
    assert page.locator("#detection-1 tbody tr").count() == 1  # the other judges no queries
    auroc = results["auroc"].sel(attack="badnets", ratio=0.1, detector="strip", on="rows").mean()
    assert page.locator("#detection-0 tbody td:not(.alarms) b").first.inner_text() == f"{100 * float(auroc):.1f}"
    assert page.locator("#detection-0 .alarms").all_inner_texts()[1] == "–"  # without a threshold of its own
    text = page.locator("#detection").inner_text()
    for words in ("ROC curves", "Scores of one victim", "The most suspect", "6 of these 12 are poisoned"):
        assert words in text
    page.locator("[data-figure=tpr_at_1]").click()
    assert "TPR at 1%, %" in page.locator("#detection").inner_text() and "figure=tpr_at_1" in page.url
    choose(page, "detector", "scale_up")
    assert set(column(page, "detector", "detection-table")) == {"scale_up"}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1366, 390])
def test_it_fits_laptop_and_phone(open_page, width, scheme):
    page = open_page(width=width, scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    paper = {"light": "rgb(255, 255, 255)", "dark": "rgb(15, 19, 24)"}[scheme]
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == paper
    assert page.evaluate("[...document.images].every((one) => one.complete && one.naturalWidth === 32)")
    if width == 390:
        assert page.evaluate("document.documentElement.scrollHeight") <= 15 * SCREEN


def test_a_large_study_is_small_and_readable(open_page, tmp_path):
    """21 attacks, 18 defenses, 3 ratios, 3 seeds, and on a phone no more than 15 screens."""
    attacks, defenses = [f"attack_{k}" for k in range(21)], ["none", *(f"defense_{k}" for k in range(17))]
    large = made_up.study(attacks, defenses, detectors=DETECTORS)
    text = render(large, made_up.curves(large, 100), made_up.samples(attacks), {}, None, made_up.scores(large))
    assert len(text.encode()) < 5e6
    (tmp_path / "report.html").write_text(text, encoding="utf-8")
    page = open_page(width=390, where=(tmp_path / "report.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.evaluate("document.documentElement.scrollHeight") <= 15 * SCREEN
    assert page.locator("#table tbody tr").count() == 100


@pytest.mark.parametrize("there", ["nothing", "victims", "one group"])
def test_a_partial_study_says_so_first(open_page, tmp_path, results, there):
    ran = {"nothing": False, "victims": results.defense == "none", "one group": results.attack == "badnets"}[there]
    partial = results.drop_dims(["detector"]).assign(status=results.status.where(ran, -1))
    (tmp_path / "report.html").write_text(render(partial), encoding="utf-8")
    page = open_page(where=(tmp_path / "report.html").as_uri())
    lead = page.locator(".lead").first.inner_text()
    assert lead.startswith("Nothing to show yet: 0 of" if there == "nothing" else "Unfinished: ")
    assert ("Among defenses" in page.locator("header").inner_text()) == (there == "one group")
    assert page.locator("#overview").count() == (there != "nothing")


def test_names_are_text_and_never_markup(open_page, tmp_path):
    evil = "<img src=x onerror=alert(1)>"
    results = made_up.study([evil, "</script><b>"], ["none", f"ft:{evil}=1", evil], detectors=[evil, "strip"])
    ft = Card("ft", evil, f"javascript:alert(1) {evil}", 2018, 1, evil, "post-training", ("clean",))
    cards = {"defenses": [ft]}
    text = render(results, made_up.curves(results), None, cards, made_up.suspects(results), made_up.scores(results))
    (tmp_path / "report.html").write_text(text, encoding="utf-8")
    page = open_page(f"#attack={evil}", where=(tmp_path / "report.html").as_uri())
    assert page.locator("img[src=x], a[href^=javascript], main b b").count() == 0
    assert set(column(page, "attack")) == {evil}
