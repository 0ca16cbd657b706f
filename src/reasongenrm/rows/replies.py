"""Read replies to be scored: conversations, or rows of a prompt and an answer; every column of a row stays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from reasongenrm.errors import DataError
from reasongenrm.records import Drop, Message, content_id
from reasongenrm.rows.conversations import COLUMNS, read_conversation
from reasongenrm.rows.files import RawRow, read_rows
from reasongenrm.rows.turns import BadRow, check_text, read_prompt

PROMPT_COLUMNS = ("prompt", "answer")
"""Columns of a row that is not a conversation."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply to be scored.

    Attributes:
        row: the row as it was read.
        context: the turns before the reply.
        response: the reply.
    """

    row: RawRow
    context: tuple[Message, ...]
    response: str

    @property
    def id(self) -> str:
        """Content hash of context and response."""
        return content_id(self.context, self.response)

    @property
    def context_id(self) -> str:
        """Content hash of the context."""
        return content_id(self.context)


def read_replies(path: str, *, optional: tuple[str, ...] = (), whole: bool = False) -> Iterator[Reply | Drop]:
    """Yield a reply or a Drop for each row.

    A row has the columns of a conversation (`rows/conversations.py`), or `prompt` (a text or messages) and `answer`.

    Args:
        path: see `rows.files.read_rows`.
        optional: more columns of Parquet files and the hub to read.
        whole: read all columns of these.

    Raises:
        DataError: the file cannot be read.
    """
    if path.lower().endswith(".csv"):
        hint = "save it as JSONL, for example in Python: pandas.read_csv(FILE).to_json(OUT, orient='records', lines=True)"
        raise DataError("unsupported file type: .csv", location=path, hint=hint)
    for row in read_rows(path, optional=[*COLUMNS, *PROMPT_COLUMNS, *optional], whole=whole):
        yield row if isinstance(row, Drop) else _read_reply(row)


def _read_reply(row: RawRow) -> Reply | Drop:
    columns: Mapping[str, Any] = row.columns
    if not any(name in columns for name in PROMPT_COLUMNS):
        conversation = read_conversation(columns, row.location)
        if not isinstance(conversation, list):
            return Reply(row, conversation.history, conversation.response)
        detail = " ".join(problem.detail for problem in conversation)
        return Drop(row.location, row.origin, conversation[0].reason, detail, "load")
    try:
        context = read_prompt(columns.get("prompt"), "prompt")
        return Reply(row, tuple(context), check_text(columns.get("answer"), "answer"))
    except BadRow as bad:
        return Drop(row.location, row.origin, bad.reason, bad.detail, "load")
