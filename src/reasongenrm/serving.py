"""Parts of both HTTP servers: who may ask, the key and size of requests, the JSON of errors, and listening."""

# No `from __future__ import annotations`: FastAPI reads the annotations of nested functions.

import hmac
import os
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from ipaddress import ip_address
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from reasongenrm.errors import ConfigError, ReasonGenRMError, first_invalid, first_line


def spawn_engine_processes() -> None:
    """Let vLLM start processes of their own: it forks them by default, which is not safe beside the threads of a server."""
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")


def error_response(status: int, error: str, hint: str = "", retry_after: int | None = None) -> Any:
    """Return the JSON response {"error", "hint"} to a request that failed; `retry_after` is in seconds."""
    from starlette.responses import JSONResponse

    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    if retry_after is not None:
        headers["Retry-After"] = str(retry_after)
    return JSONResponse({"error": error, "hint": hint}, status, headers)


def add_error_handlers(app: Any, statuses: Mapping[type[ReasonGenRMError], int]) -> None:
    """Make an app respond to every error with {"error": problem, "hint": …}, and Retry-After where the error has `retry_after`.

    Args:
        app: a FastAPI app.
        statuses: HTTP status by class of the error, or of its nearest base class; by default 400.
    """
    from fastapi.exceptions import RequestValidationError
    from starlette.exceptions import HTTPException

    async def user_error(_: Any, error: ReasonGenRMError) -> Any:
        status = next((statuses[kind] for kind in type(error).__mro__ if kind in statuses), 400)
        problem = f"{error.location}: {error.problem}" if error.location else error.problem
        return error_response(status, problem, error.hint, getattr(error, "retry_after", None))

    async def invalid(request: Any, error: RequestValidationError) -> Any:
        errors = error.errors()
        first = errors[0]
        if first["type"] == "json_invalid":
            problem = f"invalid JSON at character {first['loc'][-1]}"
            return error_response(400, problem, "send a JSON object")
        if first["loc"] == ("body",) and not _says_json(request.headers.get("content-type", "")):
            return error_response(
                422, "the body is not declared as JSON", "send Content-Type: application/json"
            )
        if first["loc"] == ("body",) and first["type"] == "missing":  # FastAPI reads null as no body
            return error_response(422, "the body is empty or null", "send a JSON object")
        if first["loc"] == ("body",) and first["type"] == "model_attributes_type":
            return error_response(422, "the body is not a JSON object", "see /openapi.json")
        place, problem, hint = first_invalid(errors, "see /openapi.json")
        location = ".".join(map(str, place[1:]))
        return error_response(422, f"{location}: {problem}" if location else problem, hint)

    async def http_error(_: Any, error: HTTPException) -> Any:
        hints = {
            400: "send a JSON object in UTF-8",
            413: "send a smaller body",
            499: "",
            503: "ask again later",
        }
        return error_response(
            error.status_code, error.detail, hints.get(error.status_code, "see /openapi.json")
        )

    async def internal_error(_: Any, error: Exception) -> Any:
        return error_response(500, "internal server error", "see the log of the server")

    app.add_exception_handler(ReasonGenRMError, user_error)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(Exception, internal_error)


def _says_json(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() == "application/json"


LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "::1"})
"""Names of this machine that a request may use: not those which another site's DNS may point here."""

_HEADERS = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


class OwnSite:
    """ASGI middleware: refuse requests that other web pages send, and forbid caches and content sniffing.

    Args:
        app: the ASGI app.
        hosts: host names that requests may use, against DNS rebinding; None accepts all, which is safe only with a key.
        page: path of a page that other pages may link to.
        forms: paths that receive HTML forms, not JSON.
    """

    def __init__(
        self,
        app: Any,
        hosts: frozenset[str] | None,
        page: str | None = None,
        forms: frozenset[str] = frozenset(),
    ) -> None:
        self.app, self.hosts, self.page, self.forms = app, hosts, page, forms

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_HEADERS]
            await send(message)

        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        refusal = self._refusal(scope["method"], scope["path"], headers)
        await (refusal or self.app)(scope, receive, send_with_headers)

    def _refusal(self, method: str, path: str, headers: dict[str, str]) -> Any:
        host = headers.get("host", "")
        hint = "use the address that the server printed"
        if self.hosts is not None and _name(host) not in self.hosts:
            return error_response(403, "unknown host name", hint)
        origin = headers.get("origin")
        if origin is not None and _netloc(origin) != host.lower():
            return error_response(403, "the request comes from another web page", hint)
        if path != self.page and headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
            return error_response(403, "the request comes from another web page", hint)
        declared = _says_json(headers.get("content-type", ""))
        if method == "POST" and not declared and path not in self.forms:
            problem = "the body is not declared as JSON"
            return error_response(415, problem, "send Content-Type: application/json")
        return None


def _name(host: str) -> str:
    """Return the name in a Host header, without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _netloc(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc.lower() or None
    except ValueError:
        return None


class Gate:
    """ASGI middleware: check the key before the body is read, and refuse a body that is too large.

    Args:
        app: the ASGI app.
        key: bearer key that a request must have; None: no key is needed.
        max_bytes: largest size of a body.
        larger: the same for some paths.
        open_paths: paths that need no key.
        memory: bytes of all bodies that are held at the same time; a request beyond them gets status 503.
    """

    def __init__(
        self,
        app: Any,
        key: str | None,
        max_bytes: int,
        larger: Mapping[str, int] = MappingProxyType({}),
        open_paths: frozenset[str] = frozenset(),
        memory: int = 256 * 2**20,
    ) -> None:
        self.app, self.max_bytes, self.larger = app, max_bytes, larger
        self.open_paths, self.memory = open_paths, memory
        self._key = key.encode() if key else None
        self._held = 0  # bytes of bodies

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        needed = self._key is not None and scope["path"] not in self.open_paths
        if needed and not self._is_key(headers.get(b"authorization", b"")):
            response = error_response(401, "no valid key", "send Authorization: Bearer KEY")
            await response(scope, receive, send)
            return
        max_bytes = self.larger.get(scope["path"], self.max_bytes)
        too_large = f"the body has more than {max_bytes} bytes"
        if int(headers.get(b"content-length") or 0) > max_bytes:  # h11 accepts only digits
            await error_response(413, too_large, "send a smaller body")(scope, receive, send)
            return
        size = 0

        async def receive_limited() -> Any:
            from starlette.exceptions import HTTPException

            nonlocal size
            message = await receive()
            count = len(message.get("body", b""))
            size += count
            self._held += count
            if size > max_bytes:
                raise HTTPException(413, too_large)
            if self._held > self.memory:
                raise HTTPException(503, "the server holds too many large bodies")
            return message

        try:
            await self.app(scope, receive_limited, send)
        finally:
            self._held -= size

    def _is_key(self, authorization: bytes) -> bool:
        """Whether a header holds the key; the name of its scheme may be in any case (RFC 9110, section 11.1)."""
        scheme, _, sent = authorization.partition(b" ")
        return hmac.compare_digest(sent.lstrip(b" "), self._key or b"") and scheme.lower() == b"bearer"


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
