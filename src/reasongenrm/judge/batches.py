"""Rows that are judged together: their prompts, and how the judgements of the prompts become a record per row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from reasongenrm.chat.lists import list_prompt
from reasongenrm.chat.prompts import PromptFile, rating_prompt
from reasongenrm.config.rubric import Rubric
from reasongenrm.judge.ask import J, JudgeTask, P
from reasongenrm.judge.criteria import (
    combine_list_verdicts,
    combine_ratings,
    comparison_text,
    criteria_histories,
    rating_text,
)
from reasongenrm.judge.inputs import PromptInput, RatingInput, read_input, read_row
from reasongenrm.judge.listwise import ListTask
from reasongenrm.judge.rate import RatingTask
from reasongenrm.records import (
    Completion,
    ListPrompt,
    ListVerdict,
    Rating,
    RatingPrompt,
    content_id,
    split_criteria,
)

R = TypeVar("R")

ListInput = tuple[PromptInput, Sequence[str]] | tuple[PromptInput, Sequence[str], Rubric | None]
"""A prompt and two to eight answers, and the rubric by which they are judged."""


@dataclass(frozen=True, slots=True)
class Batch(Generic[P, J, R]):
    """Rows that are judged together.

    Attributes:
        prompts: of all rows.
        task: the requests for them.
        records: returns a record per row, from the judgement of each prompt and the completions that it was read from.
    """

    prompts: Sequence[P]
    task: JudgeTask[P, J]
    records: Callable[[Sequence[tuple[J, Sequence[Completion]]]], Iterator[R]]


def rating_batch(
    rows: Iterable[tuple[int, RatingInput]], prompt_file: PromptFile, task: RatingTask
) -> Batch[RatingPrompt, Rating, Rating]:
    """Return the batch of numbered rows: a prompt per row, and one per criterion of a row with a rubric.

    Raises:
        ConfigError, DataError: see `Judge.rate_many`.
    """
    inputs = [read_row(number, row, "answer") for number, row in rows]
    prompts = [
        rating_prompt(history, answer, prompt_file)
        for turns, [answer], rubric in inputs
        for history in criteria_histories(turns, rubric, rating_text)
    ]

    def records(results: Sequence[tuple[Rating, Sequence[Completion]]]) -> Iterator[Rating]:
        ratings = (rating for rating, _ in results)
        for turns, [answer], rubric in inputs:
            if rubric is None:
                yield next(ratings)
                continue
            by_name = {criterion.name: next(ratings) for criterion in rubric.criteria}
            row_id = content_id(split_criteria(turns)[1], answer, rubric.model_dump())
            yield combine_ratings(rubric, by_name, rating_id=row_id)

    return Batch(prompts, task, records)


def list_batch(
    rows: Iterable[tuple[int, ListInput]], prompt_file: PromptFile, task: ListTask, *, seed: int
) -> Batch[ListPrompt, ListVerdict, ListVerdict]:
    """Return the batch of numbered rows: a prompt per row, and one per criterion of a row with a rubric.

    Raises:
        ConfigError, DataError: see `Judge.choose_many`.
    """
    inputs = []
    for number, (prompt, answers, *rubric) in rows:
        named = {f"answer {n}": answer for n, answer in enumerate(answers)}
        inputs.append((*read_input(number, prompt, **named), rubric[0] if rubric else None))
    prompts = [
        list_prompt(history, texts, prompt_file, seed=seed)
        for turns, texts, rubric in inputs
        for history in criteria_histories(turns, rubric, comparison_text)
    ]

    def records(results: Sequence[tuple[ListVerdict, Sequence[Completion]]]) -> Iterator[ListVerdict]:
        verdicts = (verdict for verdict, _ in results)
        for turns, texts, rubric in inputs:
            if rubric is None:
                yield next(verdicts)
                continue
            by_name = {criterion.name: next(verdicts) for criterion in rubric.criteria}
            row_id = content_id(split_criteria(turns)[1], tuple(texts), rubric.model_dump())
            yield combine_list_verdicts(rubric, by_name, len(texts), verdict_id=row_id)

    return Batch(prompts, task, records)
