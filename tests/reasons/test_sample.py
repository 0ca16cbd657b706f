"""Requests to teachers, and how their answers are read."""

from __future__ import annotations

from typing import Any

import pytest

from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.chat.prompts import PromptFile, judge_prompt
from reasongenrm.config.prepare import TeacherConfig
from reasongenrm.reasons.sample import read_reason, reason_requests, teacher_messages
from reasongenrm.records import Completion, PreferencePair

pytestmark = pytest.mark.unit

JUDGE = "configs/prompts/judge.yaml"


@pytest.fixture(scope="module")
def pair() -> PreferencePair:
    return PreferencePair.make([{"role": "user", "content": "which ?"}], "this one", "that one", "s")


def read(text: str, mode: Any, winner: Any = "A") -> tuple[str, str | None]:
    completion = Completion("p#t#0", text, "stop", (1, 2, 3))
    reason = read_reason(completion, text, "t", mode, winner, PromptFile.load(JUDGE))
    assert (reason.id, reason.prompt_id, reason.teacher, reason.mode) == ("p#t#0", "p", "t", mode)
    assert reason.tokens == 3
    return reason.text, reason.verdict


@pytest.mark.parametrize(
    ("text", "reason", "verdict"),
    [
        ("Two is right.\n\n[[A]]", "Two is right.", "A"),
        ("Two is right. [[B]].", "Two is right.", "B"),
        ("Answer B quotes '[[B]]' to fool us. Therefore Answer A is better.", None, "A"),
        ("[[A]] at first sight, but then: [[B]]", "[[A]] at first sight, but then:", "B"),
        (
            "Therefore Answer B is better.\n[[A]]",
            "Therefore Answer B is better.",
            "A",
        ),  # the grammar comes last
        ("Hard to say.", None, None),
        ("[[C]]", None, None),
        ("[[A]]", "", "A"),
        ("", "", None),
    ],
)
def test_a_blind_teachers_text(text: str, reason: str | None, verdict: str | None) -> None:
    assert read(text, "blind") == (text if reason is None else reason, verdict)


@pytest.mark.parametrize(
    ("text", "reason", "verdict"),
    [
        ("<think>\nBoth add. [[B]]? No.\n</think>\n\nA is right.\n\n[[A]]",
         "Both add. [[B]]? No.\n\nA is right.", "A"),
        ("Both add.\n</think>\n\n[[A]]", "Both add.", "A"),
        ("<think>\nTherefore Answer B is better. [[B]]\n</think>\n\nHard to say.",
         "Therefore Answer B is better. [[B]]\n\nHard to say.", None),
        ("<think>\nAnswer A quotes </think>\n\n[[B]]. It fools nobody.\n</think>\n\n[[A]]",
         "Answer A quotes </think>\n\n[[B]]. It fools nobody.", "A"),
        ("<think>\nBoth add. [[A]]", "Both add. [[A]]", None),
        ("<think>\n\n</think>\n\nTwo is right. [[B]]", "Two is right.", "B"),
    ],
)  # fmt: skip
def test_thoughts_are_a_part_of_the_reason_and_state_no_verdict(
    text: str, reason: str, verdict: str | None
) -> None:
    assert read(text, "blind") == (reason, verdict)


def test_a_hindsight_teacher_that_never_ends_its_thoughts_means_nothing() -> None:
    assert read("<think>\nIt is shorter.", "hindsight", winner="B") == ("It is shorter.", None)
    assert read("<think>\nIt is shorter.\n</think>\n\nSo it is.", "hindsight", winner="B")[1] == "B"


def test_a_hindsight_teacher_means_the_winner_unless_it_states_another_verdict() -> None:
    assert read("It is shorter.", "hindsight", winner="B")[1] == "B"
    assert read("It is shorter. Therefore Answer A is better.", "hindsight", winner="B")[1] == "A"
    # A reason that ends in a quoted verdict concludes it: the label is A, so it is no right reason.
    assert read("Answer A says: [[B]]", "hindsight", winner="A")[1] == "B"


def test_a_blind_teacher_gets_the_judges_prompt(pair: PreferencePair, toy_prompts: PromptFile) -> None:
    prompt = judge_prompt(pair, "BA", toy_prompts)
    assert teacher_messages(pair, prompt, "blind", toy_prompts) == prompt.messages
    [message] = teacher_messages(pair, prompt, "hindsight", toy_prompts)
    assert "the better answer is B" in message["content"]


def test_requests_have_their_own_seeds_and_ids(
    pair: PreferencePair, toy_prompts: PromptFile, toy_tokenizer: Any
) -> None:
    encoder = ChatEncoder(toy_tokenizer, toy_tokenizer.chat_template)
    prompt = judge_prompt(pair, "AB", toy_prompts)
    pair_prompts = [(pair, prompt)]
    requests = [
        request
        for name in ("one", "two")
        for request in reason_requests(
            pair_prompts, encoder, toy_prompts, TeacherConfig(samples=3, mode="blind"), name=name, seed=1
        )
    ]
    assert [r.id for r in requests] == [f"{prompt.id}#{t}#{n}" for t in ("one", "two") for n in range(3)]
    assert len({r.seed for r in requests}) == 6
    assert {r.prompt_ids for r in requests} == {tuple(encoder.encode(prompt.messages, generation=True))}
    assert all(r.messages == prompt.messages and r.thoughts for r in requests)
    [request] = reason_requests(pair_prompts, None, toy_prompts, TeacherConfig(samples=1), name="x", seed=1)
    assert (
        request.prompt_ids == ()
        and request.stop == ()
        and "the better answer is A" in request.messages[0]["content"]
    )
