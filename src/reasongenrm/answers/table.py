"""Answers that people are to rank, CSV or JSONL, and the table of ranks that comes of them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasongenrm.data.ranked import ANNOTATOR, COLUMNS
from reasongenrm.errors import ConfigError, DataError
from reasongenrm.records import Drop, Message, content_id
from reasongenrm.rows.files import csv_rows, read_rows
from reasongenrm.rows.turns import BadRow, check_text, is_text, read_prompt
from reasongenrm.store import replacing, write_jsonl

NEEDED = ("prompt", "answer")
IGNORED = ("rank", ANNOTATOR, "answers", "ranks")
"""Columns that are not taken over: the ranks are given here, and a row holds one answer."""

LONGEST_CELL = 131_072
"""Characters that Python's csv module reads in one cell (`csv.field_size_limit()`)."""

Order = tuple[tuple[str, ...], ...]
"""Groups of answer ids, the best group first; the answers of one group are tied."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer that waits for its rank.

    Attributes:
        id: as the file gives it, else the content hash of prompt turns and answer.
        number: its place among the usable rows of the file, from 0.
        where: `file:line`.
        text: the answer.
        extras: the row's other columns, its id among them if it has one, as they were read.
    """

    id: str
    number: int
    location: str
    text: str
    extras: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt and the answers to rank.

    Attributes:
        id: content hash of the turns, without white space around them.
        history: turns up to and including the last user turn.
        answers: two or more, in the order of the file.
    """

    id: str
    history: tuple[Message, ...]
    answers: tuple[Answer, ...]


@dataclass(frozen=True, slots=True)
class Answers:
    """What was read of a file.

    Attributes:
        prompts: in the order of the file.
        columns: names of the extra columns, in the order in which they were first seen.
        drops: rows that cannot be ranked, and why.
        notes: one sentence per thing that is left out of every row.
        alone: prompts with one usable answer, of each of which there is a Drop, too.
    """

    prompts: tuple[Prompt, ...]
    columns: tuple[str, ...]
    drops: tuple[Drop, ...]
    notes: tuple[str, ...]
    alone: tuple[Prompt, ...] = ()


def read_answers(path: str) -> Answers:
    """Read a file of answers to rank: one object per line of `.jsonl`, else CSV with a header.

    A row has `prompt` (a text; in JSONL also a list of `{role, content}` turns that ends in the user's),
    `answer`, maybe `id`, and any other columns, which are kept. Prompts are the same when they are equal
    apart from surrounding white space; so are answers.

    Raises:
        DataError: the file cannot be read, is a CSV that is not UTF-8 or whose columns or quotes do not fit,
            or gives one id to two answers.
    """
    file = Path(path).expanduser()
    prompts: dict[str, tuple[tuple[Message, ...], dict[str, Answer]]] = {}
    columns: dict[str, None] = {}
    ignored: dict[str, None] = {}
    drops: list[Drop] = []
    places: dict[str, str] = {}  # answer id -> where it stands
    for location, row in _rows(file):
        try:
            if isinstance(row, BadRow):
                raise row
            history, answer = _answer(row, location, len(places))
            key = content_id(_stripped(history))
            _, same = prompts.setdefault(key, (history, {}))
            if first := same.get(answer.text.strip()):
                detail = f"{first.location} gives the same answer to this prompt; one of the two is enough."
                raise BadRow("duplicate_answer", detail)
        except BadRow as bad:
            drops.append(Drop(location, file.stem, bad.reason, bad.detail, "load"))
            continue
        if answer.id in places:
            raise DataError(
                f"the id {answer.id[:40]!r} is that of the answer at {places[answer.id]}, too",
                location=location,
                hint="give every answer an id of its own, or rename the column",
            )
        places[answer.id] = location
        same[answer.text.strip()] = answer
        columns |= dict.fromkeys(answer.extras)
        ignored |= dict.fromkeys(name for name in row if name not in NEEDED and name not in answer.extras)
    whole = tuple(Prompt(key, turns, tuple(found.values())) for key, (turns, found) in prompts.items())
    for prompt in whole:
        if len(prompt.answers) == 1:
            detail = "The prompt has no other usable answer to compare with; give it at least two."
            drops.append(Drop(prompt.answers[0].location, file.stem, "one_answer", detail, "load"))
    notes = [f"the column {name!r} is not taken over" for name in ignored]
    kept = tuple(prompt for prompt in whole if len(prompt.answers) > 1)
    alone = tuple(prompt for prompt in whole if len(prompt.answers) == 1)
    return Answers(kept, tuple(columns), tuple(drops), tuple(notes), alone)


def _rows(file: Path) -> Iterator[tuple[str, Mapping[str, Any] | BadRow]]:
    """Yield each row that is not blank, and `file:line` of where it begins."""
    if not file.is_file():
        raise DataError("cannot be read: no such file", location=str(file), hint="check the path")
    for row in read_rows(str(file)) if file.suffix.lower() == ".jsonl" else csv_rows(file, NEEDED):
        if isinstance(row, Drop):
            yield row.location, BadRow(row.reason, row.detail)
        elif missing := [name for name in NEEDED if name not in row.columns]:
            detail = f"There is no {', '.join(missing)}; give prompt and answer, one answer per line."
            yield row.location, BadRow("missing_column", detail)
        else:
            yield row.location, row.columns


def _answer(row: Mapping[str, Any], location: str, number: int) -> tuple[tuple[Message, ...], Answer]:
    prompt = row["prompt"]
    if isinstance(prompt, str) and not prompt.strip():
        raise BadRow("empty_prompt", "The prompt is empty; fill it or remove the row.")
    text = check_text(row["answer"], "answer")
    if not text.strip():
        raise BadRow("empty_answer", "The answer is empty; fill it or remove the row.")
    history = tuple(read_prompt(prompt, "prompt"))
    extras = {
        name: value for name, value in row.items() if name.strip() not in ("", *NEEDED, *IGNORED)
    }  # the header of a CSV is read without white space around its names
    try:
        json.dumps(extras, allow_nan=False)
    except (ValueError, RecursionError):
        detail = "A column holds NaN, an infinity, or lists nested too deep; write null instead."
        raise BadRow("bad_number", detail) from None
    given = row.get("id")
    if given is None or given == "":
        return history, Answer(content_id(history, text), number, location, text, extras)
    if isinstance(given, int) and not isinstance(given, bool):
        given = str(given)
    return history, Answer(check_text(given, "id"), number, location, text, extras)


def _stripped(history: Sequence[Message]) -> list[Message]:
    return [Message(role=turn["role"], content=turn["content"].strip()) for turn in history]


def check_writable(answers: Answers, out: Path) -> None:
    """Check that the answers can be written to a file and read back, before anybody ranks them.

    Raises:
        ConfigError: CSV cannot hold them.
    """
    if out.suffix.lower() == ".jsonl":
        return
    hint = f"write JSONL instead: --out {out.with_suffix('.jsonl').name}"
    for prompt in answers.prompts:
        location = prompt.answers[0].location
        if not _one_turn(prompt.history):
            raise ConfigError("a CSV cannot hold a prompt of several turns", location=location, hint=hint)
        for answer in prompt.answers:
            cells = (prompt.history[0]["content"], answer.text, *map(_cell, answer.extras.values()))
            if max(map(len, cells)) > LONGEST_CELL:
                problem = f"a text of more than {LONGEST_CELL} characters does not fit a cell of a CSV"
                raise ConfigError(problem, location=answer.location, hint=hint)


def write_ranks(out: Path, answers: Answers, ranked: Mapping[str, Mapping[str, Order]]) -> int:
    """Write ranks as `data.ranked_rows.read_ranked` reads them, whole or not at all; return how many rows.

    Rows run annotator by annotator (sorted), and each annotator's in the order of the input. Rank 1 is the
    best; tied answers share one rank, and the next rank counts them: 1, 2, 2, 4.

    Args:
        out: JSONL where its name ends in `.jsonl`, else CSV (UTF-8, `\\n` line ends).
        answers: passed `check_writable`.
        ranked: annotator -> prompt id -> order of the prompt's answers.

    Raises:
        DataError: the system refuses to write.
    """
    rows = [row for name in sorted(ranked) for row in _ranked_rows(answers, name, ranked[name])]
    if out.suffix.lower() == ".jsonl":
        return write_jsonl(out, rows)
    header = [*COLUMNS, ANNOTATOR, *answers.columns]
    with replacing(out) as raw:
        raw.write(_csv_line([*map(_cell, header)]))
        for row in rows:
            raw.write(_csv_line([_cell(row.get(name)) for name in header]))
    return len(rows)


def _ranked_rows(answers: Answers, annotator: str, ranked: Mapping[str, Order]) -> list[dict[str, Any]]:
    rows: list[tuple[int, dict[str, Any]]] = []
    for prompt in answers.prompts:
        if prompt.id not in ranked:
            continue
        ranks = ranks_of(ranked[prompt.id])
        text = prompt.history[0]["content"] if _one_turn(prompt.history) else list(prompt.history)
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


def _one_turn(history: Sequence[Message]) -> bool:
    return len(history) == 1


def _cell(value: Any) -> str:
    """Return a value as the text of a cell: a text as it is, anything else as JSON, and nothing for null."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    # Half of a surrogate pair has no UTF-8: then the JSON of it stands there.
    return text if is_text(text) else json.dumps(value)


def _csv_line(cells: Sequence[str]) -> bytes:
    line = io.StringIO()
    # The module itself quotes a carriage return only where it is part of the line end.
    quoting: Any = csv.QUOTE_ALL if any("\r" in cell for cell in cells) else csv.QUOTE_MINIMAL
    csv.writer(line, lineterminator="\n", quoting=quoting).writerow(cells)
    return line.getvalue().encode("utf-8")
