"""File for OpenRLHF's `--reward.remote_url`, which is a URL or a Python file: samples against reference answers, or rated.

Written against OpenRLHF 0.11.2, `openrlhf/utils/agent.py` (`SingleTurnAgentExecutor`). Its samples arrive one by one, each in a thread of
a pool that may be smaller than a group, so a group cannot be gathered here: for that, give the URL of `/get_reward`. This file is
for a server with a key, which OpenRLHF's own requests do not carry, and for a judge without a server. The environment names the
judge: see `rewards.environment`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reasongenrm.errors import ConfigError, DataError
from reasongenrm.rewards.completions import openrlhf_responses
from reasongenrm.rewards.environment import environment_ends, environment_judge, environment_settings
from reasongenrm.rewards.schedule import judge_samples


def reward_func(
    queries: Sequence[str], prompts: Sequence[str], labels: Sequence[str | None]
) -> dict[str, Any]:
    """Return what OpenRLHF reads of one sample: `rewards`, `scores` and `extra_logs`.

    Args:
        queries: the prompt followed by its response; OpenRLHF passes lists of one.
        prompts: one per query.
        labels: reference answers; not used by the schedule `pointwise`.

    Raises:
        ConfigError: the sample has no label, and the schedule is not `pointwise`.
        DataError: a query does not begin with its prompt; or no verdict could be read and `unread` states no number: OpenRLHF has
            no mask, ends without a reward, and logs this error.
        EngineError: the judge cannot be loaded or reached.
    """
    settings = environment_settings()
    if settings.schedule != "pointwise":
        if not all(labels):
            hint = (
                "name the column of reference answers with --data.label_key, or give the URL of /get_reward"
            )
            raise ConfigError("a sample alone has nothing to be compared with", location="labels", hint=hint)
        settings = settings.against_references()
    answers = openrlhf_responses(queries, prompts, environment_ends())
    result = judge_samples(environment_judge(), prompts, answers, settings, references=labels)
    if None in result.rewards:
        outcomes = ", ".join(problem.error or problem.outcome for problem in result.problems)
        hint = "set unread in REASONGENRM_REWARDS to retry, or to a number"
        raise DataError(f"no verdict could be read ({outcomes})", location="queries", hint=hint)
    rewards = result.rewards[0] if len(result.rewards) == 1 else list(result.rewards)
    return {"rewards": rewards, "scores": rewards, "extra_logs": {"judge_unread": float(result.unread)}}
