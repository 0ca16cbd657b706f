"""The judge over HTTP: request schemas, size limits and routes."""

# No `from __future__ import annotations`: FastAPI reads the annotations of nested functions.
import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from reasongenrm.console import show
from reasongenrm.engines.keys import Secret
from reasongenrm.errors import ConfigError, DataError, EngineError, ReasonGenRMError
from reasongenrm.judge.api import Judge, PromptInput, input_errors
from reasongenrm.judge.ask import preference
from reasongenrm.judge.remote import COMPARISON_FIELDS
from reasongenrm.judge.rewards import Schedule, openrlhf_responses
from reasongenrm.judge.sharing import JudgeBusy, SharedJudge
from reasongenrm.judge.tournament import Method, Ranking
from reasongenrm.records import Comparison, Message
from reasongenrm.rows.turns import read_prompt, replace_surrogates
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


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one request; a larger one is answered with status 413, one that takes longer with 503.

    Attributes:
        body: bytes.
        rewards_body: bytes of a body of /get_reward.
        text: characters of a prompt's turn or an answer.
        turns: messages of a prompt.
        answers: answers to one prompt: of /rank and /best_of_n, and samples without a label in /get_reward.
        queries: samples of /get_reward.
        seconds: from the end of a request to its answer, the time in the queue included.
    """

    body: int = 8 * 2**20
    rewards_body: int = 32 * 2**20
    text: int = 200_000
    turns: int = 512
    answers: int = 64
    queries: int = 8192
    seconds: float = 3600


DEFAULT_LIMITS = Limits()


Text = Annotated[str, AfterValidator(replace_surrogates)]
"""JSON may contain lone surrogates, which UTF-8 cannot encode: they become question marks."""


class Turn(BaseModel):
    """One message of a prompt."""

    model_config = ConfigDict(extra="forbid")
    role: Literal["system", "user", "assistant"]
    content: Text


class _PromptBody(BaseModel):
    model_config = ConfigDict(extra="forbid")
    prompt: Text | None = None
    messages: list[Turn] | None = None

    @model_validator(mode="after")
    def _check_one(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either prompt or messages")
        return self

    def checked_prompt(self, limits: Limits, *answers: str) -> list[Message]:
        """Return the prompt as messages; check the sizes of prompt and answers, and their number."""
        check_count("answers", len(answers), limits.answers)
        check_lengths("an answer", answers, limits)
        messages = [Message(role=turn.role, content=turn.content) for turn in self.messages or ()]
        check_count("messages", len(messages), limits.turns)
        check_lengths("prompt", [self.prompt or "", *(turn["content"] for turn in messages)], limits)
        if self.prompt is not None:
            return _check_prompt(self.prompt, "prompt")
        return _check_prompt(messages, "messages")


class CompareRequest(_PromptBody):
    """Two answers."""

    a: Text
    b: Text


class ScoreRequest(_PromptBody):
    """An answer and one to compare it with."""

    answer: Text
    reference: Text


class BestRequest(_PromptBody):
    """Several answers."""

    answers: list[Text] = Field(min_length=1)


class RankRequest(BestRequest):
    """Several answers, and the tournament."""

    method: Method = "round_robin"


class RewardRequest(BaseModel):
    """OpenRLHF's body: prompts followed by their responses, the prompts, and reference answers."""

    model_config = ConfigDict(extra="forbid")
    query: list[Text]  # with several servers, OpenRLHF sends empty lists to some
    prompts: list[Text]
    labels: list[Text | None] | None = None

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        if any(len(texts) != len(self.query) for texts in (self.prompts, self.labels) if texts is not None):
            raise ValueError("query, prompts and labels must have the same length")
        return self

    def schedule(self, limits: Limits, ends: tuple[str, ...]) -> Schedule:
        """Return the comparisons to request."""
        check_count("query", len(self.query), limits.queries)
        check_lengths("query", self.query, limits)
        # Without a label_key, OpenRLHF sends empty labels.
        labels = [label or None for label in self.labels or [None] * len(self.query)]
        check_lengths("labels", [label or "" for label in labels], limits)
        unlabelled = Counter(p for p, label in zip(self.prompts, labels, strict=True) if label is None)
        check_count("samples of one prompt", max(unlabelled.values(), default=0), limits.answers)
        if self.query and max(unlabelled.values(), default=0) < 2 and not any(labels):
            raise DataError(
                "no answer to compare a sample with",
                location="query",
                hint="OpenRLHF posts each sample alone: send reference answers with its label_key",
            )
        prompts = [_check_prompt(prompt, f"prompts[{number}]") for number, prompt in enumerate(self.prompts)]
        return Schedule.from_samples(prompts, openrlhf_responses(self.query, self.prompts, ends), labels)


def _check_prompt(prompt: PromptInput, location: str) -> list[Message]:
    """Return a prompt as messages; an invalid one is refused before it joins a batch."""
    with input_errors(location):
        return read_prompt(prompt, location)


class TooLarge(ReasonGenRMError):
    """A request exceeds a limit; answered with status 413."""


def check_count(name: str, count: int, limit: int) -> None:
    """Raise TooLarge for more items than the limit."""
    if count > limit:
        raise TooLarge(f"{count} are too many", location=name, hint=f"the limit is {limit}")


def check_lengths(name: str, texts: Iterable[str], limits: Limits) -> None:
    """Raise TooLarge for a text longer than the limit."""
    check_count(f"characters in {name}", max(map(len, texts), default=0), limits.text)


def _comparison_json(comparison: Comparison) -> dict[str, Any]:
    return {name: getattr(comparison, name) for name in COMPARISON_FIELDS} | {"problem": comparison.error}


def _ranking_json(ranking: Ranking) -> dict[str, Any]:
    games = [
        {"first": game.first, "second": game.second}
        | {name: getattr(game.comparison, name) for name in ("winner", "prob_a", "reason", "reasons")}
        for game in ranking.games
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
    hosts: frozenset[str] | None = LOOPBACK_NAMES,
) -> Any:
    """Return the FastAPI app of a judge.

    Args:
        judge: the judge; it stays open.
        api_key: bearer key that every request must send.
        model: the model's name in /health.
        limits: of one request.
        ends: see `rewards.openrlhf_responses`.
        hosts: host names that requests may use; None accepts all.
    """
    from fastapi import FastAPI, Request

    # No documentation pages: they load scripts from other hosts.
    app = FastAPI(title="reasongenrm", docs_url=None, redoc_url=None)
    larger = {"/get_reward": limits.rewards_body}
    app.add_middleware(Gate, key=api_key, max_bytes=limits.body, larger=larger)
    app.add_middleware(OwnSite, hosts=hosts)
    add_error_handlers(app, {JudgeBusy: 503, EngineError: 500, TooLarge: 413})

    # Tournaments are plain functions, which FastAPI runs in threads: they wait for each of their rounds.
    @app.post("/rank")
    def rank(body: RankRequest) -> dict[str, Any]:
        prompt = body.checked_prompt(limits, *body.answers)
        return _ranking_json(judge.rank(prompt, body.answers, method=body.method))

    @app.post("/best_of_n")
    def best_of_n(body: BestRequest) -> dict[str, Any]:
        best = judge.best_of_n(body.checked_prompt(limits, *body.answers), body.answers)
        return {"index": best.index, "answer": best.answer, **_ranking_json(best.ranking)}

    @app.get("/health")
    async def health() -> dict[str, Any]:
        waiting = {"waiting": judge.waiting}
        return {"status": "ok", "model": model, "adapter": judge.adapter, "counts": judge.counts | waiting}

    @app.post("/compare")
    async def compare(body: CompareRequest, request: Request) -> dict[str, Any]:
        row = (body.checked_prompt(limits, body.a, body.b), body.a, body.b)
        [comparison] = await _result(request, judge.submit([row]), limits)
        return _comparison_json(comparison)

    @app.post("/score")
    async def score(body: ScoreRequest, request: Request) -> dict[str, Any]:
        prompt = body.checked_prompt(limits, body.answer, body.reference)
        [comparison] = await _result(request, judge.submit([(prompt, body.answer, body.reference)]), limits)
        return {"score": preference(comparison), **_comparison_json(comparison)}

    @app.post("/get_reward")
    async def get_reward(body: RewardRequest, request: Request) -> dict[str, Any]:
        schedule = body.schedule(limits, ends)
        rewards = schedule.rewards(await _result(request, judge.submit(schedule.rows), limits))
        return {"rewards": rewards, "scores": rewards, "extra_logs": {}}

    return app


async def _result(request: Any, future: Future[list[Comparison]], limits: Limits) -> list[Comparison]:
    """Wait for comparisons; if the client disconnects or waits too long, cancel those that have not started."""
    from starlette.exceptions import HTTPException

    answer = asyncio.wrap_future(future)
    disconnect = asyncio.create_task(_disconnect(request))
    either: set[asyncio.Future[Any]] = {answer, disconnect}
    await asyncio.wait(either, timeout=limits.seconds, return_when=asyncio.FIRST_COMPLETED)
    disconnected = disconnect.done()
    disconnect.cancel()
    if answer.done():
        return answer.result()
    answer.cancel()
    if disconnected:
        raise HTTPException(499, "the client has disconnected")
    raise JudgeBusy.after(limits.seconds)


async def _disconnect(request: Any) -> None:
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
    """Serve a judge until SIGINT or SIGTERM; requests received before are answered. Prints its address.

    Args:
        judge: a judge, which stays open; or a function that starts one once the address is bound, which is closed at
            the end.
        host, port: address to listen on; port 0 selects a free port.
        api_key_env: environment variable with the bearer key that clients must send.
        allow_remote: accept clients from other machines without a key.
        model: the model's name in /health.
        limits: of one request.
        ends: texts removed from the end of OpenRLHF responses, such as the policy's `<|im_end|>`.

    Raises:
        ConfigError: other machines could use the judge without a key, or the address is in use.
        EngineError: FastAPI or uvicorn is missing, or the key is not in the environment.
    """
    try:
        from reasongenrm.connections import run_server
    except ImportError as error:
        hint = "pip install fastapi uvicorn"
        raise EngineError(f"cannot serve: {error}", location="serve", hint=hint) from None
    key = Secret(api_key_env, location="api_key_env").reveal()
    if not (key or allow_remote or is_loopback(host)):
        raise ConfigError(
            f"anyone who can reach {host} could use the judge without a key",
            location="host",
            hint="set a key (--api-key-env), or allow it (--allow-remote)",
        )
    with ExitStack() as stack:
        listening = stack.enter_context(listen(host, port))
        running = judge if isinstance(judge, Judge) else stack.enter_context(judge())
        shared = stack.enter_context(SharedJudge(running, seconds=limits.seconds))
        stack.enter_context(ignore_reraised_signals())
        # With a key, a proxy in front of this machine may keep its own host name.
        hosts = LOOPBACK_NAMES | {host.lower()} if is_loopback(host) and not key else None
        app = create_app(shared, api_key=key, model=model, limits=limits, ends=ends, hosts=hosts)
        show(f"the judge is served at {address(listening)}")
        run_server(app, listening, log_level="info")
