"""Bodies of NeMo-Gym's `/verify` as its agent sends them, and our answers to them."""

from __future__ import annotations

from typing import Any

import pytest

from reasongenrm.errors import DataError
from reasongenrm.rewards.nemo_gym import verify_answer, verify_sample

pytestmark = pytest.mark.unit


def message(text: str, **more: Any) -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": None}
    return {
        "id": "m",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [part],
    } | more


def body(*output: dict[str, Any], **more: Any) -> dict[str, Any]:
    response = {"id": "r", "object": "response", "created_at": 1.0, "model": "policy", "output": list(output)}
    params = {"input": [{"role": "user", "content": "Q?", "type": "message"}], "tools": [], "metadata": None}
    return {"responses_create_params": params, "response": response} | more


def test_the_prompt_is_read_from_the_input_and_the_answer_from_the_last_message() -> None:
    reasoning = {"type": "reasoning", "id": "1", "summary": [{"text": "I think.", "type": "summary_text"}]}
    call = {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}"}
    result = {"type": "function_call_output", "call_id": "c", "output": "found"}
    sample = verify_sample(body(message("Let me look."), call, result, reasoning, message("4")))
    assert (sample.prompt, sample.answer) == ([{"role": "user", "content": "Q?"}], "4")
    assert (sample.reference, sample.group_id, sample.attempt, sample.member) == (None, None, 0, None)


def test_all_forms_of_a_prompt_are_read() -> None:
    request = body(message("4"), principle="Be brief.")
    request["responses_create_params"] |= {
        "instructions": "You add.",
        "input": [
            {"role": "developer", "content": "Use digits."},
            {
                "role": "user",
                "content": [{"type": "input_text", "text": "1 + "}, {"type": "input_text", "text": "1?"}],
            },
            message("2"),
            {"type": "reasoning", "id": "1", "summary": []},
            {"role": "user", "content": "2 + 2?"},
        ],
        "metadata": {"baseline_response": "four"},
    }
    sample = verify_sample(request)
    assert sample.prompt == [
        {"role": "criteria", "content": "Be brief."},
        {"role": "system", "content": "You add.\n\nUse digits."},
        {"role": "user", "content": "1 + 1?"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "2 + 2?"},
    ]
    assert sample.reference == "four"
    request["responses_create_params"]["input"] = "2 + 2?"
    assert verify_sample(request).prompt[-1] == {"role": "user", "content": "2 + 2?"}


def test_coordinates_name_the_cohort_and_the_member() -> None:
    sample = verify_sample(
        body(message("4"), _ng_group_id="g", _ng_group_attempt=2, _ng_rollout_index=0, _ng_task_index=7)
    )
    assert (sample.group_id, sample.attempt, sample.member) == ("g", 2, 0)
    assert verify_sample(body(message("4"), _ng_task_index=7)).group_id == "task 7"


def test_a_response_without_a_message_is_an_empty_answer() -> None:
    assert verify_sample(body({"type": "reasoning", "id": "1", "summary": []})).answer == ""
    refusal = message("", content=[{"type": "refusal", "refusal": "No."}])
    assert verify_sample(body(refusal)).answer == "No."


@pytest.mark.parametrize(
    ("change", "location"),
    [
        ({"responses_create_params": None}, "responses_create_params"),
        ({"responses_create_params": {"input": [message("only ours")]}}, "responses_create_params.input"),
        ({"response": "4"}, "response"),
        ({"response": {"output": "4"}}, "response.output"),
        ({"_ng_rollout_index": -1}, "_ng_rollout_index"),
        ({"_ng_rollout_index": True}, "_ng_rollout_index"),
    ],
)
def test_a_body_that_cannot_be_judged_is_named(change: dict[str, Any], location: str) -> None:
    with pytest.raises(DataError) as caught:
        verify_sample(body(message("4")) | change)
    assert caught.value.location == location and caught.value.hint


def test_the_answer_returns_the_response_with_its_tokens() -> None:
    request = body(message("4", generation_token_ids=[1, 2]), _ng_group_id="g", _ng_rollout_index=3)
    answer = verify_answer(request, 0.75, comparisons=2)
    assert answer == request | {"reward": 0.75, "mask_sample": False, "comparisons": 2}


@pytest.mark.parametrize("reward", [None, float("nan")])
def test_a_sample_without_a_verdict_is_masked_in_every_way_that_gym_reads(reward: float | None) -> None:
    request = body(message("4"), instance_config={"task": "kept", "mask_sample": False})
    answer = verify_answer(request, reward, problem="3 of 4 came", kind="cohort_incomplete")
    assert answer["reward"] == 0.0
    assert answer["mask_sample"] is True
    assert answer["instance_config"] == {"task": "kept", "mask_sample": True}
    assert answer["_ng_failure_class"] == "judge_failed"
    assert (answer["failure_kind"], answer["failure_reason"]) == ("cohort_incomplete", "3 of 4 came")
    assert request["instance_config"]["mask_sample"] is False
