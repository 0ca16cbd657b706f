"""Cohorts: samples of one prompt that arrive one by one are gathered, judged together, and each gets its own reward.

A cohort is named by an id, or else by its prompt, rubric and settings. It is judged when `size` samples are there, or some seconds
after its first sample. Everything happens in one event loop; nothing is known of HTTP, of threads or of an engine.

- **Late**: a sample of a cohort that was judged without it is judged with the cohort's answers, and gets the reward that it would have
  had in time. The rewards of the others have left already and stay.
- **Lost**: at the timeout the samples that came are judged; each of their rewards says how many came. A sample that is alone has
  nothing to be compared with: it has no reward, but a problem.
- **Duplicate**: with a sample id, the same id and text are the same sample, which is judged once. Without one, an equal text is the same
  sample if the caller of the first one has hung up without its reward, or was answered that the sample is alone, and another sample if
  that caller still waits. One that was alone is judged again with the samples that came since; without any, it is alone again.
- **Hang-up**: the sample stays, since the rewards of the others should not depend on one caller's network. A cohort for which nobody
  waits at its timeout is not judged.
- **Restart**: cohorts live in memory. The samples that are sent again form a new cohort.
- **Epochs**: a sample of a cohort that has all its samples begins a new cohort of the same name.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from reasongenrm.config.rewards import RewardSettings
from reasongenrm.rewards.cohort_samples import (
    DEFAULT_LIMITS,
    CohortConflict,
    CohortLimits,
    CohortsFull,
    Place,
    Sample,
    SampleReward,
    Timer,
    TimerHandle,
    stopped,
    unread_problems,
)
from reasongenrm.rewards.schedule import Group, GroupRewards

HANG_UP_TURNS = 8
"""Turns of the event loop within which a server notices a hang-up that arrived together with the retry."""


JudgeGroup = Callable[[Group, RewardSettings], Awaitable[GroupRewards]]


@dataclass(eq=False, slots=True)
class _Member:
    sample: Sample
    place: Place
    result: asyncio.Future[SampleReward]
    callers: int = 0
    delivered: bool = False

    @property
    def abandoned(self) -> bool:
        """Whether its callers have hung up without a reward, or got none since the sample was alone."""
        return not self.callers and (not self.delivered or self.alone)

    @property
    def alone(self) -> bool:
        """Whether it was judged, and there was nothing to compare it with."""
        if not self.result.done() or self.result.exception():
            return False
        reward = self.result.result()
        return reward.reward is None and reward.samples == 1

    def has_text_of(self, other: Sample) -> bool:
        return (self.sample.answer, self.sample.reference) == (other.answer, other.reference)

    def settle(self, outcome: SampleReward | BaseException) -> None:
        if self.result.done():
            return
        if isinstance(outcome, BaseException):
            # A judge that is closed cancels what it has not begun.
            self.result.set_exception(outcome if isinstance(outcome, Exception) else stopped())
            self.result.exception()  # where nobody waits, nobody misses it
        else:
            self.result.set_result(outcome)


@dataclass(eq=False, slots=True)
class _Cohort:
    key: str
    terms: str
    size: int
    seconds: float
    members: list[_Member] = field(default_factory=list)
    phase: Literal["open", "judging", "judged"] = "open"
    in_time: int = 0  # members that were judged first
    timer: TimerHandle | None = None

    @property
    def characters(self) -> int:
        return sum(member.sample.characters for member in self.members)

    def conflict(self, sample: Sample, place: Place) -> str:
        """Return in what the sample differs from the cohort; an empty text if in nothing."""
        if place.size != self.size:
            return f"size is {place.size}, and was {self.size} before"
        if sample.terms != self.terms:
            return "prompt, rubric or settings differ from those of its other samples"
        if any(place.sample == member.place.sample for member in self.members if place.sample is not None):
            return f"the sample {place.sample!r} came with another text before"
        return ""


class Cohorts:
    """All cohorts of a server.

    Attributes:
        limits: may be changed.
        counts: cohorts that were `judged`, and of these the `incomplete` ones and those of one sample (`alone`); cohorts that were
            `abandoned` by all callers, or `failed` by an error of the judge; samples that were `late`, `duplicates` or `refused`.
        characters: number of those in all texts that are held.

    Args:
        judge: judges one group.
        limits: of all cohorts together.
        timer: of the event loop, by default.
    """

    def __init__(
        self, judge: JudgeGroup, limits: CohortLimits = DEFAULT_LIMITS, *, timer: Timer | None = None
    ) -> None:
        self._judge, self.limits = judge, limits
        self._timer = timer or (lambda seconds, call: asyncio.get_running_loop().call_later(seconds, call))
        self._cohorts: dict[str, list[_Cohort]] = {}  # by name, the oldest first
        self._open, self._judged = dict[_Cohort, None](), dict[_Cohort, None]()  # the oldest first
        self.characters, self._closed = 0, False
        self._tasks: set[asyncio.Task[None]] = set()
        names = "judged incomplete alone late duplicates abandoned refused failed"
        self.counts = dict.fromkeys(names.split(), 0)

    @property
    def open(self) -> int:
        """Number of cohorts that are not judged yet."""
        return len(self._open)

    async def reward(self, sample: Sample, place: Place) -> SampleReward:
        """Return a sample's reward when its cohort has been judged; a caller that is cancelled leaves its sample there.

        Raises:
            CohortConflict: the sample contradicts its cohort, which stays as it is.
            CohortsFull: there is no room.
            CohortStopped: see `close`.
            Exception: of the judge; the cohort is forgotten, so that retries form a new one.
        """
        if self._has_twin(sample, place):
            for _ in range(HANG_UP_TURNS):
                await asyncio.sleep(0)
        if self._closed:
            raise stopped()
        retried = self._retried(sample, place)
        member, cohort = retried or self._join(sample, place)
        self.counts["duplicates"] += retried is not None
        member.callers += 1
        try:
            if retried is None:
                self._advance(cohort, member)
            elif member.alone and len(cohort.members) > 1:
                member.result = asyncio.get_running_loop().create_future()
                self._start(self._judge_late(cohort, member))
            reward = await asyncio.shield(member.result)
            member.delivered = True
            return reward
        finally:
            member.callers -= 1

    def close(self) -> None:
        """Refuse the callers of all cohorts that are not being judged, and all that come."""
        self._closed = True
        for cohort in [one for one in self._open if one.phase == "open"]:
            self._drop(cohort)
            for member in cohort.members:
                member.settle(stopped())

    def _named(self, sample: Sample, place: Place) -> tuple[str, list[_Cohort]]:
        """Return the name of a sample's cohorts, and those that there are."""
        key = f"prompt {sample.terms}" if place.cohort is None else f"id {place.cohort}"
        return key, self._cohorts.get(key, [])

    def _has_twin(self, sample: Sample, place: Place) -> bool:
        if place.sample is not None:
            return False
        members = [member for cohort in self._named(sample, place)[1] for member in cohort.members]
        return any(member.callers and member.has_text_of(sample) for member in members)

    def _retried(self, sample: Sample, place: Place) -> tuple[_Member, _Cohort] | None:
        """Return the member that a sample is already, and its cohort."""
        _, cohorts = self._named(sample, place)
        for cohort in reversed(cohorts):
            named = place.sample is not None and cohort is cohorts[-1]
            for member in cohort.members if cohort.terms == sample.terms else ():
                same = member.place.sample == place.sample and member.has_text_of(sample)
                if same and (named or member.abandoned):
                    return member, cohort
        return None

    def _join(self, sample: Sample, place: Place) -> tuple[_Member, _Cohort]:
        """Add a member to the newest cohort of its name, or to a new one."""
        key, cohorts = self._named(sample, place)
        cohort = cohorts[-1] if cohorts and len(cohorts[-1].members) < cohorts[-1].size else None
        if cohort and (problem := cohort.conflict(sample, place)):
            if cohort.phase != "judged":
                self.counts["refused"] += 1
                hint = "give every cohort an id of its own, and all its samples the same size, prompt and settings"
                raise CohortConflict(problem, location="cohort", hint=hint)
            cohort = None
        self._make_room(sample, cohort)
        if cohort is None:
            cohort = self._new(key, sample, place)
        member = _Member(sample, place, asyncio.get_running_loop().create_future())
        cohort.members.append(member)
        self.characters += sample.characters
        return member, cohort

    def _new(self, key: str, sample: Sample, place: Place) -> _Cohort:
        seconds = self.limits.timeout if place.timeout is None else place.timeout
        cohort = _Cohort(key, sample.terms, place.size, seconds)
        cohort.timer = self._timer(seconds, lambda: self._begin(cohort))
        self._cohorts.setdefault(key, []).append(cohort)
        self._open[cohort] = None
        return cohort

    def _make_room(self, sample: Sample, cohort: _Cohort | None) -> None:
        """Forget judged cohorts, the oldest first, until there is room for a sample of this cohort, or of a new one.

        Raises:
            CohortsFull: there is none.
        """
        limits, size = self.limits, sample.characters
        most = limits.characters if cohort is None else 2 * limits.characters
        for old in [one for one in self._judged if one is not cohort]:
            if self.characters + size <= most:
                break
            self._drop(old)
        if (cohort is None and self.open >= limits.cohorts) or self.characters + size > most:
            self.counts["refused"] += 1
            hint = "send it again later, or send fewer prompts at the same time"
            raise CohortsFull("too many cohorts are open", location="cohort", hint=hint)

    def _advance(self, cohort: _Cohort, member: _Member) -> None:
        """Begin the judging that a new member makes possible."""
        if cohort.phase != "open":
            self.counts["late"] += 1
            self._start(self._judge_late(cohort, member))
        elif len(cohort.members) == cohort.size:
            self._begin(cohort)

    def _begin(self, cohort: _Cohort) -> None:
        """Judge a cohort that is full, or whose time is over."""
        if cohort.phase != "open":
            return
        if cohort.timer:
            cohort.timer.cancel()
        if not any(member.callers for member in cohort.members):
            self.counts["abandoned"] += 1
            self._drop(cohort)
            return
        cohort.phase = "judging"
        self._start(self._judge_cohort(cohort))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)  # the loop itself keeps only weak references
        task.add_done_callback(self._tasks.discard)

    async def _judge_cohort(self, cohort: _Cohort) -> None:
        members, problem = tuple(cohort.members), ""
        cohort.in_time = len(members)
        if len(members) < cohort.size:
            self.counts["incomplete"] += 1
            problem = f"{len(members)} of {cohort.size} samples came within {cohort.seconds:g} s"
        try:
            rewards = await self._rewards(members, problem)
        except (Exception, asyncio.CancelledError) as error:
            self.counts["failed"] += 1
            self._drop(cohort)
            for member in members:
                member.settle(error)
            return
        self.counts["judged"] += 1
        for member, reward in zip(members, rewards, strict=True):
            member.settle(reward)
        self._keep(cohort)

    async def _judge_late(self, cohort: _Cohort, member: _Member) -> None:
        members = tuple(cohort.members)  # with all that came up to now
        problem = f"late: its cohort was judged with {cohort.in_time} of {cohort.size} samples before"
        try:
            rewards = await self._rewards(members, problem)
        except (Exception, asyncio.CancelledError) as error:
            cohort.members.remove(member)
            self.characters -= member.sample.characters if cohort in self._cohorts.get(cohort.key, ()) else 0
            member.settle(error)
            return
        member.settle(rewards[members.index(member)])

    async def _rewards(self, members: Sequence[_Member], problem: str) -> list[SampleReward]:
        """Judge members together; the problem is added to each of their rewards."""
        first, answers = members[0].sample, [member.sample.answer for member in members]
        references = [member.sample.reference for member in members]
        group = Group(
            first.prompt, answers, None if references == [None] * len(members) else references, first.rubric
        )
        result = await self._judge(group, first.settings)
        self.counts["alone"] += any(one.outcome == "alone" for one in result.problems)
        return [
            SampleReward(
                reward=result.rewards[i],
                error=result.errors[i],
                comparisons=result.comparisons,
                unread=result.unread,
                problems=tuple(filter(None, (problem, *unread_problems(result.problems, answers, i)))),
                samples=len(members),
                terms=result.terms[i] if result.terms else None,
                flags=result.flags[i] if result.flags else (),
            )
            for i in range(len(members))
        ]

    def _keep(self, cohort: _Cohort) -> None:
        """Keep a judged cohort for a while."""
        cohort.phase = "judged"
        del self._open[cohort]
        self._judged[cohort] = None
        cohort.timer = self._timer(self.limits.keep, lambda: self._drop(cohort))
        if len(self._judged) > self.limits.cohorts:
            self._drop(next(iter(self._judged)))

    def _drop(self, cohort: _Cohort) -> None:
        """Forget a cohort."""
        row = self._cohorts.get(cohort.key, [])
        if cohort not in row:
            return
        if cohort.timer:
            cohort.timer.cancel()
        row.remove(cohort)
        if not row:
            del self._cohorts[cohort.key]
        self._open.pop(cohort, None)
        self._judged.pop(cohort, None)
        self.characters -= cohort.characters
