"""Rewards by a judge: `GRPOTrainer(..., reward_funcs=GroupReward(judge, {"schedule": "regular"}))`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reasongenrm.config.loading import section
from reasongenrm.config.rewards import RewardSettings
from reasongenrm.config.rubric import Rubric
from reasongenrm.errors import ConfigError, DataError
from reasongenrm.judge.inputs import input_errors
from reasongenrm.judge.sharing import PairwiseJudge
from reasongenrm.rewards.completions import column_values, completion_text, prompt_input
from reasongenrm.rewards.schedule import check_judge, judge_samples
from reasongenrm.rewards.shaping import shaping_metrics
from reasongenrm.rows.turns import read_rubric

_NAMES = {"reference": "judge_reference", "pointwise": "judge_rating"}
"""What TRL logs a reward as: rewards/judge_group/mean for all schedules but these."""


class GroupReward:
    """A reward function for TRL's GRPOTrainer and OnlineDPOTrainer: the samples of a prompt are judged together.

    Rewards are in [0, 1]; None for a sample without a readable verdict, which GRPOTrainer leaves out of the group's mean and
    gives no advantage. TRL computes rewards separately in each process: `per_device_train_batch_size` must be a multiple of
    `num_generations`, or a group is judged in parts. Logged: `judge_unread`, the share of samples without a readable
    verdict, and `judge_comparisons` per sample; with shaping also its terms and flags (`shaping_metrics`).

    Args:
        judge: the judge that compares the samples.
        settings: the keys of `RewardSettings`.
        reference: of the schedule `reference`: column of the data set with an answer to compare with, a text or a list of
            messages.
        rubric: by which all samples are compared or rated (with the schedule `pointwise`: each alone, by each criterion).
        rubric_column: column of the data set with a rubric for each row, see `read_rubric`; a row may have none if there
            is a `rubric`.

    Raises:
        ConfigError: an unknown key or an invalid value; not a judge or not a rubric; or the schedule contradicts
            `reference`.
    """

    def __init__(
        self,
        judge: PairwiseJudge,
        settings: RewardSettings | Mapping[str, Any] | None = None,
        *,
        reference: str | None = None,
        rubric: Rubric | None = None,
        rubric_column: str | None = None,
    ) -> None:
        self._settings = section(RewardSettings, settings or {}, "settings")
        schedule = self._settings.schedule
        if (schedule == "reference") != (reference is not None):
            problem = f"the schedule {schedule} and reference={reference!r} contradict each other"
            hint = 'set schedule to "reference" and reference to the column of reference answers, or neither'
            raise ConfigError(problem, location="reference", hint=hint)
        check_judge(judge)
        _check_rubric(rubric)
        self._judge, self._reference = judge, reference
        self._rubric, self._rubric_column = rubric, rubric_column
        self.__name__ = _NAMES.get(schedule, "judge_group")

    def __call__(
        self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any
    ) -> list[float | None]:
        """Return a reward per completion; all judgements are requested at once.

        Args:
            prompts: texts, or lists of messages; one per completion.
            completions: texts, or lists of messages.
            columns: the data set's other columns, and other arguments of TRL.

        Raises:
            DataError: a column is missing or has not one value per completion, a reference is not a text, a row has no
                valid rubric, or a prompt cannot be judged.
        """
        _check_count("prompts", prompts, completions)
        _check_count("completions", completions, completions)
        answers = [
            completion_text(completion, f"completions[{i}]") for i, completion in enumerate(completions)
        ]
        references: list[str] | None = None
        if (name := self._reference) is not None:
            golds = column_values(columns, name)
            _check_count(name, golds, completions)
            references = [completion_text(value, f"{name}[{i}]") for i, value in enumerate(golds)]
        rubrics = [self._rubric] * len(answers)
        if (name := self._rubric_column) is not None:
            values = column_values(columns, name)
            _check_count(name, values, completions)
            rubrics = [_row_rubric(value, self._rubric, f"{name}[{i}]") for i, value in enumerate(values)]
        inputs = [prompt_input(prompt) for prompt in prompts]
        lengths: list[int] | None = None
        if (tokens := columns.get("completion_ids")) is not None:
            _check_count("completion_ids", tokens, completions)
            lengths = [len(ids) for ids in tokens]
        result = judge_samples(
            self._judge,
            inputs,
            answers,
            self._settings,
            references=references,
            rubrics=rubrics,
            lengths=lengths,
        )
        if answers and (log := columns.get("log_metric")):
            log("judge_unread", result.unread / len(answers))
            log("judge_comparisons", result.comparisons / len(answers))
            metrics = shaping_metrics(result.terms, result.flags, self._settings.shaping)
            for name, value in metrics.items():
                log(name, value)
        return list(result.rewards)


def _check_rubric(rubric: Any) -> None:
    """Raise ConfigError for what is not a rubric."""
    if rubric is not None and not isinstance(rubric, Rubric):
        hint = 'give a Rubric, such as Rubric.model_validate(["is correct"])'
        raise ConfigError(f"not a rubric, but {type(rubric).__name__}", location="rubric", hint=hint)


def _check_count(name: str, values: Any, completions: Sequence[Any]) -> None:
    """Raise DataError for a column that has not one value per completion."""
    if isinstance(values, str | bytes) or not hasattr(values, "__len__"):
        raise DataError("not a list", location=name, hint="give one value per completion")
    if len(values) != len(completions):
        problem = f"{len(values)} values for {len(completions)} completions"
        raise DataError(problem, location=name, hint="give one value per completion")


def _row_rubric(value: Any, default: Rubric | None, location: str) -> Rubric:
    """Return the rubric of a row."""
    with input_errors(location):
        rubric = read_rubric(value) or default
    if rubric is None:
        hint = "give every row a rubric, or the reward a default"
        raise DataError("the row has no rubric", location=location, hint=hint)
    return rubric
