"""Figures as inline SVG that takes its ink and its fonts from the page around it."""

import io
import re
from xml.etree import ElementTree

from bdjax.report.figures import COLOURS, INK

_SVG, _LINK = "http://www.w3.org/2000/svg", "{http://www.w3.org/1999/xlink}href"
_FAMILY = re.compile(r"font-family: [^;]*; ?")
_LONG = re.compile(r"(\d\.\d{2})\d+")


def inline(figure, name: str, label: str) -> str:
    """The figure as an `<svg>` element: the same text for the same figure.

    Args:
        figure: a matplotlib Figure, drawn in INK and COLOURS: INK becomes currentColor, and colour k the page's
            `--series-k`, where it has one.
        name: prefix of every id, so that several figures live on one page.
        label: what the figure shows, for those who do not see it.
    """
    import matplotlib

    out = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "bdjax", "svg.fonttype": "none"}):
        figure.savefig(out, format="svg", metadata={"Date": None})
    root = ElementTree.fromstring(out.getvalue())
    for parent in list(root.iter()):
        for child in [one for one in parent if one.tag == f"{{{_SVG}}}metadata" or _is_empty(one)]:
            parent.remove(child)
    text = ElementTree.tostring(root, encoding="unicode")
    used = set(re.findall(r"#([\w-]+)", text))
    for element in root.iter():
        _adapt(element, name, used)
    root.attrib = {"viewBox": root.get("viewBox"), "role": "img", "aria-label": label}
    for element in root.iter():
        element.tag = element.tag.removeprefix(f"{{{_SVG}}}")
        element.text, element.tail = (part if part and part.strip() else None for part in (element.text, element.tail))
    return ElementTree.tostring(root, encoding="unicode")


def _adapt(element: ElementTree.Element, name: str, used: set[str]) -> None:
    identity = element.attrib.pop("id", None)
    if identity and identity.startswith("series-"):
        element.set("data-series", identity.removeprefix("series-"))
    elif identity in used:
        element.set("id", f"{name}-{identity}")
    if _LINK in element.attrib:
        element.set("href", element.attrib.pop(_LINK).replace("#", f"#{name}-"))
    for key, value in element.attrib.items():
        if key in ("d", "x", "y", "transform"):
            element.set(key, _LONG.sub(r"\1", value))
        if key == "clip-path":
            element.set(key, value.replace("#", f"#{name}-"))
        if key == "style":
            element.set(key, _inked(value))
    if element.tag == f"{{{_SVG}}}text" and "fill" not in element.get("style", ""):
        element.set("style", f"{element.get('style', '')}; fill: currentColor".lstrip("; "))


def _inked(style: str) -> str:
    style = _FAMILY.sub("", style.replace(INK, "currentColor"))
    for k, colour in enumerate(COLOURS):
        style = style.replace(colour, f"var(--series-{k}, {colour})")
    return style


def _is_empty(element: ElementTree.Element) -> bool:
    return element.tag == f"{{{_SVG}}}style" or (element.tag == f"{{{_SVG}}}g" and not len(element))
