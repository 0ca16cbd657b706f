"""A server that answers while its judge, or head, is still loading, and while it stops."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from reasongenrm.serving import Gate, OwnSite

RETRY_SECONDS = 2
"""When a client may ask again, as Retry-After says."""

MAX_BYTES = 2**20
"""Limit of a body, which is not read."""

DRAIN_SECONDS = 0.05
"""How often a server that stops looks whether all is answered."""


class LoadingApp:
    """ASGI app in the place of another one, until that is there, and again when the server stops.

    Then every request has status 503 with Retry-After: `GET /health` with {"status": "loading" or "stopping", "model", "seconds"},
    all others with {"error", "hint"}.

    Args:
        name: what is served, as messages name it.
        model: the model's name in /health.
        key: bearer key that requests must have; None: no key is needed.
        hosts: host names that requests may use; None accepts all.
    """

    def __init__(self, name: str, model: str | None, key: str | None, hosts: frozenset[str] | None) -> None:
        from starlette.applications import Starlette
        from starlette.routing import Mount

        self._name, self._model, self._start = name, model, time.monotonic()
        self._app: Any = None
        self._loop: Any = None
        self._stopping, self._open = False, 0  # requests that the app answers
        # Starlette answers uvicorn's questions about start and stop.
        self._waiting: Any = Starlette(routes=[Mount("/", self._refuse)])
        self._waiting.add_middleware(Gate, key=key, max_bytes=MAX_BYTES)
        self._waiting.add_middleware(OwnSite, hosts=hosts)

    @property
    def seconds(self) -> float:
        """Seconds since loading began."""
        return time.monotonic() - self._start

    def replace(self, app: Any) -> None:
        """Leave all further requests to the app that has been loaded."""
        self._app = app

    def drain(self) -> None:
        """Refuse all further requests, and wait in another thread than the server's until the others are answered.

        First the functions in the app's `state.on_stop` are called, in the server's event loop.
        """
        self._stopping = True
        for act in getattr(getattr(self._app, "state", None), "on_stop", ()):
            if self._loop is not None:  # else there was no request
                self._loop.call_soon_threadsafe(act)
        while self._open:
            time.sleep(DRAIN_SECONDS)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        # The events of start and stop are for the app that is there at the start.
        if scope["type"] != "http" or self._app is None or self._stopping:
            await self._waiting(scope, receive, send)
            return
        self._loop = asyncio.get_running_loop()
        self._open += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._open -= 1

    async def _refuse(self, scope: Any, receive: Any, send: Any) -> None:
        from starlette.responses import JSONResponse

        status = "stopping" if self._stopping else "loading"
        if scope["path"] == "/health":
            content = {"status": status, "model": self._model, "seconds": round(self.seconds, 1)}
        else:
            hint = f"ask again in {RETRY_SECONDS} seconds, or when /health has status 200"
            content = {"error": f"the {self._name} is {status}", "hint": hint}
        response = JSONResponse(content, 503, {"Retry-After": str(RETRY_SECONDS)})
        await response(scope, receive, send)
