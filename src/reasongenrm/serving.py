"""What the HTTP servers share: where it listens, who may ask, and how what fails is answered."""

# No `from __future__ import annotations`: FastAPI reads the annotations of functions made inside a function.

import hmac
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from ipaddress import ip_address
from types import MappingProxyType
from typing import Any

from reasongenrm.errors import ConfigError, ReasonGenRMError, first_line


def error_response(status: int, error: str, hint: str = "") -> Any:
    """Return the JSON answer {"error", "hint"} to a request that cannot be served."""
    from starlette.responses import JSONResponse

    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    return JSONResponse({"error": error, "hint": hint}, status, headers)


def answer_errors(app: Any, statuses: Mapping[type[ReasonGenRMError], int] = MappingProxyType({})) -> None:
    """Have every error of an app answered by {"error": what, "hint": …}.

    Args:
        app: a FastAPI app.
        statuses: HTTP status of an error's nearest class; 400 where none is named.
    """
    from fastapi.exceptions import RequestValidationError
    from starlette.exceptions import HTTPException

    async def ours(_: Any, error: ReasonGenRMError) -> Any:
        status = next((statuses[kind] for kind in type(error).__mro__ if kind in statuses), 400)
        return error_response(
            status, f"{error.location}: {error.problem}" if error.location else error.problem, error.hint
        )

    async def invalid(_: Any, error: RequestValidationError) -> Any:
        first = error.errors()[0]
        location = ".".join(map(str, first["loc"][1:]))
        if first["type"] == "json_invalid":
            return error_response(400, f"the body is no JSON, at character {location}", "send a JSON object")
        sent = "with Content-Type: application/json" if first["loc"] == ("body",) else "see /openapi.json"
        return error_response(422, f"{location}: {first['msg']}" if location else first["msg"], sent)

    async def refused(_: Any, error: HTTPException) -> Any:
        hint = "see /openapi.json" if error.status_code in (404, 405) else ""
        return error_response(error.status_code, error.detail, hint)

    async def failed(_: Any, error: Exception) -> Any:
        return error_response(500, "the server failed", "its log says why")

    app.add_exception_handler(ReasonGenRMError, ours)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, refused)
    app.add_exception_handler(Exception, failed)


class Gate:
    """Looks at the key before the body is read, and stops reading a body that is too large.

    Args:
        app: the ASGI app behind it.
        key: bearer key that a request must carry; None asks for none.
        most: bytes of a body.
        free: paths that need no key.
    """

    def __init__(self, app: Any, key: str | None, most: int, free: frozenset[str] = frozenset()) -> None:
        self.app, self.most, self.free = app, most, free
        self.expected = f"Bearer {key}".encode() if key else None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"authorization", b"")
        wanted = self.expected if scope["path"] not in self.free else None
        if wanted and not hmac.compare_digest(given, wanted):
            answer = error_response(401, "no valid key", "send Authorization: Bearer KEY")
            await answer(scope, receive, send)
            return
        taken = 0

        async def counted() -> Any:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self.most:
                from starlette.exceptions import HTTPException

                raise HTTPException(413, f"the body has more than {self.most} bytes")
            return message

        await self.app(scope, counted, send)


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0 takes a free one.

    Raises:
        ConfigError: the address is taken, or is none.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=1024)
    except (OSError, OverflowError) as error:
        raise ConfigError(f"cannot listen: {first_line(error)}", location=f"{host}:{port}") from None


def address(listening: socket.socket) -> str:
    """Return the URL of a listening socket."""
    name, taken = listening.getsockname()[:2]
    return f"http://{f'[{name}]' if ':' in name else name}:{taken}"


def loopback(host: str) -> bool:
    """Whether only this machine reaches a host."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@contextmanager
def signals_end() -> Iterator[None]:
    """uvicorn raises the signal that ended it once more when it has stopped: here that is the end of it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {name: signal.signal(name, lambda *_: None) for name in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
