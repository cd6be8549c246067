"""The study in a few plain sentences, all numbers from the results."""

from statistics import fmean

import xarray

from bdjax.io.store.results import ABSENT, DIVERGED, UNASKED
from bdjax.report.tables import UNDEFENDED, Row, largest
from bdjax.report.wording import discreet, listed, number, percent


def title(results: xarray.Dataset) -> str:
    """What the study is about."""
    defended = any(name != UNDEFENDED for name in results["defense"].values)
    dataset = discreet(str(results.attrs.get("dataset", "images")))
    return f"Backdoor attacks{' and defenses' if defended else ''} on {dataset}"


def headline(results: xarray.Dataset, rows: list[Row]) -> list[str]:
    """What was run, how far the attacks got, and what the defenses left of them."""
    top = largest(rows)
    sentences = [_setting(results), _undefended(top), _defended(top)]
    return [sentence for sentence in sentences if sentence]


def remarks(results: xarray.Dataset) -> list[str]:
    """What is missing, and how far the defender's clean data overlap with what was poisoned."""
    return [sentence for sentence in (_missing(results), _overlap(results)) if sentence]


def _missing(results: xarray.Dataset) -> str:
    status = results["status"].values
    parts = {"diverged": DIVERGED, "were not run": ABSENT}
    counted = [f"{count:,} {words}" for words, code in parts.items() if (count := int((status == code).sum()))]
    asked = int((status != UNASKED).sum())
    return f"Of {asked:,} cells {listed(counted)}; they are left out of every mean." if counted else ""


def _overlap(results: xarray.Dataset) -> str:
    most = float(results["overlap"].max()) if "overlap" in results else 0.0
    return f"Up to {percent(most)}% of a defender's clean images have a poisoned copy in training." if most > 0 else ""


def _setting(results: xarray.Dataset) -> str:
    attrs = discreet(results.attrs)
    others = [name for name in results["defense"].values if name != UNDEFENDED]
    ratios = listed([f"{ratio:g}" for ratio in results["ratio"].values])
    text = f"This study trained {attrs.get('model', 'a network')} on {attrs.get('dataset', 'a dataset')}"
    text += f" under {number(results.sizes['attack'], 'attack')} at {_plural('poison ratio', results.sizes['ratio'])}"
    text += f" {ratios}, with {number(results.sizes['seed'], 'seed')} each"
    return text + (f", and applied {number(len(others), 'defense')} to the victims." if others else ".")


def _undefended(top: dict[tuple[str, str], Row]) -> str:
    rows = [row for (_, defense), row in top.items() if defense == UNDEFENDED]
    if not rows:
        return ""
    rows.sort(key=lambda row: row.measures["asr"].mean)
    weakest, strongest = rows[0], rows[-1]
    span = f"{percent(weakest.measures['asr'].mean)}%"
    if len(rows) > 1 and percent(weakest.measures["asr"].mean) != percent(strongest.measures["asr"].mean):
        span += f" ({discreet(weakest.attack)}) to {percent(strongest.measures['asr'].mean)}%"
        span += f" ({discreet(strongest.attack)})"
    accuracy = percent(fmean(row.measures["acc"].mean for row in rows))
    one_ratio = len({row.ratio for row in rows}) == 1
    where = f"At ratio {rows[0].ratio:g}" if one_ratio else "At the largest ratio of each attack"
    return (
        f"{where}, the undefended victims classify {accuracy}% of clean test images correctly"
        f" and send {span} of triggered ones where the attacker wants them."
    )


def _defended(top: dict[tuple[str, str], Row]) -> str:
    """The best and the worst of those defenses that ran against every attack; oracles do not compete."""
    attacks = {attack for attack, _ in top}
    left: dict[str, list[Row]] = {}
    for (_, defense), row in top.items():
        if defense != UNDEFENDED and not row.oracle:
            left.setdefault(defense, []).append(row)
    means = {
        name: tuple(100 * fmean(row.measures[measure].mean for row in rows) for measure in ("asr", "acc"))
        for name, rows in left.items()
        if len(rows) == len(attacks)
    }
    if not means:
        return ""
    best, worst = min(means, key=means.get), max(means, key=means.get)
    over = ", averaged over the attacks" if len(attacks) > 1 else ""
    if best == worst:
        asr, acc = means[best]
        return f"After {best} the attacks still succeed on {asr:.1f}%, with a clean accuracy of {acc:.1f}%{over}."
    return (
        f"Of the defenses, {best} leaves the least attack success, {means[best][0]:.1f}% with a clean accuracy of"
        f" {means[best][1]:.1f}%, and {worst} the most, {means[worst][0]:.1f}% with {means[worst][1]:.1f}%{over}."
    )


def _plural(noun: str, count: int) -> str:
    return noun if count == 1 else noun + "s"
