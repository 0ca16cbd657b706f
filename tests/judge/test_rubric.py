"""The JSON answer of a judge with a rubric: its schema, reading it, and the mean of several."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasongenrm.config.rubric import Rubric
from reasongenrm.judge.rubric import (
    OUTCOMES,
    Sample,
    UnreadableAnswer,
    answer_form,
    answer_keys,
    answer_schema,
    combine_samples,
    read_answer,
    read_sample,
)
from reasongenrm.records import Completion

pytestmark = pytest.mark.unit

RUBRIC = Rubric.model_validate(
    {
        "criteria": [
            {"name": "accuracy", "weight": 3},
            {"name": "tone", "scale": [0, 2], "levels": {0: "rude", 2: "kind"}},
        ]
    }
)
GOOD: dict[str, Any] = {"rationale": "It is right.", "scores": {"accuracy": 4, "tone": 2}}


def changed(**scores: Any) -> str:
    return json.dumps(GOOD | {"scores": {**GOOD["scores"], **scores}})


def test_an_answer_is_read() -> None:
    assert read_answer(json.dumps(GOOD), RUBRIC) == ({"accuracy": 4.0, "tone": 2.0}, "It is right.")
    assert read_answer(f"\n{json.dumps(GOOD, indent=2)}\n", RUBRIC)[1] == "It is right."


def test_an_answer_in_one_code_block_is_read() -> None:
    assert read_answer(f"```json\n{json.dumps(GOOD, indent=2)}\n```", RUBRIC)[0]["tone"] == 2


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (changed(tone=3), "scores.tone: .*less than or equal to 2, not 3"),
        (changed(accuracy=0), "scores.accuracy: .*greater than or equal to 1, not 0"),
        (changed(accuracy=4.5), "scores.accuracy: .*valid integer"),
        (changed(accuracy="4"), "scores.accuracy: .*valid integer"),
        (changed(accuracy=True), "scores.accuracy: .*valid integer, not true"),
        (changed(accuracy=None), "scores.accuracy: .*valid integer"),
        (changed(style=3), "scores.style: Extra inputs"),
        ('{"rationale": "", "scores": {"accuracy": 4}}', "scores.tone: Field required"),
        ('{"scores": {"accuracy": 4, "tone": 1}}', "rationale: Field required"),
        (json.dumps(GOOD | {"comment": "x"}), "comment: Extra inputs"),
        (json.dumps(GOOD | {"rationale": ["x"]}), "rationale: .*valid string"),
        (json.dumps(GOOD) + " I hope this helps.", "invalid JSON: Extra data"),
        ("Here it is: " + json.dumps(GOOD), "invalid JSON"),
        (json.dumps(GOOD) * 2, "invalid JSON: Extra data"),
        (f"```json\n{json.dumps(GOOD)}\n```\nDone.", "invalid JSON"),
        (json.dumps(GOOD)[:-1], "invalid JSON"),
        ("", "invalid JSON"),
        ("[" * 100_000, "invalid JSON"),
        ('{"rationale": "", "scores": {"accuracy": NaN, "tone": 1}}', "scores.accuracy: .*valid integer"),
        ('{"rationale": "", "scores": {"accuracy": 1, "accuracy": 5, "tone": 1}}', "'accuracy' occurs 2 times"),
        ('{"rationale": "", "scores": {"accuracy": ' + "1" * 5000 + ', "tone": 1}}', "."),
        ("[]", "the answer: "),
        ("null", "the answer: "),
    ],
)  # fmt: skip
def test_an_answer_of_another_form_is_unreadable(text: str, reason: str) -> None:
    with pytest.raises(UnreadableAnswer, match=reason) as caught:
        read_answer(text, RUBRIC)
    assert "\n" not in str(caught.value)


def test_a_lone_surrogate_in_a_rationale_becomes_a_question_mark() -> None:
    text = json.dumps(GOOD).replace("It is right.", "\\ud800!")
    assert read_answer(text, RUBRIC)[1] == "?!"


@given(
    st.fixed_dictionaries(
        {"rationale": st.text(max_size=5) | st.integers()},
        optional={
            "scores": st.fixed_dictionaries(
                {"accuracy": st.integers(-1, 7) | st.booleans()},
                optional={"tone": st.integers(-1, 4), "x": st.none()},
            )
        },
    )
)
def test_what_is_read_is_what_the_schema_allows(answer: dict[str, Any]) -> None:
    valid = jsonschema.Draft202012Validator(answer_schema(RUBRIC)).is_valid(answer)
    try:
        read_answer(json.dumps(answer), RUBRIC)
        assert valid
    except UnreadableAnswer:
        assert not valid


def test_the_schema_has_the_rationale_before_the_scores() -> None:
    scores = {
        "type": "object",
        "properties": {
            "accuracy": {"type": "integer", "enum": [1, 2, 3, 4, 5]},
            "tone": {"type": "integer", "enum": [0, 1, 2]},
        },
        "required": ["accuracy", "tone"],
        "additionalProperties": False,
    }
    schema = answer_schema(RUBRIC)
    assert list(schema["properties"]) == ["rationale", "scores"]
    assert schema == {
        "type": "object",
        "properties": {"rationale": {"type": "string"}, "scores": scores},
        "required": ["rationale", "scores"],
        "additionalProperties": False,
    }


def test_the_form_names_keys_and_scales() -> None:
    assert '"tone": <whole number from 0 to 2>' in answer_form(RUBRIC)


def test_names_that_no_schema_takes_have_numbers_as_keys() -> None:
    rubric = Rubric.model_validate(["Is it kind?", "längere Sätze", "title"])
    assert list(answer_keys(rubric).values()) == ["criterion_1", "criterion_2", "criterion_3"]
    text = json.dumps({"rationale": "", "scores": {"criterion_1": 1, "criterion_2": 2, "criterion_3": 3}})
    assert read_answer(text, rubric)[0] == {"Is it kind?": 1, "längere Sätze": 2, "title": 3}
    one = Rubric.model_validate(["title", "type", "model_config"])  # words of pydantic and of schemas
    assert set(answer_schema(one)["properties"]["scores"]["properties"]) == {"title", "type", "model_config"}


@pytest.mark.parametrize(
    ("completion", "outcome", "problem"),
    [
        (Completion("x", json.dumps(GOOD), "stop"), "ok", ""),
        (Completion("x", json.dumps(GOOD), "length"), "ok", ""),
        (
            Completion("x", json.dumps(GOOD)[:-2], "length", billed=7),
            "truncated",
            "the answer ends after 7 tokens: raise max_tokens",
        ),
        (
            Completion("x", "no", "stop"),
            "unreadable",
            "invalid JSON: Expecting value: line 1 column 1 (char 0)",
        ),
        (Completion("x", "", "error", error="refusal: no", refused=True), "refused", "refusal: no"),
        (Completion("x", "", "error", error="HTTP 400"), "error", "HTTP 400"),
    ],
)
def test_the_outcome_of_a_completion(completion: Completion, outcome: str, problem: str) -> None:
    sample = read_sample(completion, RUBRIC)
    assert (sample.outcome, sample.problem) == (outcome, problem)
    assert bool(sample.scores) == (outcome == "ok")


def test_samples_are_averaged_and_counted() -> None:
    usage = {"input": 10, "output": 2, "cached_input": 4, "cache_write": 0}
    samples = [
        Sample("refused", problem="no", usage=usage),
        Sample("ok", {"accuracy": 5.0, "tone": 1.0}, "first", usage=usage),
        Sample("unreadable", problem="?", usage=usage),
        Sample("ok", {"accuracy": 2.0, "tone": 2.0}, "second", usage=usage),
    ]
    judgment = combine_samples("c", RUBRIC, samples)
    assert judgment.scores == {"accuracy": 3.5, "tone": 1.5}
    assert judgment.score == pytest.approx((3 * (3.5 - 1) / 4 + 1.5 / 2) / 4)
    assert judgment.rationale == "first" and judgment.samples == (samples[1].scores, samples[3].scores)
    assert judgment.outcomes == {"ok": 2, "refused": 1, "unreadable": 1}
    assert judgment.usage == {"input": 40, "output": 8, "cached_input": 16, "cache_write": 0}


def test_a_reply_without_a_readable_sample_has_no_score() -> None:
    judgment = combine_samples("c", RUBRIC, [Sample("error", problem="?"), Sample("truncated", problem="?")])
    assert (judgment.scores, judgment.score, judgment.rationale) == ({}, None, "")
    assert judgment.outcomes == {"truncated": 1, "error": 1} and set(judgment.outcomes) <= set(OUTCOMES)
