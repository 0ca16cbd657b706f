"""The judge as a server. Concurrent clients share the engine's batches.

serve(judge, port=8080)
RemoteJudge("http://127.0.0.1:8080").compare_many([("What is 2 + 2?", "4", "5")])  # of judge.remote
"""

# No `from __future__ import annotations`: FastAPI reads the annotations of functions that are made inside a function.

import asyncio
import hmac
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address
from typing import Any

from reasongenrm.engines.keys import Secret
from reasongenrm.errors import ConfigError, EngineError, ReasonGenRMError, first_line
from reasongenrm.judge.api import Judge
from reasongenrm.judge.bodies import (
    DEFAULT_LIMITS,
    BestRequest,
    CompareRequest,
    Limits,
    RankRequest,
    RewardRequest,
    ScoreRequest,
    TooLarge,
    all_short,
    at_most,
)
from reasongenrm.judge.given import Prompt
from reasongenrm.judge.ranking import Ranking
from reasongenrm.judge.sharing import SharedJudge
from reasongenrm.judge.votes import preference
from reasongenrm.records import Comparison


def _told(comparison: Comparison) -> dict[str, Any]:
    names = ("winner", "prob_a", "reason", "outcome", "prompt_tokens", "tokens")
    return {name: getattr(comparison, name) for name in names} | {"problem": comparison.error}


def _ranked(ranking: Ranking) -> dict[str, Any]:
    games = [
        {"first": g.first, "second": g.second, "winner": g.comparison.winner, "prob_a": g.comparison.prob_a}
        for g in ranking.games
    ]
    return {
        "order": ranking.order,
        "ratings": ranking.ratings,
        "unread": ranking.unread,
        "games": games,
        "prompt_tokens": sum(game.comparison.prompt_tokens for game in ranking.games),
        "tokens": sum(game.comparison.tokens for game in ranking.games),
    }


def create_app(
    judge: SharedJudge,
    *,
    api_key: str | None = None,
    model: str | None = None,
    limits: Limits = DEFAULT_LIMITS,
    ends: tuple[str, ...] = (),
) -> Any:
    """Return the FastAPI app over a judge.

    Args:
        judge: stays open.
        api_key: bearer key that every request must carry.
        model: what /health calls the model.
        limits: of one request.
        ends: see `rewards.responses`.
    """
    from fastapi import FastAPI, Request

    # No pages of documentation: they load scripts from elsewhere.
    app = FastAPI(title="reasongenrm", docs_url=None, redoc_url=None)
    app.add_middleware(_Gate, key=api_key, most=limits.body)
    _answer_errors(app)
    _add_tournaments(app, judge, limits)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        waiting = {"waiting": judge.waiting}
        return {"status": "ok", "model": model, "adapter": judge.adapter, "counts": judge.counts | waiting}

    @app.post("/compare")
    async def compare(asked: CompareRequest, request: Request) -> dict[str, Any]:
        all_short("an answer", (asked.a, asked.b), limits)
        rows = [(asked.question(limits), asked.a, asked.b)]
        return _told((await _result(request, judge.submit(rows)))[0])

    @app.post("/score")
    async def score(asked: ScoreRequest, request: Request) -> dict[str, Any]:
        all_short("an answer", (asked.answer, asked.reference), limits)
        rows = [(asked.question(limits), asked.answer, asked.reference)]
        [comparison] = await _result(request, judge.submit(rows))
        return {"score": preference(comparison), **_told(comparison)}

    @app.post("/get_reward")
    async def get_reward(asked: RewardRequest, request: Request) -> dict[str, Any]:
        schedule = asked.schedule(limits, ends)
        rewards = schedule.rewards(await _result(request, judge.submit(schedule.rows)), unread=0.5)
        return {"rewards": rewards, "scores": rewards, "extra_logs": {}}

    return app


def _add_tournaments(app: Any, judge: SharedJudge, limits: Limits) -> None:
    """Their routes are plain functions, which FastAPI runs in threads: a tournament waits for each of its rounds."""

    def question(asked: BestRequest) -> Prompt:
        at_most("answers", len(asked.answers), limits.answers)
        all_short("an answer", asked.answers, limits)
        return asked.question(limits)

    def rank(asked: RankRequest) -> dict[str, Any]:
        return _ranked(judge.rank(question(asked), asked.answers, method=asked.method))

    def best_of_n(asked: BestRequest) -> dict[str, Any]:
        best = judge.best_of_n(question(asked), asked.answers)
        return {"index": best.index, "answer": best.answer, **_ranked(best.ranking)}

    app.post("/rank")(rank)
    app.post("/best_of_n")(best_of_n)


async def _result(request: Any, future: Future[list[Comparison]]) -> list[Comparison]:
    """Wait for some comparisons; a client that goes away takes back what still waits."""
    from starlette.exceptions import HTTPException

    answer = asyncio.wrap_future(future)
    gone = asyncio.create_task(_gone(request))
    either: set[asyncio.Future[Any]] = {answer, gone}
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    gone.cancel()
    if answer.done():
        return answer.result()
    answer.cancel()
    raise HTTPException(499, "the client has gone away")


async def _gone(request: Any) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _error(status: int, error: str, mend: str = "") -> Any:
    from starlette.responses import JSONResponse

    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    return JSONResponse({"error": error, "mend": mend}, status, headers)


def _answer_errors(app: Any) -> None:
    """Have every error answered by {"error": what, "mend": …}."""
    from fastapi.exceptions import RequestValidationError
    from starlette.exceptions import HTTPException

    async def ours(_: Any, error: ReasonGenRMError) -> Any:
        status = 500 if isinstance(error, EngineError) else 413 if isinstance(error, TooLarge) else 400
        return _error(status, f"{error.where}: {error.what}" if error.where else error.what, error.mend)

    async def invalid(_: Any, error: RequestValidationError) -> Any:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"][1:]))
        if first["type"] == "json_invalid":
            return _error(400, f"the body is no JSON, at character {where}", "send a JSON object")
        sent = "with Content-Type: application/json" if first["loc"] == ("body",) else "see /openapi.json"
        return _error(422, f"{where}: {first['msg']}" if where else first["msg"], sent)

    async def refused(_: Any, error: HTTPException) -> Any:
        mend = "see /openapi.json" if error.status_code in (404, 405) else ""
        return _error(error.status_code, error.detail, mend)

    async def failed(_: Any, error: Exception) -> Any:
        return _error(500, "the server failed", "its log says why")

    app.add_exception_handler(ReasonGenRMError, ours)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, refused)
    app.add_exception_handler(Exception, failed)


class _Gate:
    """Looks at the key before the body is read, and stops reading a body that is too large."""

    def __init__(self, app: Any, key: str | None, most: int) -> None:
        self.app, self.most = app, most
        self.expected = f"Bearer {key}".encode() if key else None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"authorization", b"")
        if self.expected and not hmac.compare_digest(given, self.expected):
            answer = _error(401, "no valid key", "send Authorization: Bearer KEY")
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


def serve(
    judge: Judge | Callable[[], Judge],
    host: str = "127.0.0.1",
    port: int = 8080,
    *,
    api_key_env: str | None = None,
    allow_remote: bool = False,
    model: str | None = None,
    limits: Limits = DEFAULT_LIMITS,
    ends: tuple[str, ...] = (),
) -> None:
    """Serve a judge until SIGINT or SIGTERM; what was asked before is answered. Prints its address.

    Args:
        judge: stays open; or what starts one, once it is known that it can be served: that one is closed at the end.
        host, port: where to listen; port 0 takes a free one.
        api_key_env: environment variable with the bearer key that clients must send.
        allow_remote: listen to other machines without a key.
        model: what /health calls the model.
        limits: of one request.
        ends: texts of which one is cut off the end of an OpenRLHF response, such as the policy's `<|im_end|>`.

    Raises:
        ConfigError: others than this machine could ask without a key, or the address is taken.
        EngineError: FastAPI or uvicorn is missing, or the key is not in the environment.
    """
    try:
        import uvicorn
    except ImportError as error:
        raise EngineError(f"cannot serve: {error}", mend="pip install fastapi uvicorn") from None
    key = Secret(api_key_env, where="api_key_env").reveal()
    if not (key or allow_remote or _loopback(host)):
        raise ConfigError(
            f"anybody who reaches {host} could ask the judge",
            where="host",
            mend="set a key (api_key_env), or allow it (--allow-remote)",
        )
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family, backlog=1024)
    except (OSError, OverflowError) as error:
        raise ConfigError(f"cannot listen: {first_line(error)}", where=f"{host}:{port}") from None
    with ExitStack() as stack:
        stack.enter_context(listening)
        running = judge if isinstance(judge, Judge) else stack.enter_context(judge())
        shared = stack.enter_context(SharedJudge(running))
        stack.enter_context(_signals_end())
        app = create_app(shared, api_key=key, model=model, limits=limits, ends=ends)
        name, taken = listening.getsockname()[:2]
        print(f"the judge is served at http://{f'[{name}]' if ':' in name else name}:{taken}", flush=True)
        uvicorn.Server(uvicorn.Config(app, log_level="info")).run(sockets=[listening])


def _loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@contextmanager
def _signals_end() -> Iterator[None]:
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
