"""Pages of `reasongenrm app` for tests: judges to load, and a server in a thread."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from reasongenrm.app.server import create_app
from reasongenrm.app.sources import AppSources
from reasongenrm.connections import ConnectionLimits
from reasongenrm.judge.api import Judge
from support.app import running, wait_until


@contextmanager
def running_page(sources: AppSources, judge: Judge | None = None, **options: Any) -> Iterator[str]:
    """Serve a page in a thread, with a judge that is loaded before; yield its address. The judge is closed at the end."""
    if judge is not None:
        sources.slot.load("tiny", lambda: judge)
        wait_until(lambda: sources.slot.status.state == "ready")
    try:
        # An open page holds a connection, which a stop must not wait for.
        with running(create_app(sources, **options), ConnectionLimits(stop_seconds=1)) as url:
            yield url
    finally:
        sources.slot.close()
