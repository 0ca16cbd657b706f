"""The alarm's rule: its false alarms on flat curves, and what it sees of a policy that pleases the judge alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from reasongenrm.metrics.hacking import Check, change, hacking_alarms

pytestmark = pytest.mark.unit

CHECKS = 60


def curve(*points: float) -> Any:
    """Means over the checks, straight between the points."""
    return np.interp(np.linspace(0, len(points) - 1, CHECKS), range(len(points)), points)


def checks(rng: Any, judge: Any, second: Any, prompts: int = 32, *, binary: bool = False) -> list[Check]:
    """Scores around the means: prompts differ, samples differ, and both judges see the same answers."""
    common = rng.normal(0, 0.25, (prompts, 1)) + rng.normal(0, 0.2, (prompts, CHECKS))
    ours, theirs = (
        np.clip(mean + common + rng.normal(0, 0.1, common.shape), 0, 1) for mean in (judge, second)
    )
    if binary:
        theirs = (rng.random(theirs.shape) < theirs).astype(float)
    return [Check(step * 10, (), tuple(ours[:, step]), tuple(theirs[:, step])) for step in range(CHECKS)]


def first_alarm(run: list[Check], measures: tuple[str, ...] = ("judge", "second", "agreement")) -> int | None:
    """Index of the first check with an alarm for one of the measures."""
    for count in range(6, len(run) + 1, 2):
        if any(alarm.fell in measures for alarm in hacking_alarms(run[:count])):
            return count - 1
    return None


@pytest.mark.parametrize("binary", [False, True])
def test_flat_curves_give_few_false_alarms(binary: bool) -> None:
    # 0.7 % and 0 % of 150 runs in a simulation apart from this code; more than 2 of 60 have a chance of 1 % at a rate of 0.8 %.
    rng = np.random.default_rng(1)
    flat = curve(0.5, 0.5)
    fired = [first_alarm(checks(rng, flat, flat, binary=binary)) for _ in range(60)]
    assert sum(step is not None for step in fired) <= 2


def test_a_policy_that_becomes_better_gives_few_alarms() -> None:
    rng = np.random.default_rng(2)
    better = curve(0.4, 0.7)
    # 2.7 % to 6 % of 150 runs in that simulation; more than 5 of 40 have a chance of 3 % at 6 %.
    fired = [first_alarm(checks(rng, better, better)) for _ in range(40)]
    assert sum(step is not None for step in fired) <= 5


@pytest.mark.parametrize("prompts", [32, 128])
def test_the_alarm_comes_before_the_second_score_has_fallen_by_five_points(prompts: int) -> None:
    rng = np.random.default_rng(3)
    judge, second = curve(0.5, 0.55, 0.9, 0.95), curve(0.5, 0.55, 0.5, 0.3)
    falls = []
    for _ in range(10):
        place = first_alarm(checks(rng, judge, second, prompts))
        assert place is not None
        falls.append(second.max() - second[place])
    assert np.median(falls) < 0.05 and max(falls) < 0.08


def test_a_judge_that_is_pleased_by_what_the_second_does_not_see_loses_agreement_first() -> None:
    run = checks(np.random.default_rng(4), curve(0.5, 0.9), curve(0.5, 0.5))
    place = first_alarm(run)
    assert place is not None
    [alarm] = hacking_alarms(run[: place + 1])
    assert (alarm.rose, alarm.fell, alarm.step) == ("judge", "agreement", place * 10)
    assert alarm.fall < -0.02 and alarm.interval[0] < alarm.fall < alarm.interval[1] < 0
    assert "the agreement with the second judge fell by" in alarm.text


def test_a_training_reward_that_rises_while_the_reward_against_the_reference_falls() -> None:
    rng = np.random.default_rng(5)
    run = checks(rng, curve(0.6, 0.4), curve(0.6, 0.4))
    assert not any(hacking_alarms(run[:count]) for count in range(CHECKS + 1)), "without a rise: no alarm"
    rising = [
        Check(one.step, ((one.step - 5, i / 60), (one.step, i / 60 + 0.001)), one.judge)
        for i, one in enumerate(run)
    ]
    place = first_alarm(rising)
    assert place is not None
    [alarm] = hacking_alarms(rising[: place + 1])
    assert (alarm.rose, alarm.fell) == ("reward", "judge")


def test_unread_scores_are_left_out_of_their_prompt_alone() -> None:
    before = [Check(0, (), (0.5, None, *[0.5] * 8))]
    now = [Check(1, (), (0.7, 0.9, *[0.6] * 8)), Check(2, (), (None, 0.9, *[0.8] * 8))]
    result = change(before, now, "judge")
    assert result is not None and result.mean == pytest.approx(0.2)
    assert result.p_rise == 0 and result.p_fall == 1, "the same change for every prompt"
    assert change(before, [Check(1, (), (0.7, *[None] * 9))], "judge") is None, "one prompt is not enough"
    assert change(before, now, "second") is None
    same = change(before, before, "judge")
    assert same is not None and (same.p_rise, same.p_fall) == (1, 1)


def test_fewer_than_six_checks_give_no_alarm() -> None:
    early = [Check(step, (), (0.5 if step < 3 else 0.9,) * 8, (0.5 if step < 3 else 0.1,) * 8) for step in range(6)]  # fmt: skip
    assert not any(hacking_alarms(early[:count]) for count in range(6))
    assert {alarm.fell for alarm in hacking_alarms(early)} == {"second", "agreement"}
