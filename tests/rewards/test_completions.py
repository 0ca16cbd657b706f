"""Prompts and completions of trainers as what a judge reads."""

from __future__ import annotations

import pytest

from reasongenrm.errors import DataError
from reasongenrm.rewards.completions import openrlhf_responses

pytestmark = pytest.mark.unit


def test_the_prompt_is_removed_from_the_query_of_openrlhf() -> None:
    assert openrlhf_responses(["pa", "p"], ["p", "p"]) == ["a", ""]
    ends = ("<|im_end|>", "</s>")
    assert openrlhf_responses(["p one<|im_end|>", "p two</s>", "p</s> cut"], ["p"] * 3, ends) == [
        " one",
        " two",
        "</s> cut",
    ]
    with pytest.raises(DataError) as caught:
        openrlhf_responses(["pa", "qa"], ["p", "p"])
    assert caught.value.location == "query[1]" and caught.value.hint
