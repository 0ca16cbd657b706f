"""A scalar head over HTTP: `/score` and `/classify` in the format of vLLM's pooling server."""

# No `from __future__ import annotations`: FastAPI reads the annotations of nested functions.
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from typing import Annotated, Any, Literal, Self
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field, model_validator

from reasongenrm.errors import DataError, EngineError
from reasongenrm.judge.inputs import input_errors
from reasongenrm.judge.sharing import JudgeBusy
from reasongenrm.processes import end_thread_pool
from reasongenrm.records import Message
from reasongenrm.rows.turns import check_turns
from reasongenrm.scalar.model import ScalarRewardModel
from reasongenrm.service.bodies import (
    DEFAULT_LIMITS,
    Limits,
    Text,
    TooLarge,
    Turn,
    check_count,
    check_lengths,
)
from reasongenrm.service.serve import serve_app
from reasongenrm.serving import LOOPBACK_NAMES, Gate, OwnSite, add_error_handlers

Context = Text | Annotated[list[Turn], Field(min_length=1)]
"""What is answered: a text, which is one user turn, or the turns up to the last user turn (vLLM knows texts alone)."""

CONTEXTS = {"text_1": "text_2", "queries": "documents", "data_1": "data_2"}
"""Names of contexts -> the name of their responses, as vLLM has them."""

PAIR_CHARACTERS = 2**25
"""Limit of one request: characters of all pairs of context and response. One long context may be a part of thousands of pairs."""


class _Body(BaseModel):
    """Keys of both requests.

    A head has its own scale, so vLLM's `use_activation` can only be false, and its own limit of tokens, so that
    `truncate_prompt_tokens` can only be -1.
    """

    model_config = ConfigDict(extra="forbid")
    model: str | None = None
    user: str | None = None
    use_activation: Literal[False] | None = None
    truncate_prompt_tokens: Literal[-1] | None = None


class PairsRequest(_Body):
    """Contexts and responses: one to one, or one context with all responses."""

    text_1: Context | list[Context] | None = None
    text_2: Text | list[Text] | None = None
    queries: Context | list[Context] | None = None
    documents: Text | list[Text] | None = None
    data_1: Context | list[Context] | None = None
    data_2: Text | list[Text] | None = None

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        present = [{first, second} & self.model_fields_set for first, second in CONTEXTS.items()]
        if sorted(map(len, present)) != [0, 0, 2]:
            names = "; ".join(f"{first} and {second}" for first, second in CONTEXTS.items())
            raise ValueError(f"give one of these pairs: {names}")
        return self

    def pairs(self, limits: Limits) -> tuple[list[str | list[Message]], list[str]]:
        """Return a context and a response per score.

        Raises:
            DataError: the numbers differ, or a conversation does not end in a user turn.
            TooLarge: a limit is exceeded.
        """
        first, second = next((a, b) for a, b in CONTEXTS.items() if a in self.model_fields_set)
        given, texts = getattr(self, first), getattr(self, second)
        responses = [texts] if isinstance(texts, str) else list(texts or ())
        one = isinstance(given, str) or (bool(given) and all(isinstance(turn, Turn) for turn in given))
        sent = [given] if one else list(given or ())
        check_count(second, len(responses), limits.queries)
        check_lengths(second, responses, limits)
        read = [_context(context, f"{first}[{i}]", limits) for i, context in enumerate(sent)]
        if not responses or len(read) not in (1, len(responses)):
            hint = f"give as many {first} as {second}, or one for all"
            problem = f"{len(read)} {first} and {len(responses)} {second}"
            raise DataError(problem, location=first, hint=hint)
        contexts = read * len(responses) if len(read) == 1 else read
        check_count("characters in all pairs", _characters(contexts, responses), PAIR_CHARACTERS)
        return contexts, responses


class ConversationRequest(_Body):
    """A conversation whose last turn is the assistant's: the response."""

    messages: list[Turn]

    def pair(self, limits: Limits) -> tuple[list[Message], str]:
        """Return context and response.

        Raises:
            DataError: the conversation does not end in an assistant turn after a user turn.
            TooLarge: a limit is exceeded.
        """
        if not self.messages or self.messages[-1].role != "assistant":
            hint = "end them with the response, as the turn of the assistant"
            raise DataError("the last turn is not the assistant's", location="messages", hint=hint)
        *context, last = self.messages
        check_lengths("messages", [last.content], limits)
        return _turns(context, "messages", limits), last.content


def _characters(contexts: Sequence[str | list[Message]], responses: Sequence[str]) -> int:
    sizes = (
        len(context) if isinstance(context, str) else sum(len(turn["content"]) for turn in context)
        for context in contexts
    )
    return sum(sizes) + sum(map(len, responses))


def _context(context: str | list[Turn], location: str, limits: Limits) -> str | list[Message]:
    if isinstance(context, str):
        check_lengths(location, [context], limits)
        return context
    return _turns(context, location, limits)


def _turns(turns: Sequence[Turn], location: str, limits: Limits) -> list[Message]:
    """Return a context as messages; a user turn is its last."""
    check_count(f"turns in {location}", len(turns), limits.turns)
    check_lengths(location, [turn.content for turn in turns], limits)
    messages = [Message(role=turn.role, content=turn.content) for turn in turns]
    with input_errors(location):
        check_turns(messages, location)
    if not messages or messages[-1]["role"] != "user":
        hint = "give the turns up to the last one of the user"
        raise DataError("the response does not follow a user turn", location=location, hint=hint)
    return messages


class SharedHead:
    """One head for the threads of a server: a single thread computes, a request at a time.

    OpenMP keeps a pool of threads for each thread that computes, and lets none of them spin once they are more than the cores.

    Args:
        head: the head.
        batch_size: responses per forward pass.
        seconds: how long a request waits for its turn.
    """

    def __init__(self, head: ScalarRewardModel, *, batch_size: int = 32, seconds: float = 3600) -> None:
        self._head, self._batch_size, self._seconds = head, batch_size, seconds
        self.counts = {"requests": 0, "scores": 0}
        end_thread_pool()  # from now on another thread computes than the one that loaded the head
        self._thread = ThreadPoolExecutor(1, "head")

    def rows(
        self, contexts: Sequence[str | Sequence[Message]], responses: Sequence[str]
    ) -> tuple[list[dict[str, float]], int]:
        """Return, per response, its scores by name (`score`, or the criteria and then `score`), and the number of tokens.

        Raises:
            JudgeBusy: other requests took too long.
            EngineError: a score is not finite.
        """
        future = self._thread.submit(self._rows, contexts, responses)
        try:
            return future.result(self._seconds)
        except TimeoutError:
            if future.cancel():
                raise JudgeBusy.after(self._seconds) from None
            return future.result()

    def _rows(
        self, contexts: Sequence[str | Sequence[Message]], responses: Sequence[str]
    ) -> tuple[list[dict[str, float]], int]:
        head, rubric = self._head, self._head.scale.rubric
        tokens = sum(map(head.tokens, contexts, responses))
        if rubric is None:
            scores = head.score_batch(contexts, responses, self._batch_size)
            rows = [{"score": score} for score in scores]
        else:
            table = head.criterion_scores(contexts, responses, self._batch_size)
            rows = [values | {"score": rubric.weighted_score(values)} for values in table]
        self.counts["requests"] += 1
        self.counts["scores"] += len(rows)
        return rows, tokens

    def close(self) -> None:
        """End the thread that computes; the head stays."""
        self._thread.shutdown()


def create_head_app(
    head: SharedHead,
    *,
    model: str,
    api_key: str | None = None,
    limits: Limits = DEFAULT_LIMITS,
    hosts: frozenset[str] | None = LOOPBACK_NAMES,
) -> Any:
    """Return the FastAPI app of a head.

    Args:
        head: the head.
        model: its name; a request that names another model is refused.
        api_key: bearer key that every request must send.
        limits: of one request.
        hosts: host names that requests may use; None accepts all.
    """
    from fastapi import FastAPI

    app = FastAPI(title="reasongenrm", docs_url=None, redoc_url=None, redirect_slashes=False)
    app.add_middleware(Gate, key=api_key, max_bytes=limits.body)
    app.add_middleware(OwnSite, hosts=hosts)
    add_error_handlers(app, {JudgeBusy: 503, EngineError: 500, TooLarge: 413, UnknownModel: 404})

    def response(kind: str, body: _Body, data: list[dict[str, Any]], tokens: int) -> dict[str, Any]:
        usage = {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0}
        return {
            "id": f"{kind}-{uuid4().hex}",
            "object": "list",
            "created": int(time.time()),
            "model": body.model or model,
            "data": data,
            "usage": usage,
        }

    def check_model(body: _Body) -> None:
        if body.model not in (None, model):
            problem = f"the model {body.model!r} does not exist"
            raise UnknownModel(problem, location="model", hint=f"this server has {model!r}")

    # Plain functions, which FastAPI runs in threads: they wait for the thread that computes.
    @app.post("/score")
    @app.post("/v1/score")
    def score(body: PairsRequest) -> dict[str, Any]:
        check_model(body)
        rows, tokens = head.rows(*body.pairs(limits))
        data = [{"index": i, "object": "score", "score": row["score"]} for i, row in enumerate(rows)]
        return response("score", body, data, tokens)

    @app.post("/classify")
    def classify(body: ConversationRequest) -> dict[str, Any]:
        check_model(body)
        context, text = body.pair(limits)
        [row], tokens = head.rows([context], [text])
        names = [name for name in row if name != "score"] or ["score"]
        item = {"index": 0, "label": max(names, key=lambda name: row[name])}
        item |= {"probs": [row[name] for name in names], "num_classes": len(names)}
        return response("classify", body, [item | {"scores": row}], tokens)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "model": model, "counts": head.counts}

    return app


class UnknownModel(DataError):
    """A request names a model that is not served; answered with status 404."""


def serve_head(
    folder: str,
    host: str = "127.0.0.1",
    port: int = 8080,
    *,
    api_key_env: str | None = None,
    allow_remote: bool = False,
    limits: Limits = DEFAULT_LIMITS,
    batch_size: int = 32,
) -> None:
    """Serve a head until SIGINT or SIGTERM; requests received before are answered. Prints its address at once.

    Args:
        folder: of a trained head; its name for clients.
        host, port, api_key_env, allow_remote: see `service.serve.serve`.
        limits: of one request.
        batch_size: responses per forward pass.

    Raises:
        ConfigError: other machines could use the head without a key, or the address is in use.
        EngineError: the folder does not hold a trained head, FastAPI or uvicorn is missing, or the key is not in the environment.
    """

    def load(stack: ExitStack) -> SharedHead:
        head = ScalarRewardModel.from_pretrained(folder)
        shared = SharedHead(head, batch_size=batch_size, seconds=limits.seconds)
        return stack.enter_context(closing(shared))

    def create(head: SharedHead, key: str | None, hosts: frozenset[str] | None) -> Any:
        return create_head_app(head, model=folder, api_key=key, limits=limits, hosts=hosts)

    serve_app(
        load, create, "head", host, port, api_key_env=api_key_env, allow_remote=allow_remote, model=folder
    )
