"""The judge as a reward for reinforcement learning: each sample is compared with its group, or with a reference.

trainer = GRPOTrainer(..., reward_funcs=GroupReward(judge, against="group"))
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from reasongenrm.errors import ConfigError, DataError
from reasongenrm.judge.inputs import Prompt
from reasongenrm.judge.sharing import PairwiseJudge, Row
from reasongenrm.judge.verdicts import preference
from reasongenrm.records import Comparison, Message, content_id


@dataclass(frozen=True, slots=True)
class Schedule:
    """Which comparisons some samples need, and what these say of each sample.

    Attributes:
        rows: what to ask, each unordered pair of different answers to a prompt once.
        games: per sample its comparisons, as (number of the row, whether the sample stands first in it); the number is
            None for a comparison with the same text.
    """

    rows: tuple[Row, ...]
    games: tuple[tuple[tuple[int | None, bool], ...], ...]

    @classmethod
    def of(
        cls, prompts: Sequence[Prompt], answers: Sequence[str], references: Sequence[str | None]
    ) -> Schedule:
        """Compare each sample with its reference, or, where that is None, with the other samples of its prompt that
        have none."""
        keys = [content_id(prompt) for prompt in prompts]
        groups: dict[str, list[int]] = {}
        for sample, (key, reference) in enumerate(zip(keys, references, strict=True)):
            if reference is None:
                groups.setdefault(key, []).append(sample)
        rows: list[Row] = []
        asked: dict[tuple[str, str, str], int] = {}

        def game(sample: int, other: str) -> tuple[int | None, bool]:
            key, own = keys[sample], answers[sample]
            if own == other:
                return None, True
            if (key, other, own) in asked:
                return asked[key, other, own], False
            if (key, own, other) not in asked:
                asked[key, own, other] = len(rows)
                rows.append((prompts[sample], own, other))
            return asked[key, own, other], True

        def opponents(sample: int) -> list[str]:
            reference = references[sample]
            others = [answers[other] for other in groups.get(keys[sample], ()) if other != sample]
            return others if reference is None else [reference]

        games = tuple(tuple(game(i, other) for other in opponents(i)) for i in range(len(answers)))
        return cls(tuple(rows), games)

    def rewards(self, comparisons: Sequence[Comparison], *, unread: float) -> list[float]:
        """Return each sample's mean P(it is better); 0.5 where it is alone.

        Args:
            comparisons: one per row.
            unread: what a comparison of which nothing can be read is worth to both sides.
        """
        known = [preference(comparison) for comparison in comparisons]

        def points(row: int | None, first: bool) -> float:
            value = 0.5 if row is None else known[row]
            if value is None:
                return unread
            return value if first else 1 - value

        return [
            math.fsum(points(*game) for game in games) / len(games) if games else 0.5 for games in self.games
        ]


class GroupReward:
    """A reward function for TRL's GRPOTrainer and OnlineDPOTrainer.

    A sample's reward lies in [0, 1]. Against its group it is the mean over the other samples of the same prompt of
    P(it is better), which takes n(n−1)/2 comparisons for n different samples; the mean of a group is 0.5. TRL computes
    rewards in each process apart: have `per_device_train_batch_size` be a multiple of `num_generations`, or a group is
    judged in parts.

    Args:
        judge: compares.
        reference: column of the data set that holds an answer to compare with, a text or a list of messages.
        against: `group`, or `reference` to compare each sample with the reference alone.
        unread: what a comparison of which nothing can be read is worth to both sides.

    Raises:
        ConfigError: `against` and `reference` do not fit.
    """

    def __init__(
        self,
        judge: PairwiseJudge,
        *,
        reference: str | None = None,
        against: Literal["group", "reference"],
        unread: float = 0.5,
    ) -> None:
        if against not in ("group", "reference"):
            raise ConfigError(f"unknown opponent {against!r}", location="against", hint="group or reference")
        if against == "reference" and reference is None:
            raise ConfigError(
                "no column to compare with", location="reference", hint="name the reference answers' column"
            )
        if against == "group" and reference is not None:
            raise ConfigError(
                f"nothing is compared with {reference!r}",
                location="reference",
                hint='give against="reference", or leave it out',
            )
        self._judge, self._reference, self._unread = judge, reference, unread
        self.__name__ = f"judge_{against}"  # TRL logs it as rewards/judge_group/mean

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float]:
        """Return a reward per completion; all comparisons go to the judge at once.

        Args:
            prompts: texts, or lists of messages; one per completion.
            completions: texts, or lists of messages.
            columns: the data set's other columns, and what else TRL hands over.

        Raises:
            DataError: the reference's column is missing or holds no text, or a prompt cannot be judged.
        """
        answers = [_answer(completion, f"completions[{i}]") for i, completion in enumerate(completions)]
        references: list[str | None] = [None] * len(answers)
        if self._reference is not None:
            if self._reference not in columns:
                raise DataError(
                    "the data set has no such column",
                    location=self._reference,
                    hint=f"of {', '.join(columns) or 'none'}",
                )
            references = [
                _answer(value, f"{self._reference}[{i}]") for i, value in enumerate(columns[self._reference])
            ]
        schedule = Schedule.of([_prompt(prompt) for prompt in prompts], answers, references)
        return schedule.rewards(list(self._judge.compare_many(schedule.rows)), unread=self._unread)


def verl_score(judge: PairwiseJudge, *, unread: float = 0.5) -> Callable[..., Any]:
    """Return verl's custom reward function: P(the solution is better than the ground truth), in [0, 1].

    It is called in either of verl's ways: `compute_score(data_source, solution_str, ground_truth, extra_info)` gives a
    float, and `compute_score(data_sources=, solution_strs=, ground_truths=, extra_infos=)` a list. The question is
    `extra_info["question"]`, or `extra_info["prompt"]`; the ground truth is a whole answer. What else verl hands over
    (`reward_router_address`, …) is not used. It raises DataError for a row without a question or a ground truth.

    Args:
        judge: compares; verl asks from several threads, so that a judge in this process must be a `SharedJudge`.
        unread: the reward where nothing can be read.
    """

    def compute_score(
        data_source: Any = None,
        solution_str: Any = None,
        ground_truth: Any = None,
        extra_info: Any = None,
        *,
        data_sources: Any = None,
        solution_strs: Any = None,
        ground_truths: Any = None,
        extra_infos: Any = None,
        **_: Any,
    ) -> float | list[float]:
        if solution_strs is None:
            return scores([solution_str], [ground_truth], [extra_info])[0]
        infos = [None] * len(solution_strs) if extra_infos is None else list(extra_infos)
        return scores(list(solution_strs), list(ground_truths), infos)

    def scores(solutions: list[Any], truths: list[Any], infos: list[Any]) -> list[float]:
        prompts = [_question(info, number) for number, info in enumerate(infos)]
        answers = [_answer(text, f"solution_str[{number}]") for number, text in enumerate(solutions)]
        references = [_answer(text, f"ground_truth[{number}]") for number, text in enumerate(truths)]
        schedule = Schedule.of(prompts, answers, references)
        return schedule.rewards(list(judge.compare_many(schedule.rows)), unread=unread)

    return compute_score


def _question(info: Any, number: int) -> Prompt:
    """verl's rows come from Parquet: a list of messages may be a numpy array."""
    given = info if isinstance(info, Mapping) else {}
    found = next((given[name] for name in ("question", "prompt") if given.get(name) is not None), None)
    if found is None:
        raise DataError(
            "no question",
            location=f"extra_info[{number}]",
            hint="write the prompt into extra_info.question when the data set is made",
        )
    return found if isinstance(found, str) else _prompt(list(found))


def responses(queries: Sequence[str], prompts: Sequence[str], ends: Sequence[str] = ()) -> list[str]:
    """Return OpenRLHF's responses: its queries are a prompt and the response behind it.

    Args:
        queries: prompts and responses.
        prompts: one per query.
        ends: texts of which one is cut off a response's end, such as the end-of-turn marker of the policy.

    Raises:
        DataError: a query does not begin with its prompt.
    """
    found = []
    for number, (query, prompt) in enumerate(zip(queries, prompts, strict=True)):
        if not query.startswith(prompt):
            raise DataError(
                "the query does not begin with its prompt",
                location=f"query[{number}]",
                hint="a tokenizer that changes the text or a prompt cut to the context does so; raise the prompt's limit",
            )
        response = query[len(prompt) :]
        end = next((end for end in ends if response.endswith(end)), "")
        found.append(response.removesuffix(end))
    return found


def _text(content: Any, location: str) -> str:
    """The text of a message: a string, or the text parts of a list, as multimodal chat templates take it."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(part["text"] for part in content if part.get("type") == "text")
    raise DataError("this is no text", location=location, hint="make it a text, or a list of messages")


def _prompt(prompt: Any) -> Prompt:
    if isinstance(prompt, str):
        return prompt
    return [Message(role=turn["role"], content=_text(turn["content"], "prompt")) for turn in prompt]


def _answer(completion: Any, location: str) -> str:
    """The text of a completion; of messages, the last assistant turn: behind tool calls stands the answer."""
    if not isinstance(completion, list):
        return _text(completion, location)
    said = [turn.get("content") for turn in completion if turn.get("role") == "assistant"]
    if not said:
        raise DataError("no assistant turn", location=location, hint="end it in one")
    return _text(said[-1] or "", location)
