"""Rewards of groups: what is asked of the judge, what follows from its verdicts, and what does not get lost."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasongenrm.config.rewards import RewardSettings, ScheduleName
from reasongenrm.config.rubric import Rubric
from reasongenrm.config.shaping import ShapingSettings
from reasongenrm.errors import ConfigError, DataError
from reasongenrm.records import Comparison, ListVerdict
from reasongenrm.rewards.plans import all_pairs, lists, regular
from reasongenrm.rewards.schedule import (
    Batch,
    Group,
    GroupRewards,
    Unread,
    judge_groups,
    judge_groups_async,
    judge_samples,
)
from support.scripted_judge import QualityJudge

pytestmark = pytest.mark.unit

OF_GROUP: tuple[ScheduleName, ...] = ("all_pairs", "circular", "regular", "pivot", "listwise", "pointwise")


def rewarded(answers: Sequence[str], judge: QualityJudge | None = None, **settings: Any) -> GroupRewards:
    """Judge one group; with the schedule `reference`, against a text of length 2."""
    references = ["==" for _ in answers] if settings.get("schedule") == "reference" else None
    group = Group("p", answers, references)
    [result] = judge_groups(judge or QualityJudge(), [group], RewardSettings(**settings))
    return result


def number(text: str) -> float:
    """Quality of a text that is a number."""
    return float(text)


# --- who is asked what


@pytest.mark.parametrize(
    ("schedule", "calls"),
    [
        ("all_pairs", 28),
        ("circular", 8),
        ("regular", 16),
        ("reference", 8),
        ("listwise", 1),
        ("pointwise", 8),
    ],
)
def test_a_schedule_of_one_round_asks_once_for_all_groups(schedule: ScheduleName, calls: int) -> None:
    judge = QualityJudge()
    groups = [Group(p, ["x" * n for n in range(8)], ["=" * 9] * 8) for p in "pqr"]
    results = judge_groups(judge, groups, RewardSettings(schedule=schedule))
    [(_, rows)] = judge.calls
    assert len(rows) == 3 * calls and [result.comparisons for result in results] == [calls] * 3
    assert len({result.rewards for result in results}) == 1


def test_a_pivot_takes_a_second_round_against_the_median() -> None:
    judge = QualityJudge()
    results = judge_groups(
        judge, [Group(p, ["x" * n for n in range(8)]) for p in "pq"], RewardSettings(schedule="pivot")
    )
    (_, first), (_, second) = judge.calls
    assert len(first) == 16 and len(second) == 10
    assert [result.comparisons for result in results] == [13, 13], "2n − 3"
    for prompt in "pq":
        texts = [set(row[1:]) for row in second if row[0] == prompt]
        [median] = set.intersection(*texts)
        assert 2 <= len(median) <= 5
        shown_first = sum(row[1] == median for row in second if row[0] == prompt)
        assert shown_first == 2, "of five"


def test_groups_of_other_settings_are_judged_together() -> None:
    judge = QualityJudge()
    groups = [Group("p", ["a", "bb"]), Group("q", ["a", "bb"], ["c", "c"]), Group("r", ["a", "bb"])]
    settings = [RewardSettings(schedule=name) for name in ("circular", "reference", "pointwise")]
    results = judge_groups(judge, groups, settings)
    assert [(method, len(rows)) for method, rows in judge.calls] == [("compare_many", 3), ("rate_many", 2)]
    assert [result.comparisons for result in results] == [1, 2, 2]
    assert judge_groups(judge, [], []) == []


@given(st.integers(0, 34), st.integers(2, 34))
def test_each_text_has_the_stated_number_of_games_and_is_first_as_often_as_second(
    n: int, degree: int
) -> None:
    stated = min(n - 1, degree + n * degree % 2)
    for pairs, games in ((regular(n, degree), stated), (all_pairs(n), n - 1)):
        assert len({frozenset(pair) for pair in pairs}) == len(pairs) == n * max(0, games) // 2
        assert all(first != second for first, second in pairs)
        for text in range(n):
            first = sum(pair[0] == text for pair in pairs)
            second = sum(pair[1] == text for pair in pairs)
            assert first + second == games and abs(first - second) <= games % 2


@given(st.integers(3, 70), st.integers(2, 8))
def test_the_games_join_all_texts(n: int, degree: int) -> None:
    for joined in (regular(n, degree), lists(n)):
        reached, new = set[int](), {0}
        while new:
            reached |= new
            new = {text for game in joined if reached & set(game) for text in game} - reached
        assert len(reached) == n


@given(st.integers(0, 130))
def test_lists_hold_two_to_eight_texts_and_each_text_as_often(n: int) -> None:
    plan = lists(n)
    assert all(2 <= len(set(one)) == len(one) <= 8 for one in plan)
    times = {sum(text in one for one in plan) for text in range(n)}
    assert times == ({1} if 2 <= n <= 8 else {2} if n > 8 else set() if n == 0 else {0})


# --- rewards

TEXTS = st.lists(st.text("abc?", max_size=3), max_size=10)
SETTINGS = st.builds(RewardSettings, schedule=st.sampled_from([*OF_GROUP, "reference"])) | st.builds(
    RewardSettings, schedule=st.just("regular"), degree=st.integers(2, 5)
)


@settings(max_examples=40)
@given(TEXTS, SETTINGS, st.randoms(), st.booleans())
def test_rewards_do_not_depend_on_the_order_of_the_samples(
    answers: list[str], settings: RewardSettings, draw: Any, letters: bool
) -> None:
    """Equal texts have equal rewards, all are in [0, 1], and those of a comparison within the group have the mean 0.5."""
    order = list(range(len(answers)))
    draw.shuffle(order)
    one = rewarded(answers, QualityJudge(letters=letters), **settings.model_dump())
    other = rewarded([answers[i] for i in order], QualityJudge(letters=letters), **settings.model_dump())
    assert other.rewards == tuple(one.rewards[i] for i in order)
    assert other.errors == tuple(one.errors[i] for i in order)
    assert (one.comparisons, one.unread) == (other.comparisons, other.unread)
    by_text = dict(zip(answers, one.rewards, strict=True))
    assert one.rewards == tuple(by_text[answer] for answer in answers)
    read = [value for value in one.rewards if value is not None]
    assert all(0 <= value <= 1 for value in read)
    if settings.schedule in ("circular", "regular", "pivot", "listwise") and len(read) > 1:
        assert math.fsum(read) / len(read) == pytest.approx(0.5)


@settings(max_examples=40)
@given(TEXTS, SETTINGS)
def test_equal_texts_are_judged_once(answers: list[str], settings: RewardSettings) -> None:
    once, twice = QualityJudge(), QualityJudge()
    rewarded(list(dict.fromkeys(answers)), once, **settings.model_dump())
    result = rewarded([*answers, *answers[:3]], twice, **settings.model_dump())
    assert once.calls == twice.calls and result.comparisons == sum(len(rows) for _, rows in twice.calls)


@settings(max_examples=40)
@given(st.lists(st.integers(-40, 40), min_size=2, max_size=12, unique=True), st.booleans())
def test_all_pairs_of_a_perfect_judge_give_the_true_order(qualities: list[int], letters: bool) -> None:
    result = rewarded([str(value) for value in qualities], QualityJudge(number, letters=letters))
    order = sorted(range(len(qualities)), key=lambda i: result.rewards[i] or 0.0)
    assert [qualities[i] for i in order] == sorted(qualities)


@pytest.mark.parametrize("schedule", OF_GROUP)
def test_the_best_of_eight_has_the_highest_reward(schedule: ScheduleName) -> None:
    result = rewarded([str(n) for n in range(0, 16, 2)], QualityJudge(number), schedule=schedule)
    rewards = [value for value in result.rewards if value is not None]
    assert len(rewards) == 8 and max(rewards[4:]) == max(rewards) > 0.7 and min(rewards[:4]) == min(rewards)


def test_a_reward_against_the_group_is_the_mean_chance_to_beat_the_others() -> None:
    def beats(a: float, b: float) -> float:
        return 1 / (1 + math.exp(b - a))

    result = rewarded(["1", "2", "4", "4"], QualityJudge(number))
    assert result.rewards == pytest.approx(
        [
            (beats(1, 2) + 2 * beats(1, 4)) / 3,
            (beats(2, 1) + 2 * beats(2, 4)) / 3,
            (beats(4, 1) + beats(4, 2) + 0.5) / 3,
            (beats(4, 1) + beats(4, 2) + 0.5) / 3,
        ]
    )
    assert result.comparisons == 3 and all(error and 0 < error < 0.5 for error in result.errors)


def test_samples_of_one_text_are_a_tie_and_one_alone_has_no_reward() -> None:
    for schedule in OF_GROUP[:-1]:
        assert rewarded(["x", "x", "x"], schedule=schedule) == GroupRewards((0.5,) * 3, (0.0,) * 3, 0, 0)
        alone = rewarded(["x"], schedule=schedule)
        assert alone == GroupRewards((None,), (None,), 0, 1, (Unread((0,), "alone"),))
        assert rewarded(["x"], schedule=schedule, unread=0.25).rewards == (0.25,)
    assert rewarded(["xx", "xx"], schedule="pointwise").rewards == pytest.approx([2 / 9] * 2)


def test_each_sample_meets_its_own_reference() -> None:
    group = Group("p", ["1", "3", "3", "2"], ["2", "2", "1", "2"])
    judge = QualityJudge(number)
    [result] = judge_groups(judge, [group], RewardSettings(schedule="reference"))
    won = 1 / (1 + math.exp(-1))
    assert result.rewards == pytest.approx([1 - won, won, 1 / (1 + math.exp(-2)), 0.5])
    assert result.errors == (None,) * 4 and result.comparisons == 3, "an equal text is a tie"
    for references in (None, ["2"], ["2", "2", "1", None]):
        group = Group("p", ["1", "3", "3", "2"], references)
        with pytest.raises(DataError) as caught:
            judge_groups(judge, [Group("q", [], []), group], RewardSettings(schedule="reference"))
        assert caught.value.location == "groups[1].references" and caught.value.hint


# --- what cannot be read


@pytest.mark.parametrize("schedule", [*OF_GROUP, "reference"])
def test_a_sample_without_a_readable_verdict_has_no_reward_unless_a_number_is_stated(
    schedule: ScheduleName,
) -> None:
    answers = ["a?", "b", "cc", "dd"]
    silent = rewarded(answers, schedule=schedule)
    assert silent.rewards.count(None) == silent.unread == 1 and silent.rewards[0] is None
    assert silent.errors[0] is None
    assert silent.problems and all(0 in one.answers and one.outcome == "unparsed" for one in silent.problems)
    stated = rewarded(answers, schedule=schedule, unread=0.0)
    assert stated.rewards == tuple(0.0 if value is None else value for value in silent.rewards)
    assert stated.unread == 1 and stated.problems == silent.problems, "reported nevertheless"


@pytest.mark.parametrize("schedule", [*OF_GROUP, "reference"])
@pytest.mark.parametrize("letters", [False, True])
def test_a_retry_asks_once_more_and_reads_the_answers_in_their_order(
    schedule: ScheduleName, letters: bool
) -> None:
    answers = ["a?", "b", "ccc", "dddd"]
    judge = QualityJudge(letters=letters, recovers=True)
    result = rewarded(answers, judge, schedule=schedule, unread="retry")
    fluent = rewarded([text.replace("?", "!") for text in answers], schedule="all_pairs")
    assert result.unread == 0 and result.problems == ()
    assert sum(len(rows) for _, rows in judge.calls) == result.comparisons
    order = sorted(range(4), key=lambda i: (result.rewards[i] or 0.0, i))
    if schedule not in ("circular", "pivot", "listwise") and not letters:
        assert order == sorted(range(4), key=lambda i: (fluent.rewards[i] or 0.0, i))
    assert max(result.rewards, key=lambda value: value or 0.0) == result.rewards[3]
    first, *others = [rows for _, rows in judge.calls]
    if schedule in ("all_pairs", "listwise"):
        [again] = others
        unread = [row for row in first if "?" in str(row)]
        turned = [(p, *rest[::-1]) if len(rest) > 1 else (p, rest[0][::-1]) for p, *rest in unread]
        assert again == turned
    never = rewarded(answers, QualityJudge(), schedule=schedule, unread="retry")
    assert never.rewards[0] is None and never.problems and never.unread >= 1


class Narrow(QualityJudge):
    """Chooses by length, and refuses a list of more characters than its context holds."""

    def __init__(self, context: int) -> None:
        super().__init__()
        self.context = context

    def choose_many(self, rows: Any) -> Any:
        rows = list(rows)
        for row, verdict in zip(rows, super().choose_many(rows), strict=True):
            fits = sum(map(len, row[1])) <= self.context
            yield verdict if fits else ListVerdict("v", "l", None, None, "error", "", error="too long")


@pytest.mark.parametrize("count", [2, 3, 8, 9, 20])
def test_an_overlong_answer_of_a_list_takes_its_own_reward_alone(count: int) -> None:
    answers = ["x" * 600, *("x" * n for n in range(1, count))]
    judge = Narrow(400)
    result = rewarded(answers, judge, schedule="listwise")
    if count == 2:
        assert result.rewards == (None, None), "there is nothing else to judge it with"
        return
    assert result.rewards[0] is None and result.unread == 1
    if count <= 8:
        order = sorted(range(1, count), key=lambda i: result.rewards[i] or 0)
        assert order == [*range(1, count)], "the others are judged among themselves"
    assert len(result.problems) == (2 if count == 3 else 1), "its pairs"
    for problem in result.problems:
        assert problem == Unread(problem.answers, "error", "too long") and 0 in problem.answers
    calls = 4 if count == 3 else 3 if count == 8 else len(lists(count)) + 3
    assert sum(len(rows) for _, rows in judge.calls) == result.comparisons == calls


@given(st.lists(st.integers(0, 60), min_size=2, max_size=20, unique=True), st.integers(1, 160))
def test_every_answer_of_a_list_that_fits_with_the_shortest_one_is_judged(
    lengths: list[int], context: int
) -> None:
    answers = ["x" * n for n in lengths]
    result = rewarded(answers, Narrow(context), schedule="listwise")
    shortest, second = sorted(lengths)[:2]
    fits = {n for n in lengths if n + shortest <= context} if shortest + second <= context else set()
    judged = {n for n, value in zip(lengths, result.rewards, strict=True) if value is not None}
    assert judged == fits
    reported = {lengths[i] for one in result.problems for i in one.answers}
    assert reported >= set(lengths) - judged and all(len(one.answers) == 2 for one in result.problems)
    assert result.comparisons <= 4 * len(lengths)


def test_an_unread_answer_of_a_list_is_found_among_the_others() -> None:
    for count in (3, 8, 12):
        for place in range(count):
            answers = ["x" * n + ("?" if n == place else "") for n in range(count)]
            result = rewarded(answers, schedule="listwise")
            assert [i for i, value in enumerate(result.rewards) if value is None] == [place]


def test_the_engine_s_error_is_reported() -> None:
    class Broken(QualityJudge):
        def compare_many(self, rows: Any) -> Any:
            for _ in rows:
                yield Comparison("c", None, None, "", "error", (), 1, 0, error="too long")

    result = rewarded(["b", "a", "b"], Broken())
    assert result.problems in (
        ((Unread((0, 1), "error", "too long")),),
        ((Unread((1, 0), "error", "too long")),),
    )
    assert result.rewards == (None,) * 3, "a tie with an equal text is not a verdict"


def test_what_a_judge_cannot_do_is_named() -> None:
    class Compares:
        def compare_many(self, rows: Any) -> Any:
            return iter(())

    for schedule in ("listwise", "pointwise"):
        with pytest.raises(ConfigError, match=r"schedule: Compares has no \w+_many"):
            judge_groups(Compares(), [Group("p", ["a", "b"])], RewardSettings(schedule=schedule))


@pytest.mark.parametrize("schedule", [*OF_GROUP, "reference"])
def test_every_request_of_a_group_holds_its_rubric(schedule: ScheduleName) -> None:
    rubric, judge = Rubric.model_validate(["short"]), QualityJudge()
    groups = [
        Group("p", ["a", "b?", "cc"], ["="] * 3, rubric),
        Group("q", ["a", "b?", "cc"], ["="] * 3),
    ]
    judge_groups(judge, groups, RewardSettings(schedule=schedule, unread="retry"))
    rows = [row for _, batch in judge.calls for row in batch]
    assert len(judge.calls) > 1, "the retries"
    assert all((row[-1] == rubric) == (row[0] == "p") for row in rows)


# --- other ways to the same rewards


@settings(max_examples=40)
@given(TEXTS, SETTINGS)
def test_an_awaited_judge_gives_the_same_rewards(answers: list[str], settings: RewardSettings) -> None:
    groups = [Group("p", answers, answers[::-1]), Group("q", answers, answers)]
    judge = QualityJudge(recovers=True)

    async def send(batch: Batch) -> list[Any]:
        await asyncio.sleep(0)
        return list(getattr(judge, batch.method)(batch.rows))

    awaited = asyncio.run(judge_groups_async(send, groups, settings))
    assert awaited == judge_groups(QualityJudge(recovers=True), groups, settings)


def test_an_event_loop_goes_on_while_a_clients_slow_patterns_are_searched() -> None:
    shaping = ShapingSettings(phrases=tuple(f"(x+x+)+y{number}" for number in range(16)))
    group = Group("p", ["x" * 500 + "!", "b"])

    async def longest_pause() -> float:
        work = asyncio.create_task(judge_groups_async(send, [group], RewardSettings(shaping=shaping)))
        pauses, before = [0.0], time.monotonic()
        while not work.done():
            await asyncio.sleep(0.005)
            before, pause = time.monotonic(), time.monotonic() - before
            pauses.append(pause)
        assert (await work)[0].flags[0] == ("slow_pattern",)
        return max(pauses)

    async def send(batch: Batch) -> list[Any]:
        return list(QualityJudge().compare_many(batch.rows))

    assert asyncio.run(longest_pause()) < 1, "1.6 s if the loop waits for the search"


def test_samples_in_any_order_are_grouped_by_prompt_and_rubric() -> None:
    short, long = (Rubric.model_validate([name]) for name in ("short", "long"))
    judge = QualityJudge()
    result = judge_samples(
        judge,
        ["p", "q", "p", [{"role": "user", "content": "p"}], "p", "p"],
        ["1", "22", "333", "4444", "55555", "6?"],
        RewardSettings(),
        rubrics=[short, None, short, None, long, short],
    )
    [(_, rows)] = judge.calls
    assert {(row[0], frozenset(row[1:3]), row[3]) for row in rows} == {
        ("p", frozenset(pair), short) for pair in (("1", "333"), ("1", "6?"), ("333", "6?"))
    }
    won = 1 / (1 + math.exp(-2))
    assert result.rewards == (pytest.approx(1 - won), None, pytest.approx(won), None, None, None)
    assert {problem.outcome: set[int]() for problem in result.problems}.keys() == {"alone", "unparsed"}
    assert sorted(i for one in result.problems if one.outcome == "alone" for i in one.answers) == [1, 3, 4]
    assert {i for one in result.problems if one.outcome == "unparsed" for i in one.answers} == {0, 2, 5}
    assert (result.comparisons, result.unread) == (3, 4)
