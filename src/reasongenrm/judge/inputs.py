"""What a caller of a judge passes: prompts, answers and rubrics, checked before anything is judged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from reasongenrm.config.rubric import Rubric
from reasongenrm.errors import DataError
from reasongenrm.records import CRITERIA, Message, with_criteria
from reasongenrm.rows.turns import BadRow, check_text, is_list, read_prompt, replace_surrogates

PromptInput = str | Sequence[Message]
"""A prompt passed by a caller: one user turn, or the turns up to and including the last user turn, which a turn of the role
`criteria` may come before (`records.with_criteria`)."""

ComparisonInput = tuple[PromptInput, str, str] | tuple[PromptInput, str, str, Rubric | None]
"""A prompt and two answers passed by a caller, and the rubric by which they are compared."""

RatingInput = tuple[PromptInput, str] | tuple[PromptInput, str, Rubric | None]
"""A prompt and an answer passed by a caller, and the rubric by which it is rated."""


class PlacedRow(tuple[Any, ...]):
    """A `ComparisonInput` whose first answer a judge of one order shows as A; it places other rows by its seed."""

    __slots__ = ()


def with_rubric(row: tuple[Any, ...], rubric: Rubric | None) -> Any:
    """Return a row of prompt and answers with a rubric at its end, if there is one."""
    return row if rubric is None else (*row, rubric)


@contextmanager
def input_errors(location: str) -> Iterator[None]:
    """Raise a DataError with this location for a caller's input that cannot be judged."""
    try:
        yield
    except BadRow as error:
        raise DataError(error.reason.replace("_", " "), location=location, hint=error.detail) from None


def read_input(number: int, prompt: PromptInput, **answers: str) -> tuple[list[Message], list[str]]:
    """Check a caller's prompt and answers, with a question mark for every lone surrogate.

    Raises:
        DataError: the prompt or an answer is not a text, or the turns do not end in the user's; names the row.
    """
    prompt, answers = replace_surrogates([prompt, answers])
    with input_errors(f"row {number}"):
        criteria = ""
        if (
            is_list(prompt)
            and prompt
            and isinstance(prompt[0], Mapping)
            and prompt[0].get("role") == CRITERIA
        ):
            criteria, prompt = check_text(prompt[0].get("content"), CRITERIA), prompt[1:]
        texts = [check_text(text, name) for name, text in answers.items()]
        return with_criteria(read_prompt(prompt, "prompt"), criteria), texts


def read_row(
    number: int, row: ComparisonInput | RatingInput, *names: str
) -> tuple[list[Message], list[str], Rubric | None]:
    """Return a caller's row as turns, the answers of these names, and the rubric; see `read_input`."""
    rest: list[Any] = [*row[1:]]
    rubric = rest.pop() if len(rest) > len(names) else None
    turns, answers = read_input(number, row[0], **dict(zip(names, rest, strict=True)))
    return turns, answers, rubric
