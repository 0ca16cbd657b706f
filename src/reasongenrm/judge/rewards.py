"""Rewards for reinforcement learning: each sample is compared with its group, or with a reference.

trainer = GRPOTrainer(..., reward_funcs=GroupReward(judge, against="group"))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

from reasongenrm.errors import ConfigError, DataError
from reasongenrm.judge.api import ComparisonInput, PromptInput
from reasongenrm.judge.ask import preference
from reasongenrm.judge.sharing import PairwiseJudge
from reasongenrm.records import Comparison, Message, content_id


@dataclass(frozen=True, slots=True)
class Schedule:
    """The comparisons that a batch of samples needs, and the rewards that follow from them.

    Attributes:
        rows: comparisons to request; each unordered pair of different answers to a prompt occurs once.
        games: per sample its comparisons, as (index of the row, whether the sample is its first answer); the index is
            None for a comparison with an equal text.
    """

    rows: tuple[ComparisonInput, ...]
    games: tuple[tuple[tuple[int | None, bool], ...], ...]

    @classmethod
    def from_samples(
        cls, prompts: Sequence[PromptInput], answers: Sequence[str], references: Sequence[str | None]
    ) -> Schedule:
        """Compare each sample with its reference; one without a reference, with the other such samples of its prompt."""
        keys = [content_id(prompt) for prompt in prompts]
        groups: dict[str, list[int]] = {}
        for sample, (key, reference) in enumerate(zip(keys, references, strict=True)):
            if reference is None:
                groups.setdefault(key, []).append(sample)
        rows: list[ComparisonInput] = []
        index_by_answers: dict[tuple[str, frozenset[str]], int] = {}

        def game(sample: int, other: str) -> tuple[int | None, bool]:
            own = answers[sample]
            if own == other:
                return None, True
            index = index_by_answers.setdefault((keys[sample], frozenset((own, other))), len(rows))
            if index == len(rows):
                rows.append((prompts[sample], own, other))
            return index, rows[index][1] == own

        def opponents(sample: int) -> list[str]:
            reference = references[sample]
            others = [answers[other] for other in groups.get(keys[sample], ()) if other != sample]
            return others if reference is None else [reference]

        games = tuple(tuple(game(i, other) for other in opponents(i)) for i in range(len(answers)))
        return cls(tuple(rows), games)

    def rewards(self, comparisons: Sequence[Comparison]) -> list[float]:
        """Return each sample's mean P(it is better) from one comparison per row.

        It is 0.5 for a sample that is alone, and a comparison that cannot be read counts as 0.5 for both answers.
        """

        def points(row: int | None, first: bool) -> float:
            value = None if row is None else preference(comparisons[row])
            if value is None:
                return 0.5
            return value if first else 1 - value

        return [fmean(points(*game) for game in games) if games else 0.5 for games in self.games]


class GroupReward:
    """A reward function for TRL's GRPOTrainer and OnlineDPOTrainer.

    A sample's reward is in [0, 1]. Against its group it is the mean over the other samples of the same prompt of
    P(it is better), which takes n(n−1)/2 comparisons for n different samples; the mean of a group is 0.5. TRL computes
    rewards separately in each process: `per_device_train_batch_size` must be a multiple of `num_generations`, or a
    group is judged in parts.

    Args:
        judge: the judge that compares the samples.
        reference: column of the data set with an answer to compare with, a text or a list of messages.
        against: `group`, or `reference` to compare each sample only with the reference.

    Raises:
        ConfigError: `against` and `reference` contradict each other.
    """

    def __init__(
        self,
        judge: PairwiseJudge,
        *,
        reference: str | None = None,
        against: Literal["group", "reference"],
    ) -> None:
        if against != ("group" if reference is None else "reference"):
            problem = f'against="{against}" and reference={reference!r} contradict each other'
            hint = (
                'set against="reference" and reference to the column of reference answers, or against="group"'
            )
            raise ConfigError(problem, location="against", hint=hint)
        self._judge, self._reference = judge, reference
        self.__name__ = f"judge_{against}"  # TRL logs it as rewards/judge_group/mean

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float]:
        """Return a reward per completion; all comparisons go to the judge at once.

        Args:
            prompts: texts, or lists of messages; one per completion.
            completions: texts, or lists of messages.
            columns: the data set's other columns, and other arguments of TRL.

        Raises:
            DataError: the reference column is missing or does not hold texts, or a prompt cannot be judged.
        """
        answers = [_answer(completion, f"completions[{i}]") for i, completion in enumerate(completions)]
        references: list[str | None] = [None] * len(answers)
        if (name := self._reference) is not None:
            if name not in columns:
                hint = f"its columns: {', '.join(columns) or 'none'}"
                raise DataError("the data set does not have this column", location=name, hint=hint)
            references = [_answer(value, f"{name}[{i}]") for i, value in enumerate(columns[name])]
        schedule = Schedule.from_samples([_prompt(prompt) for prompt in prompts], answers, references)
        return schedule.rewards(list(self._judge.compare_many(schedule.rows)))


def verl_score(judge: PairwiseJudge) -> Callable[..., Any]:
    """Return verl's custom reward function: P(the solution is better than the ground truth), in [0, 1].

    It takes both call forms of verl: `compute_score(data_source, solution_str, ground_truth, extra_info)` returns a
    float, and `compute_score(data_sources=, solution_strs=, ground_truths=, extra_infos=)` a list. The question is
    `extra_info["question"]`, or `extra_info["prompt"]`; the ground truth is a whole answer. Other arguments of verl
    (`reward_router_address`, …) are not used. It raises DataError for a row without a question or a ground truth.

    Args:
        judge: the judge; verl calls from several threads, so that a judge in this process must be a `SharedJudge`.
    """

    def compute_score(
        data_source: Any = None,
        solution_str: Any = None,
        ground_truth: Any = None,
        extra_info: Any = None,
        **batch: Any,
    ) -> float | list[float]:
        solutions, infos = batch.get("solution_strs"), batch.get("extra_infos")
        if solutions is None:
            return scores([solution_str], [ground_truth], [extra_info])[0]
        infos = [None] * len(solutions) if infos is None else list(infos)
        return scores(list(solutions), list(batch["ground_truths"]), infos)

    def scores(solutions: list[Any], truths: list[Any], infos: list[Any]) -> list[float]:
        prompts = [_question(info, number) for number, info in enumerate(infos)]
        answers = [_answer(text, f"solution_str[{number}]") for number, text in enumerate(solutions)]
        references = [_answer(text, f"ground_truth[{number}]") for number, text in enumerate(truths)]
        schedule = Schedule.from_samples(prompts, answers, references)
        return schedule.rewards(list(judge.compare_many(schedule.rows)))

    return compute_score


def _question(info: Any, number: int) -> PromptInput:
    fields = info if isinstance(info, Mapping) else {}
    question = next((fields[name] for name in ("question", "prompt") if fields.get(name) is not None), None)
    if question is None:
        raise DataError(
            "no question",
            location=f"extra_info[{number}]",
            hint="write the prompt to extra_info.question when you build the data set",
        )
    return _prompt(question)  # verl's rows come from Parquet: a list of messages may be a numpy array


def openrlhf_responses(queries: Sequence[str], prompts: Sequence[str], ends: Sequence[str] = ()) -> list[str]:
    """Return the responses in OpenRLHF's queries, which are a prompt followed by its response.

    Args:
        queries: prompts with their responses.
        prompts: one per query.
        ends: texts such as the policy's end-of-turn marker; the first that ends a response is removed from it.

    Raises:
        DataError: a query does not begin with its prompt.
    """
    responses = []
    for number, (query, prompt) in enumerate(zip(queries, prompts, strict=True)):
        if not query.startswith(prompt):
            raise DataError(
                "the query does not begin with its prompt",
                location=f"query[{number}]",
                hint="raise the prompt's length limit; or the tokenizer does not decode to the same text",
            )
        response = query[len(prompt) :]
        end = next((end for end in ends if response.endswith(end)), "")
        responses.append(response.removesuffix(end))
    return responses


def _text(content: Any, location: str) -> str:
    """Return the text of a message: a string, or the text parts of a multimodal content list."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(part["text"] for part in content if part.get("type") == "text")
    raise DataError("not a text", location=location, hint="use a text or a list of messages")


def _prompt(prompt: Any) -> PromptInput:
    if isinstance(prompt, str):
        return prompt
    return [Message(role=turn["role"], content=_text(turn["content"], "prompt")) for turn in prompt]


def _answer(completion: Any, location: str) -> str:
    """Return the text of a completion; for messages, the last assistant turn, which follows any tool calls."""
    if not isinstance(completion, list):
        return _text(completion, location)
    contents = [turn.get("content") for turn in completion if turn.get("role") == "assistant"]
    if not contents:
        raise DataError("no assistant turn", location=location, hint="end the messages with one")
    return _text(contents[-1] or "", location)
