"""The fields of the page as a question: what is missing or wrong is named by its field."""

from __future__ import annotations

import json
from typing import Any

import pytest

from reasongenrm.app.question import CONVERSATION, prompt_fields, read_question
from reasongenrm.errors import ConfigError, DataError
from reasongenrm.records import Message

pytestmark = pytest.mark.unit

TURNS = [
    Message(role="system", content="be brief"),
    Message(role="user", content="first"),
    Message(role="assistant", content="reply"),
    Message(role="user", content="last"),
]


def test_fields_become_a_question() -> None:
    question = read_question(
        "compare", "what?", "text", "- brief\n- {name: right, weight: 3}", ["a", "b", ""]
    )
    assert question.prompt == (Message(role="user", content="what?"),) and question.answers == ("a", "b")
    assert question.rubric is not None and [c.weight for c in question.rubric.criteria] == [1, 3]
    ranked = read_question("rank", json.dumps(TURNS), CONVERSATION, " ", ["a", "b", "c"])
    assert ranked.prompt == tuple(TURNS) and ranked.answers == ("a", "b", "c") and ranked.rubric is None
    # A text that looks like JSON stays a text.
    assert read_question("rate", "[1, 2]", "text", "", ["a"]).prompt[0]["content"] == "[1, 2]"


@pytest.mark.parametrize(
    ("changes", "location", "problem"),
    [
        ({"prompt": " \n"}, "prompt", "the prompt is empty"),
        ({"answers": ["a", " "]}, "answer B", "the answer is empty"),
        ({"answers": ["\ud800", "b"]}, "answer A", "bad encoding"),
        ({"form": CONVERSATION, "prompt": "[{"}, "prompt", "invalid JSON"),
        ({"form": CONVERSATION, "prompt": '"text"'}, "prompt", "a text is not a list of turns"),
        ({"form": CONVERSATION, "prompt": "[" * 100_000}, "prompt", "invalid JSON"),
        ({"form": CONVERSATION, "prompt": '[{"role": "user"}]'}, "prompt", "bad type"),
        ({"form": CONVERSATION, "prompt": '[{"role": "root", "content": "x"}]'}, "prompt", "bad role"),
    ],
)
def test_an_error_names_its_field(changes: dict[str, Any], location: str, problem: str) -> None:
    fields: dict[str, Any] = {"prompt": "what?", "form": "text", "answers": ["a", "b"], **changes}
    with pytest.raises(DataError) as error:
        read_question("compare", fields["prompt"], fields["form"], "", fields["answers"])
    assert error.value.location == location and problem in error.value.problem and error.value.hint


@pytest.mark.parametrize(
    ("rubric", "location"),
    [
        ("criteria: [", "rubric:1"),
        ("criteria: []", "rubric: criteria"),
        ("- {name: x, wieght: 2}", "rubric: criteria.0.wieght"),
        ("a: 1\na: 2", "rubric:2"),
        ("!!python/object/apply:os.system ['true']", "rubric:1"),
        ("just text", "rubric: criteria"),
    ],
)
def test_an_error_in_the_rubric_names_its_line_or_key(rubric: str, location: str) -> None:
    with pytest.raises(ConfigError) as error:
        read_question("compare", "what?", "text", rubric, ["a", "b"])
    assert error.value.location == location and error.value.hint


def test_a_prompt_is_restored_as_it_was_written() -> None:
    for turns in (TURNS, TURNS[1:2]):
        prompt, form = prompt_fields(turns)
        assert read_question("rate", prompt, form, "", ["a"]).prompt == tuple(turns)
