"""Equal rewards in every trainer: the same 64 groups of the toy world through each adapter.

`make trainers` makes the environments of the trainers, runs all of it, and prints the table of docs/reward.md (TABLE); elsewhere a few
groups go through the adapters that need no environment.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import pytest

from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.chat.prompts import PromptFile
from reasongenrm.config.evaluate import JudgingConfig
from reasongenrm.config.rewards import RewardSettings
from reasongenrm.engines.vllm import VLLMEngine
from reasongenrm.judge.api import Judge
from reasongenrm.judge.sharing import SharedJudge
from reasongenrm.rewards.schedule import judge_groups
from reasongenrm.service.server import create_app
from support.app import running
from support.engine_fixtures import LentEngine
from trainers.adapters import ADAPTERS, ROOT, Adapter, Rewards, Work, needs_environment
from trainers.groups import SIZE, toy_groups

TABLE = ROOT / "build" / "conformance.md"

STATED = 0.125
"""What an unread sample gets in trainers that take no null: a number that no comparison gives."""


@cache
def _expected(judge: SharedJudge, count: int, settings: RewardSettings) -> Rewards:
    return [list(result.rewards) for result in judge_groups(judge, toy_groups(count), settings)]


def expected(work: Work) -> Rewards:
    """Return the rewards of the one function behind all adapters."""
    assert list(work.groups) == toy_groups(len(work.groups))
    return _expected(work.judge, len(work.groups), RewardSettings(**work.settings))


def cases(*, environments: bool) -> list[object]:
    """Return a test's parameters: each adapter with each of its schedules."""
    return [
        pytest.param(
            adapter,
            schedule,
            id=f"{adapter.name}: {schedule}",
            marks=needs_environment(adapter.environment),
        )
        for adapter in ADAPTERS
        for schedule in adapter.schedules
        if environments or not adapter.environment
    ]


def check(work: Work, adapter: Adapter, schedule: str) -> float:
    """Compare an adapter's rewards with the right ones, and return the largest difference."""
    work = replace(work, settings={"schedule": schedule, "unread": None if adapter.null else STATED})
    rewards, right = adapter.rewards(work), expected(work)
    unread = [one for group in right for one in group if one == work.settings["unread"]]
    count = len(work.groups)
    assert count / 4 <= len(unread) < count, "the unreadable answer of every third group, and a few more"
    assert len({round(one, 6) for group in right for one in group if one is not None}) > 4 * count
    assert rewards == [pytest.approx(group, abs=1e-6) for group in right]
    both = [pair for own, group in zip(rewards, right, strict=True) for pair in zip(own, group, strict=True)]
    return max(abs(one - other) for one, other in both if one is not None and other is not None)


def table(differences: dict[tuple[str, str], float]) -> str:
    """Return the table of docs/reward.md: the largest difference for each adapter and schedule that was run."""

    def cell(adapter: Adapter, schedule: str) -> str:
        if schedule not in adapter.schedules:
            return "no groups" if schedule == "circular" else "–"
        difference = differences.get((adapter.name, schedule))
        return "not run" if difference is None else "equal" if difference == 0 else f"within {difference:.0e}"

    lines = [
        "| way | what the test runs | unread | circular | reference |",
        "| --- | --- | --- | --- | --- |",
    ]
    for adapter in ADAPTERS:
        cells = " | ".join(cell(adapter, schedule) for schedule in ("circular", "reference"))
        unread = "null" if adapter.null else "a stated number"
        lines.append(f"| {adapter.name} | {adapter.tested} | {unread} | {cells} |")
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def differences() -> Iterator[dict[tuple[str, str], float]]:
    """Largest difference by adapter and schedule; the table is written at the end."""
    found: dict[tuple[str, str], float] = {}
    yield found
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_text(table(found), encoding="utf-8")


@pytest.mark.unit
@pytest.mark.parametrize(("adapter", "schedule"), cases(environments=False))
def test_rewards_of_some_groups_are_equal(work: Work, adapter: Adapter, schedule: str) -> None:
    check(replace(work, groups=work.groups[:8]), adapter, schedule)


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.parametrize(("adapter", "schedule"), cases(environments=True))
def test_rewards_are_equal(
    work: Work, adapter: Adapter, schedule: str, differences: dict[tuple[str, str], float]
) -> None:
    differences[adapter.name, schedule] = check(work, adapter, schedule)


@pytest.mark.unit
def test_groups_have_the_texts_that_trainers_change(work: Work) -> None:
    texts = {answer for group in work.groups for answer in group.answers}
    assert "" in texts and any(text != text.strip() for text in texts) and any(not t.isascii() for t in texts)
    assert all(len(set(group.answers)) < len(group.answers) == SIZE for group in work.groups)
    assert len({group.prompt for group in work.groups}) == 64


@pytest.mark.engine
def test_rewards_of_a_real_engine_are_equal(
    engine: VLLMEngine, encoders: dict[str, ChatEncoder], toy_prompts: PromptFile
) -> None:
    judge = Judge(LentEngine(engine), encoders["direct"], toy_prompts.for_direct(), JudgingConfig())
    with SharedJudge(judge, seconds=120) as shared, running(create_app(shared)) as url:
        work = Work(shared, url, "", toy_groups(4), {"schedule": "circular", "unread": None})
        right = expected(work)
        assert len({round(one, 9) for group in right for one in group if one is not None}) > 10
        for adapter in ADAPTERS:
            if not adapter.environment:
                # Another batch moves the last digits of a probability.
                assert adapter.rewards(work) == [pytest.approx(group, abs=1e-4) for group in right], (
                    adapter.name
                )
