"""Read conversations: replies to a message in a context. Every row becomes a `Conversation`, or a Drop with all its problems."""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Annotated, Any

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from reasongenrm.errors import DataError
from reasongenrm.records import Conversation, Drop
from reasongenrm.rows.files import read_rows
from reasongenrm.rows.turns import kind_of

LONGEST = 100_000
"""Limit of a text, in characters: about 25,000 tokens. A longer one is a mistake, such as a whole log in one field."""

AnyText = Annotated[str, Field(max_length=LONGEST)]
SomeText = Annotated[str, Field(max_length=LONGEST, pattern=r"\S")]


class TutorRow(BaseModel):
    """A tutor's reply to a student."""

    context: AnyText = Field(description="Situation, and earlier turns if there are any. May be empty.")
    student_message: SomeText = Field(description="The student's message that is answered.")
    tutor_response: SomeText = Field(description="The reply that is judged.")


class ReplyRow(BaseModel):
    """A reply in any domain."""

    context: AnyText = Field(description="Situation, and earlier turns if there are any. May be empty.")
    message: SomeText = Field(description="The message that is answered.")
    response: SomeText = Field(description="The reply that is judged.")


COLUMNS = list(dict.fromkeys([*TutorRow.model_fields, *ReplyRow.model_fields]))
"""All columns, of both kinds of rows."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a row.

    Attributes:
        location: `file[index]` (from 0) in a JSON list, `file:line` (from 1) in JSONL.
        field: the column; empty where the whole row is wrong.
        reason: a stable slug for counts.
        detail: one sentence for the user.
    """

    location: str
    field: str
    reason: str
    detail: str


@dataclass
class ConversationTable:
    """The rows of a file of conversations: `rows = len(conversations) + len(drops)`.

    Attributes:
        conversations: the rows without a problem, in their order.
        drops: one per row with a problem.
        problems: all problems of these rows.
        other_columns: column that is not read -> number of rows that have it.
    """

    conversations: list[Conversation] = field(default_factory=list)
    drops: list[Drop] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    other_columns: Counter[str] = field(default_factory=Counter)

    @property
    def rows(self) -> int:
        """Number of rows, good and bad."""
        return len(self.conversations) + len(self.drops)

    @property
    def messages(self) -> int:
        """Number of distinct messages in their contexts; a message may have several replies."""
        return len({(row.context, row.message) for row in self.conversations})

    def _drop(self, location: str, source: str, problems: list[Problem]) -> None:
        detail = " ".join(problem.detail for problem in problems)
        self.drops.append(Drop(location, source, problems[0].reason, detail, "load"))
        self.problems += problems

    def lines(self) -> list[str]:
        """Return the summary: counts of rows, messages and problems, and the sizes of the texts."""
        reasons = Counter(drop.reason for drop in self.drops)
        counts = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        dropped = f" ({counts})" if counts else ""
        lines = [
            f"rows: {self.rows}, {len(self.conversations)} usable, {len(self.drops)} dropped{dropped}",
            f"distinct messages: {self.messages}",
        ]
        for name in ("context", "message", "response"):
            sizes = [len(getattr(row, name)) for row in self.conversations]
            if sizes:
                lines.append(
                    f"{name}: {min(sizes)} to {max(sizes)} characters, half of them at most {median(sizes):g}"
                )
        if self.other_columns:
            counts = ", ".join(f"{name} (rows: {count})" for name, count in self.other_columns.most_common())
            lines.append(f"columns that are not read: {counts}")
        return lines


def read_conversations(path: str) -> ConversationTable:
    """Read a file of conversations: a JSON list, JSONL, or anything else that `read_rows` reads.

    A row has the columns of `TutorRow` or of `ReplyRow`; other columns are counted, and not read. A repeated row is dropped.

    Raises:
        DataError: the file cannot be read as a whole, or holds no row.
    """
    table = ConversationTable()
    location_by_id: dict[str, str] = {}
    for row in read_rows(path, optional=COLUMNS):
        if isinstance(row, Drop):
            table._drop(row.location, row.source, [Problem(row.location, "", row.reason, row.detail)])
            continue
        names = _names(row.columns)
        table.other_columns.update(str(name) for name in row.columns if name not in names)
        conversation = read_conversation(row.columns, row.location)
        if isinstance(conversation, list):
            table._drop(row.location, row.origin, conversation)
            continue
        first = location_by_id.setdefault(conversation.id, row.location)
        if first == row.location:
            table.conversations.append(conversation)
        else:
            detail = f"The row repeats {first}; remove one of them."
            table._drop(row.location, row.origin, [Problem(row.location, "", "duplicate", detail)])
    if not table.rows:
        hint = f"write rows with {', '.join(TutorRow.model_fields)}; see docs/data-format.md"
        raise DataError("no rows", location=path, hint=hint)
    return table


def read_conversation(columns: Mapping[str, Any], location: str) -> Conversation | list[Problem]:
    """Return the conversation of one row, or all its problems."""
    return _problems(columns, location) or Conversation.make(*(columns[name] for name in _names(columns)))


def _row_type(columns: Iterable[str]) -> type[BaseModel]:
    """Return the type that shares more columns with a row; `TutorRow` where both share as many."""
    present = set(columns)
    shared = {kind: len(present & kind.model_fields.keys()) for kind in (TutorRow, ReplyRow)}
    return ReplyRow if shared[ReplyRow] > shared[TutorRow] else TutorRow


def _names(columns: Iterable[str]) -> list[str]:
    return list(_row_type(columns).model_fields)


def _problems(columns: Mapping[str, Any], location: str) -> list[Problem]:
    """Return all problems of one row, in the order of its columns."""
    kind = _row_type(columns)
    try:
        kind.model_validate(columns, strict=True)
    except ValidationError as error:
        return [_problem(item, columns, kind, location) for item in error.errors(include_url=False)]
    return []


def _problem(
    error: Mapping[str, Any], columns: Mapping[str, Any], kind: type[BaseModel], location: str
) -> Problem:
    """Return an error of pydantic in the words of this suite."""
    name, value = str(error["loc"][0]), error["input"]
    reason, text = "bad_type", f"`{name}` is {kind_of(value)}; make it a string."
    match error["type"]:
        case "missing":
            others = [str(other) for other in columns if other not in kind.model_fields]
            close = difflib.get_close_matches(name, others, n=1, cutoff=0.5)
            hint = f"rename `{close[0]}`" if close else "add it"
            reason, text = "missing_field", f"`{name}` is missing; {hint}."
        case "string_pattern_mismatch":
            reason = "empty_message" if "message" in name else "empty_response"
            text = f"`{name}` is empty; fill it, or remove the row."
        case "string_too_long":
            reason, text = "too_long", f"`{name}` has {len(value)} characters; the limit is {LONGEST}."
        case "string_unicode":
            reason = "bad_encoding"
            text = f"`{name}` contains half of a surrogate pair; write the whole character."
    return Problem(location, name, reason, text)


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a JSON list of conversations, generated from the types of its rows."""
    schema = TypeAdapter(list[TutorRow | ReplyRow]).json_schema()
    title = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Conversations"}
    return title | schema


def schema_text() -> str:
    """Return the schema as the text of a file."""
    return json.dumps(json_schema(), indent=2) + "\n"
