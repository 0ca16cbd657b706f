"""Rewards of verifiers' tasks and episodes, with stand-ins for its objects; with the real ones: `make trainers`."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from reasongenrm.errors import DataError
from reasongenrm.rewards import verifiers
from support.scripted_judge import QualityJudge, beats

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def judge(monkeypatch: pytest.MonkeyPatch) -> QualityJudge:
    monkeypatch.delenv("REASONGENRM_REWARDS", raising=False)
    monkeypatch.setenv("REASONGENRM_REFERENCE", "gold")
    judge = QualityJudge()
    monkeypatch.setattr(verifiers, "environment_judge", lambda: judge)
    return judge


def data(prompt: Any = "Q?", system_prompt: str | None = None, gold: str = "ccc") -> Any:
    return SimpleNamespace(prompt=prompt, system_prompt=system_prompt, gold=gold)


class Trace(SimpleNamespace):
    """A rollout with one reply."""

    def __init__(self, reply: str | None, agent: str = "agent", errors: tuple[str, ...] = ()) -> None:
        replies = [SimpleNamespace(content=reply)]
        super().__init__(root_reply=None, assistant_messages=replies, errors=errors, rewards={})
        self.agent = SimpleNamespace(name=agent)

    def record_reward(self, name: str, reward: float) -> None:
        self.rewards[name] = reward


def test_a_reward_against_a_reference_needs_no_cohort(
    monkeypatch: pytest.MonkeyPatch, judge: QualityJudge
) -> None:
    monkeypatch.setenv("REASONGENRM_REWARDS", "{schedule: reference}")
    parts = [SimpleNamespace(text="1 + "), SimpleNamespace(url="image"), SimpleNamespace(text="1?")]
    turns = [SimpleNamespace(role="user", content=parts)]
    reward = asyncio.run(verifiers.judge_reward(data(turns, "Be kind."), Trace(" a ")))
    assert reward == beats(" a ", "ccc"), "white space of a reply is kept"
    [(_, [(prompt, _, _)])] = judge.calls
    system = {"role": "system", "content": "Be kind."}
    assert prompt == [system, {"role": "user", "content": "1 + \n\n1?"}]


def test_the_traces_of_an_episode_are_judged_together(judge: QualityJudge) -> None:
    traces = [Trace("a"), Trace("bbb"), Trace("z", agent="user"), Trace("failed", errors=("timeout",))]
    asyncio.run(verifiers.judge_episode(SimpleNamespace(data=data()), SimpleNamespace(traces=traces)))
    assert [trace.rewards for trace in traces[2:]] == [{}, {}]
    assert traces[0].rewards["judge"] == pytest.approx(beats("a", "bbb"))
    assert traces[1].rewards["judge"] == pytest.approx(beats("bbb", "a"))
    assert len(judge.calls) == 1


def test_an_unread_verdict_is_an_error_and_no_trace_is_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    traces = [Trace("a"), Trace("what?"), Trace("bbb")]
    episode = SimpleNamespace(traces=traces)
    with pytest.raises(DataError, match=r"1 of 3 samples have no verdict \(unparsed"):
        asyncio.run(verifiers.judge_episode(SimpleNamespace(data=data()), episode))
    assert all(trace.rewards == {} for trace in traces)
    monkeypatch.setenv("REASONGENRM_REWARDS", "{schedule: reference, unread: 0.25}")
    assert asyncio.run(verifiers.judge_reward(data(), Trace("what?"))) == 0.25


def test_what_cannot_be_judged_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REASONGENRM_REWARDS", "{schedule: reference}")
    with pytest.raises(DataError, match="no prompt"):
        asyncio.run(verifiers.judge_reward(data(prompt=None), Trace("a")))
    monkeypatch.setenv("REASONGENRM_REFERENCE", "solution")
    with pytest.raises(DataError, match="no such text") as caught:
        asyncio.run(verifiers.judge_reward(data(), Trace("a")))
    assert caught.value.location == "solution"
