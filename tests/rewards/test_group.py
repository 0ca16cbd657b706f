"""`GroupReward`: who is compared with whom, and what it comes to, in TRL's convention."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from reasongenrm.config.rubric import Rubric
from reasongenrm.errors import ConfigError, DataError
from reasongenrm.judge.criteria import combine_ratings
from reasongenrm.judge.inputs import RatingInput
from reasongenrm.records import Rating
from reasongenrm.rewards.group import GroupReward
from support.scripted_judge import Scripted, beats

pytestmark = pytest.mark.unit

REFERENCE = {"schedule": "reference"}


def test_a_sample_is_rewarded_by_how_often_it_beats_the_others_of_its_prompt() -> None:
    judge = Scripted()
    prompts = ["p", "q", "p", "q", "p"]
    answers = ["1", "22", "333", "4444", "55555"]
    rewards = GroupReward(judge)(prompts, answers)
    assert rewards == pytest.approx(
        [
            (beats("1", "333") + beats("1", "55555")) / 2,
            beats("22", "4444"),
            (beats("333", "1") + beats("333", "55555")) / 2,
            beats("4444", "22"),
            (beats("55555", "1") + beats("55555", "333")) / 2,
        ]
    )
    [batch] = judge.calls
    assert len(batch) == 4 and {row[0] for row in batch} == {"p", "q"}, "all at once, each pair once"


def test_equal_texts_are_a_tie_without_a_comparison_and_a_single_sample_has_no_reward() -> None:
    judge = Scripted()
    assert GroupReward(judge)(["p", "p", "q"], ["x", "x", "alone"]) == [0.5, 0.5, None]
    assert judge.calls == []
    rewards = GroupReward(judge)(["p"] * 3, ["x", "x", "long"])
    assert rewards == pytest.approx([(0.5 + beats("x", "long")) / 2] * 2 + [beats("long", "x")])
    [[row]] = judge.calls
    assert set(row) == {"p", "x", "long"}


def test_each_sample_is_compared_with_its_reference() -> None:
    judge = Scripted()
    reward = GroupReward(judge, REFERENCE, reference="gold")
    rewards = reward(
        ["p", "p", "q"], ["1", "22", "same"], gold=["333", "333", "same"], completion_ids=[[1]] * 3
    )
    assert rewards == pytest.approx([beats("1", "333"), beats("22", "333"), 0.5])
    [batch] = judge.calls
    assert sorted(batch) == [("p", "1", "333"), ("p", "22", "333")]


def test_a_sample_without_a_readable_verdict_has_no_reward_and_is_logged() -> None:
    logged = dict[str, float]()
    reward = GroupReward(Scripted())
    assert reward(["p", "p"], ["what?", "that"], log_metric=logged.__setitem__) == [None, None]
    assert logged == {"judge_unread": 1, "judge_comparisons": 0.5}
    mixed = reward(["p"] * 3, ["what?", "1", "22"], log_metric=logged.__setitem__)
    assert mixed == [None, pytest.approx(beats("1", "22")), pytest.approx(beats("22", "1"))]
    assert logged == {"judge_unread": 1 / 3, "judge_comparisons": 1}
    stated = GroupReward(Scripted(), {"unread": 0.0})
    assert stated(["p", "p"], ["what?", "that"]) == [0, 0]


def test_messages_are_read_in_the_form_of_trl() -> None:
    judge = Scripted()
    prompt = [{"role": "user", "content": "what"}]
    multimodal = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what"}]}]
    answer = [{"role": "assistant", "content": "one"}]
    tools = [
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "tool", "content": "7", "name": "t"},
        {"role": "assistant", "content": [{"type": "text", "text": "seven"}]},
        {"role": "tool", "content": "8", "name": "t"},
    ]
    rewards = GroupReward(judge)(
        prompts=[prompt, multimodal],
        completions=[answer, tools],
        completion_ids=[[1], [2]],
        trainer_state=object(),
    )
    assert rewards == pytest.approx([beats("one", "seven"), beats("seven", "one")])
    [[row]] = judge.calls
    assert row[0] == prompt and set(row[1:]) == {"one", "seven"}
    silent = [{"role": "assistant", "content": None, "tool_calls": []}]
    assert GroupReward(judge, REFERENCE, reference="gold")(
        [prompt], [silent], gold=[answer]
    ) == pytest.approx([beats("", "one")])


def test_the_name_of_a_reward_is_the_one_that_trl_logs() -> None:
    assert GroupReward(Scripted()).__name__ == "judge_group"
    assert GroupReward(Scripted(), REFERENCE, reference="g").__name__ == "judge_reference"


def test_contradicting_options_are_refused() -> None:
    for settings, reference in ((REFERENCE, None), ({}, "gold")):
        with pytest.raises(ConfigError) as caught:
            GroupReward(Scripted(), settings, reference=reference)
        assert caught.value.location == "reference" and caught.value.hint
    with pytest.raises(ConfigError, match=r"settings\.schedule"):
        GroupReward(Scripted(), {"schedule": "mean"})


@pytest.mark.parametrize(
    ("columns", "location"),
    [({"silver": ["x"]}, "gold"), ({"gold": [None]}, "gold[0]"), ({"gold": [[]]}, "gold[0]")],
)
def test_a_missing_reference_is_named_in_the_error(columns: dict[str, Any], location: str) -> None:
    with pytest.raises(DataError) as caught:
        GroupReward(Scripted(), REFERENCE, reference="gold")(["p"], ["a"], **columns)
    assert caught.value.location == location


# --- by a rubric


class Rater:
    """Rates an answer by its length, by every criterion; "mute" cannot be read."""

    def __init__(self) -> None:
        self.rows: list[RatingInput] = []

    def rate_many(self, rows: Iterable[RatingInput]) -> Iterator[Rating]:
        for row in rows:
            self.rows.append(row)
            rubric = row[2] if len(row) > 2 else None
            assert rubric is not None
            value = None if row[1] == "mute" else float(len(row[1]))
            outcome: Any = "ok" if value else "unparsed"
            parts = {c.name: Rating("", value, outcome, "") for c in rubric.criteria}
            yield combine_ratings(rubric, parts, rating_id="")


SHORT = Rubric.model_validate(["short"])
ALONE = {"schedule": "pointwise"}


def test_a_reward_by_a_rubric_is_the_weighted_score() -> None:
    rater, logged = Rater(), dict[str, float]()
    reward = GroupReward(rater, ALONE, rubric=SHORT, rubric_column="rubric")
    prompts = ["p", "p", "p", [{"role": "user", "content": "q"}], "r"]
    completions = ["x", "x" * 10, "mute", [{"role": "assistant", "content": "xxxx"}], "mute"]
    own = [{"name": "own", "weight": 2.0, "text": None}]
    values = reward(
        prompts, completions, rubric=[None, own, [], ["a", "b"], own], log_metric=logged.__setitem__
    )
    assert values == [0, 1, None, pytest.approx(1 / 3), None], "an unread sample has no reward"
    assert logged == {"judge_unread": 2 / 5, "judge_comparisons": 1}
    by_answer = {(row[0] if isinstance(row[0], str) else "q", row[1]): row[2] for row in rater.rows}  # type: ignore[misc]
    names = {key: [c.name for c in rubric.criteria] for key, rubric in by_answer.items() if rubric}
    assert names == {
        ("p", "x"): ["short"],
        ("p", "x" * 10): ["own"],
        ("p", "mute"): ["short"],
        ("q", "xxxx"): ["a", "b"],
        ("r", "mute"): ["own"],
    }
    assert reward.__name__ == "judge_rating"


def test_rows_without_a_valid_rubric_are_named() -> None:
    by_row = GroupReward(Rater(), ALONE, rubric_column="rubric")
    with pytest.raises(DataError, match="rubric: the data set does not have this column"):
        by_row(["p"], ["x"], other=["y"])
    with pytest.raises(DataError, match=r"rubric\[1\]: the row has no rubric"):
        by_row(["p", "p"], ["x", "y"], rubric=[["a"], None])
    with pytest.raises(DataError, match=r"rubric\[0\]: bad rubric.*greater than 0"):
        by_row(["p"], ["x"], rubric=[[{"name": "a", "weight": -1}]])
    assert by_row([], [], rubric=[]) == []


# --- what is refused


@pytest.mark.parametrize("judge", ["tiny", None, beats, Scripted, 7])
def test_what_is_not_a_judge_is_refused_at_once(judge: Any) -> None:
    with pytest.raises(ConfigError, match="not a judge") as caught:
        GroupReward(judge)
    assert caught.value.location == "judge" and "RemoteJudge" in caught.value.hint


@pytest.mark.parametrize("rubric", ["short", ["short"], {}, 1])
def test_what_is_not_a_rubric_is_refused_at_once(rubric: Any) -> None:
    with pytest.raises(ConfigError, match="not a rubric") as caught:
        GroupReward(Rater(), ALONE, rubric=rubric)
    assert caught.value.location == "rubric" and caught.value.hint


@pytest.mark.parametrize(
    ("change", "location", "words"),
    [
        ({"prompts": ["p"]}, "prompts", "1 values for 2 completions"),
        ({"prompts": ["p"] * 3}, "prompts", "3 values for 2"),
        ({"prompts": "pp"}, "prompts", "not a list"),
        ({"completions": "xy"}, "completions", "not a list"),
        ({"gold": ["g"]}, "gold", "1 values for 2"),
        ({"gold": "gg"}, "gold", "not a list"),
        ({"completion_ids": [[1]]}, "completion_ids", "1 values for 2"),
        ({"completion_ids": []}, "completion_ids", "0 values for 2"),
    ],
)
def test_columns_of_other_lengths_are_refused(change: dict[str, Any], location: str, words: str) -> None:
    judge = Scripted()
    columns = {"prompts": ["p", "p"], "completions": ["x", "yy"], "gold": ["g", "g"]} | change
    with pytest.raises(DataError, match=words) as caught:
        GroupReward(judge, REFERENCE, reference="gold")(**columns)
    assert caught.value.location == location and caught.value.hint and judge.calls == []


def test_a_column_of_rubrics_has_one_for_each_completion() -> None:
    with pytest.raises(DataError, match="rubric: 1 values for 2 completions"):
        GroupReward(Rater(), ALONE, rubric_column="rubric")(["p", "p"], ["x", "y"], rubric=[["a"]])
