"""Prompts that list two to eight answers, of which the judge names the best one.

A list's order is written in two ways: as the index of the answer shown as A, as B, and so on, or, in a `JudgePrompt`, as the
letters of the answers.
"""

from __future__ import annotations

from collections.abc import Sequence

from reasongenrm.chat.grammar import LETTERS, letter
from reasongenrm.chat.prompts import (
    PromptFile,
    history_texts,
    lettered,
    neutralise,
    place,
    user_turn,
    wording_id,
)
from reasongenrm.errors import ConfigError
from reasongenrm.records import AnswerList, JudgePrompt, ListPrompt, Message, content_id, unit_hash


def list_order(list_id: str, answers: int, seed: int) -> tuple[int, ...]:
    """Return the index of the answer shown as A, as B, and so on: a function of id, number of answers and seed only."""
    return tuple(sorted(range(answers), key=lambda index: unit_hash("list", seed, list_id, index)))


def list_prompt(
    history: Sequence[Message],
    answers: Sequence[str],
    prompts: PromptFile,
    *,
    seed: int,
    list_id: str | None = None,
    order: Sequence[int] | None = None,
) -> ListPrompt:
    """Render several answers as the user turn of a judge that names the best one.

    Args:
        history: turns up to and including the last user turn.
        answers: 2 to 8 of them.
        prompts: the wording.
        seed: of the order.
        list_id: by default the content hash of history and answers.
        order: index of the answer shown as A, as B, and so on; by default `list_order`.

    Raises:
        ConfigError: the prompt file has no template `listwise`, or the number of answers is not from 2 to 8.
    """
    wording = prompts.for_lists()
    if not 2 <= len(answers) <= len(LETTERS):
        raise ConfigError(
            f"{len(answers)} answers in one list",
            location="answers",
            hint=f"give 2 to {len(LETTERS)}; compare more of them in pairs, as in a tournament",
        )
    list_id = list_id or content_id(tuple(history), tuple(answers))
    shown = tuple(order or list_order(list_id, len(answers), seed))
    *others, last = prompts.list_verdicts(len(answers)).texts
    messages = user_turn(
        wording,
        wording.judge,
        **history_texts(history, wording.judge, wording.delimiters),
        answers=lettered([neutralise(answers[index], wording.delimiters) for index in shown]),
        verdicts=f"{', '.join(others)} or {last}",
    )
    prompt_id = content_id(list_id, shown, wording_id(wording, wording.judge, wording.delimiters))
    return ListPrompt(prompt_id, list_id, shown, messages)


def list_judge_prompts(
    answers: AnswerList, prompts: PromptFile, *, seed: int, both_orders: bool
) -> list[JudgePrompt]:
    """Render a list whose best answer is known, in its seeded order, and, for both orders, in the reverse of it.

    A list of two has the orders of its pair (see `place`).
    """
    count = len(answers.answers)
    if count == 2:
        first: tuple[int, ...] = (0, 1) if place(answers.id, seed) == "AB" else (1, 0)
    else:
        first = list_order(answers.id, count, seed)
    rendered = []
    for order in (first, first[::-1]) if both_orders else (first,):
        one = list_prompt(
            answers.history, answers.answers, prompts, seed=seed, list_id=answers.id, order=order
        )
        letters = "".join(LETTERS[order.index(index)] for index in range(count))
        winner = letter(order.index(0))
        rendered.append(JudgePrompt(one.id, answers.id, letters, one.messages, winner, answers.source))
    return rendered


def list_hindsight(answers: AnswerList, prompt: JudgePrompt, prompts: PromptFile) -> tuple[Message, ...]:
    """Render a list as in its judge prompt, and which answer is best, as the teacher's user turn.

    Args:
        answers: the list.
        prompt: the judge prompt, for the order.
        prompts: the wording for lists (`PromptFile.for_lists`).
    """
    in_order = sorted(zip(prompt.order, answers.answers, strict=True))
    return user_turn(
        prompts,
        prompts.hindsight,
        **history_texts(answers.history, prompts.hindsight, prompts.delimiters),
        answers=lettered([neutralise(text, prompts.delimiters) for _, text in in_order]),
        winner=prompt.winner,
    )
