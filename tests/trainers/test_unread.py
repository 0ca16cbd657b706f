"""A sample without a verdict in trainers that have no null: what each makes of it, with its own code."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from reasongenrm.rewards.schedule import Group
from reasongenrm.rewards.swift import group_mean_filled
from trainers.adapters import Work, in_environment, needs_environment, run_script, swift
from trainers.groups import UNREADABLE
from trainers.test_conformance import expected

pytestmark = [pytest.mark.slow, pytest.mark.e2e]


@needs_environment("openrlhf")
def test_openrlhf_ends_at_a_reward_that_is_null() -> None:
    found = run_script("openrlhf", "openrlhf_null", {})
    assert found["number"] == [0.5]
    assert found["null"].startswith("RuntimeError")


@needs_environment("verifiers")
@pytest.mark.parametrize(("answer", "scored"), [(UNREADABLE, False), ("an answer", True)])
def test_verifiers_has_a_failed_rollout_without_a_reward(work: Work, answer: str, scored: bool) -> None:
    group = Group("Count.", (answer,), ("1 2 3",))
    settings = {"schedule": "reference", "unread": None}
    found: Any = in_environment("verifiers", "verifiers_unread")(
        replace(work, groups=[group], settings=settings)
    )
    error, rewards = found
    if scored:
        assert error == "no error" and 0 < rewards["judge"]["score"] < 1
    else:
        assert "1 of 1 samples have no verdict" in error
        assert rewards == {"judge": None}


@needs_environment("swift")
def test_ms_swift_gets_the_mean_of_the_group(work: Work) -> None:
    work = replace(work, groups=work.groups[:8], settings={"schedule": "circular", "unread": None})
    right = expected(work)
    assert any(None in group for group in right)
    found = swift("reasongenrm")(work)
    assert found == [pytest.approx(group_mean_filled(group), abs=1e-6) for group in right]
