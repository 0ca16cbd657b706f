"""SVG drawings that are readable in light and dark, with their own background; knows nothing about judges."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree

COLORS = {
    "page": ("#ffffff", "#161b22"),
    "lane": ("#f4f6f8", "#1f2630"),
    "box": ("#ffffff", "#2b3440"),
    "line": ("#8c959f", "#8b949e"),
    "ink": ("#1f2328", "#e6edf3"),
    "soft": ("#57606a", "#a9b4c0"),
    "plain": ("#e7ebef", "#323c48"),
    "judged": ("#cfe3ff", "#1c4170"),
    "reason": ("#c8efd4", "#17512f"),
    "header": ("#ffe2a8", "#5f4706"),
    "verdict": ("#ffd0c7", "#7a2618"),
    "cost": ("#bc4c00", "#ff9a57"),
    "good": ("#0f6b34", "#62d68c"),
    "bad": ("#b3261e", "#ff8d84"),
}
"""Role -> its colour on a light and on a dark page."""

TEXT_COLORS = ("ink", "soft", "cost", "good", "bad")
"""Roles of texts; `tests/docs/test_figures.py` checks their contrast."""
FILLS = ("page", "lane", "box", "plain", "judged", "reason", "header", "verdict")
"""Roles of areas that texts are written on."""

MONO = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
SANS = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"
MONO_WIDTH = 0.602
"""Width of a character of most monospaced fonts, in units of the font size."""

Point = tuple[float, float]


class Drawing:
    """A figure: its texts are elements that a screen reader finds, its colours follow the reader's colour scheme.

    Args:
        width, height: in pixels.
        title: the alternative text, one sentence.
    """

    def __init__(self, width: float, height: float, title: str) -> None:
        self.root = ElementTree.Element(
            "svg", xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {width:g} {height:g}", role="img",
            width=f"{width:g}", height=f"{height:g}",
        )  # fmt: skip
        self._add("title").text = title
        self._add("style").text = _style()
        self.rect(0, 0, width, height, "page", radius=10)

    def _add(self, tag: str, **attributes: str) -> ElementTree.Element:
        return ElementTree.SubElement(
            self.root, tag, {name.replace("_", "-"): v for name, v in attributes.items()}
        )

    def rect(
        self, x: float, y: float, w: float, h: float, fill: str, *, radius: float = 6, border: bool = False
    ) -> None:
        """Draw a filled rectangle with round corners; `fill` is a role of `COLORS`."""
        self._add(
            "rect", x=f"{x:g}", y=f"{y:g}", width=f"{w:g}", height=f"{h:g}", rx=f"{radius:g}",
            **{"class": f"f-{fill}" + " border" * border},
        )  # fmt: skip

    def text(
        self, x: float, y: float, text: str, *, size: float = 13, color: str = "ink", anchor: str = "start",
        mono: bool = False, bold: bool = False, width: float | None = None,
    ) -> None:  # fmt: skip
        """Write one line of text; (x, y) is its base line's start, middle or end.

        Args:
            width: pixels that the text is stretched or shrunk to, whatever the reader's font.
        """
        fit = {} if width is None else {"textLength": f"{width:g}", "lengthAdjust": "spacingAndGlyphs"}
        element = self._add("text", x=f"{x:g}", y=f"{y:g}", font_size=f"{size:g}", text_anchor=anchor)
        element.attrib |= fit
        element.set("class", " ".join([f"f-{color}", *["mono"] * mono, *["bold"] * bold]))
        element.text = text

    def dot(self, x: float, y: float, color: str = "cost", radius: float = 5) -> None:
        """Draw a dot."""
        self._add("circle", cx=f"{x:g}", cy=f"{y:g}", r=f"{radius:g}", **{"class": f"f-{color}"})

    def bar(self, x: float, y: float, w: float, color: str) -> None:
        """Draw a thick horizontal stroke, 3 pixels high."""
        self.rect(x, y, w, 3, color, radius=1.5)

    def arrow(self, points: Sequence[Point], color: str = "line") -> None:
        """Draw a line through the points, with a head at the last one; its last part is horizontal or vertical."""
        (x0, y0), (x1, y1) = points[-2:]
        dx, dy = (x1 > x0) - (x1 < x0), (y1 > y0) - (y1 < y0)
        *before, _ = points
        end = (x1 - 6 * dx, y1 - 6 * dy)
        path = " L ".join(f"{x:g} {y:g}" for x, y in [*before, end])
        self._add("path", d=f"M {path}", **{"class": f"s-{color}"})
        wing = [
            (x1, y1),
            (x1 - 8 * dx - 4.5 * dy, y1 - 8 * dy - 4.5 * dx),
            (x1 - 8 * dx + 4.5 * dy, y1 - 8 * dy + 4.5 * dx),
        ]
        self._add(
            "path", d="M " + " L ".join(f"{x:g} {y:g}" for x, y in wing) + " Z", **{"class": f"f-{color}"}
        )

    def chip(
        self, x: float, y: float, text: str, fill: str, *, size: float = 13, learned: bool = False
    ) -> float:
        """Draw a token in a box of its own and return the box's width; a learned one is underlined."""
        inner = len(text) * size * MONO_WIDTH
        width = inner + 8
        self.rect(x, y, width, size + 9, fill, radius=4)
        self.text(x + 4, y + size + 1.5, text, size=size, mono=True, width=inner)
        if learned:
            self.bar(x + 2, y + size + 9, width - 4, "good")
        return width

    def svg(self) -> str:
        """Return the file's text."""
        ElementTree.indent(self.root)
        return ElementTree.tostring(self.root, encoding="unicode") + "\n"


def _style() -> str:
    """Return a rule per role for fills and strokes: light ones, and dark ones where the reader prefers dark."""
    light, dark = (
        "\n".join(
            f".f-{role} {{ fill: {color} }} .s-{role} {{ stroke: {color} }}"
            for role, color in ((role, colors[scheme]) for role, colors in COLORS.items())
        )
        for scheme in (0, 1)
    )
    borders = [f".border {{ stroke: {COLORS['line'][scheme]}; stroke-width: 1 }}" for scheme in (0, 1)]
    fonts = f"text {{ font-family: {SANS} }} .mono {{ font-family: {MONO} }} .bold {{ font-weight: 600 }}"
    strokes = "path[class^='s-'] { fill: none; stroke-width: 1.6 }"
    return f"\n{fonts}\n{strokes}\n{light}\n{borders[0]}\n@media (prefers-color-scheme: dark) {{\n{dark}\n{borders[1]}\n}}\n"
