"""A judge with a rubric on a server: Anthropic's Messages and Message Batches, and OpenAI's Chat Completions, with faults.

The judge behind it is a function of the conversation (`Judge`); its rules are those that a test states.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from support.servers import Batches, HTTPServer, ReceivedRequest, Reply, failing, serving, succeeded

KEY = "sk-ant-a-very-secret-key-0123456789"
"""The key that the server accepts."""

MESSAGES, BATCHES, CHAT = "/v1/messages", "/v1/messages/batches", "/v1/chat/completions"

HTTPFault = Literal["429", "500", "529", "timeout", "half", "malformed", "hang up"]
"""Faults of one call, see `RubricServer.faults`."""


class Texts(NamedTuple):
    """What the judge reads of a conversation, from the user turn of configs/distil/prompt.jinja."""

    context: str
    message: str
    response: str


class Answer(NamedTuple):
    """The judge's answer where it is not a JSON object with scores.

    Attributes:
        kind: `text` as it is, `refusal`, `cut` by the token limit, or `expired` (of a batch; other calls answer HTTP 529).
        text: of `text` and `cut`; the reason of a refusal.
    """

    kind: Literal["text", "refusal", "cut", "expired"]
    text: str = ""


Judge = Callable[[Texts], Mapping[str, int] | Answer]
"""Returns the scores by the keys of the criteria, or another answer."""

_USER_TURN = re.compile(r"\[Situation\]\n(.*)\n\[Message\]\n(.*)\n\[Reply\]\n(.*)\n\[End\]", re.DOTALL)


def texts_of(turn: str) -> Texts:
    """Return the conversation in a user turn."""
    match = _USER_TURN.fullmatch(turn)
    assert match, f"not the turn of configs/distil/prompt.jinja: {turn!r}"
    return Texts(*match.groups())


class RubricServer:
    """As a context manager it serves on a free port, at `url` (Anthropic's) and `url/v1` (OpenAI's).

    Args:
        judge: its rules.
        faults: the faults of its next calls that ask for completions (a batch is one), the first one first; None for none.
        schemas: the types of `response_format`, and for Anthropic's API `json_schema` alone, that it accepts.
        slow: seconds of a `timeout`.
        retry_after: seconds that a 429 asks to wait for.
        caches: whether it keeps system turns in a cache, and counts their tokens apart: those of its first call are written.
        polls: a batch ends at this poll.

    Attributes:
        calls: the calls that asked for completions, with the time of each.
    """

    def __init__(
        self,
        judge: Judge,
        *,
        faults: list[HTTPFault | None] | None = None,
        schemas: tuple[str, ...] = ("json_schema", "json_object"),
        slow: float = 1.5,
        retry_after: float = 0.02,
        caches: bool = False,
        polls: int = 1,
    ) -> None:
        self.judge, self.faults, self.schemas, self.slow = judge, faults or [], schemas, slow
        self.calls: list[tuple[float, ReceivedRequest]] = []
        self.batches = Batches(self._batch_result, polls)
        self.retry_after = retry_after
        self._caches, self._cached = caches, set[str]()
        self.server: HTTPServer
        self.url = ""

    def __enter__(self) -> RubricServer:
        self._context = serving(self._reply)
        self.server = self._context.__enter__()
        self.url = self.batches.url = self.server.url
        return self

    def __exit__(self, *raised: Any) -> None:
        self._context.__exit__(*raised)

    def asked(self) -> list[Texts]:
        """Return the conversations that were judged, in the order of their calls; those of faulty calls too."""
        bodies = [received.body for _, received in self.calls]
        params = [p for body in bodies for p in ([r["params"] for r in body.get("requests", ())] or [body])]
        return [
            texts_of(p["messages"][-1]["content"]) for p in params if p["messages"][-1]["content"] != "Hi"
        ]

    def _reply(self, received: ReceivedRequest) -> Reply | None:
        headers = received.headers
        if KEY not in (headers.get("x-api-key"), headers.get("authorization", "").removeprefix("Bearer ")):
            return failing(401, "no such key")
        path = received.path.partition("?")[0]
        if received.method == "POST":
            with self.server.lock:
                self.calls.append((time.monotonic(), received))
                fault = self.faults.pop(0) if self.faults else None
            if fault:
                return self._fault(fault)
        if path.startswith(BATCHES):
            return self.batches(received)
        if path == MESSAGES:
            return self._message(received.body)
        return self._chat(received.body) if path == CHAT else failing(404, f"no {path}")

    def _fault(self, fault: HTTPFault) -> Reply | None:
        if fault == "timeout":
            time.sleep(self.slow)
        if fault in ("timeout", "hang up"):
            return None
        if fault == "429":
            return (*failing(429, "slow down"), {"retry-after": str(self.retry_after)})
        if fault == "half":
            return 200, b'{"id": "msg_1", "content": [{"type": "te', {"content-length": "4000"}
        if fault == "malformed":
            return 200, b'{"id": "msg_1", "content": [{"type": "te'
        return failing(int(fault), "out of order")

    def _answer(self, turn: str) -> Answer:
        if turn == "Hi":  # of the client's test whether a server works
            return Answer("text", "Hello")
        answer = self.judge(texts_of(turn))
        if isinstance(answer, Answer):
            return answer
        return Answer("text", json.dumps({"rationale": "By the rules of the test.", "scores": dict(answer)}))

    def _from_cache(self, system: str) -> bool:
        with self.server.lock:
            known = system in self._cached
            self._cached.add(system)
        return known

    def _usage(self, params: Mapping[str, Any], text: str) -> dict[str, int]:
        """Return the tokens of Anthropic's API, one per word: a system turn with a mark is cached by the first call."""
        system = params.get("system", "")
        marked = self._caches and isinstance(system, list) and "cache_control" in system[-1]
        words = len((system if isinstance(system, str) else system[0]["text"]).split())
        usage = {"input_tokens": sum(len(turn["content"].split()) for turn in params["messages"])}
        usage |= {"output_tokens": len(text.split()), "cache_read_input_tokens": 0}
        usage["cache_creation_input_tokens"] = 0
        if not marked:
            usage["input_tokens"] += words
        elif self._from_cache(json.dumps(system)):
            usage["cache_read_input_tokens"] = words
        else:
            usage["cache_creation_input_tokens"] = words
        return usage

    def _batch_result(self, params: dict[str, Any]) -> dict[str, Any]:
        answer = self._answer(params["messages"][-1]["content"])
        if answer.kind == "expired":
            return {"type": "expired"}
        usage = self._usage(params, answer.text)
        stop = {"text": "end_turn", "cut": "max_tokens", "refusal": "refusal"}[answer.kind]
        return succeeded("" if answer.kind == "refusal" else answer.text, stop, usage)

    def _message(self, params: dict[str, Any]) -> Reply:
        if "output_config" in params and "json_schema" not in self.schemas:
            return failing(400, "output_config.format: this model does not support structured outputs")
        result = self._batch_result(params)
        return failing(529, "overloaded") if result["type"] == "expired" else (200, result["message"])

    def _chat(self, body: dict[str, Any]) -> Reply:
        kind = body.get("response_format", {}).get("type")
        if kind and kind not in self.schemas:
            return failing(400, f"response_format of type {kind} is not supported")
        answer = self._answer(body["messages"][-1]["content"])
        if answer.kind == "expired":
            return failing(529, "overloaded")
        said: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None}
        if answer.kind == "refusal":
            said |= {"content": None, "refusal": answer.text}
        system = "".join(turn["content"] for turn in body["messages"] if turn["role"] == "system")
        cached = len(system.split()) if self._caches and self._from_cache(system) else 0
        words = sum(len(turn["content"].split()) for turn in body["messages"])
        usage = {"prompt_tokens": words, "completion_tokens": len(answer.text.split())}
        usage |= {"total_tokens": sum(usage.values()), "prompt_tokens_details": {"cached_tokens": cached}}  # type: ignore[dict-item]
        finish = "length" if answer.kind == "cut" else "stop"
        choice = {"index": 0, "message": said, "finish_reason": finish}
        top = {"id": "c", "object": "chat.completion", "created": 1, "model": body["model"]}
        return 200, top | {"choices": [choice], "usage": usage}
