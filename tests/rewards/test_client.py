"""One sample of a cohort over HTTP: what is sent, and what the answers mean."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from reasongenrm.config.rewards import RewardSettings
from reasongenrm.errors import DataError, EngineError
from reasongenrm.judge.remote import RemoteJudge
from reasongenrm.rewards.client import cohort_reward
from support.hostile import body_of, listening, reply
from support.servers import ReceivedRequest, Reply, serving

pytestmark = pytest.mark.unit

GOOD = {"rewards": [0.75], "errors": [0.1], "comparisons": 8, "unread": 0, "problems": [], "samples": 8}


def send(answer: dict[str, Any], **more: Any) -> tuple[tuple[float | None, str], dict[str, Any]]:
    """Return what the client makes of an answer, and the body that it sent."""
    bodies = []

    def reply(request: ReceivedRequest) -> Reply:
        assert request.path == "/reward"
        bodies.append(request.body)
        return 200, answer

    with serving(reply) as server:
        reward = asyncio.run(cohort_reward(RemoteJudge(server.url, timeout=10), "Q?", "four", size=8, **more))
    return reward, bodies[0]


def test_a_sample_is_sent_with_its_place() -> None:
    settings = RewardSettings(schedule="reference")
    reward, body = send(GOOD, cohort="step 3", sample="s", reference="five", settings=settings)
    assert reward == (0.75, "")
    assert body == {
        "prompt": "Q?",
        "answers": ["four"],
        "references": ["five"],
        "cohort": {"size": 8, "id": "step 3", "sample": "s"},
        "settings": {"schedule": "reference"},  # the other keys are the server's
    }


def test_every_call_is_another_sample() -> None:
    samples = [send(GOOD)[1]["cohort"]["sample"] for _ in range(2)]
    assert samples[0] != samples[1]


def test_no_reward_comes_with_its_problem() -> None:
    answer = GOOD | {"rewards": [None], "problems": ["1 of 8 samples came", "alone"]}
    assert send(answer)[0] == (None, "1 of 8 samples came; alone")


@pytest.mark.parametrize("wrong", [{"rewards": []}, {"rewards": ["0.5"]}, {"rewards": 0.5}, {}])
def test_another_answer_is_an_error(wrong: dict[str, Any]) -> None:
    with pytest.raises(EngineError, match="the judge's answer is not valid"):
        send({"problems": []} | wrong)


def test_a_refusal_is_the_senders_error() -> None:
    refusal = {"error": "9 samples for a cohort of 8", "hint": "h"}
    with (
        listening(reply(body_of(refusal), status="422 Unprocessable Entity")) as server,
        pytest.raises(DataError, match="9 samples for a cohort of 8"),
    ):
        asyncio.run(cohort_reward(RemoteJudge(server.url), "Q?", "four", size=8))
