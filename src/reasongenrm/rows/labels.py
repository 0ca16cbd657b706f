"""Read rows that people have labelled: a prompt with two answers, or one, the labels, and perhaps what judges said."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reasongenrm.errors import ConfigError, DataError
from reasongenrm.records import Drop, Message, content_id
from reasongenrm.rows.files import RawRow, csv_rows, read_rows
from reasongenrm.rows.turns import BadRow, check_text, kind_of, quoted, read_prompt

COLUMNS = ("id", "prompt", "a", "b", "answer", "labels", "label", "judges")
"""Columns of a row; `--columns` gives the names that they have in a file."""
SEVERAL = ("prompt", "labels", "judges")
"""Columns that may have several names: parts of the prompt, one column per annotator or judge."""

PAIR_LABELS = ("A", "B", "tie")
ANSWER_LABELS = ("pass", "fail")

_MEANINGS: dict[tuple[str, ...], dict[str, tuple[str, ...]]] = {
    PAIR_LABELS: {
        "A": ("a", "1", "answer_a", "response_a", "model_a"),
        "B": ("b", "2", "answer_b", "response_b", "model_b"),
        "tie": ("tie", "0", "same", "equal", "c"),
    },
    ANSWER_LABELS: {
        "pass": ("pass", "1", "true", "yes", "good", "correct"),
        "fail": ("fail", "0", "false", "no", "bad", "wrong", "incorrect"),
    },
}
"""Labels, and the ways to write them, in small letters."""


@dataclass(frozen=True, slots=True)
class JudgeLabel:
    """What a judge said of a row.

    Attributes:
        label: one of the row's labels; None where the answer cannot be read.
        prob_a: P(the first answer is better), or of a single answer its score in [0, 1]; None if unknown.
    """

    label: str | None
    prob_a: float | None = None


@dataclass(frozen=True, slots=True)
class LabelledRow:
    """A row with people's labels.

    Attributes:
        location: see `RawRow`.
        id: the row's own, or a content hash; a repeated one gets `-2`, `-3`, …
        prompt: the turns up to the last user turn.
        answers: two, or one.
        people: annotator -> label.
        judges: judge -> what the file says of it.
    """

    location: str
    id: str
    prompt: tuple[Message, ...]
    answers: tuple[str, ...]
    people: Mapping[str, str]
    judges: Mapping[str, JudgeLabel]

    @property
    def kinds(self) -> tuple[str, ...]:
        """The labels that people may give."""
        return PAIR_LABELS if len(self.answers) == 2 else ANSWER_LABELS

    @property
    def content(self) -> str:
        """Content hash of prompt and answers."""
        return content_id(self.prompt, self.answers)


def label_of(value: Any, kinds: tuple[str, ...]) -> str | None:
    """Return the label that a value means; None for one that means none of them."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = json.dumps(value) if isinstance(value, bool) else str(value)
    text = text.strip().lower()
    return next((label for label, ways in _MEANINGS[kinds].items() if text in ways), None)


def read_columns(words: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return our column -> its names in the file, from words such as `prompt=instruction,input`.

    Raises:
        ConfigError: a word names no column of ours, or has no name.
    """
    names: dict[str, tuple[str, ...]] = {name: (name,) for name in COLUMNS}
    for word in words:
        ours, equals, theirs = word.partition("=")
        parts = tuple(part.strip() for part in theirs.split(","))
        if ours not in COLUMNS or not equals or not all(parts) or (len(parts) > 1 and ours not in SEVERAL):
            hint = f"write {', '.join(COLUMNS)} = the column's name; {', '.join(SEVERAL)} take several, separated by commas"
            raise ConfigError(f"not a column: {word!r}", location="--columns", hint=hint)
        names[ours] = parts
    return names


def read_labels(path: str, columns: Mapping[str, tuple[str, ...]]) -> Iterator[LabelledRow | Drop]:
    """Yield a row or a Drop for each row of a file; a row with a label that cannot be read is dropped whole.

    All rows have two answers, or all have one, as the first good row.

    Args:
        path: see `rows.files.read_rows`; or a CSV file, whose column `labels` holds JSON.
        columns: see `read_columns`.

    Raises:
        DataError: the file cannot be read.
    """
    wanted = [name for names in columns.values() for name in names]
    if path.lower().endswith(".csv"):
        rows = csv_rows(Path(path), ())
    else:
        rows = read_rows(path, optional=wanted)
    repeats: Counter[str] = Counter()
    answers = 0
    for raw in rows:
        if isinstance(raw, Drop):
            yield raw
            continue
        try:
            row = _row(raw, columns)
            answers = answers or len(row.answers)
            if len(row.answers) != answers:
                detail = f"The row has {len(row.answers)} answer(s), the rows before have {answers}; give a file for each."
                raise BadRow("other_kind", detail)
        except BadRow as bad:
            yield Drop(raw.location, raw.origin, bad.reason, bad.detail, "load")
            continue
        repeats[row.id] += 1
        number = repeats[row.id]
        if number > 1:
            row = replace(row, id=f"{row.id}-{number}")
        yield row


def _row(raw: RawRow, columns: Mapping[str, tuple[str, ...]]) -> LabelledRow:
    values = {ours: raw.columns.get(names[0]) for ours, names in columns.items()}
    for ours in ("labels", "judges"):
        if len(columns[ours]) > 1:
            values[ours] = {name: raw.columns.get(name) for name in columns[ours]}
    if len(columns["prompt"]) > 1:
        parts = [_text(raw.columns.get(name) or "", name) for name in columns["prompt"]]
        values["prompt"] = "\n\n".join(part for part in parts if part.strip())
    prompt = tuple(read_prompt(values["prompt"], columns["prompt"][0]))
    sides = ("answer",) if values["b"] is None and values["answer"] is not None else ("a", "b")
    answers = tuple(_text(values[side], columns[side][0]) for side in sides)
    kinds = PAIR_LABELS if len(answers) == 2 else ANSWER_LABELS
    people = _people(values["labels"], values["label"], ", ".join(columns["labels"]), kinds)
    own = values["id"]
    name = str(own) if isinstance(own, str | int) and str(own).strip() else content_id(prompt, answers)
    return LabelledRow(raw.location, name, prompt, answers, people, _judges(values["judges"], kinds))


def _text(value: Any, name: str) -> str:
    """Return a text; of a number or a boolean, which a table program may have made of one, its JSON."""
    return json.dumps(value) if isinstance(value, bool | int | float) else check_text(value, name)


def _people(labels: Any, label: Any, name: str, kinds: tuple[str, ...]) -> dict[str, str]:
    """Return annotator -> label, from an object, a list in the annotators' order, or one label; null means not labelled.

    Raises:
        BadRow: a label cannot be read, or there is none.
    """
    if isinstance(labels, str) and labels.strip()[:1] in ("{", "["):  # a cell of a table
        try:
            labels = json.loads(labels)
        except ValueError:
            raise BadRow("bad_labels", f"`{name}` is not valid JSON: {quoted(labels)}.") from None
    if labels is None:
        labels = label
    if isinstance(labels, Mapping):
        named = {str(who): value for who, value in labels.items()}
    elif isinstance(labels, Sequence) and not isinstance(labels, str):
        named = {str(number): value for number, value in enumerate(labels, 1)}
    else:
        named = {"label": labels}
    found = {}
    for who, value in named.items():
        if value is None or value == "":
            continue
        meaning = label_of(value, kinds)
        if meaning is None:
            ways = "; ".join(f"{kind}: {', '.join(_MEANINGS[kinds][kind])}" for kind in kinds)
            raise BadRow("bad_label", f"`{name}` has {quoted(value)} of {quoted(who)}; write one of {ways}.")
        found[who] = meaning
    if not found:
        raise BadRow("no_label", f"`{name}` is {kind_of(labels)}, or has no label.")
    return found


def _judges(judges: Any, kinds: tuple[str, ...]) -> dict[str, JudgeLabel]:
    """Return judge -> what it said; a value that is not a label is an answer that cannot be read."""
    if judges is None or judges == "":
        return {}
    if not isinstance(judges, Mapping):
        raise BadRow("bad_judges", f"`judges` is {kind_of(judges)}; make it an object: judge -> label.")
    return {str(name): judge_label(value, kinds) for name, value in judges.items() if value not in (None, "")}


def judge_label(value: Any, kinds: tuple[str, ...], *, pass_score: float = 0.5) -> JudgeLabel:
    """Return what a judge said, from a label or from a line of `judge compare` or `judge rate`.

    Args:
        value: a label; or an object with `winner` and `prob_a` (two answers), or `score` in [0, 1] (one answer).
        kinds: the labels of the row.
        pass_score: a single answer's score from which on it passes.
    """
    if not isinstance(value, Mapping):
        return JudgeLabel(label_of(value, kinds))
    if kinds == PAIR_LABELS:
        return JudgeLabel(label_of(value.get("winner"), kinds), value.get("prob_a"))
    score = value.get("score")
    label = None if score is None else "pass" if score >= pass_score else "fail"
    return JudgeLabel(label, score)


def no_rows(path: str, dropped: int) -> DataError:
    """Return the error of a file without a usable row."""
    hint = "a row has prompt, a, b (or answer) and labels; name other columns with --columns"
    return DataError(f"no labelled row can be read ({dropped} dropped)", location=path, hint=hint)
