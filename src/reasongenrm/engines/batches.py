"""Anthropic message batches: the ledger of sent batches, and the results of a batch."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import uuid4

from reasongenrm.engines.base import Request
from reasongenrm.engines.batch_api import Errored, Expired, Result, Succeeded
from reasongenrm.engines.http import one_line
from reasongenrm.engines.messages import read_message
from reasongenrm.records import Completion
from reasongenrm.store import dump_line, explain_write_errors


@dataclass(eq=False)
class Batch:
    """Requests that are sent together.

    Attributes:
        nonce: 16 random hex digits, the beginning of the custom ids of its requests.
        after: id of the server's newest batch when this one was created; None when there was none.
        ids: the requests' ids.
        server_id: the server's id; None while it is unknown whether the server has the batch.
    """

    nonce: str
    after: str | None
    ids: Sequence[str]
    server_id: str | None = None

    @cached_property
    def request_ids(self) -> dict[str, str]:
        """The requests' ids by custom id, the server's name of a request: letters, digits and `-`, 64 at most."""
        return {f"{self.nonce}-{index}": name for index, name in enumerate(self.ids)}


class Ledger:
    """Append-only JSONL of batches; every line is on the disk before the call returns.

    Four kinds of lines, each with the batch's `nonce`: the intent (`ids`, `after`), written before the batch is sent;
    `server_id`, once the server has the batch; `void`, with the reason, when the batch will give no results, so that
    its requests are sent again; `released`, ids of requests that the server failed to answer, so that these are. An incomplete last line is removed: it had no effect yet, or the server shows it.

    Args:
        path: the file; created with the first batch.

    Attributes:
        batch_of: the last batch with a request, by the request's id.
        sent_twice: ids of the requests that were in two batches.

    Raises:
        DataError: the file cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._batches: dict[str, Batch] = {}  # by nonce
        self.batch_of: dict[str, Batch] = {}
        self.sent_twice: set[str] = set()
        with explain_write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                self._load()

    def _load(self) -> None:
        complete_bytes = 0
        with self._path.open("rb") as lines:
            for line in lines:
                try:
                    row = json.loads(line)
                    if not line.endswith(b"\n"):
                        break
                    self._apply(row)
                except (ValueError, KeyError, TypeError):
                    break
                complete_bytes += len(line)
        os.truncate(self._path, complete_bytes)

    def _apply(self, row: dict[str, Any]) -> None:
        nonce = str(row["nonce"])
        if "ids" in row:
            batch = self._batches[nonce] = Batch(nonce, row["after"], row["ids"])
            self.sent_twice.update(name for name in batch.ids if name in self.batch_of)
            self.batch_of.update(dict.fromkeys(batch.ids, batch))
        elif "server_id" in row:
            self._batches[nonce].server_id = str(row["server_id"])
        else:
            batch = self._batches[nonce] if "released" in row else self._batches.pop(nonce)
            for name in row.get("released", batch.ids):
                if self.batch_of.get(name) is batch:
                    del self.batch_of[name]

    def _write(self, row: dict[str, Any]) -> None:
        with explain_write_errors(self._path), self._path.open("ab") as out:
            out.write(dump_line(row).encode("utf-8"))
            out.flush()
            os.fsync(out.fileno())
        self._apply(row)

    def add(self, ids: Sequence[str], after: str | None) -> Batch:
        """Record a batch before it is sent."""
        nonce = uuid4().hex[:16]
        self._write({"nonce": nonce, "after": after, "ids": list(ids)})
        return self._batches[nonce]

    def confirm(self, batch: Batch, server_id: str) -> None:
        """Record that the server has a batch."""
        self._write({"nonce": batch.nonce, "server_id": server_id})

    def discard(self, batch: Batch, why: str) -> None:
        """Record that a batch will give no results."""
        self._write({"nonce": batch.nonce, "void": why})

    def release(self, batch: Batch, ids: Sequence[str]) -> None:
        """Record requests of a batch that the server failed to answer; the next start sends them again."""
        self._write({"nonce": batch.nonce, "released": list(ids)})

    def server_ids(self) -> set[str]:
        """Return the server's ids of all batches that were not discarded."""
        return {batch.server_id for batch in self._batches.values() if batch.server_id}


SERVER_FAULTS = ("api_error", "overloaded_error", "timeout_error", "rate_limit_error")
"""Types of errors that the request did not cause."""


def read_result(request: Request, result: Result) -> tuple[Completion, bool]:
    """Return the completion in one result of a batch, and whether it failed by a fault of the server."""
    if isinstance(result, Succeeded):
        return read_message(request, result.message), False
    if isinstance(result, Errored):
        error = result.error.error
        text, server_fault = one_line(f"{error.type}: {error.message}"), error.type in SERVER_FAULTS
    else:
        server_fault = isinstance(result, Expired)
        text = f"the batch's request is {'expired' if server_fault else 'canceled'}"
    return Completion(request.id, "", "error", error=text), server_fault
