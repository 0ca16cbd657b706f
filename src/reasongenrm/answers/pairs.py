"""Pairs to label, from rows of three layouts, and judges' verdicts on them."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reasongenrm.answers.verdicts import JUDGES, JudgeVerdict, read_row_verdicts
from reasongenrm.data.sources import SIDES, read_pair
from reasongenrm.errors import DataError
from reasongenrm.records import CRITERIA, Drop, Message, content_id, split_criteria, with_criteria
from reasongenrm.rows.files import RawRow, csv_rows, read_rows
from reasongenrm.rows.turns import BadRow, check_text, is_list, read_criteria, read_prompt

ANSWERS = ("a", "b")
NEEDED = ("prompt", *ANSWERS)
IGNORED = ("labels", "label", "labels_after_verdict", "notes", "outcome", "tokens", "prompt_tokens", "error")
"""Columns that are not copied: labels are new, and the others are of a judge's call."""

_OWN = (
    "id",
    *NEEDED,
    *SIDES,
    CRITERIA,
    JUDGES,
    "winner",
    "prob_a",
    "reason",
    "reasons",
    "verdicts",
    *IGNORED,
)


@dataclass(frozen=True, slots=True)
class LabelPair:
    """Two answers to label.

    Attributes:
        id: content hash of prompt, criteria and both answers: the id of `PreferencePair`, if the first were chosen.
        name: the row's id, or else the one that `judge compare` gives it; a repeated one gets `-2`, `-3`, …
        location: `file:line`.
        prompt: turns up to and including the last user turn.
        criteria: by which the answers are compared; empty for none.
        a, b: the answers, in the order of the file; of chosen and rejected, `a` is the chosen one.
        source: the row's source, or the name of the file.
        extras: the row's other columns, unchanged.
        verdicts: judge -> verdict.
    """

    id: str
    name: str
    location: str
    prompt: tuple[Message, ...]
    criteria: str
    a: str
    b: str
    source: str
    extras: Mapping[str, Any]
    verdicts: Mapping[str, JudgeVerdict]


@dataclass(frozen=True, slots=True)
class PairsTable:
    """The content of a file of pairs.

    Attributes:
        pairs: in the order of the file.
        drops: rows that cannot be labelled, with the reason.
        notes: one sentence per column that is not copied.
    """

    pairs: tuple[LabelPair, ...]
    drops: tuple[Drop, ...]
    notes: tuple[str, ...]


def read_pairs(path: str) -> PairsTable:
    """Read a file of pairs to label: JSONL, a JSON array, or CSV with a header.

    A row has `prompt` (a text, or a list of `{role, content}` turns that ends with a user turn) with the answers `a` and
    `b`, or with `chosen` and `rejected`; or the conversations `chosen` and `rejected` of stage 1. Optional: `id`, `source`,
    `criteria`, and a judge's verdict (see `verdicts.read_row_verdicts`); other columns are copied.

    Raises:
        DataError: the file cannot be read, or is a CSV that is not UTF-8 or has wrong columns or quotes.
    """
    file = Path(os.path.expanduser(path))
    pairs: dict[str, LabelPair] = {}
    drops: list[Drop] = []
    ignored: dict[str, None] = {}
    repeats: Counter[str] = Counter()
    for row in _rows(file):
        if isinstance(row, Drop):
            drops.append(row)
            continue
        try:
            pair = _pair(row)
            repeats[pair.name] += 1
            if repeats[pair.name] > 1:
                pair = replace(pair, name=f"{pair.name}-{repeats[pair.name]}")
            if first := pairs.get(pair.id):
                detail = f"{first.location} has the same prompt and answers; remove one of the two."
                raise BadRow("duplicate_pair", detail)
        except BadRow as bad:
            drops.append(Drop(row.location, row.origin, bad.reason, bad.detail, "load"))
            continue
        pairs[pair.id] = pair
        ignored |= dict.fromkeys(name for name in row.columns if name in IGNORED)
    notes = tuple(f"the column {name!r} is not copied" for name in ignored)
    return PairsTable(tuple(pairs.values()), tuple(drops), notes)


def _rows(file: Path) -> Iterator[RawRow | Drop]:
    if not file.is_file():
        raise DataError("file not found", location=str(file), hint="check the path")
    if file.suffix.lower() == ".csv":
        return map(_csv_row, csv_rows(file, NEEDED))
    return read_rows(str(file), optional=[name for name in _OWN if name not in IGNORED])


def _csv_row(row: RawRow | Drop) -> RawRow | Drop:
    """Return a row of a CSV without its empty cells, and its verdicts as JSON has them."""
    if isinstance(row, Drop):
        return row
    columns: dict[str, Any] = {
        name: cell for name, cell in row.columns.items() if cell.strip() or name in NEEDED
    }
    for name in ("prob_a", JUDGES, "reasons"):
        with suppress(ValueError, RecursionError):  # what is not valid is named when the row is checked
            columns |= {name: json.loads(columns[name])} if name in columns else {}
    return replace(row, columns=columns)


def _pair(row: RawRow) -> LabelPair:
    """Return a row as a pair; two rows of one content have the same id.

    Raises:
        BadRow: it is not one.
    """
    columns = row.columns
    conversations = is_list(columns.get("chosen")) and "prompt" not in columns
    prompt, criteria, texts, source = _conversations(row) if conversations else _texts(row)
    for text in texts:
        if not text.strip():
            raise BadRow("empty_answer", "An answer is empty; fill it or remove the row.")
    if texts[0].strip() == texts[1].strip():
        raise BadRow("equal_answers", "Both answers are the same; remove the row.")
    own = columns.get("id")
    has_name = isinstance(own, str | int) and str(own).strip()
    name = check_text(str(own), "id") if has_name else content_id(prompt, tuple(texts))
    extras = {name: value for name, value in columns.items() if name.strip() and name not in _OWN}
    extras.pop("source", None)
    try:
        json.dumps(extras, allow_nan=False)
    except (ValueError, RecursionError):
        detail = "A column holds NaN, an infinity, or lists nested too deep; write null instead."
        raise BadRow("bad_number", detail) from None
    return LabelPair(
        content_id(tuple(with_criteria(prompt, criteria)), *texts),
        name,
        row.location,
        tuple(prompt),
        criteria,
        *texts,
        source,
        extras,
        read_row_verdicts(columns),
    )


def _conversations(row: RawRow) -> tuple[Sequence[Message], str, tuple[str, str], str]:
    pair = read_pair(row)
    if isinstance(pair, Drop):
        raise BadRow(pair.reason, pair.detail)
    criteria, prompt = split_criteria(pair.history)
    return prompt, criteria, (pair.chosen, pair.rejected), pair.source


def _texts(row: RawRow) -> tuple[Sequence[Message], str, tuple[str, str], str]:
    columns = row.columns
    names = SIDES if "chosen" in columns and "a" not in columns else ANSWERS
    if missing := [name for name in ("prompt", *names) if name not in columns]:
        detail = f"There is no {', '.join(missing)}; give prompt, a and b, or chosen and rejected."
        raise BadRow("missing_column", detail)
    prompt = read_prompt(columns["prompt"], "prompt")
    criteria = read_criteria(columns.get(CRITERIA))
    source = columns.get("source")
    name = (check_text(source, "source").strip() if source is not None else "") or row.origin
    first, second = (check_text(columns[side], side) for side in names)
    return prompt, criteria, (first, second), name


def with_verdicts(
    pairs: Sequence[LabelPair], judge: str, verdicts: Mapping[str, JudgeVerdict]
) -> tuple[tuple[LabelPair, ...], int]:
    """Return the pairs with a judge's verdicts, and the number of pairs that have one.

    Args:
        pairs: to label.
        judge: name of the judge; it replaces a verdict of the same name.
        verdicts: by the name or the id of a pair (see `verdicts.read_verdicts`).
    """
    matches = [verdicts.get(pair.name) or verdicts.get(pair.id) for pair in pairs]
    with_new = tuple(
        replace(pair, verdicts={**pair.verdicts, judge: verdict}) if verdict else pair
        for pair, verdict in zip(pairs, matches, strict=True)
    )
    return with_new, sum(match is not None for match in matches)
