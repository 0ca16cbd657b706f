"""The judge over HTTP: request schemas, size limits and routes."""

# No `from __future__ import annotations`: FastAPI reads the annotations of functions that are made inside a function.
import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from reasongenrm.engines.keys import Secret
from reasongenrm.errors import ConfigError, DataError, EngineError, ReasonGenRMError
from reasongenrm.judge.api import Judge
from reasongenrm.judge.inputs import Prompt
from reasongenrm.judge.rewards import Schedule, responses
from reasongenrm.judge.sharing import SharedJudge
from reasongenrm.judge.tournament import Ranking
from reasongenrm.judge.verdicts import preference
from reasongenrm.records import Comparison, Message
from reasongenrm.rows.turns import BadRow, read_prompt
from reasongenrm.serving import Gate, address, answer_errors, listen, loopback, signals_end


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may hold; more is answered by 413.

    Attributes:
        body: bytes.
        text: characters of a prompt's turn or an answer.
        turns: messages of a prompt.
        answers: answers to one prompt: of /rank, /best_of_n, and in /get_reward of a group.
        queries: samples of /get_reward.
    """

    body: int = 32 * 2**20
    text: int = 200_000
    turns: int = 512
    answers: int = 64
    queries: int = 8192


DEFAULT_LIMITS = Limits()


Text = Annotated[str, AfterValidator(lambda text: text.encode("utf-8", "replace").decode("utf-8"))]
"""JSON can hold half of a surrogate pair, which no answer could be written with: it is a question mark."""


class Turn(BaseModel):
    """One message of a prompt."""

    model_config = ConfigDict(extra="forbid")
    role: Literal["system", "user", "assistant"]
    content: Text


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid")
    prompt: Text | None = None
    messages: list[Turn] | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either prompt or messages")
        return self

    def question(self, limits: Limits) -> Prompt:
        """Return what is answered."""
        turns = [turn.content for turn in self.messages or ()]
        at_most("messages", len(turns), limits.turns)
        all_short("prompt", [self.prompt or "", *turns], limits)
        if self.messages is None:
            return _judged(self.prompt or "", "prompt")
        return _judged([Message(role=t.role, content=t.content) for t in self.messages], "messages")


class CompareRequest(_Asked):
    """Two answers."""

    a: Text
    b: Text


class ScoreRequest(_Asked):
    """An answer and one to compare it with."""

    answer: Text
    reference: Text


class BestRequest(_Asked):
    """Several answers."""

    answers: list[Text] = Field(min_length=1)


class RankRequest(BestRequest):
    """Several answers, and the tournament."""

    method: Literal["round_robin", "knockout", "swiss"] = "round_robin"


class RewardRequest(BaseModel):
    """OpenRLHF's body: prompts with the responses behind them, the prompts, and reference answers."""

    model_config = ConfigDict(extra="forbid")
    query: list[Text]  # of several servers, OpenRLHF sends some an empty list
    prompts: list[Text]
    labels: list[Text | None] | None = None

    @model_validator(mode="after")
    def _as_many(self) -> Self:
        if any(len(given) != len(self.query) for given in (self.prompts, self.labels) if given is not None):
            raise ValueError("query, prompts and labels must be of one length")
        return self

    def schedule(self, limits: Limits, ends: tuple[str, ...]) -> Schedule:
        """Return what is to be compared."""
        at_most("query", len(self.query), limits.queries)
        all_short("query", self.query, limits)
        labels = [
            label or None for label in self.labels or [None] * len(self.query)
        ]  # without a label_key it is ""
        all_short("labels", [label or "" for label in labels], limits)
        alone = Counter(p for p, label in zip(self.prompts, labels, strict=True) if label is None)
        at_most("samples of one prompt", max(alone.values(), default=0), limits.answers)
        if self.query and max(alone.values(), default=0) < 2 and not any(labels):
            raise DataError(
                "there is nothing to compare a sample with",
                location="query",
                hint="OpenRLHF posts each sample alone: give reference answers by its label_key",
            )
        prompts = [_judged(prompt, f"prompts[{number}]") for number, prompt in enumerate(self.prompts)]
        return Schedule.of(prompts, responses(self.query, self.prompts, ends), labels)


def _judged(prompt: Prompt, name: str) -> Prompt:
    """Refuse here what would spoil the batch it goes into."""
    try:
        return read_prompt(prompt, name)
    except BadRow as bad:
        raise DataError(bad.reason.replace("_", " "), location=name, hint=bad.detail) from None


class TooLarge(ReasonGenRMError):
    """A request holds more than it may; answered by 413."""


def at_most(problem: str, number: int, most: int) -> None:
    """Raise TooLarge for more than `most` of something."""
    if number > most:
        raise TooLarge(f"{number} {problem}", hint=f"at most {most} are taken")


def all_short(problem: str, texts: Iterable[str], limits: Limits) -> None:
    """Raise TooLarge for a text that is longer than it may be."""
    longest = max(map(len, texts), default=0)
    if longest > limits.text:
        raise TooLarge(f"{problem} has {longest} characters", hint=f"at most {limits.text} are taken")


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
    app.add_middleware(Gate, key=api_key, most=limits.body)
    answer_errors(app, {EngineError: 500, TooLarge: 413})
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
        raise EngineError(f"cannot serve: {error}", hint="pip install fastapi uvicorn") from None
    key = Secret(api_key_env, location="api_key_env").reveal()
    if not (key or allow_remote or loopback(host)):
        raise ConfigError(
            f"anybody who reaches {host} could ask the judge",
            location="host",
            hint="set a key (api_key_env), or allow it (--allow-remote)",
        )
    with ExitStack() as stack:
        listening = stack.enter_context(listen(host, port))
        running = judge if isinstance(judge, Judge) else stack.enter_context(judge())
        shared = stack.enter_context(SharedJudge(running))
        stack.enter_context(signals_end())
        app = create_app(shared, api_key=key, model=model, limits=limits, ends=ends)
        print(f"the judge is served at {address(listening)}", flush=True)
        uvicorn.Server(uvicorn.Config(app, log_level="info")).run(sockets=[listening])
