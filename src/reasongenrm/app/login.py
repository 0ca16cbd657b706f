"""The key of a page that other machines can reach: a form asks for it, and a cookie keeps it."""

# No `from __future__ import annotations`: Starlette reads the annotations of nested functions.

import hashlib
import hmac
import secrets
from typing import Any
from urllib.parse import parse_qs

from reasongenrm.serving import error_response

PATH = "/login"
COOKIE = "reasongenrm-key"
LARGEST_FORM = 4096
"""Limit of the form's body, in bytes."""

_FORM = """<!doctype html><html lang="en"><meta charset="utf-8"><title>reasongenrm</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">
<style>body{{font-family:system-ui,sans-serif;max-width:22rem;margin:15vh auto;padding:0 1rem}}
input,button{{font:inherit;width:100%;box-sizing:border-box;padding:.5rem;margin:.25rem 0}}</style>
<form method="post" action="login"><h1>reasongenrm</h1><p role="alert">{problem}</p>
<label>Key of this page<input type="password" name="key" autocomplete="current-password" autofocus required></label>
<button>Open the page</button></form></html>"""


class Login:
    """ASGI middleware: let requests pass that have the key, as a cookie from the form or as a bearer token.

    Args:
        app: the ASGI app.
        key: the key of the page.
    """

    def __init__(self, app: Any, key: str) -> None:
        self.app, self._key = app, key.encode()
        # A cookie is of this process alone, and tells nothing about the key.
        self._cookie = hmac.new(secrets.token_bytes(32), self._key, hashlib.sha256).hexdigest()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
        elif scope["path"] == PATH:
            await (await self._form(scope, receive))(scope, receive, send)
        elif self._has_key(scope):
            await self.app(scope, receive, send)
        else:
            await self._refusal(scope)(scope, receive, send)

    def _has_key(self, scope: Any) -> bool:
        from starlette.requests import Request

        request = Request(scope)
        bearer = request.headers.get("authorization", "").encode("latin-1")
        cookie = request.cookies.get(COOKIE, "").encode()
        # Both are compared, so that the time tells nothing.
        return hmac.compare_digest(bearer, b"Bearer " + self._key) | hmac.compare_digest(
            cookie, self._cookie.encode()
        )

    def _refusal(self, scope: Any) -> Any:
        from starlette.responses import RedirectResponse

        if scope["method"] == "GET" and scope["path"] == "/":
            return RedirectResponse(PATH, 303)
        return error_response(401, "no valid key", "open the page's address, and give its key")

    async def _form(self, scope: Any, receive: Any) -> Any:
        """Return the form, or the answer to it."""
        from starlette.requests import Request
        from starlette.responses import HTMLResponse, RedirectResponse

        if scope["method"] != "POST":
            return HTMLResponse(_FORM.format(problem=""))
        body = b""
        async for chunk in Request(scope, receive).stream():
            body += chunk
            if len(body) > LARGEST_FORM:
                return error_response(413, "the form is too large", "send the key alone")
        given = parse_qs(body.decode("latin-1"), max_num_fields=4).get("key", [""])[0]
        if not hmac.compare_digest(given.strip().encode(), self._key):
            return HTMLResponse(_FORM.format(problem="This is not the key."), 401)
        response = RedirectResponse("/", 303)
        response.set_cookie(COOKIE, self._cookie, httponly=True, samesite="strict")
        return response
