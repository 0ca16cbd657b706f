"""OpenRLHF's reward file: one sample against its label; and what OpenRLHF's own code needs of it."""

from __future__ import annotations

import pytest

from reasongenrm.errors import ConfigError, DataError
from reasongenrm.rewards import openrlhf
from support.scripted_judge import QualityJudge, beats

pytestmark = pytest.mark.unit

PROMPT = "<|im_start|>user\nQ?<|im_end|>\n"


@pytest.fixture(autouse=True)
def judge(monkeypatch: pytest.MonkeyPatch) -> QualityJudge:
    monkeypatch.delenv("REASONGENRM_REWARDS", raising=False)
    monkeypatch.setenv("REASONGENRM_ENDS", '["<|im_end|>"]')
    judge = QualityJudge()
    monkeypatch.setattr(openrlhf, "environment_judge", lambda: judge)
    return judge


def test_a_sample_meets_its_label() -> None:
    found = openrlhf.reward_func([f"{PROMPT}four<|im_end|>"], [PROMPT], ["five!"])
    assert found == {
        "rewards": beats("four", "five!"),
        "scores": beats("four", "five!"),
        "extra_logs": {"judge_unread": 0.0},
    }
    batch = openrlhf.reward_func([f"{PROMPT}a", f"{PROMPT}bb"], [PROMPT] * 2, ["ccc", "d"])
    assert batch["rewards"] == [beats("a", "ccc"), beats("bb", "d")]


def test_a_rated_sample_needs_no_label(monkeypatch: pytest.MonkeyPatch, judge: QualityJudge) -> None:
    monkeypatch.setenv("REASONGENRM_REWARDS", "{schedule: pointwise}")
    assert openrlhf.reward_func([f"{PROMPT}four"], [PROMPT], [None])["rewards"] == pytest.approx(4 / 9)
    assert [method for method, _ in judge.calls] == ["rate_many"]


@pytest.mark.parametrize("label", [None, ""])
def test_a_sample_without_a_label_is_an_error(label: str | None) -> None:
    with pytest.raises(ConfigError, match="nothing to be compared with") as caught:
        openrlhf.reward_func([f"{PROMPT}four"], [PROMPT], [label])
    assert "/get_reward" in caught.value.hint


def test_an_unread_sample_is_never_a_middle_score(monkeypatch: pytest.MonkeyPatch) -> None:
    query = [f"{PROMPT}four?"]
    with pytest.raises(DataError, match=r"no verdict could be read \(unparsed\)"):
        openrlhf.reward_func(query, [PROMPT], ["five"])
    monkeypatch.setenv("REASONGENRM_REWARDS", "{unread: 0.25}")
    found = openrlhf.reward_func(query, [PROMPT], ["five"])
    assert (found["rewards"], found["extra_logs"]) == (0.25, {"judge_unread": 1.0})
