"""The think template: one assistant turn, with the reason between think tags and then the verdict."""

from __future__ import annotations

import math

import pytest

from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.chat.grammar import DEFAULT_GRAMMAR
from reasongenrm.chat.verdict import VerdictTokens, read_completion, reason_ids
from reasongenrm.records import Completion, JudgePrompt, Letter, Message

pytestmark = pytest.mark.unit

ASKED: Message = {"role": "user", "content": "which is better ?"}
PROMPT = JudgePrompt("prompt", "pair", "AB", (ASKED,), "A", "s")


def test_a_record_equals_the_chat_template(think: ChatEncoder) -> None:
    prompt_ids, completion_ids = think.record([ASKED], "so A is better .", "[[A]]")
    judge_turns = "<|im_start|>assistant\n<think>\nso A is better .\n</think>\n\n[[A]]<|im_end|>"
    whole = f"<|im_start|>user\nwhich is better ?<|im_end|>\n{judge_turns}"
    assert think.tokenizer.decode(prompt_ids + completion_ids) == whole
    turns = [
        ASKED,
        {"role": "reason", "content": "so A is better ."},
        {"role": "assistant", "content": "[[A]]"},
    ]
    rendered = think.tokenizer.apply_chat_template(turns, chat_template=think.template, tokenize=False)
    assert rendered == whole + "\n"
    assert prompt_ids == think.encode([ASKED], generation=True)


def test_general_chat_without_a_reason_has_no_think_tags(think: ChatEncoder) -> None:
    prompt_ids, completion_ids = think.record([ASKED], "", "hello")
    assert "think" not in think.tokenizer.decode(prompt_ids + completion_ids)
    assert think.tokenizer.decode(prompt_ids).endswith("<|im_start|>assistant\n")


@pytest.mark.parametrize("winner", ["A", "B"])
@pytest.mark.parametrize("reason", ["why", "it says [[B]] and </think>\n\n[[A]] too", ""])
def test_the_verdict_after_the_last_closing_tag_counts(
    think: ChatEncoder, reason: str, winner: Letter
) -> None:
    tokens = VerdictTokens.from_encoder(think)
    ids = tuple(think.completion(reason, DEFAULT_GRAMMAR.text(winner)))
    place = max(at for at, token in enumerate(ids) if token in tokens.letters)
    logprobs = {place: {tokens.letters[0]: math.log(0.3), tokens.letters[1]: math.log(0.1)}}
    completion = Completion("prompt", "not read", "stop", ids, logprobs)
    verdict = read_completion(PROMPT, completion, think, tokens)
    assert (verdict.winner, verdict.outcome, verdict.reason) == (winner, "ok", reason)
    assert verdict.prob_a == pytest.approx(0.75)
    assert reason_ids(completion, tokens) == think.content(reason)


def test_without_a_closing_tag_there_is_no_verdict(think: ChatEncoder) -> None:
    tokens = VerdictTokens.from_encoder(think)
    ids = tuple(think.content("so it is [[A]]") + think.structure("<|im_end|>"))
    verdict = read_completion(PROMPT, Completion("prompt", "", "stop", ids), think, tokens)
    assert (verdict.winner, verdict.outcome, verdict.reason) == (None, "unparsed", "so it is [[A]]")
