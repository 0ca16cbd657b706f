"""Pages that stand alone: every value in them is escaped, and their policy allows their own script and style, no more."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

from reasongenrm.report.run_rows import printable


def render(template: str, *, room: str = "report", **values: Any) -> str:
    """Return one HTML document, ending in a newline.

    Args:
        template: the name of a template; here, beside this module, they extend `page.html.jinja`.
        room: the folder of the package that holds the template.
        values: what it shows; markup in them is shown as text.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("reasongenrm", room), autoescape=True, undefined=StrictUndefined
    )
    environment.filters["csp_hash"] = csp_hash
    return printable(environment.get_template(template).render(**values)) + "\n"


def csp_hash(text: str) -> str:
    """Return the source expression by which a policy allows this inline script or style and no other."""
    digest = hashlib.sha256(str(text).encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"
