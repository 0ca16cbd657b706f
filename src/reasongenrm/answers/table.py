"""Read answers to rank, CSV or JSONL, and write the table of ranks."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasongenrm.data.ranked import ANNOTATOR, COLUMNS
from reasongenrm.errors import ConfigError, DataError
from reasongenrm.records import Drop, Message, content_id
from reasongenrm.rows.csv_line import csv_cell, csv_line
from reasongenrm.rows.files import csv_rows, read_rows
from reasongenrm.rows.turns import BadRow, check_text, read_prompt
from reasongenrm.store import atomic_writer, write_jsonl

NEEDED = ("prompt", "answer")
IGNORED = ("rank", ANNOTATOR, "answers", "ranks")
"""Columns that are not copied: the ranks are new, and a row holds one answer."""

LONGEST_CELL = 131_072
"""Limit of Python's csv module for one cell, in characters (`csv.field_size_limit()`)."""

Order = tuple[tuple[str, ...], ...]
"""Groups of answer ids, the best group first; the answers of one group are tied."""


@dataclass(frozen=True, slots=True)
class UnrankedAnswer:
    """One answer to rank.

    Attributes:
        id: as in the file, else the content hash of prompt turns and answer.
        number: its index among the usable rows of the file.
        location: `file:line`.
        text: the answer.
        extras: the row's other columns, with its id if it has one, unchanged.
    """

    id: str
    number: int
    location: str
    text: str
    extras: dict[str, Any]


@dataclass(frozen=True, slots=True)
class PromptAnswers:
    """A prompt and the answers to rank.

    Attributes:
        id: content hash of the turns, without surrounding white space.
        history: turns up to and including the last user turn.
        answers: two or more, in the order of the file.
    """

    id: str
    history: tuple[Message, ...]
    answers: tuple[UnrankedAnswer, ...]


@dataclass(frozen=True, slots=True)
class AnswersTable:
    """The content of a file of answers.

    Attributes:
        prompts: prompts with at least two answers, in the order of the file.
        columns: names of the extra columns, in the order in which they first occur.
        drops: rows that cannot be ranked, with the reason.
        notes: one sentence per column that is not copied.
        single_answers: prompts with one usable answer; for each there is also a Drop.
    """

    prompts: tuple[PromptAnswers, ...]
    columns: tuple[str, ...]
    drops: tuple[Drop, ...]
    notes: tuple[str, ...]
    single_answers: tuple[PromptAnswers, ...] = ()


def read_answers(path: str) -> AnswersTable:
    """Read a file of answers to rank: one object per line of `.jsonl`, else CSV with a header.

    A row has `prompt` (a text; in JSONL also a list of `{role, content}` turns that ends with a user turn), `answer`,
    optionally `id`, and any other columns, which are copied. Prompts that differ only in surrounding white space are the
    same; so are answers.

    Raises:
        DataError: the file cannot be read, is a CSV that is not UTF-8 or has wrong columns or quotes, or has the same id
            for two answers.
    """
    file = Path(os.path.expanduser(path))
    answers_by_prompt: dict[str, tuple[tuple[Message, ...], dict[str, UnrankedAnswer]]] = {}
    columns: dict[str, None] = {}
    ignored: dict[str, None] = {}
    drops: list[Drop] = []
    location_by_id: dict[str, str] = {}
    for location, row in _rows(file):
        try:
            if isinstance(row, BadRow):
                raise row
            history, answer = _answer(row, location, len(location_by_id))
            stripped = [Message(role=turn["role"], content=turn["content"].strip()) for turn in history]
            _, answers = answers_by_prompt.setdefault(content_id(stripped), (history, {}))
            if first := answers.get(answer.text.strip()):
                detail = f"{first.location} has the same answer to this prompt; remove one of the two."
                raise BadRow("duplicate_answer", detail)
        except BadRow as bad:
            drops.append(Drop(location, file.stem, bad.reason, bad.detail, "load"))
            continue
        if answer.id in location_by_id:
            raise DataError(
                f"the id {answer.id[:40]!r} is also that of the answer at {location_by_id[answer.id]}",
                location=location,
                hint="give every answer its own id, or rename the column",
            )
        location_by_id[answer.id] = location
        answers[answer.text.strip()] = answer
        columns |= dict.fromkeys(answer.extras)
        ignored |= dict.fromkeys(name for name in row if name not in NEEDED and name not in answer.extras)
    prompts = [
        PromptAnswers(key, turns, tuple(answers.values()))
        for key, (turns, answers) in answers_by_prompt.items()
    ]
    several = tuple(prompt for prompt in prompts if len(prompt.answers) > 1)
    single = tuple(prompt for prompt in prompts if len(prompt.answers) == 1)
    for prompt in single:
        detail = "The prompt has no other usable answer to compare with; give it at least two."
        drops.append(Drop(prompt.answers[0].location, file.stem, "one_answer", detail, "load"))
    notes = tuple(f"the column {name!r} is not copied" for name in ignored)
    return AnswersTable(several, tuple(columns), tuple(drops), notes, single)


def _rows(file: Path) -> Iterator[tuple[str, Mapping[str, Any] | BadRow]]:
    """Yield each row that is not blank, with the `file:line` of its beginning."""
    if not file.is_file():
        raise DataError("file not found", location=str(file), hint="check the path")
    for row in read_rows(str(file)) if file.suffix.lower() == ".jsonl" else csv_rows(file, NEEDED):
        if isinstance(row, Drop):
            yield row.location, BadRow(row.reason, row.detail)
        elif missing := [name for name in NEEDED if name not in row.columns]:
            detail = f"The row lacks {', '.join(missing)}; give prompt and answer, one answer per line."
            yield row.location, BadRow("missing_column", detail)
        else:
            yield row.location, row.columns


def _answer(row: Mapping[str, Any], location: str, number: int) -> tuple[tuple[Message, ...], UnrankedAnswer]:
    prompt = row["prompt"]
    if isinstance(prompt, str) and not prompt.strip():
        raise BadRow("empty_prompt", "The prompt is empty; fill it or remove the row.")
    text = check_text(row["answer"], "answer")
    if not text.strip():
        raise BadRow("empty_answer", "The answer is empty; fill it or remove the row.")
    history = tuple(read_prompt(prompt, "prompt"))
    extras = {
        name: value for name, value in row.items() if name.strip() not in ("", *NEEDED, *IGNORED)
    }  # in a CSV, white space around column names does not count
    try:
        json.dumps(extras, allow_nan=False)
    except (ValueError, RecursionError):
        detail = "A column holds NaN, an infinity, or lists nested too deep; write null instead."
        raise BadRow("bad_number", detail) from None
    key = row.get("id")
    if key is None or key == "":
        key = content_id(history, text)
    elif isinstance(key, int) and not isinstance(key, bool):
        key = str(key)
    return history, UnrankedAnswer(check_text(key, "id"), number, location, text, extras)


def check_writable(answers: AnswersTable, out: Path) -> None:
    """Check, before the ranking starts, that the answers can be written to a file and read back.

    Raises:
        ConfigError: a CSV cannot hold them.
    """
    if out.suffix.lower() == ".jsonl":
        return
    hint = f"write JSONL instead: --out {out.with_suffix('.jsonl').name}"
    for prompt in answers.prompts:
        location = prompt.answers[0].location
        if len(prompt.history) > 1:
            raise ConfigError("a CSV cannot hold a prompt of several turns", location=location, hint=hint)
        for answer in prompt.answers:
            cells = (prompt.history[0]["content"], answer.text, *answer.extras.values())
            if max(len(csv_cell(cell)) for cell in cells) > LONGEST_CELL:
                problem = f"a text of more than {LONGEST_CELL} characters does not fit a cell of a CSV"
                raise ConfigError(problem, location=answer.location, hint=hint)


def write_ranks(out: Path, answers: AnswersTable, ranked: Mapping[str, Mapping[str, Order]]) -> int:
    """Write ranks atomically, as `data.ranked.read_ranked` reads them; return the number of rows.

    The rows are sorted by annotator, then in the order of the input. Rank 1 is the best; tied answers share a rank, and
    the next rank counts them: 1, 2, 2, 4.

    Args:
        out: JSONL where its name ends in `.jsonl`, else CSV (UTF-8, `\\n` line ends).
        answers: passed `check_writable`.
        ranked: annotator -> prompt id -> order of the prompt's answers.

    Raises:
        DataError: the file cannot be written.
    """
    rows = [row for name in sorted(ranked) for row in _ranked_rows(answers, name, ranked[name])]
    if out.suffix.lower() == ".jsonl":
        return write_jsonl(out, rows)
    header = [*COLUMNS, ANNOTATOR, *answers.columns]
    with atomic_writer(out) as raw:
        raw.write(csv_line(header).encode("utf-8"))
        raw.writelines(csv_line(map(row.get, header)).encode("utf-8") for row in rows)
    return len(rows)


def _ranked_rows(answers: AnswersTable, annotator: str, ranked: Mapping[str, Order]) -> list[dict[str, Any]]:
    rows: list[tuple[int, dict[str, Any]]] = []
    for prompt in answers.prompts:
        if prompt.id not in ranked:
            continue
        ranks = ranks_of(ranked[prompt.id])
        text = prompt.history[0]["content"] if len(prompt.history) == 1 else list(prompt.history)
        for answer in prompt.answers:
            row = {"prompt": text, "answer": answer.text, "rank": ranks[answer.id], ANNOTATOR: annotator}
            rows.append((answer.number, row | answer.extras))
    return [row for _, row in sorted(rows, key=lambda item: item[0])]


def ranks_of(order: Order) -> dict[str, int]:
    """Return answer id -> rank, from 1; the rank after a tie of two is two more."""
    ranks: dict[str, int] = {}
    for group in order:
        ranks |= dict.fromkeys(group, len(ranks) + 1)
    return ranks
