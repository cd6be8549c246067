"""The study in a few plain sentences, all numbers from the results and none about what has not run."""

import json

import xarray

from bdjax.io.store.results import DIVERGED, OK, UNASKED
from bdjax.report.statistics import usable
from bdjax.report.studies import about, are_given
from bdjax.report.tables import Row, foremost, largest
from bdjax.report.verdicts import BOUND, COSTLY, DESTROYED, HALF, INEFFECTIVE, UNDEFENDED, WEAK
from bdjax.report.wording import brief, discreet, listed, number, percent

APART = 0.3
"""Between the ASR of two seeds, as a fraction, from which their mean says little of either."""
NO_TRIGGER = "No trigger is given: whether there is a backdoor, and whether it is gone, is not known."
FEW = 3
"""Attacks, or defenses, that a sentence names one by one; of more it gives the number."""


def title(studies: list[xarray.Dataset]) -> str:
    """What the studies are about."""
    defended = any(name != UNDEFENDED for results in studies for name in results["defense"].values)
    datasets = dict.fromkeys(about(results)["dataset"] or "images" for results in studies)
    if all(map(are_given, studies)):
        return f"{'Given models, purified' if defended else 'Given models'}: {listed(list(datasets))}"
    return f"Backdoor attacks{' and defenses' if defended else ''} on {listed(list(datasets))}"


def unfinished(results: xarray.Dataset) -> str:
    """How much of the study there is, in a sentence; empty where that is all of it."""
    status = results["status"].values
    asked, there = int((status != UNASKED).sum()), int((status >= OK).sum())
    judged = _counts(results, "detections")
    if there == asked and judged[0] == judged[1]:
        return ""
    models = _counts(results, "models")
    parts = [f"{models[0]:,} of {models[1]:,} models are finished"] if models[1] else []
    parts += [f"{there:,} of {asked:,} cells have their numbers"]
    parts += [f"{judged[0]:,} of {judged[1]:,} detections are finished"] if judged[1] else []
    failed = [f"Failed: {line}." for line in json.loads(results.attrs.get("failures", "[]"))]
    return " ".join([f"{'Unfinished' if there else 'Nothing to show yet'}: {', '.join(parts)}.", *failed])


def _counts(results: xarray.Dataset, name: str) -> tuple[int, int]:
    """How many models or detections are finished, and how many were asked for; 0 and 0 where that is not known."""
    return int(results.attrs.get(f"{name}_finished", 0)), int(results.attrs.get(name, 0))


def headline(results: xarray.Dataset, rows: list[Row], bound: float = BOUND) -> list[str]:
    """What was asked, how far the attacks got, and which defenses left least of them at what cost.

    rows: of `tables.table`, under the same `bound` on the loss of accuracy.
    """
    top = foremost(results, rows)
    called = brief([*map(str, results["attack"].values), *map(str, results["defense"].values)], longest=24)
    sentences = [unfinished(results), _setting(results), _undefended(results, top, called)]
    sentences += [_best(top, called, bound), _blemished(top, called, bound)]
    return [discreet(sentence) for sentence in sentences if sentence]


def remarks(results: xarray.Dataset, rows: list[Row]) -> list[str]:
    """Where seeds disagree, what is missing, and how far the defender's clean data overlap with what was poisoned."""
    return [sentence for sentence in (_scattered(results, rows), _diverged(results), _overlap(results)) if sentence]


def _scattered(results: xarray.Dataset, rows: list[Row]) -> str:
    values = [row.measures["asr"].values for row in foremost(results, rows).values()]
    count = sum(max(one) - min(one) > APART for one in values if one)
    if not count:
        return ""
    where = f"In {count:,} of {number(len(values), 'cell')} at the largest ratios"
    return f"{where} seeds differ by more than {100 * APART:g} points of ASR: their mean stands for none of them."


def _diverged(results: xarray.Dataset) -> str:
    count = int((results["status"].values == DIVERGED).sum())
    return f"{number(count, 'cell')} diverged in training and {_be(count)} part of no mean." if count else ""


def _overlap(results: xarray.Dataset) -> str:
    most = float(usable(results, "overlap").max()) if "overlap" in results else 0.0
    return f"Up to {percent(most)}% of a defender's clean images have a poisoned copy in training." if most > 0 else ""


def _setting(results: xarray.Dataset) -> str:
    attrs = discreet(results.attrs)
    others = [name for name in results["defense"].values if name != UNDEFENDED]
    ratios = listed([f"{ratio:g}" for ratio in results["ratio"].values])
    text = f"The study is of {attrs.get('model', 'a network')} on {attrs.get('dataset', 'a dataset')}:"
    if are_given(results):
        text += f" {number(results.sizes['attack'], 'victim')} that {_was(results.sizes['attack'])} given"
    else:
        text += f" {number(results.sizes['attack'], 'attack')} at {_plural('poison ratio', results.sizes['ratio'])}"
        text += f" {ratios}"
    text += f", {number(results.sizes['seed'], 'seed')} each"
    return text + (f", {number(len(others), 'defense')}." if others else ".")


def _undefended(results: xarray.Dataset, top: dict[tuple[str, str], Row], called: dict[str, str]) -> str:
    rows = [row for (_, defense), row in top.items() if defense == UNDEFENDED]
    if not rows:
        return ""
    known = {name for name in ("acc", "asr") if any(row.measures[name].count for row in rows)}
    if known != {"acc", "asr"}:
        return _half_known(rows, known, called)
    asked = largest(results)
    where = f"At ratio {rows[0].ratio:g}" if len({row.ratio for row in rows}) == 1 else "At each attack's largest ratio"
    where += f" ({len(rows)} of {len(asked)} attacks so far)" if len(rows) < len(asked) else ""
    words = ("the undefended victims classify", "send")
    if are_given(results):
        one = len(rows) == 1
        where = f"As {'it was' if one else 'they were'} given"
        words = ("the model classifies", "sends") if one else ("the models classify", "send")
    text = f"{where}, {words[0]} {_span(rows, 'acc', called)} of clean test images correctly and"
    text += f" {words[1]} {_span(rows, 'asr', called)} of triggered ones where the attacker wants them."
    weak = [called[row.attack] for row in rows if WEAK in row.verdicts]
    if not weak:
        return text
    return f"{text} Below {HALF:.0%} there is little to defend against: {_some(weak, 'attack')}."


def _half_known(rows: list[Row], known: set[str], called: dict[str, str]) -> str:
    """What can be said of victims where there were no test images, or no triggered ones."""
    text = ""
    if "acc" in known:
        text = f"The undefended victims classify {_span(rows, 'acc', called)} of clean test images correctly."
    if "asr" in known:
        text = f"The undefended victims send {_span(rows, 'asr', called)} of triggered images where the attacker wants."
    lacking = {"acc": "No test images are given: accuracy is not known.", "asr": NO_TRIGGER}
    return " ".join(filter(None, [text, *(line for name, line in lacking.items() if name not in known)]))


def _best(top: dict[tuple[str, str], Row], called: dict[str, str], bound: float) -> str:
    """Attack by attack, who leads among the defenses that keep the model; oracles do not compete."""
    weak = {row.attack for row in top.values() if WEAK in row.verdicts}
    rows = [row for row in top.values() if row.defense != UNDEFENDED and not row.oracle and row.attack not in weak]
    if not any(row.measures["asr"].count for row in rows):
        return ""
    if not any(row.lost.count for row in rows):
        return f"Without the undefended victims ({UNDEFENDED}) the cost of a defense is unknown, so none is ranked."
    able = [row for row in rows if row.lost.count and not row.wrecked and INEFFECTIVE not in row.verdicts]
    if not able:
        return f"No defense lowers attack success at a cost of at most {100 * bound:g} points of accuracy."
    count = len({row.attack for row in rows})
    among = f"Among defenses that lose at most {100 * bound:g} points of accuracy"
    leaders = {measure: _leading(able, measure) for measure in ("der", "asr")}
    told = {measure: _told(led, measure, count, called) for measure, led in leaders.items()}
    if leaders["der"] == leaders["asr"]:
        return f"{among}, the lowest attack success and the highest DER are those of {told['asr']}."
    return f"{among}, the highest DER is that of {told['der']}; the lowest attack success that of {told['asr']}."


def _leading(rows: list[Row], measure: str) -> dict[str, list[Row]]:
    """Defense -> its rows for those attacks against which it leads; by attack, for a mean may be true of none."""
    led: dict[str, list[Row]] = {}
    for attack in dict.fromkeys(row.attack for row in rows):
        own = [row for row in rows if row.attack == attack]
        best = (max if measure == "der" else min)(own, key=lambda row: row.measures[measure].mean)
        led.setdefault(best.defense, []).append(best)
    return led


def _told(led: dict[str, list[Row]], measure: str, count: int, called: dict[str, str]) -> str:
    """Who leads against which of `count` attacks."""
    order = sorted(led, key=lambda name: -len(led[name]))
    if count > FEW and len(order) > 1:
        parts = [f"{called[name]} against {len(led[name])}" for name in order[:FEW]]
        parts += [f"{number(len(order) - FEW, 'other')} against the rest"] if len(order) > FEW else []
        return listed([f"{parts[0]} of {count} attacks", *parts[1:]])
    parts = []
    for name in order:
        attacks = [called[row.attack] for row in led[name]]
        against = f"all {count} attacks" if len(attacks) == count > 1 else _some(attacks, "attack")
        parts.append(f"{called[name]} against {against} ({_span(led[name], measure, called)})")
    return listed(parts)


def _blemished(top: dict[tuple[str, str], Row], called: dict[str, str], bound: float) -> str:
    """Which defenses destroyed models, cost too much or did nothing, however low their attack success."""
    words = {
        DESTROYED: f"kept less than {HALF:.0%} of the accuracy: what they leave of the attack is no merit",
        COSTLY: f"lost more than {100 * bound:g} points of accuracy",
        INEFFECTIVE: "left the attack as it was",
    }
    parts = []
    for verdict, told in words.items():
        hit = dict.fromkeys(called[row.defense] for row in top.values() if verdict in row.verdicts and not row.oracle)
        parts += [f"{_some(list(hit), 'defense')} {told}"] if hit else []
    return f"Under at least one attack {'; '.join(parts)}." if parts else ""


def _span(rows: list[Row], measure: str, called: dict[str, str]) -> str:
    """The measure in percent, from the lowest to the highest attack."""
    rows = sorted(rows, key=lambda row: row.measures[measure].mean)
    low, high = (percent(row.measures[measure].mean) for row in (rows[0], rows[-1]))
    if low == high:
        return f"{low}%"
    return f"{low}% ({called[rows[0].attack]}) to {high}% ({called[rows[-1].attack]})"


def _some(names: list[str], noun: str) -> str:
    return listed(names) if len(names) <= FEW + 1 else number(len(names), noun)


def _plural(noun: str, count: int) -> str:
    return noun if count == 1 else noun + "s"


def _was(count: int) -> str:
    return "was" if count == 1 else "were"


def _be(count: int) -> str:
    return "is" if count == 1 else "are"
