"""HTML pages without outside resources: one Jinja environment, escaped values, and a content policy."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from typing import TYPE_CHECKING, Any

from reasongenrm.report.tables import escape_markdown, percent

if TYPE_CHECKING:
    from jinja2 import Environment

_NUMBER = re.compile(r"[+-]?[\d,]+(\.\d+)?(e[+-]?\d+)?( %)?")


def printable(text: str) -> str:
    """Return text with a question mark for every half of a surrogate pair, which UTF-8 cannot hold."""
    return text.encode("utf-8", "replace").decode("utf-8")


def render(template: str, /, **values: Any) -> str:
    """Return a template as a document, ending in a newline.

    Args:
        template: its file name. All values are escaped as HTML; in `*.md.jinja`, the filters `md` and `code` escape.
        values: what it shows; markup in them is shown as text.
    """
    return printable(environment().get_template(f"report/{template}").render(**values)).rstrip("\n") + "\n"


@cache
def environment() -> Environment:
    """Return the environment of all templates, which escapes what they show and allows no undefined name."""
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

    environment = Environment(
        loader=PackageLoader("reasongenrm", ""),
        autoescape=select_autoescape(disabled_extensions=("md.jinja",), default=True),
        undefined=StrictUndefined,
    )
    environment.tests["number_text"] = _NUMBER.fullmatch
    # `tojson` escapes what can end a <script> or begin a comment, and all that is not ASCII.
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    environment.filters.update(csp_hash=csp_hash, png_source=png_source, thousands="{:,}".format)
    environment.filters.update(md=escape_markdown, code=code_block, percent=percent)
    return environment


def csp_hash(text: str) -> str:
    """Return the source expression by which a policy allows this inline script or style and no other."""
    digest = hashlib.sha256(str(text).encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def png_source(png: bytes) -> str:
    """Return a PNG as the `src` of an image."""
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"


def code_block(text: str, language: str) -> str:
    """Return text as a Markdown code block whose fence is longer than any run of backticks in it."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"
