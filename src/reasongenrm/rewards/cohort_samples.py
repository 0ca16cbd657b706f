"""What comes to cohorts and leaves them: samples, their places, their rewards, and the limits of all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

from reasongenrm.config.rewards import RewardSettings
from reasongenrm.config.rubric import Rubric
from reasongenrm.errors import DataError, ReasonGenRMError
from reasongenrm.judge.inputs import PromptInput
from reasongenrm.records import content_id
from reasongenrm.rewards.schedule import Unread

DEFAULT_TIMEOUT = 120.0
"""Seconds that a cohort waits for its samples. OpenRLHF waits 180 s for an answer, the judging included."""


class CohortConflict(DataError):
    """A sample contradicts its open cohort: another size, prompt or settings, or another text of the same sample id."""


class CohortsFull(ReasonGenRMError):
    """Too many cohorts are open, or their texts are too long together.

    Attributes:
        retry_after: seconds after which the caller may try again.
    """

    retry_after = 2


class CohortStopped(ReasonGenRMError):
    """The server stops before the cohort was judged: the caller may try again at the next server.

    Attributes:
        retry_after: seconds after which it may.
    """

    retry_after = 2


def stopped() -> CohortStopped:
    """Return the error of samples whose cohort a stopping server does not judge."""
    return CohortStopped("the server stops", location="cohort", hint="send the sample again to the next one")


class TimerHandle(Protocol):
    """A call that is planned."""

    def cancel(self) -> None:
        """Drop it."""


Timer = Callable[[float, Callable[[], None]], TimerHandle]
"""Plans a call after some seconds."""


@dataclass(frozen=True, slots=True)
class CohortLimits:
    """Limits of all cohorts together.

    Attributes:
        cohorts: number of those that are not judged yet; as many judged ones are kept.
        characters: of all texts; above it no cohort is opened, and above twice as many no sample is taken.
        timeout: seconds from the first sample to the judging, where a sample does not say.
        keep: seconds that a judged cohort stays, for retries and late samples.
    """

    cohorts: int = 4096
    characters: int = 2**26
    timeout: float = DEFAULT_TIMEOUT
    keep: float = 300


DEFAULT_LIMITS = CohortLimits()


@dataclass(frozen=True)
class Sample:
    """One answer to a prompt.

    Attributes:
        prompt: see `PromptInput`; checked by the caller.
        answer: the answer.
        reference: an answer to compare it with, if the schedule uses one.
        rubric: by which it is judged.
        settings: how rewards follow from comparisons.
    """

    prompt: PromptInput
    answer: str
    reference: str | None = None
    rubric: Rubric | None = None
    settings: RewardSettings = field(default_factory=RewardSettings)

    @cached_property
    def terms(self) -> str:
        """Hash of all that the samples of a cohort have in common."""
        rubric = self.rubric and self.rubric.model_dump(mode="json")
        return content_id(self.prompt, rubric, self.settings.model_dump(mode="json"))

    @cached_property
    def characters(self) -> int:
        """Length of what is kept of it."""
        texts = [self.prompt] if isinstance(self.prompt, str) else [turn["content"] for turn in self.prompt]
        return sum(map(len, [*texts, self.answer, self.reference or ""]))


@dataclass(frozen=True, slots=True)
class Place:
    """A sample's place in a cohort.

    Attributes:
        size: number of samples, at least 2.
        cohort: the cohort's id; None: the cohort of the prompt.
        sample: the sample's id in the cohort, by which a retry is known; None: see the module's docstring.
        timeout: seconds from the cohort's first sample to its judging, as that sample says; None: as the limits say.
    """

    size: int
    cohort: str | None = None
    sample: str | None = None
    timeout: float | None = None


@dataclass(frozen=True, slots=True)
class SampleReward:
    """What the caller of a sample gets.

    Attributes:
        reward: of the sample; None where it cannot be given, and then a problem says why.
        error: standard error of the reward.
        comparisons: number of comparisons of the whole cohort.
        unread: number of the cohort's samples without a readable verdict.
        problems: of this sample, in words; among them how many samples were missing.
        samples: number of samples that were judged together.
        terms, flags: of this sample, with shaping; see `GroupRewards`.
    """

    reward: float | None
    error: float | None = None
    comparisons: int = 0
    unread: int = 0
    problems: tuple[str, ...] = ()
    samples: int = 1
    terms: dict[str, float] | None = None
    flags: tuple[str, ...] = ()


def unread_problems(
    problems: Sequence[Unread], answers: Sequence[str], sample: int | None = None
) -> list[str]:
    """Return the judgements of a group that could not be read, in words.

    Args:
        problems: of the group.
        answers: of the group.
        sample: index of the sample that they are about; None: of all samples.
    """
    texts = []
    for problem in problems:
        if problem.outcome == "alone":
            texts.append("no other sample to compare it with")
        # A judgement names one sample of each text.
        elif sample is None or answers[sample] in {answers[i] for i in problem.answers}:
            error = f": {problem.error}" if problem.error else ""
            texts.append(f"{problem.outcome} judgement of samples {list(problem.answers)}{error}")
    return texts
