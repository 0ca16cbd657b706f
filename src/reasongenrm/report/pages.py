"""HTML pages without outside resources: one Jinja environment, escaped values, a content policy, embedded JSON."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from functools import cache
from typing import TYPE_CHECKING, Any

from reasongenrm.report.tables import escape_markdown, percent

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

# As escapes, none of these can end a <script>, begin a comment, or end a line of a script.
_ESCAPES = {character: f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}

_NUMBER = re.compile(r"[+-]?[\d,]+(\.\d+)?(e[+-]?\d+)?( %)?")


def printable(text: str) -> str:
    """Return text with a question mark for every half of a surrogate pair, which UTF-8 cannot hold."""
    return text.encode("utf-8", "replace").decode("utf-8")


def embedded_json(value: Any) -> Markup:
    """Return JSON for the inside of a `<script>`: no text in it can end the element or begin a comment.

    The result is marked as safe, since HTML's own escapes are not read inside a script.
    """
    import msgspec
    from markupsafe import Markup

    try:
        text = msgspec.json.encode(value).decode("utf-8")
    except UnicodeEncodeError:  # half of a surrogate pair, which UTF-8 cannot hold
        text = json.dumps(value, ensure_ascii=True, allow_nan=False)
    for character, escape in _ESCAPES.items():
        text = text.replace(character, escape)
    return Markup(text)


def render(template: str, /, *, room: str = "report", **values: Any) -> str:
    """Return a template as a document, ending in a newline.

    Args:
        template: its file name. All values are escaped as HTML; in `*.md.jinja`, the filters `md` and `code` escape.
        room: the folder of the package that holds the template.
        values: what it shows; markup in them is shown as text.
    """
    return printable(_environment().get_template(f"{room}/{template}").render(**values)).rstrip("\n") + "\n"


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

    environment = Environment(
        loader=PackageLoader("reasongenrm", ""),
        autoescape=select_autoescape(disabled_extensions=("md.jinja",), default=True),
        undefined=StrictUndefined,
    )
    environment.tests["number_text"] = _NUMBER.fullmatch
    environment.filters.update(csp_hash=csp_hash, png_source=png_source)
    environment.filters.update(md=escape_markdown, code=fenced, percent=percent)
    return environment


def csp_hash(text: str) -> str:
    """Return the source expression by which a policy allows this inline script or style and no other."""
    digest = hashlib.sha256(str(text).encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def png_source(png: bytes) -> str:
    """Return a PNG as the `src` of an image."""
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"


def fenced(text: str, language: str) -> str:
    """Return text as a Markdown code block whose fence is longer than any run of backticks in it."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"
