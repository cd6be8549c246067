"""Numbers as people read them: percent for measures, points for differences, and text that tells no folder."""

import math
import re
from collections import Counter
from collections.abc import Iterable

from bdjax.report.statistics import Estimate

_START = r"file://|\\\\(?=\w)|(?:~[\w.-]*|[A-Za-z]:)?[/\\](?![/\\])"
_PATH = re.compile(rf"(?<![\w/\\.<])(?:{_START})[^\s\"'<>,;=]+")
"""Absolute paths: of this machine, of its users, of a drive, of another host, and as a URL."""

NOTHING = "–"


def percent(value: float) -> str:
    """0.9973 as 99.7."""
    return f"{_signless(value * 100):.1f}".replace("-", "−") if math.isfinite(value) else NOTHING


def points(value: float) -> str:
    """A difference of fractions in percentage points, signed: -0.842 as −84.2."""
    return f"{_signless(value * 100):+.1f}".replace("-", "−") if math.isfinite(value) else NOTHING


def share(ratio: float) -> str:
    """A poison ratio; of victims that were given nobody knows it."""
    return f"{ratio:g}" if math.isfinite(ratio) else NOTHING


def spread(estimate: Estimate, form=percent) -> str:
    """The interval of an estimate, or its values where they are too few for one."""
    if math.isfinite(estimate.low):
        return f"[{form(estimate.low)}, {form(estimate.high)}]"
    return ""


def centre(estimate: Estimate, form=percent) -> str:
    """The mean of an estimate, or its values where they are too few for an interval."""
    if math.isfinite(estimate.low):
        return form(estimate.mean)
    return ", ".join(map(form, estimate.values)) or NOTHING


def whole(estimate: Estimate, form=percent) -> str:
    """The centre of an estimate and its interval, where there is one."""
    return f"{centre(estimate, form)} {spread(estimate, form)}".strip()


def brief(names: Iterable[str], longest: int) -> dict[str, str]:
    """Name -> what it is called for short: one of more than `longest` letters `name:…`, unless two would be alike."""
    texts = list(dict.fromkeys(names))
    short = {text: text.partition(":")[0] + ":…" if len(text) > longest and ":" in text else text for text in texts}
    called = Counter(short.values())
    return {text: name if called[name] == 1 else text for text, name in short.items()}


def number(count: int, noun: str) -> str:
    """3 seeds, 1 seed."""
    if count == 1:
        return f"1 {noun}"
    return f"{count:,} {noun[:-1]}ies" if noun.endswith("y") else f"{count:,} {noun}s"


def listed(words: list[str]) -> str:
    """a, b and c."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def duration(seconds: float) -> str:
    """Seconds as a person says them: 4.2 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def size(count: float) -> str:
    """Bytes in decimal megabytes, or gigabytes from a thousand of them."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:,.0f} MB"


def plain(text: str) -> str:
    """Text of a card without the marks of Markdown."""
    return text.replace("`", "").replace("**", "")


def discreet(value):
    """Text, or nested lists and dicts of it, with every absolute path cut to its last name."""
    if isinstance(value, dict):
        return {discreet(key): discreet(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [discreet(item) for item in value]
    return _PATH.sub(_last_name, value) if isinstance(value, str) else value


def _last_name(found: re.Match) -> str:
    return re.split(r"[/\\]", found.group().rstrip("/\\"))[-1] or "…"


def _signless(value: float) -> float:
    """-0.04 would print as -0.0."""
    return 0.0 if abs(value) < 0.05 else value
