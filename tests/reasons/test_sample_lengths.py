"""The length policy: prompt tokens as they are trained and sampled, and the limits for verdict and reasons."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from reasongenrm.chat.encoder import judge_encoder, load_tokenizer
from reasongenrm.chat.prompts import PromptFile, judge_prompt
from reasongenrm.config.recipe import Recipe
from reasongenrm.demo.world import toy_pairs
from reasongenrm.reasons.records import RecordWriter
from reasongenrm.reasons.sample import LengthPolicy, read_reason, teacher_encoder, teacher_messages
from reasongenrm.records import Completion, JudgePrompt, PreferencePair, ScoredReason
from reasongenrm.run import Run
from reasongenrm.store import read_jsonl
from reasongenrm.train.tokens import training_rows

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


@pytest.mark.parametrize("room", [0, -1])
def test_a_trace_of_8192_tokens_is_kept_whole_or_its_record_is_dropped_whole(
    room: int, pair: PreferencePair, prompts: list[JudgePrompt], toy_prompts: PromptFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """Read from a teacher that thinks, scored, selected, written and tokenised: no token of it is lost on the way."""
    prompt, settings = prompts[0], recipe()
    encoder = judge_encoder(settings, "reason", load_tokenizer(settings.model))
    thoughts = encoder.tokenizer.decode(encoder.content(" the better answer is longer" * 2000)[:8191])
    answer = prompt.winner
    text = f"<think>\n{thoughts}\n</think>\n\n[[{answer}]]"
    completion = Completion(f"{prompt.id}#student#0", text, "stop", tuple(range(8192)))
    reason = read_reason(completion, text, "student", "blind", answer, toy_prompts)
    assert reason.text == thoughts.strip() and reason.verdict == answer
    length = sum(map(len, encoder.record(prompt.messages, reason.text, f"[[{answer}]]")))
    assert length > 8192

    settings = recipe(max_tokens=length + room, max_model_len=16384)
    monkeypatch.chdir(tmp_path)
    scored = ScoredReason(
        reason.id, prompt.id, reason.text, answer, answer, -0.1, -0.1, 8191, "student", "blind"
    )
    run = Run(settings, "prepare")
    with RecordWriter(settings, run, toy_prompts, encoder) as writer:
        writer.add_reasoned(prompt, [reason], [scored])
    records = list(read_jsonl(run.path("sft.jsonl")))
    if room < 0:
        [drop] = read_jsonl(run.path("reasons_dropped.jsonl"))
        assert drop["reason"] == "record_too_long" and not records
        assert drop["detail"] == f"{length} tokens; data.max_tokens is {length - 1}"
        return
    assert [record["reason"] for record in records] == [reason.text]
    [row] = training_rows([run.path("sft.jsonl")], encoder, settings.data.max_tokens)
    assert len(row["input_ids"]) == length
    assert encoder.tokenizer.decode(row["input_ids"]).endswith(f"[[{answer}]]{encoder.end_marker}")
