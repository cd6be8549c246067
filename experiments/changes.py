"""What a cut study changes of its methods' own settings."""

from collections.abc import Mapping

from bdjax.cards import Method, lookup


def changes(changed: Mapping[str, str], registry: Mapping[str, Method], what: str) -> str:
    """A table of each method's own setting and the one that was run, as Markdown.

    Args:
        changed: method -> `setting=value,setting=value`.
        registry: where the methods are.
        what: they are called, e.g. "attack".
    """
    lines = [f"| {what} | setting | its own | run |", "| --- | --- | --- | --- |"]
    for name, text in changed.items():
        before, after = (lookup(asked, registry, what) for asked in (name, f"{name}:{text}"))
        for key, value in (after.static | after.traced).items():
            own = (before.static | before.traced)[key]
            lines += [f"| {name} | {key} | {own} | {value} |"] if own != value else []
    return "\n".join(lines)
