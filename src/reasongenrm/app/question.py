"""What the tab Try asks a judge, read from the fields of the page; and the answers, one result at a time."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from reasongenrm.app.history import Call, Kind, letter
from reasongenrm.config.rubric import Rubric
from reasongenrm.errors import DataError
from reasongenrm.records import Comparison, Message, Rating
from reasongenrm.rows.turns import BadRow, check_text, read_prompt

if TYPE_CHECKING:
    from reasongenrm.judge.api import Judge
    from reasongenrm.judge.stream import StreamedTexts
    from reasongenrm.judge.tournament import Ranking

CONVERSATION = "conversation (JSON)"
"""Form of the prompt: a list of turns, `[{"role": "user", "content": "…"}, …]`."""

MOST_ANSWERS = 8


@dataclass(frozen=True, slots=True)
class Question:
    """One call of a judge.

    Attributes:
        kind: `compare` (the first two answers), `rank` (all) or `rate` (each).
        prompt: the turns up to and including the last user turn.
        answers: the answers, in the order of the page.
        rubric: criteria, each of which is judged alone.
    """

    kind: Kind
    prompt: tuple[Message, ...]
    answers: tuple[str, ...]
    rubric: Rubric | None = None


def read_question(kind: Kind, prompt: str, form: str, rubric: str, answers: Sequence[str]) -> Question:
    """Return the question in the fields of the page.

    Args:
        kind: see `Question`.
        prompt: a text, or a conversation.
        form: `CONVERSATION`, or any other value for a text.
        rubric: YAML, or empty.
        answers: those of the fields that are shown.

    Raises:
        ConfigError: the rubric is not valid.
        DataError: the prompt or an answer is missing or not valid.
    """
    from reasongenrm.judge.criteria import parse_rubric

    if kind == "compare":
        answers = answers[:2]
    criteria = parse_rubric(rubric, "rubric") if rubric.strip() else None
    turns = _read_prompt(prompt, form)
    for index, answer in enumerate(answers):
        location = f"answer {letter(index)}"
        if not answer.strip():
            raise DataError(
                "the answer is empty", location=location, hint="write a text, or remove the field"
            )
        try:
            check_text(answer, location)
        except BadRow as error:
            raise DataError(error.reason.replace("_", " "), location=location, hint=error.detail) from None
    return Question(kind, turns, tuple(answers), criteria)


def _read_prompt(prompt: str, form: str) -> tuple[Message, ...]:
    if not prompt.strip():
        raise DataError("the prompt is empty", location="prompt", hint="write a prompt")
    value: object = prompt
    if form == CONVERSATION:
        try:
            value = json.loads(prompt)
        except (ValueError, RecursionError) as error:
            hint = 'write [{"role": "user", "content": "…"}, …], or choose the form text'
            raise DataError(f"invalid JSON: {error}", location="prompt", hint=hint) from None
        if isinstance(value, str):  # JSON of a text alone
            raise DataError("a text is not a list of turns", location="prompt", hint="choose the form text")
    try:
        return tuple(read_prompt(value, "prompt"))
    except BadRow as error:
        raise DataError(error.reason.replace("_", " "), location="prompt", hint=error.detail) from None


def prompt_fields(turns: Sequence[Message]) -> tuple[str, str]:
    """Return the text of the field of a prompt, and its form: the inverse of reading them."""
    if [turn["role"] for turn in turns] == ["user"]:
        return turns[0]["content"], "text"
    return json.dumps(list(turns), ensure_ascii=False, indent=1), CONVERSATION


def ask(
    judge: Judge, question: Question, changes: Mapping[str, Any]
) -> Generator[StreamedTexts | Comparison | Ranking | list[Rating], None, None]:
    """Yield the growing texts of a comparison, and last the result.

    Args:
        judge: the judge.
        question: the question.
        changes: keys of `JudgingConfig` that replace the judge's own, such as `votes`.

    Raises:
        ConfigError, DataError, EngineError: see `Judge`.
    """
    from reasongenrm.app.judges import with_judging
    from reasongenrm.judge.inputs import with_rubric
    from reasongenrm.judge.stream import stream_comparison

    judge, rubric, prompt = with_judging(judge, changes), question.rubric, list(question.prompt)
    if question.kind == "compare":
        a, b = question.answers
        yield from stream_comparison(judge, prompt, a, b, rubric=rubric)
    elif question.kind == "rank":
        yield judge.rank(prompt, question.answers, rubric=rubric)
    else:
        rows = [with_rubric((prompt, answer), rubric) for answer in question.answers]
        yield list(judge.rate_many(rows))


def make_call(
    question: Question,
    result: Comparison | Ranking | list[Rating],
    *,
    judge: str,
    seconds: float,
    head: str | None = None,
    scores: Sequence[float] = (),
) -> Call:
    """Return a question and its result as an entry of the history."""
    from reasongenrm.judge.columns import comparison_columns, ranking_columns, rating_columns

    columns: dict[str, Any] | list[dict[str, Any]]
    if isinstance(result, list):
        columns = [rating_columns(rating) for rating in result]
    elif isinstance(result, Comparison):
        columns = comparison_columns(result)
    else:
        columns = ranking_columns(result)
    return Call(
        datetime.now(UTC).isoformat(timespec="seconds"),
        judge,
        question.kind,
        question.prompt,
        question.answers,
        columns,
        round(seconds, 3),
        question.rubric.model_dump(mode="json") if question.rubric else None,
        head,
        tuple(scores),
    )
