"""NeMo-Gym's resources-server protocol: the sample in a body of `/verify`, and the answer to it.

Written against NVIDIA-NeMo/Gym of November 2026: `nemo_gym/base_resources_server.py` (bodies), `nemo_gym/judge.py` (samples without
a verdict) and `resources_servers/genrm_compare/app.py` (cohorts). Gym is not on PyPI.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reasongenrm.errors import DataError
from reasongenrm.judge.inputs import input_errors
from reasongenrm.records import Message, with_criteria
from reasongenrm.rows.turns import is_list, read_prompt, replace_surrogates

GROUP_ID = "_ng_group_id"
GROUP_ATTEMPT = "_ng_group_attempt"
ROLLOUT_INDEX = "_ng_rollout_index"
TASK_INDEX = "_ng_task_index"


@dataclass(frozen=True, slots=True)
class VerifySample:
    """A rollout to score.

    Attributes:
        prompt: the turns of `responses_create_params`; a `principle` is in front of them as criteria.
        answer: text of the response's last assistant message; empty if it has none.
        reference: of the body's `reference`, or of the metadata's `baseline_response`; None without one.
        group_id: the caller's id of the cohort; otherwise one of the task's number, or None: the prompt is the cohort's key.
        attempt: of the cohort: a higher one replaces a lower one.
        member: number of the sample in its cohort, by which a repeated request is recognised; None if the caller sends none.
    """

    prompt: list[Message]
    answer: str
    reference: str | None
    group_id: str | None
    attempt: int
    member: int | None


def verify_sample(body: Any) -> VerifySample:
    """Read a body of `/verify`.

    Raises:
        DataError: the body has no prompt or no response, or its prompt does not end in a turn of the user.
    """
    body = replace_surrogates(_mapping(body, "body"))
    params, response = (_mapping(body.get(name), name) for name in ("responses_create_params", "response"))
    turns = _turns(params.get("input"), "responses_create_params.input")
    if instructions := params.get("instructions"):
        turns = [Message(role="system", content=str(instructions)), *turns]
    with input_errors("responses_create_params.input"):
        prompt = read_prompt(_one_system_turn(turns), "input")
    metadata = params.get("metadata") or {}
    reference = body.get("reference") or _mapping(metadata, "metadata").get("baseline_response")
    task, group = body.get(TASK_INDEX), body.get(GROUP_ID)
    return VerifySample(
        prompt=with_criteria(prompt, str(body.get("principle") or "")),
        answer=_last_reply(response.get("output")),
        reference=None if reference is None else str(reference),
        group_id=str(group) if group is not None else None if task is None else f"task {task}",
        attempt=_count(body, GROUP_ATTEMPT) or 0,
        member=_count(body, ROLLOUT_INDEX),
    )


def verify_answer(
    body: Mapping[str, Any],
    reward: float | None,
    *,
    problem: str = "",
    kind: str = "judge_unparseable",
    **fields: Any,
) -> dict[str, Any]:
    """Return the answer to a body of `/verify`.

    A sample without a reward is masked by both of Gym's contracts, `mask_sample` and `instance_config.mask_sample`, and goes to
    the collector's file of failures: its 0 is a placeholder that the protocol requires. NeMo-RL leaves it out of the loss with
    `mask_env_flagged_samples`.

    Args:
        body: the request's, of which prompt, response (with its token ids) and coordinates return.
        reward: the sample's, or None.
        problem: why there is no reward, for people.
        kind: of Gym's vocabulary `failure_kind`: `judge_unparseable`, `judge_failed` or `cohort_incomplete`.
        fields: more fields of the answer, such as `comparisons`.
    """
    kept = ("responses_create_params", "response", GROUP_ID, GROUP_ATTEMPT, ROLLOUT_INDEX, TASK_INDEX)
    answer = fields | {name: body[name] for name in kept if name in body}
    if reward is not None and math.isfinite(reward):
        return answer | {"reward": reward, "mask_sample": False}
    config = body.get("instance_config")
    return answer | {
        "reward": 0.0,
        "mask_sample": True,
        "instance_config": (dict(config) if isinstance(config, Mapping) else {}) | {"mask_sample": True},
        "failure_kind": kind,
        "failure_reason": problem or "no verdict could be read",
        "_ng_failure_class": "judge_failed",
        "_ng_failure_judge_error": problem or "no verdict could be read",
    }


def _mapping(value: Any, location: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise DataError(
            "not an object", location=location, hint="send NeMo-Gym's body of /verify: see docs/reward.md"
        )
    return value


def _count(body: Mapping[str, Any], name: str) -> int | None:
    value = body.get(name)
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
        return value
    raise DataError("not a count", location=name, hint="send a whole number from 0")


def _turns(value: Any, location: str) -> list[Message]:
    """Return the messages among the items of an input; a text is one user turn, `developer` is a system turn."""
    if isinstance(value, str):
        return [Message(role="user", content=value)]
    if not is_list(value):
        raise DataError("not a text or a list", location=location, hint="send the prompt's items")
    items = [item for item in value if isinstance(item, Mapping) and item.get("type", "message") == "message"]
    roles = {"developer": "system"}
    return [
        Message(role=roles.get(role := str(item.get("role", "user")), role), content=_content(item))
        for item in items
    ]


def _one_system_turn(turns: list[Message]) -> list[Message]:
    """Join system turns at the beginning, such as the instructions and a developer's turn, into one."""
    count = next((i for i, turn in enumerate(turns) if turn["role"] != "system"), len(turns))
    if count < 2:
        return turns
    text = "\n\n".join(turn["content"] for turn in turns[:count])
    return [Message(role="system", content=text), *turns[count:]]


def _content(item: Mapping[str, Any]) -> str:
    """Return the text of a message: a string, or its parts; a refusal is what the policy says."""
    content = item.get("content") or ""
    if isinstance(content, str):
        return content
    texts = [part.get("text") or part.get("refusal") or "" for part in content if isinstance(part, Mapping)]
    return "".join(texts)


def _last_reply(output: Any) -> str:
    if not is_list(output):
        raise DataError("not a list", location="response.output", hint="send the response's items")
    replies = [item for item in output if isinstance(item, Mapping) and item.get("type") == "message"]
    return _content(replies[-1]) if replies else ""
