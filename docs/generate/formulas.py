r"""Formulas as MathML, which browsers draw without a script: `$…$` in a line, `$$…$$` in lines of its own."""

from __future__ import annotations

import re
from html import unescape

_FORMULA = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">\\[(\[](?P<latex>.*?)\\[)\]]</(?P=tag)>', re.DOTALL
)
"""What `pymdownx.arithmatex` writes."""


def drawn(html: str) -> str:
    """Return a page's HTML with its formulas as MathML."""
    from latex2mathml.converter import convert

    def formula(match: re.Match[str]) -> str:
        display = "block" if match["tag"] == "div" else "inline"
        return convert(unescape(match["latex"]).strip(), display=display)

    return _FORMULA.sub(formula, html)
