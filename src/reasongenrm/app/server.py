"""The server of the page: who may open it, and how it stops."""

# No `from __future__ import annotations`: FastAPI reads the annotations of nested functions.

from contextlib import ExitStack
from typing import Any

from reasongenrm.app.history import PLACE, History, preference_rows, question_rows
from reasongenrm.app.judges import recipe_judge
from reasongenrm.app.runs import RunFolders, add_reports
from reasongenrm.app.sources import AppSources
from reasongenrm.console import say, show
from reasongenrm.engines.keys import Secret
from reasongenrm.errors import ConfigError, DataError, EngineError
from reasongenrm.serving import (
    LOOPBACK_NAMES,
    Gate,
    OwnSite,
    add_error_handlers,
    address,
    ignore_reraised_signals,
    is_loopback,
    listen,
    spawn_engine_processes,
)
from reasongenrm.store import dump_line

LARGEST_BODY = 8 * 2**20
"""Limit of a request, in bytes."""

STOP_SECONDS = 3
"""How long a stop waits for open requests: every open page holds one."""

POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'none'"
)
"""Content policy: Gradio's inline scripts and styles, and nothing from other hosts."""


class ContentPolicy:
    """ASGI middleware: the browser may load nothing from other hosts, and no other page may frame this one."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                policy = (b"content-security-policy", POLICY.encode())
                message["headers"] = [*message["headers"], policy]
            await send(message)

        await self.app(scope, receive, send_with_policy if scope["type"] == "http" else send)


def add_history(app: Any, history: History) -> None:
    """Add the routes that the links of the history lead to: GET /history/<name>.jsonl."""
    from fastapi.responses import JSONResponse, Response

    @app.get("/history/{name}.jsonl")
    def rows(name: str) -> Response:
        calls = history.calls()
        if name == "history":
            found = [call.to_row() for call in calls]
        elif name == "pairs":
            found = list(preference_rows(calls))
        elif name in ("compare", "rank", "rate"):
            found = list(question_rows(calls, name))  # type: ignore[arg-type]
        else:
            return JSONResponse({"error": "no such file", "hint": ""}, 404)
        headers = {"Content-Disposition": f'attachment; filename="{name}.jsonl"'}
        return Response("".join(map(dump_line, found)), media_type="application/jsonl", headers=headers)


def create_app(
    sources: AppSources, *, api_key: str | None = None, hosts: frozenset[str] | None = LOOPBACK_NAMES
) -> Any:
    """Return the FastAPI app of the page.

    Args:
        sources: inputs of the tabs.
        api_key: key that every request must have; a browser gets a form for it.
        hosts: host names that requests may use, against DNS rebinding; None accepts all, which is safe only with a key.
    """
    import gradio as gr
    from fastapi import FastAPI

    from reasongenrm.app.login import PATH, Login
    from reasongenrm.app.page import build_page, page_look

    # No pages of documentation: they load scripts from elsewhere.
    app = FastAPI(title="reasongenrm", docs_url=None, redoc_url=None, openapi_url=None)
    # The last one added is the first to see a request.
    app.add_middleware(Gate, key=None, max_bytes=LARGEST_BODY)
    if api_key:
        app.add_middleware(Login, key=api_key)
    app.add_middleware(OwnSite, hosts=hosts, page="/", forms=frozenset({PATH}))
    app.add_middleware(ContentPolicy)
    add_error_handlers(app, {DataError: 500})
    add_history(app, History(sources.runs / PLACE))
    add_reports(app, RunFolders(sources.runs))
    return gr.mount_gradio_app(
        app,
        build_page(sources),
        path="/",
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
        show_error=False,
        max_file_size=LARGEST_BODY,
        **page_look(),
    )


def serve(
    sources: AppSources, host: str = "127.0.0.1", port: int = 0, *, api_key_env: str | None = None
) -> None:
    """Serve the page until SIGINT or SIGTERM, and print its address; the judge of `sources` loads in the background.

    Args:
        sources: inputs of the tabs.
        host, port: where to listen; port 0 takes a free one.
        api_key_env: environment variable with the key of the page.

    Raises:
        ConfigError: other machines could use the page without a key, or the address is in use.
        EngineError: Gradio is missing, or the key is not in the environment.
    """
    key = Secret(api_key_env, location="--api-key-env").reveal() or None
    if not (key or is_loopback(host)):
        raise ConfigError(
            f"anyone who can reach {host} could use the page without a key",
            location="--host",
            hint="set a key (--api-key-env), or listen on 127.0.0.1",
        )
    try:
        import gradio  # noqa: F401

        from reasongenrm.connections import ConnectionLimits, run_server
    except ImportError as error:
        raise EngineError(f"cannot serve the page: {error}", hint="pip install 'gradio>=6.31,<7'") from None
    spawn_engine_processes()
    hosts = (LOOPBACK_NAMES | {host.lower()}) if key is None else None
    with ExitStack() as stack:
        listening = stack.enter_context(listen(host, port))
        app = create_app(sources, api_key=key, hosts=hosts)
        stack.callback(sources.slot.close)
        stack.enter_context(ignore_reraised_signals())
        if sources.recipe:
            choice = recipe_judge(sources.recipe, sources.judge)
            sources.slot.load(choice.name, choice.start)
            say(f"the judge {choice.name} loads in the background")
        show(f"the page is at {address(listening)} (Ctrl-C stops it)")
        limits = ConnectionLimits(stop_seconds=STOP_SECONDS)
        run_server(app, listening, limits, log_level="warning")
