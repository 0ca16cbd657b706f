"""Rank answers on a local web page: the page, and its JSON API."""

# No `from __future__ import annotations`: FastAPI reads the annotations of functions made inside a function.

import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from pydantic import BaseModel, ConfigDict, StrictInt, StrictStr

from reasongenrm.answers.session import RankingSession, StalePrompt, annotator_name
from reasongenrm.answers.terminal import visible
from reasongenrm.engines.keys import Secret
from reasongenrm.errors import ConfigError, DataError, EngineError
from reasongenrm.report.pages import csp_hash, render
from reasongenrm.serving import (
    LOOPBACK_NAMES,
    Gate,
    OwnSite,
    add_error_handlers,
    address,
    ignore_reraised_signals,
    is_loopback,
    listen,
)

LARGEST_BODY = 2**20
"""Limit of a request, in bytes."""


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")

    annotator: StrictStr


class Undo(_Body):
    """Undo the annotator's last ranking or skip."""


class Skip(_Body):
    """Move a prompt to the end; `prompt` is the id of the prompt on the page."""

    prompt: StrictStr


class Rank(Skip):
    """Rank the prompt on the page: numbers of its answers, the best group first."""

    groups: list[list[StrictInt]]


def create_app(
    open_session: Callable[[str], RankingSession],
    *,
    changed: Callable[[], None] = lambda: None,
    annotator: str = "",
    api_key: str | None = None,
    hosts: frozenset[str] | None = LOOPBACK_NAMES,
) -> Any:
    """Return the FastAPI app: the page at /, GET /state?annotator=NAME, and POST /rank, /skip and /undo.

    An error has a status of at least 400 and the body {"error": problem, "hint": hint}; 409 means that the page shows
    another prompt than the current one.

    Args:
        open_session: annotator's name -> their session; called once per annotator.
        changed: called after every ranking, skip and undo.
        annotator: the first value of the name field.
        api_key: bearer key required for every request except the page.
        hosts: host names that requests may use, against DNS rebinding; None accepts all, which is safe only with a key.
    """
    from fastapi import FastAPI
    from starlette.responses import HTMLResponse

    page, policy = _page(annotator)
    desk = _Desk(open_session, changed)
    # No pages of documentation: they load scripts from elsewhere.
    app = FastAPI(title="reasongenrm", docs_url=None, redoc_url=None)
    app.add_middleware(Gate, key=api_key, max_bytes=LARGEST_BODY, open_paths=frozenset({"/"}))
    app.add_middleware(OwnSite, hosts=hosts, page="/")
    add_error_handlers(app, {DataError: 500, EngineError: 500, StalePrompt: 409})

    # Plain functions, which FastAPI runs in threads: each waits for the disk.
    @app.get("/")
    def index() -> HTMLResponse:
        return HTMLResponse(page, headers={"Content-Security-Policy": policy, "X-Frame-Options": "DENY"})

    @app.get("/state")
    def state(annotator: str) -> dict[str, Any]:
        return desk.work(annotator, None)

    @app.post("/rank")
    def rank(body: Rank) -> dict[str, Any]:
        return desk.work(body.annotator, lambda session: session.rank(body.groups, prompt=body.prompt))

    @app.post("/skip")
    def skip(body: Skip) -> dict[str, Any]:
        return desk.work(body.annotator, lambda session: session.skip(prompt=body.prompt))

    @app.post("/undo")
    def undo(body: Undo) -> dict[str, Any]:
        return desk.work(body.annotator, lambda session: session.undo())

    return app


def _page(annotator: str) -> tuple[str, str]:
    """Return the page, and the content policy for its header."""
    page = render("rank.html.jinja", room="answers", annotator=annotator)
    style = page.partition("<style>")[2].partition("</style>")[0]
    script = page.partition("<script>")[2].partition("</script>")[0]
    policy = (
        f"default-src 'none'; script-src {csp_hash(script)}; style-src {csp_hash(style)}; img-src data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return page, policy


class _Desk:
    """The annotators' sessions. One request at a time: each takes milliseconds."""

    def __init__(self, open_session: Callable[[str], RankingSession], changed: Callable[[], None]) -> None:
        self._open, self._changed = open_session, changed
        self._sessions: dict[str, RankingSession] = {}
        self._lock = threading.Lock()

    def work(self, annotator: str, do: Callable[[RankingSession], None] | None) -> dict[str, Any]:
        """Apply an operation, if any, and return the new state of the page."""
        name = annotator_name(annotator)
        with self._lock:
            session = self._sessions.get(name) or self._open(name)
            self._sessions[name] = session
            if do is None:
                session.refresh()
            else:
                do(session)
                self._changed()
            return _state(session)


def _state(session: RankingSession) -> dict[str, Any]:
    question, progress = session.current, session.progress
    prompt_view = question and {
        "id": question.id,
        "turns": [{"role": turn["role"], "content": visible(turn["content"])} for turn in question.history],
        "answers": [visible(answer.text) for answer in question.answers],
    }
    counts = {"ranked": progress.ranked, "skipped": progress.skipped, "total": progress.total}
    return {
        "annotator": session.annotator,
        "progress": counts,
        "can_undo": session.can_undo,
        "prompt": prompt_view,
    }


def serve(
    open_session: Callable[[str], RankingSession],
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    changed: Callable[[], None] = lambda: None,
    annotator: str = "",
    api_key_env: str | None = None,
) -> None:
    """Serve the page until SIGINT or SIGTERM, and print its address.

    Args:
        open_session, changed, annotator: see `create_app`.
        host, port: where to listen; port 0 takes a free one.
        api_key_env: environment variable with the key that annotators must give on the page.

    Raises:
        ConfigError: other machines could rank without a key, or the address is in use.
        EngineError: FastAPI or uvicorn is missing, or the key is not in the environment.
    """
    try:
        import fastapi  # noqa: F401

        from reasongenrm.connections import run_server
    except ImportError as error:
        raise EngineError(f"cannot serve: {error}", hint="pip install fastapi uvicorn") from None
    key = Secret(api_key_env, location="api_key_env").reveal() or None
    if not (key or is_loopback(host)):
        raise ConfigError(
            f"everyone who reaches {host} could rank the answers",
            location="host",
            hint="set a key (api_key_env), or listen on 127.0.0.1",
        )
    hosts = (LOOPBACK_NAMES | {host.lower()}) if key is None else None
    with ExitStack() as stack:
        listening = stack.enter_context(listen(host, port))
        stack.enter_context(ignore_reraised_signals())
        app = create_app(open_session, changed=changed, annotator=annotator, api_key=key, hosts=hosts)
        print(f"rank the answers at {address(listening)} (Ctrl-C stops; all rankings are kept)", flush=True)
        run_server(app, listening, log_level="warning")
