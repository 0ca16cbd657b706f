"""The ledger of Anthropic message batches, and the format of their requests and results."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from reasongenrm.engines.base import Request
from reasongenrm.records import Completion
from reasongenrm.store import dump_line, writing


@dataclass(eq=False)
class Batch:
    """Requests that are sent together.

    Attributes:
        nonce: 16 hex digits of its own; what begins the custom ids of its requests.
        after: id of the server's newest batch when this one was made, None when there was none.
        ids: the requests' ids; a request's custom id holds its place here.
        server_id: the server's id, None as long as it is not known whether the server has it.
    """

    nonce: str
    after: str | None
    ids: Sequence[str]
    server_id: str | None = None

    def custom_id(self, place: int) -> str:
        """Return what the server calls the request at a place: letters, digits and `-`, 64 at most."""
        return f"{self.nonce}-{place}"

    def request_id(self, custom_id: str) -> str | None:
        """Return which request a custom id means; None when it is no request of this batch."""
        match = re.fullmatch(rf"{self.nonce}-(\d{{1,9}})", custom_id, re.ASCII)
        return self.ids[int(match[1])] if match and int(match[1]) < len(self.ids) else None


class Ledger:
    """Append-only JSONL of batches; every line is on the disk before the call returns.

    Three kinds of lines, each with the batch's `nonce`: the intent (`ids`, `after`), written before the batch is sent;
    `server_id`, when the server has taken it; `void`, with why, when nothing can come of it any more, so that its
    requests are owed again. A torn last line is cut off: it had no consequence yet, or its consequence is found on the
    server.

    Args:
        path: the file; made when the first batch is.

    Raises:
        DataError: the file cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._batches: dict[str, Batch] = {}
        self._home: dict[str, Batch] = {}
        self._repeated: set[str] = set()
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                self._load()

    def _load(self) -> None:
        good = 0
        with self._path.open("rb") as lines:
            for line in lines:
                try:
                    row = json.loads(line)
                    if not line.endswith(b"\n"):
                        break
                    self._apply(row)
                except (ValueError, KeyError, TypeError):
                    break
                good += len(line)
        os.truncate(self._path, good)

    def _apply(self, row: dict[str, object]) -> None:
        nonce = str(row["nonce"])
        if "ids" in row:
            batch = self._batches[nonce] = Batch(nonce, row["after"], row["ids"])  # type: ignore[arg-type]
            self._repeated.update(name for name in batch.ids if name in self._home)
            self._home.update(dict.fromkeys(batch.ids, batch))
        elif "server_id" in row:
            self._batches[nonce].server_id = str(row["server_id"])
        else:
            gone = self._batches.pop(nonce)
            for name in gone.ids:
                if self._home.get(name) is gone:
                    del self._home[name]

    def _write(self, row: dict[str, object]) -> None:
        with writing(self._path), self._path.open("ab") as out:
            out.write(dump_line(row).encode("utf-8"))
            out.flush()
            os.fsync(out.fileno())
        self._apply(row)

    def plan(self, ids: Sequence[str], after: str | None) -> Batch:
        """Note that a batch is about to be sent."""
        nonce = uuid4().hex[:16]
        self._write({"nonce": nonce, "after": after, "ids": list(ids)})
        return self._batches[nonce]

    def taken(self, batch: Batch, server_id: str) -> None:
        """Note that the server has a batch."""
        self._write({"nonce": batch.nonce, "server_id": server_id})

    def void(self, batch: Batch, why: str) -> None:
        """Note that nothing comes of a batch any more."""
        self._write({"nonce": batch.nonce, "void": why})

    def home(self, request_id: str) -> Batch | None:
        """Return the last batch in which a request stands."""
        return self._home.get(request_id)

    def repeated(self, request_id: str) -> bool:
        """Return whether a request stood in a batch twice."""
        return request_id in self._repeated

    def server_ids(self) -> set[str]:
        """Return the server's ids of all batches in force."""
        return {batch.server_id for batch in self._batches.values() if batch.server_id}


SERVER_FAULTS = ("api_error", "overloaded_error", "timeout_error", "rate_limit_error")
"""Types of errors that say nothing against the request."""


def message_params(request: Request) -> dict[str, Any]:
    """Return the body of one message, but for the model.

    System turns become `system`, and turns of other roles than `user` the assistant's. Temperature and top_p are left
    out where they are the service's default (1), since some models take no more than one of them, or none.
    """
    turns = [(turn["role"], turn["content"]) for turn in request.messages]
    params: dict[str, Any] = {
        "max_tokens": request.max_tokens,
        "messages": [
            {"role": "user" if role == "user" else "assistant", "content": content}
            for role, content in turns
            if role != "system"
        ],
    }
    if system := "\n\n".join(content for role, content in turns if role == "system"):
        params["system"] = system
    if request.stop:
        params["stop_sequences"] = list(request.stop)
    if request.temperature != 1:
        params["temperature"] = request.temperature
    if request.top_p != 1:
        params["top_p"] = request.top_p
    return params


def failure(request: Request, text: str) -> Completion:
    """Return what stands for a request that got no answer."""
    return Completion(request.id, "", "error", logprob=None, error=text)


def read_result(request: Request, result: Any) -> tuple[Completion, bool]:
    """Return the completion in one result of a batch, and whether it is the service's fault that it is none."""
    if result.type == "succeeded":
        message = result.message
        text = "".join(block.text for block in message.content if block.type == "text")
        reason = message.stop_reason
        usage = {"billed": message.usage.output_tokens, "prompt_tokens": message.usage.input_tokens}
        if reason == "stop_sequence":
            text += message.stop_sequence or ""  # which a request's text keeps
        if reason in ("end_turn", "stop_sequence"):
            return Completion(request.id, text, "stop", logprob=None, **usage), False
        if reason in ("max_tokens", "model_context_window_exceeded"):
            return Completion(request.id, text, "length", logprob=None, **usage), False
        return failure(request, f"stop_reason {reason}"), False
    if result.type == "errored":
        error = result.error.error
        return failure(request, f"{error.type}: {error.message}"), error.type in SERVER_FAULTS
    return failure(request, f"the batch's request is {result.type}"), result.type == "expired"
