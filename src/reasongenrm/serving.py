"""Parts of both HTTP servers: listening, the key and size of requests, and the JSON of errors."""

# No `from __future__ import annotations`: FastAPI reads the annotations of nested functions.

import hmac
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any

from reasongenrm.errors import ConfigError, ReasonGenRMError, first_line


def error_response(status: int, error: str, hint: str = "") -> Any:
    """Return the JSON response {"error", "hint"} to a request that failed."""
    from starlette.responses import JSONResponse

    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    return JSONResponse({"error": error, "hint": hint}, status, headers)


def add_error_handlers(app: Any, statuses: Mapping[type[ReasonGenRMError], int]) -> None:
    """Make an app respond to every error with {"error": problem, "hint": …}.

    Args:
        app: a FastAPI app.
        statuses: HTTP status by class of the error, or of its nearest base class; by default 400.
    """
    from fastapi.exceptions import RequestValidationError
    from starlette.exceptions import HTTPException

    async def user_error(_: Any, error: ReasonGenRMError) -> Any:
        status = next((statuses[kind] for kind in type(error).__mro__ if kind in statuses), 400)
        return error_response(
            status, f"{error.location}: {error.problem}" if error.location else error.problem, error.hint
        )

    async def invalid(_: Any, error: RequestValidationError) -> Any:
        first = error.errors()[0]
        location = ".".join(map(str, first["loc"][1:]))
        if first["type"] == "json_invalid":
            return error_response(400, f"invalid JSON at character {location}", "send a JSON object")
        hint = "send Content-Type: application/json" if first["loc"] == ("body",) else "see /openapi.json"
        return error_response(422, f"{location}: {first['msg']}" if location else first["msg"], hint)

    async def http_error(_: Any, error: HTTPException) -> Any:
        hints = {400: "send a JSON object in UTF-8", 413: "send a smaller body", 499: ""}
        return error_response(
            error.status_code, error.detail, hints.get(error.status_code, "see /openapi.json")
        )

    async def internal_error(_: Any, error: Exception) -> Any:
        return error_response(500, "internal server error", "see the log of the server")

    app.add_exception_handler(ReasonGenRMError, user_error)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(Exception, internal_error)


class Gate:
    """ASGI middleware: check the key before the body is read, and stop reading a body that is too large.

    Args:
        app: the ASGI app.
        key: bearer key that a request must have; None: no key is needed.
        max_bytes: largest size of a body.
        open_paths: paths that need no key.
    """

    def __init__(
        self, app: Any, key: str | None, max_bytes: int, open_paths: frozenset[str] = frozenset()
    ) -> None:
        self.app, self.max_bytes, self.open_paths = app, max_bytes, open_paths
        self.expected = f"Bearer {key}".encode() if key else None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        header = dict(scope["headers"]).get(b"authorization", b"")
        expected = self.expected if scope["path"] not in self.open_paths else None
        if expected and not hmac.compare_digest(header, expected):
            response = error_response(401, "no valid key", "send Authorization: Bearer KEY")
            await response(scope, receive, send)
            return
        size = 0

        async def receive_limited() -> Any:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self.max_bytes:
                from starlette.exceptions import HTTPException

                raise HTTPException(413, f"the body has more than {self.max_bytes} bytes")
            return message

        await self.app(scope, receive_limited, send)


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0 means any free port.

    Raises:
        ConfigError: the address is in use, or is not valid.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=1024)
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"cannot listen: {first_line(error)}",
            location=f"{host}:{port}",
            hint="give an address of this machine and a free port up to 65535",
        ) from None


def address(listening: socket.socket) -> str:
    """Return the URL of a listening socket."""
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether a host can be reached only from this machine."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@contextmanager
def ignore_reraised_signals() -> Iterator[None]:
    """Ignore the signal that uvicorn raises again after it has stopped because of it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {name: signal.signal(name, lambda *_: None) for name in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
