"""One sample of a cohort, sent to a judge's server: for trainers that ask for one reward at a time.

The request waits until the cohort is judged. It is awaited, so that no thread waits: a pool of threads may be smaller than a cohort.
"""

from __future__ import annotations

import uuid
from typing import Annotated, Any

import msgspec

from reasongenrm.config.rewards import RewardSettings
from reasongenrm.config.rubric import Rubric
from reasongenrm.judge.inputs import PromptInput, with_rubric
from reasongenrm.judge.remote import RemoteJudge, request_body


class _Rewards(msgspec.Struct):
    """What the server answers to /reward with one sample."""

    rewards: Annotated[
        tuple[Annotated[float, msgspec.Meta(ge=-1e6, le=1e6)] | None, ...], msgspec.Meta(min_length=1)
    ]
    problems: tuple[str, ...] = ()


async def cohort_reward(
    judge: RemoteJudge,
    prompt: PromptInput,
    answer: str,
    *,
    size: int,
    cohort: str | None = None,
    sample: str | None = None,
    timeout: float | None = None,
    reference: str | None = None,
    rubric: Rubric | None = None,
    settings: RewardSettings | None = None,
) -> tuple[float | None, str]:
    """Return the reward of one sample, or None and why there is none.

    Args:
        judge: the server's.
        prompt, answer, reference, rubric: of the sample.
        size: number of samples of the cohort.
        cohort: its id; None: the samples with this prompt are a cohort.
        sample: the sample's id, equal when the same sample is sent again; None: this call is another sample than all others.
        timeout: seconds after which the samples that came are judged; None: as the server says.
        settings: keys that are not set are the server's; None: all of them.

    Raises:
        DataError: the server refuses the sample.
        EngineError: the server cannot be reached, or fails.
    """
    row = with_rubric((prompt, answer), rubric)
    body: dict[str, Any] = request_body(row, "answer")
    place = {"size": size, "id": cohort, "sample": sample or uuid.uuid4().hex, "timeout": timeout}
    body |= {
        "answers": [body.pop("answer")],
        "cohort": {name: value for name, value in place.items() if value is not None},
    }
    if reference is not None:
        body["references"] = [reference]
    if settings is not None:
        body["settings"] = settings.model_dump(mode="json", exclude_unset=True)
    answered = await judge.ask("/reward", body, _Rewards)
    return answered.rewards[0], "; ".join(answered.problems)
