"""ms-swift's reward function without ms-swift: groups, references and samples without a verdict."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasongenrm.errors import DataError
from reasongenrm.rewards import swift
from support.scripted_judge import QualityJudge, beats

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def judge(monkeypatch: pytest.MonkeyPatch) -> QualityJudge:
    monkeypatch.delenv("REASONGENRM_REWARDS", raising=False)
    judge = QualityJudge()
    monkeypatch.setattr(swift, "environment_judge", lambda: judge)
    return judge


def conversation(prompt: str, answer: str) -> list[dict[str, Any]]:
    system = {"role": "system", "content": "Be kind."}
    return [system, {"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]


def rewards(*samples: tuple[str, str], **columns: Any) -> list[float]:
    messages = [conversation(*sample) for sample in samples]
    return swift.swift_rewards([answer for _, answer in samples], {"messages": messages} | columns)


def test_the_samples_of_a_prompt_are_a_group_in_any_order(judge: QualityJudge) -> None:
    found = rewards(("p", "a"), ("q", "ccc"), ("p", "bbb"), ("q", "c"))
    low, high = beats("a", "bbb"), beats("bbb", "a")
    assert found == pytest.approx([low, high, high, low])
    [(_, rows)] = judge.calls
    turns = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "p"}]
    assert rows[0][0] == turns


def test_tool_calls_belong_to_the_sample(judge: QualityJudge) -> None:
    own = [*conversation("p", "let me look"), {"role": "tool", "content": "found"}]
    own = [*own, {"role": "assistant", "content": "bbb"}]
    swift.swift_rewards(["bbb", "a"], {"messages": [own, conversation("p", "a")]})
    [(_, rows)] = judge.calls
    assert [row[0][-1] for row in rows] == [{"role": "user", "content": "p"}]


def test_references_are_a_column(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REASONGENRM_REWARDS", "{schedule: reference}")
    monkeypatch.setenv("REASONGENRM_REFERENCE", "solution")
    assert rewards(("p", "a"), ("p", "bb"), solution=["ccc", "c"]) == [beats("a", "ccc"), beats("bb", "c")]
    with pytest.raises(DataError, match="does not have this column"):
        rewards(("p", "a"), ("p", "bb"))


def test_unread_samples_get_the_mean_of_their_group_and_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        found = rewards(("p", "a"), ("p", "what?"), ("p", "bbb"), ("q", "why?"), ("q", "who?"))
    assert found[:3] == pytest.approx([beats("a", "bbb"), 0.5, beats("bbb", "a")])
    assert found[3:] == [0.0, 0.0]
    assert "3 of 5 samples have no readable verdict" in caplog.text


@given(st.lists(st.none() | st.floats(0, 1), min_size=1, max_size=16))
def test_filling_leaves_the_mean_of_a_group(group: list[float | None]) -> None:
    filled = swift.group_mean_filled(group)
    read = [reward for reward in group if reward is not None]
    mean = sum(read) / len(read) if read else 0.0
    assert sum(filled) / len(filled) == pytest.approx(mean)
    assert all(
        new == old if old is not None else new == pytest.approx(mean)
        for new, old in zip(filled, group, strict=True)
    )
