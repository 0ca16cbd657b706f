"""The length policy: prompt tokens as they are trained and sampled, and the limits for verdict and reasons."""

from __future__ import annotations

from typing import Any

import pytest

from reasongenrm.chat.encoder import judge_encoder, load_tokenizer
from reasongenrm.chat.prompts import PromptFile, judge_prompt
from reasongenrm.config.recipe import Recipe
from reasongenrm.demo.world import toy_pairs
from reasongenrm.reasons.sample import LengthPolicy, teacher_encoder, teacher_messages
from reasongenrm.records import JudgePrompt, PreferencePair

pytestmark = pytest.mark.unit


def recipe(max_tokens: int = 512, max_model_len: int = 1024, **sections: Any) -> Recipe:
    values = {
        "name": "lengths",
        "model": {"path": "data/toy-base", "dtype": "float32"},
        "prompts": "configs/prompts/toy.yaml",
        "engine": {"max_model_len": max_model_len},
        "data": {"sources": [{"path": "train.jsonl"}], "max_tokens": max_tokens},
        "teachers": {
            "student": {"max_tokens": 64},
            "blind": {"mode": "blind", "max_tokens": 32},
        },
        "judges": {"reasongenrm": {}, "genrm": {"template": "direct"}},
        "train": {"launch": "configs/accelerate/cpu-2proc.yaml"},
        "evaluate": {"max_tokens": 32},
    }
    return Recipe.model_validate(values | sections)


@pytest.fixture(scope="module")
def pair() -> PreferencePair:
    return next(toy_pairs("train", 1, 17))


@pytest.fixture(scope="module")
def prompts(pair: PreferencePair, toy_prompts: PromptFile) -> list[JudgePrompt]:
    return [judge_prompt(pair, order, toy_prompts) for order in ("AB", "BA")]


def test_tokens_are_those_of_the_longest_encoded_prompt(
    pair: PreferencePair, prompts: list[JudgePrompt], toy_prompts: PromptFile
) -> None:
    settings = recipe()
    tokenizer = load_tokenizer(settings.model)
    expected = {}
    for template in ("direct", "reason"):
        encoder = judge_encoder(settings, template, tokenizer)
        wording = toy_prompts if template == "reason" else toy_prompts.for_direct()
        worded = [judge_prompt(pair, prompt.order, wording) for prompt in prompts]
        expected[template] = max(len(encoder.encode(prompt.messages, generation=True)) for prompt in worded)
    assert LengthPolicy(settings, toy_prompts).tokens(pair, prompts) == expected


def test_training_record_needs_room_for_its_verdict(
    pair: PreferencePair, prompts: list[JudgePrompt], toy_prompts: PromptFile
) -> None:
    encoder = judge_encoder(recipe(), "reason", load_tokenizer(recipe().model))
    least = max(len(encoder.encode(prompt.messages, generation=True)) for prompt in prompts)
    least += len(encoder.completion("", "[[A]]"))
    for max_tokens, fits in ((least, True), (least - 1, False)):
        policy = LengthPolicy(recipe(max_tokens, judges={"reasongenrm": {}}), toy_prompts)
        drop = policy.problem(pair, prompts, policy.tokens(pair, prompts))
        assert (drop is None) == fits
    assert drop is not None and (drop.location, drop.stage, drop.reason) == (
        pair.id,
        "length",
        "prompt_too_long",
    )
    assert f"{least} tokens" in drop.detail and f"data.max_tokens is {least - 1}" in drop.detail


@pytest.mark.parametrize("name", ["student", "blind"])
def test_context_needs_room_for_a_whole_reason(
    pair: PreferencePair, prompts: list[JudgePrompt], toy_prompts: PromptFile, name: str
) -> None:
    teachers = {name: recipe().teachers[name].model_dump()}
    teacher, encoder = recipe().teachers[name], teacher_encoder(recipe(), name)
    assert encoder is not None
    least = teacher.max_tokens + max(
        len(encoder.encode(teacher_messages(pair, prompt, teacher.mode, toy_prompts), generation=True))
        for prompt in prompts
    )
    for max_model_len, fits in ((least, True), (least - 1, False)):
        policy = LengthPolicy(recipe(max_model_len=max_model_len, teachers=teachers), toy_prompts)
        drop = policy.problem(pair, prompts, policy.tokens(pair, prompts))
        assert (drop is None) == fits
    assert drop is not None and (drop.stage, drop.reason) == ("length", "longer_than_context")
    assert f"{least} tokens with a reason of {name!r}" in drop.detail


def test_teachers_do_not_count_where_no_judge_reasons(
    pair: PreferencePair, prompts: list[JudgePrompt], toy_prompts: PromptFile
) -> None:
    policy = LengthPolicy(recipe(max_model_len=80, judges={"genrm": {"template": "direct"}}), toy_prompts)
    assert policy.problem(pair, prompts, policy.tokens(pair, prompts)) is None
