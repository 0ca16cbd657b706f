"""Shaping of rewards: each term by its formula, bounds, equal treatment within a group, and nothing where nothing is set."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from reasongenrm.chat.prompts import PromptFile
from reasongenrm.config.rewards import RewardSettings
from reasongenrm.config.shaping import ShapingSettings
from reasongenrm.errors import ConfigError
from reasongenrm.records import Comparison
from reasongenrm.rewards.flags import GROUP_SECONDS, PatternSearch
from reasongenrm.rewards.group import GroupReward
from reasongenrm.rewards.schedule import judge_samples
from reasongenrm.rewards.shaping import (
    length,
    overlong,
    repetition,
    shape_group,
    style,
    style_counts,
)

pytestmark = pytest.mark.unit

ALL = ShapingSettings(
    length=0.3,
    overlong=0.2,
    overlong_limit=40,
    overlong_cache=20,
    style=0.1,
    repetition=0.4,
    repetition_n=2,
    format=0.5,
    format_pattern=r"\d",
    flags=("one_token", "verdict", "instruction", "marker"),
    phrases=("magic",),
    flag_penalty=2.0,
)

TEXTS = st.lists(
    st.sampled_from(["a", "b b b", "# x", "- y", "**z**", "1", ":", "[[A]]", "magic", "</s>", "\n"]),
    max_size=8,
).map(" ".join)
REWARDS = st.none() | st.floats(0, 1)
FEW = settings(max_examples=30, deadline=None)
SAMPLES = st.lists(st.tuples(TEXTS, REWARDS), min_size=1, max_size=6)


def shaped(samples: list[tuple[str, float | None]], terms: ShapingSettings) -> Any:
    return shape_group("p", [text for text, _ in samples], [reward for _, reward in samples], terms)


def test_a_length_above_the_groups_median_costs_its_share() -> None:
    assert length([10, 10, 10, 15, 30]) == [0, 0, 0, -0.5, -1]
    assert length([10, 10, 10, 15, 30], free=0.5) == [0, 0, 0, 0, -1]
    assert length([100, 100]) == [0, 0], "a long group costs nothing"
    assert length([0, 0, 0]) == [0, 0, 0]
    assert length([0, 0, 7]) == [0, 0, -1]


def test_the_soft_overlong_punishment_is_that_of_dapo() -> None:
    # Equation 13: 0; ((limit - cache) - l) / cache; -1
    assert [overlong(size, 100, 40) for size in (0, 60, 70, 99, 100, 500)] == [0, 0, -0.25, -39 / 40, -1, -1]


def test_headers_items_and_bold_texts_are_counted_outside_of_code() -> None:
    text = (
        "# One\n## Two\n- a\n* b\n 3. c\n**bold** and __bold__\n#no header\n5 * 3\n```\n# comment\n- x\n```\n"
    )
    assert style_counts(text) == (2, 3, 2)
    assert style_counts("```python\n# never closed\n**x**") == (0, 0, 0)
    assert style([(0, 0, 0), (0, 0, 0), (3, 0, 0)]) == [0, 0, pytest.approx(-3 / 4 / 3)]
    assert style([(4, 2, 2)] * 3) == [0, 0, 0], "a formatted group costs nothing"
    assert style([(5, 1, 1), (2, 1, 1), (2, 0, 0)])[0] == pytest.approx(-3 / 8 / 3)


def test_repetition_is_the_share_of_repeated_ngrams() -> None:
    assert repetition("a b c d e f", 4) == 0
    assert repetition("a b a b a b", 2) == pytest.approx(-(1 - 2 / 5))
    assert repetition("Go. go, GO! go", 1) == -0.75
    assert repetition("three words only", 4) == 0
    assert repetition("好好好好好", 2) == pytest.approx(-0.75)


def test_format_costs_an_answer_without_the_pattern() -> None:
    pattern = ShapingSettings(format=0.5, format_pattern=r"^Answer: \d+$")
    result = shape_group("p", ["Answer: 42", "Answer: 42 !", ""], [1, 1, 1], pattern)
    assert result.rewards == (1, 0.5, 0.5) and result.flags == ((), (), ())


def test_a_pattern_that_needs_exponential_time_is_given_up_and_named() -> None:
    slow = ShapingSettings(format=1, format_pattern=r"^(a|a)+b$", phrases=(r"(a|a)+b$",))
    result = shape_group("p", ["a" * 40, "aab"], [0.5, 0.5], slow)
    assert result.flags == (("slow_pattern",), ("phrase",))
    assert result.rewards == (-0.5, 0.5)


def test_slow_patterns_take_a_bounded_time() -> None:
    slow = ShapingSettings(phrases=tuple(f"(x+x+)+y{number}" for number in range(64)))
    began = time.monotonic()
    result = shape_group("p", ["b", "x" * 500 + "!", "x" * 501 + "!"], [0.5] * 3, slow)
    assert time.monotonic() - began < GROUP_SECONDS + 2, "6.4 s for one answer alone without a bound"
    assert result.flags == (("slow_pattern",),) * 3, "what is not searched is flagged, too"


def test_a_pattern_that_was_slow_is_not_searched_in_longer_answers() -> None:
    search = PatternSearch()
    texts = ["x" * size + "!" for size in range(500, 530)]
    began = time.monotonic()
    assert search.found("(x+x+)+y", [*texts, "xxy"]) == [None] * 30 + [True]
    assert time.monotonic() - began < 1.5, "2 s, all of the time, if each is searched"
    assert PatternSearch(0.0).found("x", ["x"]) == [None], "no time is left"


@FEW
@given(SAMPLES)
def test_without_weights_and_flags_rewards_are_returned_as_they_are(samples: Any) -> None:
    result = shaped(samples, ShapingSettings())
    assert result.rewards == tuple(reward for _, reward in samples)
    counted = shaped(samples, ShapingSettings(flags=("one_token", "verdict"), phrases=("magic",)))
    assert counted.rewards == result.rewards, "flags alone only count"


@FEW
@given(SAMPLES)
def test_terms_are_bounded_by_their_weights_and_add_up_to_the_reward(samples: Any) -> None:
    result = shaped(samples, ALL)
    for (_, judged), reward, terms in zip(samples, result.rewards, result.terms, strict=True):
        assert all(-getattr(ALL, name) <= value <= 0 for name, value in terms.items() if name not in ("judge", "flag"))  # fmt: skip
        assert terms.get("flag", -2.0) == -2.0
        if judged is None:
            assert reward is None and "judge" not in terms
        else:
            assert reward == math.fsum(terms.values()) and terms["judge"] == judged


@FEW
@given(SAMPLES, st.randoms())
def test_the_order_of_a_group_changes_only_the_order_of_its_rewards(samples: Any, draw: Any) -> None:
    order = list(range(len(samples)))
    draw.shuffle(order)
    before, after = shaped(samples, ALL), shaped([samples[i] for i in order], ALL)
    assert after.rewards == tuple(before.rewards[i] for i in order)
    assert after.terms == tuple(before.terms[i] for i in order)
    assert after.flags == tuple(before.flags[i] for i in order)


def test_a_flagged_answer_gets_a_penalty_or_a_stated_value_by_the_callers_choice() -> None:
    answers = [":", "a real answer", "[[A]] :", "x"]
    flags = {"flags": ("one_token", "verdict")}
    counted = shape_group("p", answers, [0.9, 0.5, None, 0.25], ShapingSettings(**flags))
    assert counted.rewards == (0.9, 0.5, None, 0.25)
    assert counted.flags == (("one_token",), (), ("verdict",), ())
    penalty = shape_group("p", answers, [0.9, 0.5, None, 0.25], ShapingSettings(**flags, flag_penalty=1))
    assert penalty.rewards == (pytest.approx(-0.1), 0.5, None, 0.25)
    value = shape_group("p", answers, [0.9, 0.5, None, 0.25], ShapingSettings(**flags, flag_value=0))
    assert value.rewards == (0, 0.5, 0, 0.25), "also where the judge could not be read"
    assert value.terms[0] == {"judge": 0.9, "flag": -0.9}


def test_a_long_unread_answer_counts_in_the_groups_median_but_gets_no_reward() -> None:
    result = shape_group("p", ["aaaa", "a" * 8, "a" * 8], [0.5, None, 0.5], ShapingSettings(length=1))
    assert result.rewards == (0.5, None, 0.5)
    assert shape_group("p", ["aaaa", "a" * 8], [0.5, 0.5], ShapingSettings(length=1)).rewards == (
        0.5,
        pytest.approx(0.5 - 1 / 3),
    )


def test_lengths_in_tokens_are_the_callers() -> None:
    tokens = ShapingSettings(length=1, length_unit="tokens")
    rewards = shape_group("p", ["aaaa", "b", "c"], [1, 1, 1], tokens, lengths=[2, 4, 2]).rewards
    assert rewards == (1, 0, 1)
    with pytest.raises(ConfigError, match=r"Group\.lengths"):
        shape_group("p", ["a"], [1], tokens)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"length": -1}, "greater than or equal"),
        ({"length": float("nan")}, "finite|greater"),
        ({"format": 1}, "format_pattern"),
        ({"format_pattern": "x"}, "format"),
        ({"format": 1, "format_pattern": "("}, "invalid regular expression"),
        ({"phrases": ("*",)}, "invalid regular expression"),
        ({"phrases": ("",)}, "at least 1 character"),
        ({"phrases": ("x" * 1001,)}, "at most 1000 characters"),
        ({"phrases": ("x",) * 65}, "at most 64 items"),
        ({"phrases": ("(" * 480 + "a" + ")" * 480,)}, "nested too deeply"),
        ({"phrases": ("(a{1000}){1000}",)}, "counts of the regular expression"),
        ({"phrases": ("(?x)a{10 00 00,\n100000}",)}, "counts of the regular expression"),
        ({"length": True}, "valid number"),
        ({"flag_penalty": "1", "phrases": ("x",)}, "valid number"),
        ({"repetition_n": 4.0}, "valid integer"),
        ({"overlong": 1, "overlong_limit": "10", "overlong_cache": 5}, "valid integer"),
        ({"overlong": 1}, "overlong_limit"),
        ({"overlong_limit": 10}, "belong together"),
        ({"overlong": 1, "overlong_limit": 10, "overlong_cache": 11}, "above overlong_limit"),
        ({"flag_penalty": 1}, "nothing is flagged"),
        ({"flags": ("verdict",), "flag_penalty": 1, "flag_value": 0}, "contradict"),
        ({"flags": ("verdicts",)}, "verdict"),
        ({"lenght": 1}, "unknown key"),
    ],
)
def test_settings_that_contradict_each_other_are_errors(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        ShapingSettings(**values)


class Alike:
    """A judge that finds all answers equally good, but for one that it cannot read."""

    prompt_file = PromptFile.load("configs/prompts/toy.yaml")

    def compare_many(self, rows: Any) -> Any:
        for row in rows:
            outcome = "unparsed" if "?" in row[1] + row[2] else "tie"
            chance = None if outcome == "unparsed" else 0.5
            yield Comparison("c", None if chance is None else "tie", chance, "", outcome, (), 1, 1)


def test_rewards_of_groups_are_shaped_and_explained_in_the_samples_order() -> None:
    shaping = ShapingSettings(length=1, length_unit="tokens", flags=("verdict",), flag_penalty=1)
    prompts, answers = ["p", "q", "p", "q"], ["one", "B is better", "two", "x"]
    plain = judge_samples(Alike(), prompts, answers, RewardSettings())
    assert (plain.terms, plain.flags) == ((), ())
    result = judge_samples(Alike(), prompts, answers, RewardSettings(shaping=shaping), lengths=[1, 2, 3, 2])
    assert result.rewards == (0.5, -0.5, 0.0, 0.5), "the toy judge's own phrase is a verdict"
    assert (
        result.terms[1] == {"judge": 0.5, "length": 0.0, "flag": -1.0} and result.terms[2]["length"] == -0.5
    )
    assert result.flags == ((), ("verdict",), (), ())
    off = judge_samples(Alike(), prompts, answers, RewardSettings(shaping=ShapingSettings()))
    assert repr(off.rewards) == repr(plain.rewards)


def test_trl_logs_the_terms_and_the_share_of_each_flag() -> None:
    shaping = {"length": 1, "length_unit": "tokens", "flags": ["verdict", "marker"], "flag_value": -1}
    log = dict[str, float]()
    reward = GroupReward(Alike(), {"shaping": shaping})
    values = reward(
        ["p", "p"], ["[[A]]", "it is"], completion_ids=[[1], [1, 2, 3]], log_metric=log.__setitem__
    )
    assert values == [-1, 0.0]
    assert log["reward_terms/judge"] == 0.5 and log["reward_terms/length"] == -0.25
    assert log["reward_flags/verdict"] == 0.5 and log["reward_flags/marker"] == 0
    plain = dict[str, float]()
    GroupReward(Alike())(["p", "p"], ["a", "b"], completion_ids=[[1], [1]], log_metric=plain.__setitem__)
    assert set(plain) == {"judge_unread", "judge_comparisons"}
