"""Which requests stand in which message batch, on disk before and after money is spent."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

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
