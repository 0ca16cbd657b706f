"""The watch over held-out prompts: what it measures, writes, continues after a kill, and says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from reasongenrm.errors import ConfigError, DataError, EngineError
from reasongenrm.records import Comparison
from reasongenrm.rewards.alarm import HackingWatch

pytestmark = pytest.mark.unit

PROMPTS = [f"question {number}" for number in range(24)]
REFERENCES = ["a plain answer"] * 24


class Likes:
    """A judge that likes a word, the more often the better, up to ten; a text with `?` it cannot read."""

    def __init__(self, word: str) -> None:
        self.word, self.rows = word, 0

    def compare_many(self, rows: Any) -> Any:
        for _, a, b in rows:
            self.rows += 1
            if "?" in a:
                yield Comparison("c", None, None, "", "unparsed", (), 1, 1)
                continue
            chance = 0.5 + (a.count(self.word) - b.count(self.word)) / 20
            winner: Any = "A" if chance > 0.5 else "B" if chance < 0.5 else "tie"
            yield Comparison("c", winner, chance, "", "ok", (), 1, 1)


def watch(folder: Path, **more: Any) -> HackingWatch:
    return HackingWatch(
        folder, **({"judge": Likes("wow"), "prompts": PROMPTS, "references": REFERENCES, "second": Likes("fact")} | more)
    )  # fmt: skip


def answers(step: int) -> list[str]:
    """More and more of the word that only the first judge likes; prompts differ."""
    return [f"answer {i} " + "wow " * (step // 4 + i % 3) for i in range(24)]


def run(own: HackingWatch, steps: range) -> list[int]:
    return [step for step in steps if own.check(step, answers(step), rewards=[(step, step / 40)])]


def test_an_alarm_is_said_once_and_its_files_hold_what_led_to_it(tmp_path: Path, capfd: Any) -> None:
    own = watch(tmp_path)
    fired = run(own, range(0, 32, 4))
    assert len(fired) == 1, "agreement stays low and is reported once"
    [alarm] = own.alarms
    assert (alarm.fell, alarm.rose, alarm.step) == ("agreement", "judge", fired[0])
    out = capfd.readouterr()
    assert (out.out + out.err).count("ALARM") == 1
    rows = [json.loads(line) for line in (tmp_path / "alarm.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(0, 32, 4))
    assert rows[0]["judge"][:3] == pytest.approx([0.5, 0.55, 0.6]) and rows[0]["second"] == [0.5] * 24
    assert rows[1]["answers"] == answers(4) and rows[1]["rewards"] == [[4, 0.1]]
    assert not rows[0]["alarms"] and rows[-1]["alarms"], "each row has the alarms of its step"
    report = (tmp_path / "alarm.md").read_text()
    assert alarm.text.split(":")[0] in report and "wow wow" in report and "points more by the judge" in report
    assert (tmp_path / "alarm.png").read_bytes().startswith(b"\x89PNG")


def test_a_killed_run_continues_and_comes_to_the_same_files(tmp_path: Path) -> None:
    run(watch(tmp_path / "whole"), range(0, 32, 4))
    run(watch(tmp_path / "killed"), range(0, 24, 4))
    path = tmp_path / "killed/alarm.jsonl"
    path.write_bytes(path.read_bytes()[:-10])  # step 20, cut
    second = watch(tmp_path / "killed")
    assert second.last_step == 16
    second.check(20, answers(0))  # a step of before the checkpoint that the trainer goes back to
    third = watch(tmp_path / "killed")
    run(third, range(16, 32, 4))
    for name in ("alarm.jsonl", "alarm.md", "alarm.png"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    again = watch(tmp_path / "killed")
    assert again.alarms == third.alarms and again.checks == third.checks and again.alarms


def test_the_scores_of_equal_answers_are_kept_when_a_check_is_done_again(tmp_path: Path) -> None:
    judge = Likes("wow")
    own = watch(tmp_path, judge=judge)
    own.check(4, answers(4))
    own.check(4, answers(4))
    assert judge.rows == 24
    own.check(4, answers(8))
    assert judge.rows == 48 and len(own.checks) == 1


def test_a_gold_rule_may_be_the_second_judge(tmp_path: Path) -> None:
    own = watch(tmp_path, second=lambda prompt, answer, reference: 0.25 if prompt == "question 1" else 1)
    own.check(0, answers(0))
    assert own.checks[0].second[:3] == (1, 0.25, 1)
    assert own.checks[0].agreement[:2] == pytest.approx((0.5, 0.7))
    wrong = watch(tmp_path / "b", second=lambda *_: float("nan"))
    with pytest.raises(ConfigError, match="gold rule <lambda> returned nan"):
        wrong.check(0, answers(0))
    assert not (tmp_path / "b/alarm.jsonl").exists()


def test_unread_answers_are_counted_and_left_out(tmp_path: Path) -> None:
    own = watch(tmp_path, second=None)
    own.check(0, ["what?", *answers(0)[1:]])
    assert own.checks[0].judge[0] is None and own.checks[0].second == ()
    assert "| 0 |" in (tmp_path / "alarm.md").read_text() and "| 1 |" in (tmp_path / "alarm.md").read_text()


def test_other_prompts_and_broken_files_are_errors(tmp_path: Path) -> None:
    own = watch(tmp_path)
    own.check(0, answers(0))
    with pytest.raises(ConfigError, match="24 prompts"):
        own.check(1, ["one"])
    with pytest.raises(ConfigError, match="checks of other prompts"):
        watch(tmp_path, prompts=["other", *PROMPTS[1:]])
    with pytest.raises(ConfigError, match="0 prompts and 24 references"):
        watch(tmp_path, prompts=[])
    (tmp_path / "alarm.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match="broken line") as error:
        watch(tmp_path)
    assert str(error.value.location).endswith("alarm.jsonl:1")


def nothing(prompt: str, answer: str, reference: str) -> None:
    return None


def two(prompt: str, answer: str) -> float:
    return 1.0


@pytest.mark.parametrize(
    ("arguments", "location"),
    [
        ({"prompts": "question"}, "prompts"),
        ({"references": "a" * 24}, "references"),
        ({"judge": None}, "judge"),
        ({"second": "gold"}, "second"),
        ({"second": 0.5}, "second"),
        ({"second": Likes}, "second"),
    ],
)
def test_what_a_watch_cannot_use_is_refused(arguments: dict[str, Any], location: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        watch(tmp_path, **arguments)
    assert caught.value.location == location and caught.value.hint


def test_a_gold_rule_that_fails_is_named_and_the_checks_stay(tmp_path: Path) -> None:
    watch(tmp_path).check(4, answers(4))
    before = (tmp_path / "alarm.jsonl").read_bytes()
    for rule, kind, words in (
        (nothing, ConfigError, "gold rule nothing returned None for prompt 0"),
        (two, EngineError, "gold rule two failed for prompt 0: TypeError: two"),
    ):
        with pytest.raises(kind, match=words) as caught:
            watch(tmp_path, second=rule).check(2, answers(2))
        assert caught.value.location == "second" and caught.value.hint
        assert (tmp_path / "alarm.jsonl").read_bytes() == before


def test_a_step_between_earlier_ones_is_refused_before_anything_is_dropped(tmp_path: Path) -> None:
    own = watch(tmp_path)
    for step in (0, 4, 8):
        own.check(step, answers(step))
    before, checks = own.path.read_bytes(), own.checks
    wrong: Any
    for wrong in (-3, 2.5, "5", None, True, 6):
        with pytest.raises(ConfigError) as caught:
            own.check(wrong, answers(6))
        assert caught.value.location == "step" and caught.value.hint
    for text in ("text", "a" * 24, None):
        with pytest.raises(ConfigError, match="answers: not a list"):
            own.check(12, text)  # type: ignore[arg-type]
    for rewards in ([(1, "high")], [0.5], [(None, 1)]):
        with pytest.raises(ConfigError, match="rewards: not pairs of numbers"):
            own.check(12, answers(12), rewards=rewards)  # type: ignore[arg-type]
    assert own.path.read_bytes() == before and own.checks == checks


@pytest.mark.parametrize("new", [False, True])
def test_a_trainer_that_continues_from_a_checkpoint_may_check_any_step(tmp_path: Path, new: bool) -> None:
    own = watch(tmp_path)
    for step in (0, 4, 8):
        own.check(step, answers(step))
    if new:
        own = watch(tmp_path)
    else:
        own.start()
    own.check(6, answers(6))
    assert [check.step for check in own.checks] == [0, 4, 6]
    with pytest.raises(ConfigError, match="step 5 was not checked, and the last check is of step 6"):
        own.check(5, answers(5))
    own.check(4, answers(4))
    assert [check.step for check in watch(tmp_path).checks] == [0, 4]


def test_a_reward_that_is_not_finite_is_counted(tmp_path: Path, capfd: Any) -> None:
    own = watch(tmp_path)
    own.check(4, answers(4), rewards=[(1, 0.5), (2, float("nan")), (3, 0.25), (4, float("inf"))])
    assert own.checks[0].rewards == ((1, 0.5), (3, 0.25))
    row = json.loads(own.path.read_text())
    assert row["left_out"] == [2, 4] and row["rewards"] == [[1, 0.5], [3, 0.25]]
    out = capfd.readouterr()
    assert "2 training rewards are not finite numbers and are left out (steps 2, 4)" in out.out + out.err
    assert sorted(own.reward_steps(5)) == [1, 2, 3, 4] and own.reward_steps(4) == []
