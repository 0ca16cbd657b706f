"""The schedules: what a group asks of a judge in each round, and the rewards that follow."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from reasongenrm.config.rewards import RewardSettings, ScheduleName
from reasongenrm.judge.ask import preference
from reasongenrm.judge.criteria import rating_score
from reasongenrm.judge.inputs import PlacedRow, with_rubric
from reasongenrm.judge.listwise import list_shares
from reasongenrm.judge.strengths import Strengths, fit_lists, fit_pairs
from reasongenrm.records import Comparison, ListVerdict, Rating
from reasongenrm.rewards.estimates import Estimate, mean_points, single_values, win_chances
from reasongenrm.rewards.groups import Group
from reasongenrm.rewards.plans import (
    Members,
    Pair,
    Texts,
    all_pairs,
    joining_pairs,
    lists,
    regular,
    smaller_lists,
)

JudgeMethod = Literal["compare_many", "rate_many", "choose_many"]


@dataclass(frozen=True, slots=True)
class Call:
    """One judgement that a group needs.

    Attributes:
        method: of the judge.
        row: for that method.
        texts: the distinct texts that it is about, by index.
        in_parts: whether the texts are judged in parts where it cannot be read; only those parts are then reported as unread.
    """

    method: JudgeMethod
    row: tuple[Any, ...]
    texts: tuple[int, ...]
    in_parts: bool = False


Value = Any
"""What was read of a judgement: P(the first is better), a score in [0, 1], or P(best) per listed text; None if unread."""

Rounds = Generator[list[Call], list[Value], Estimate]
"""The rounds of one group: yields the calls of a round, is sent their values, and returns the estimate."""


def _compare(group: Group, texts: Texts, pairs: Sequence[Pair]) -> list[Call]:
    return [
        Call(
            "compare_many",
            PlacedRow(with_rubric((group.prompt, texts.texts[i], texts.texts[j]), group.rubric)),
            (i, j),
        )
        for i, j in pairs
    ]


def _all_pairs(group: Group, texts: Texts, settings: RewardSettings) -> Rounds:
    pairs = all_pairs(len(texts.texts))
    points = yield _compare(group, texts, pairs)
    return mean_points(texts, pairs, points)


def _regular(group: Group, texts: Texts, settings: RewardSettings) -> Rounds:
    pairs = regular(len(texts.texts), 2 if settings.schedule == "circular" else settings.degree)
    points = yield _compare(group, texts, pairs)
    return win_chances(texts, *_fit(texts, pairs, points))


def _pivot(group: Group, texts: Texts, settings: RewardSettings) -> Rounds:
    count = len(texts.texts)
    pairs = regular(count, 2)
    points = yield _compare(group, texts, pairs)
    strengths, judged = _fit(texts, pairs, points)
    ranked = sorted((i for i in range(count) if judged[i]), key=lambda i: strengths.values[i])
    if ranked:
        median = ranked[len(ranked) // 2]
        met = {i for pair in pairs for i in pair if median in pair}
        others = [i for i in range(count) if i not in met]
        # The median is first in every other game, so that it is first as often as second.
        games = [(median, i) if place % 2 else (i, median) for place, i in enumerate(others)]
        more = yield _compare(group, texts, games)
        pairs, points = [*pairs, *games], [*points, *more]
    return win_chances(texts, *_fit(texts, pairs, points))


def _reference(group: Group, texts: Texts, settings: RewardSettings) -> Rounds:
    # A sample's reference belongs to it, not to its text: the same text may meet several references.
    met = list(zip(texts.place, group.references or (), strict=True))
    games = [(i, other) for i, other in sorted(set(met)) if texts.texts[i] != other]
    rows = [with_rubric((group.prompt, texts.texts[i], other), group.rubric) for i, other in games]
    points = yield [Call("compare_many", row, (i,)) for row, (i, _) in zip(rows, games, strict=True)]
    chances = dict.fromkeys(met, 0.5) | dict(zip(games, points, strict=True))
    return single_values([chances[game] for game in met])


def _listwise(group: Group, texts: Texts, settings: RewardSettings) -> Rounds:
    count, lengths = len(texts.texts), [len(text) for text in texts.texts]
    read, unread = list[tuple[Members, Value]](), list[Members]()
    plan: Sequence[Members] = lists(count)
    while plan:
        judged_lists = list(zip(plan, (yield _choose(group, texts, plan)), strict=True))
        read += [one for one in judged_lists if one[1] is not None]
        failed = [members for members, value in judged_lists if value is None]
        unread += failed
        plan = [smaller for members in failed for smaller in smaller_lists(members, lengths)]
        plan = plan or joining_pairs([members for members, _ in read], unread, count, lengths)
    judged = {i for members, _ in read for i in members}
    strengths = fit_lists([members for members, _ in read], [value for _, value in read], count)
    return win_chances(texts, strengths, [i in judged for i in range(count)])


def _choose(group: Group, texts: Texts, plan: Sequence[Members]) -> list[Call]:
    return [
        Call(
            "choose_many",
            with_rubric((group.prompt, tuple(texts.texts[i] for i in members)), group.rubric),
            members,
            in_parts=len(members) > 2,
        )
        for members in plan
    ]


def _pointwise(group: Group, texts: Texts, settings: RewardSettings) -> Rounds:
    rows = [with_rubric((group.prompt, text), group.rubric) for text in texts.texts]
    scores = yield [Call("rate_many", row, (i,)) for i, row in enumerate(rows)]
    return single_values([scores[i] for i in texts.place])


def _fit(texts: Texts, pairs: Sequence[Pair], points: Sequence[float | None]) -> tuple[Strengths, list[bool]]:
    """Return the strengths, and which texts have a game that could be read."""
    read = {i for pair, value in zip(pairs, points, strict=True) if value is not None for i in pair}
    count = len(texts.texts)
    return fit_pairs(pairs, points, count), [i in read for i in range(count)]


SCHEDULES: dict[ScheduleName, Callable[[Group, Texts, RewardSettings], Rounds]] = {
    "all_pairs": _all_pairs,
    "circular": _regular,
    "regular": _regular,
    "pivot": _pivot,
    "reference": _reference,
    "listwise": _listwise,
    "pointwise": _pointwise,
}


def read_value(call: Call, result: Comparison | Rating | ListVerdict) -> Value:
    """Return what was read of a result."""
    if isinstance(result, Comparison):
        return preference(result)
    if isinstance(result, Rating):
        return rating_score(result)
    return list_shares(result, len(call.texts))


def retry(call: Call) -> Call:
    """Return the request for a judgement that could not be read: with the answers in reverse, which gives it another seed.

    A rating has one answer: its request is the same, which helps only where an engine failed.
    """
    if call.method == "compare_many":
        prompt, a, b, *rubric = call.row
        return replace(call, row=type(call.row)((prompt, b, a, *rubric)))
    if call.method == "choose_many":
        prompt, answers, *rubric = call.row
        return replace(call, row=(prompt, answers[::-1], *rubric))
    return call


def read_retry(call: Call, result: Comparison | Rating | ListVerdict) -> Value:
    """Return what was read of the result of `retry(call)`, for the answers of `call`."""
    value = read_value(call, result)
    if value is None or call.method == "rate_many":
        return value
    return 1 - value if call.method == "compare_many" else value[::-1]
