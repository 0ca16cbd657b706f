"""Cohorts: every order in which the samples of a prompt can come, be lost, be repeated or give up, on a clock of the test's own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasongenrm.config.rewards import RewardSettings
from reasongenrm.config.rubric import Rubric
from reasongenrm.errors import EngineError
from reasongenrm.records import Comparison
from reasongenrm.rewards.cohort_samples import (
    CohortConflict,
    CohortLimits,
    CohortsFull,
    CohortStopped,
    Place,
    Sample,
    SampleReward,
)
from reasongenrm.rewards.cohorts import Cohorts
from reasongenrm.rewards.schedule import Batch, Group, GroupRewards, judge_groups_async

pytestmark = pytest.mark.unit

KEEP = 300
LIMITS = CohortLimits(timeout=60, keep=KEEP)
THREE = Place(3)


@dataclass(eq=False)
class Planned:
    """A call that is planned."""

    time: float
    call: Callable[[], None]
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True


@dataclass
class World:
    """A clock, a judge that prefers the longer answer, and the cohorts between them."""

    limits: CohortLimits = LIMITS
    now: float = 0
    planned: list[Planned] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)
    error: BaseException | None = None
    go_on: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.go_on.set()
        self.cohorts = Cohorts(self.judge, self.limits, timer=self.plan)

    def plan(self, seconds: float, call: Callable[[], None]) -> Planned:
        self.planned.append(Planned(self.now + seconds, call))
        return self.planned[-1]

    async def judge(self, group: Group, settings: RewardSettings) -> GroupRewards:
        self.groups.append(group)
        await self.go_on.wait()
        if self.error:
            raise self.error
        [rewards] = await judge_groups_async(compare, [group], settings)
        return rewards

    def post(self, answer: str, place: Place = THREE, **changes: Any) -> asyncio.Task[SampleReward]:
        sample = Sample(**{"prompt": "p", "answer": answer} | changes)
        return asyncio.create_task(self.cohorts.reward(sample, place))

    async def later(self, seconds: float = 0) -> None:
        """Let the clock go on, with all that happens meanwhile."""
        await settled()
        end = self.now + seconds
        while due := sorted((p for p in self.planned if p.time <= end), key=lambda p: p.time):
            self.now = due[0].time
            self.planned.remove(due[0])
            if not due[0].cancelled:
                due[0].call()
            await settled()
        self.now = end

    def answers(self) -> list[list[str]]:
        return [list(group.answers) for group in self.groups]


async def compare(batch: Batch) -> list[Comparison]:
    return [longer(a, b) for _, a, b, *_ in batch.rows]


def longer(a: str, b: str) -> Comparison:
    """The longer answer wins; one with a question mark cannot be read."""
    if "?" in a + b:
        return Comparison("c", None, None, "", "unparsed", (), 1, 1)
    chance = (len(a) > len(b)) + (len(a) == len(b)) / 2
    return Comparison("c", "A", float(chance), "", "ok", (), 1, 1)


async def settled() -> None:
    for _ in range(40):
        await asyncio.sleep(0)


def play(story: Callable[[World], Coroutine[Any, Any, None]], world: World | None = None) -> World:
    world = world or World()
    asyncio.run(story(world))
    return world


async def leave(caller: asyncio.Task[SampleReward]) -> None:
    caller.cancel()
    await settled()
    assert caller.cancelled()


def test_samples_that_come_one_by_one_are_judged_together() -> None:
    async def story(world: World) -> None:
        callers = [world.post(answer) for answer in ("a", "bb")]
        await world.later(59)
        assert not world.groups and world.cohorts.open == 1
        callers.append(world.post("ccc"))
        rewards = await asyncio.gather(*callers)
        assert [one.reward for one in rewards] == [0, 0.5, 1]
        assert {(one.comparisons, one.samples, one.problems) for one in rewards} == {(3, 3, ())}
        assert world.answers() == [["a", "bb", "ccc"]] and world.cohorts.open == 0

    world = play(story)
    assert world.cohorts.counts["judged"] == 1 and sum(world.cohorts.counts.values()) == 1


def test_cohorts_of_prompts_rubrics_settings_and_ids_are_apart() -> None:
    async def story(world: World) -> None:
        others: list[dict[str, Any]] = [
            {},
            {"prompt": "q"},
            {"rubric": Rubric.model_validate(["short"])},
            {"settings": RewardSettings(unread="retry")},
            {"place": Place(2, cohort="step 1")},
            {"place": Place(2, cohort="step 2"), "prompt": "q"},
        ]
        callers = [
            world.post(text, **{"place": Place(2)} | other) for text in ("a", "bb") for other in others
        ]
        rewards = [one.reward for one in await asyncio.gather(*callers)]
        assert rewards == [0] * 6 + [1] * 6
        assert world.answers() == [["a", "bb"]] * 6

    play(story)


def test_at_the_timeout_those_that_came_are_judged() -> None:
    async def story(world: World) -> None:
        callers = [world.post("a"), world.post("bb")]
        await world.later(59.9)
        assert not world.groups
        await world.later(0.1)
        for caller, reward in zip(callers, (0, 1), strict=True):
            assert caller.result().reward == reward
            assert caller.result().problems == ("2 of 3 samples came within 60 s",)

    assert play(story).cohorts.counts["incomplete"] == 1


@pytest.mark.parametrize(("unread", "reward"), [(None, None), (0.25, 0.25), ("retry", None)])
def test_a_sample_alone_gets_no_reward_or_the_stated_one_and_a_problem(
    unread: Any, reward: float | None
) -> None:
    async def story(world: World) -> None:
        caller = world.post("a", settings=RewardSettings(unread=unread))
        await world.later(60)
        assert caller.result().reward == reward
        assert caller.result().problems == (
            "1 of 3 samples came within 60 s",
            "no other sample to compare it with",
        )

    world = play(story)
    assert world.cohorts.counts["alone"] == world.cohorts.counts["incomplete"] == 1


def test_a_sample_with_a_reference_needs_no_other() -> None:
    async def story(world: World) -> None:
        settings = RewardSettings(schedule="reference")
        caller = world.post("bb", settings=settings, reference="a")
        await world.later(60)
        assert caller.result().reward == 1 and len(caller.result().problems) == 1

    assert play(story).cohorts.counts["alone"] == 0


def test_an_unread_verdict_is_a_problem_of_its_samples() -> None:
    async def story(world: World) -> None:
        callers = [world.post(answer, Place(4)) for answer in ("?", "a", "a", "bb")]
        unread, *twins, best = await asyncio.gather(*callers)
        assert unread.reward is None and len(unread.problems) == 2
        for one in (*twins, best):
            assert len(one.problems) == 1 and one.problems[0].startswith("unparsed judgement of samples [")
        assert [one.reward for one in twins] == [0.25, 0.25] and best.reward == 1 and best.unread == 1

    play(story)


def test_a_late_sample_gets_the_reward_that_it_would_have_had_in_time() -> None:
    async def story(world: World) -> None:
        early = [world.post("a", Place(4)), world.post("ccc", Place(4))]
        await world.later(60)
        assert [caller.result().reward for caller in early] == [0, 1]
        await world.later(KEEP - 1)
        for answer, reward in (("bb", 0.5), ("dddd", 1)):
            late = await world.post(answer, Place(4))
            assert late.reward == reward
            assert late.problems == ("late: its cohort was judged with 2 of 4 samples before",)
        assert late.samples == 4
        assert world.answers() == [["a", "ccc"], ["a", "ccc", "bb"], ["a", "ccc", "bb", "dddd"]]

    assert play(story).cohorts.counts["late"] == 2


def test_a_sample_that_comes_while_its_cohort_is_judged_is_late() -> None:
    async def story(world: World) -> None:
        world.go_on.clear()
        first = [world.post("a"), world.post("ccc")]
        await world.later(60)
        late = world.post("bb")
        await settled()
        assert world.answers() == [["a", "ccc"], ["a", "ccc", "bb"]]
        world.go_on.set()
        assert (await late).reward == 0.5
        assert [(await caller).reward for caller in first] == [0, 1]

    play(story)


def test_a_sample_after_the_time_that_a_cohort_is_kept_begins_another() -> None:
    async def story(world: World) -> None:
        caller = world.post("a")
        await world.later(60 + KEEP)
        assert caller.result().reward is None
        late = world.post("bb")
        await world.later(60)
        assert late.result().reward is None and world.answers() == [["a"], ["bb"]]

    assert play(story).cohorts.counts["late"] == 0


def test_the_next_epoch_of_a_prompt_is_a_new_cohort() -> None:
    async def story(world: World) -> None:
        for place in (Place(2), Place(2, cohort="row 7")):
            world.groups.clear()
            for answers in (("a", "bb"), ("a", "bb"), ("ccc", "d"), ("a", "a")):
                rewards = await asyncio.gather(*(world.post(answer, place) for answer in answers))
                assert {one.samples for one in rewards} == {2}
            assert world.answers() == [["a", "bb"], ["a", "bb"], ["ccc", "d"], ["a", "a"]]

    assert play(story).cohorts.counts["duplicates"] == 0


def test_more_samples_than_the_size_are_two_cohorts() -> None:
    async def story(world: World) -> None:
        callers = [world.post("x" * n, Place(2)) for n in range(1, 5)]
        assert [one.reward for one in await asyncio.gather(*callers)] == [0, 1, 0, 1]

    play(story)


def test_equal_texts_of_callers_that_wait_are_two_samples() -> None:
    async def story(world: World) -> None:
        rewards = await asyncio.gather(*(world.post(answer) for answer in ("a", "a", "bb")))
        assert [one.reward for one in rewards] == [0.25, 0.25, 1]
        assert sorted(world.groups[0].answers) == ["a", "a", "bb"]

    assert play(story).cohorts.counts["duplicates"] == 0


def test_the_retry_of_a_caller_that_hung_up_is_the_same_sample() -> None:
    async def story(world: World) -> None:
        lost, twin = world.post("a"), world.post("a")
        await settled()
        await leave(lost)
        again = world.post("a")
        await settled()
        assert not world.groups, "three posts, two samples"
        last = world.post("bb")
        assert [(await caller).reward for caller in (twin, again, last)] == [0.25, 0.25, 1]

    assert play(story).cohorts.counts["duplicates"] == 1


def test_a_hang_up_that_is_noticed_together_with_the_retry_counts() -> None:
    async def story(world: World) -> None:
        lost, other = world.post("a"), world.post("bb")
        await settled()
        again = world.post("a")  # a server may read it before it sees that the first connection has ended
        asyncio.get_running_loop().call_soon(lambda: asyncio.get_running_loop().call_soon(lost.cancel))
        await settled()
        assert not world.groups
        await world.post("ccc")
        assert (await again).reward == 0 and (await other).reward == 0.5

    assert play(story).cohorts.counts["duplicates"] == 1


def test_a_retry_during_and_after_the_judging_gets_the_same_result() -> None:
    async def story(world: World) -> None:
        world.go_on.clear()
        lost, gone, stays = (world.post(answer) for answer in ("a", "bb", "ccc"))
        await settled()
        await leave(lost)
        await leave(gone)
        during = world.post("a")
        await settled()
        world.go_on.set()
        assert (await during).reward == 0 and (await stays).reward == 1
        assert (await world.post("bb")).reward == 0.5
        assert len(world.groups) == 1

    assert play(story).cohorts.counts["duplicates"] == 2


def test_a_retry_finds_its_cohort_behind_a_newer_one() -> None:
    async def story(world: World) -> None:
        world.go_on.clear()
        lost, stays = world.post("a", Place(2)), world.post("bb", Place(2))
        await settled()
        await leave(lost)
        newer = world.post("other", Place(2))
        again = world.post("a", Place(2))
        await settled()
        world.go_on.set()
        assert (await again).reward == 0 and (await stays).reward == 1 and not newer.done()
        await leave(newer)

    play(story)


@pytest.mark.parametrize("sample", [None, "0"])
def test_a_sample_that_was_alone_and_comes_again_is_the_same_sample(sample: str | None) -> None:
    async def story(world: World) -> None:
        place = Place(2, cohort="r1", sample=sample, timeout=1)
        first = world.post("a", place)
        await world.later(1)
        assert first.result().reward is None
        again = await world.post("a", place)
        assert again.reward is None and again.samples == 1, "not 0.5 against its own copy"
        assert "no other sample to compare it with" in again.problems
        late = await world.post("bb", replace(place, sample=sample and "1"))
        assert late.reward == 1 and late.samples == 2
        third = await world.post("a", place)
        assert third.reward == 0 and third.samples == 2, "with the sample that came since"
        assert world.answers() == [["a"], ["a", "bb"], ["a", "bb"]]
        await world.later(KEEP)
        assert world.cohorts.characters == 0

    assert play(story).cohorts.counts["duplicates"] == 2


def test_with_a_sample_id_a_retry_is_known_without_a_hang_up() -> None:
    async def story(world: World) -> None:
        def place(number: int) -> Place:
            return Place(3, cohort="c", sample=str(number))

        first, again, twin = world.post("a", place(0)), world.post("a", place(0)), world.post("a", place(1))
        await settled()
        assert not world.groups
        last = world.post("bb", place(2))
        rewards = [(await caller).reward for caller in (first, again, twin, last)]
        assert rewards == [0.25, 0.25, 0.25, 1] and world.answers() == [["a", "a", "bb"]]
        assert (await world.post("bb", place(2))).reward == 1, "its first answer was lost on the way"
        assert len(world.groups) == 1

    assert play(story).cohorts.counts["duplicates"] == 2


def test_a_sample_id_with_another_text_is_a_conflict_until_the_next_epoch() -> None:
    async def story(world: World) -> None:
        places = [Place(2, sample="0"), Place(2, sample="1")]
        first = world.post("a", places[0])
        with pytest.raises(CohortConflict, match="another text"):
            await world.post("other", places[0])
        assert (await world.post("bb", places[1])).reward == 1 and (await first).reward == 0
        callers = [world.post("other", places[0]), world.post("xx", places[1])]
        assert [(await caller).reward for caller in callers] == [1, 0]

    assert play(story).cohorts.counts["refused"] == 1


def test_a_late_sample_id_of_an_incomplete_cohort_with_another_text_begins_the_next_epoch() -> None:
    async def story(world: World) -> None:
        lone = world.post("a", Place(2, cohort="row", sample="0"))
        await world.later(60)
        assert lone.result().reward is None
        callers = [
            world.post(text, Place(2, cohort="row", sample=str(i))) for i, text in enumerate(("b", "cc"))
        ]
        assert [(await caller).reward for caller in callers] == [0, 1]

    play(story)


@pytest.mark.parametrize(
    ("first", "second", "problem"),
    [
        ({}, {"place": Place(4)}, "size is 4, and was 3"),
        ({"place": Place(3, cohort="c")}, {"place": Place(2, cohort="c")}, "size is 2, and was 3"),
        ({"place": Place(3, cohort="c")}, {"place": Place(3, cohort="c"), "prompt": "q"}, "differ"),
        (
            {"place": Place(3, cohort="c")},
            {"place": Place(3, cohort="c"), "settings": RewardSettings(unread=0.1)},
            "differ",
        ),
    ],
)
def test_a_contradiction_is_refused_and_does_no_harm(
    first: dict[str, Any], second: dict[str, Any], problem: str
) -> None:
    async def story(world: World) -> None:
        callers = [world.post(answer, **first) for answer in ("a", "bb")]
        await settled()
        with pytest.raises(CohortConflict, match=problem) as caught:
            await world.post("x", **second)
        assert caught.value.hint and caught.value.location == "cohort"
        callers.append(world.post("ccc", **first))
        assert [(await caller).reward for caller in callers] == [0, 0.5, 1]
        await asyncio.gather(*(world.post("x" * n, **second) for n in range(1, 1 + second["place"].size)))

    assert play(story).cohorts.counts["refused"] == 1


def test_a_sample_stays_when_its_caller_hangs_up() -> None:
    async def story(world: World) -> None:
        lost = world.post("a", Place(2))
        await settled()
        await leave(lost)
        assert (await world.post("bb", Place(2))).reward == 1 and world.answers() == [["a", "bb"]]

    play(story)


def test_a_cohort_for_which_nobody_waits_is_not_judged() -> None:
    async def story(world: World) -> None:
        for caller in [world.post("a"), world.post("bb")]:
            await settled()
            await leave(caller)
        await world.later(60)
        assert not world.groups and world.cohorts.open == 0 and world.cohorts.characters == 0

    assert play(story).cohorts.counts["abandoned"] == 1


def test_an_error_of_the_judge_reaches_every_caller_and_retries_form_a_new_cohort() -> None:
    async def story(world: World) -> None:
        world.error = EngineError("it died")
        callers = [world.post(answer, Place(2)) for answer in ("a", "bb")]
        for outcome in await asyncio.gather(*callers, return_exceptions=True):
            assert outcome is world.error
        assert world.cohorts.characters == 0
        world.error = None
        callers = [world.post(answer, Place(2)) for answer in ("a", "bb")]
        assert [(await caller).reward for caller in callers] == [0, 1]

    assert play(story).cohorts.counts["failed"] == 1


def test_an_error_of_a_late_judging_is_that_sample_s_alone() -> None:
    async def story(world: World) -> None:
        early = [world.post("a"), world.post("ccc")]
        await world.later(60)
        world.error = EngineError("it died")
        with pytest.raises(EngineError):
            await world.post("bb")
        world.error = None
        assert (await world.post("bb")).reward == 0.5, "the retry"
        assert early[1].result().reward == 1
        await world.later(KEEP)
        assert world.cohorts.characters == 0

    play(story)


def test_the_timeout_is_that_of_the_first_sample() -> None:
    async def story(world: World) -> None:
        callers = [world.post("a", Place(3, timeout=5)), world.post("bb", Place(3, timeout=50))]
        await world.later(4.9)
        assert not world.groups
        await world.later(0.1)
        assert [caller.result().reward for caller in callers] == [0, 1]
        assert "within 5 s" in callers[1].result().problems[0]

    play(story)


def test_the_number_of_open_cohorts_is_bounded() -> None:
    async def story(world: World) -> None:
        callers = [world.post("a", prompt=f"p{n}", place=Place(2)) for n in range(3)]
        await settled()
        with pytest.raises(CohortsFull) as caught:
            await world.post("a", prompt="p3", place=Place(2))
        assert caught.value.hint
        members = [world.post("bb", prompt=f"p{n}", place=Place(2)) for n in range(3)]
        assert [(await member).reward for member in members] == [1, 1, 1], "a member of an open one has room"
        assert [(await caller).reward for caller in callers] == [0, 0, 0]
        more = [world.post("a", prompt=f"q{n}", place=Place(2)) for n in range(3)]
        await settled()
        assert world.cohorts.open == 3
        for caller in more:
            await leave(caller)

    world = play(story, World(CohortLimits(cohorts=3)))
    assert world.cohorts.counts["refused"] == 1


def test_the_memory_of_texts_is_bounded_and_judged_cohorts_make_room() -> None:
    async def story(world: World) -> None:
        for _ in range(5):
            await asyncio.gather(*(world.post("x" * 20, Place(2)) for _ in range(2)))
            assert world.cohorts.characters <= 100
        held = [world.post("x" * 40, prompt=prompt) for prompt in "qr"]
        await settled()
        assert world.cohorts.characters == 82, "the judged ones are gone"
        with pytest.raises(CohortsFull):
            await world.post("x" * 40, prompt="s")
        held += [world.post("y" * 40, prompt="q"), world.post("z" * 30, prompt="q")]
        with pytest.raises(CohortsFull):
            await world.post("y" * 50, prompt="r")
        assert [(await held[i]).reward for i in (0, 2, 3)] == [0.75, 0.75, 0]
        await leave(held[1])

    play(story, World(CohortLimits(characters=100)))


def test_a_late_sample_does_not_lose_its_cohort_to_the_bound_of_memory() -> None:
    async def story(world: World) -> None:
        first = [world.post("x" * 30), world.post("x" * 40)]
        await world.later(60)
        assert first[1].result().reward == 1
        with pytest.raises(CohortsFull):
            await world.post("x" * 200)
        late = world.post("x" * 35)
        await world.later()
        assert late.result().reward == 0.5 and late.result().samples == 3
        await world.later(KEEP)
        assert world.cohorts.characters == 0

    play(story, World(CohortLimits(characters=80, timeout=60, keep=KEEP)))


def test_requests_that_a_closing_judge_cancels_are_refused() -> None:
    async def story(world: World) -> None:
        world.error = asyncio.CancelledError()
        callers = [world.post(answer, Place(2)) for answer in ("a", "bb")]
        for outcome in await asyncio.gather(*callers, return_exceptions=True):
            assert isinstance(outcome, CohortStopped)

    play(story)


def test_an_empty_reference_is_a_reference() -> None:
    async def story(world: World) -> None:
        settings = RewardSettings(schedule="reference")
        callers = [world.post(text, Place(2), settings=settings, reference="") for text in ("a", "")]
        assert [(await caller).reward for caller in callers] == [1, 0.5]

    play(story)


def test_a_judged_cohort_is_kept_for_a_while_and_then_forgotten() -> None:
    async def story(world: World) -> None:
        for n in range(4):
            await asyncio.gather(*(world.post(answer, Place(2), prompt=f"p{n}") for answer in ("a", "bb")))
        assert world.cohorts.characters == 4 * (2 + 1 + 2 + 2)
        await world.later(KEEP)
        assert world.cohorts.characters == 0 and not world.cohorts.open

    play(story)


def test_closing_refuses_those_that_wait_for_others_and_finishes_what_is_judged() -> None:
    async def story(world: World) -> None:
        world.go_on.clear()
        judged = [world.post(answer, Place(2), prompt="q") for answer in ("a", "bb")]
        waiting = [world.post("a"), world.post("bb")]
        await settled()
        world.cohorts.close()
        for outcome in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(outcome, CohortStopped) and outcome.hint
        world.go_on.set()
        assert [(await caller).reward for caller in judged] == [0, 1]
        with pytest.raises(CohortStopped):
            await world.post("late")

    play(story)


Event = tuple[str, int]
EVENTS = st.lists(
    st.tuples(st.sampled_from(["post", "leave", "wait"]), st.integers(0, 5)), min_size=1, max_size=30
)


@given(EVENTS, st.booleans())
def test_whatever_happens_every_caller_is_answered_and_nothing_is_left(
    events: list[Event], named: bool
) -> None:
    """Posts, hang-ups and waits in any order: a reward is one of a real comparison, or a problem says why there is none."""

    async def story(world: World) -> None:
        callers: list[asyncio.Task[SampleReward]] = []
        for kind, number in events:
            if kind == "post":
                sample = str(number) if named else None
                text = "x" * (1 + number % 3) if number else "?"
                callers.append(world.post(text, replace(THREE, sample=sample)))
            elif kind == "leave" and number < len(callers):
                callers[number].cancel()
            await world.later(13 * number if kind == "wait" else 0)
        await world.later(60)
        for outcome in await asyncio.gather(*callers, return_exceptions=True):
            if isinstance(outcome, asyncio.CancelledError | CohortConflict):
                continue
            assert isinstance(outcome, SampleReward)
            assert outcome.problems or (outcome.reward is not None and outcome.samples == 3)
            assert outcome.samples > 1 or outcome.reward is None
        assert all(len(answers) <= 3 for answers in world.answers())
        await world.later(KEEP)
        assert world.cohorts.characters == 0 and world.cohorts.open == 0

    play(story)
