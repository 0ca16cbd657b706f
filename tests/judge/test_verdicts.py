"""Combine votes on one prompt, and verdicts on two orders."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.chat.grammar import Grammar
from reasongenrm.chat.verdict import winner_by_share
from reasongenrm.config.evaluate import JudgingConfig
from reasongenrm.judge.ask import RESCUE, VerdictTask, compare_orders
from reasongenrm.records import Comparison, Completion, JudgePrompt, Verdict

pytestmark = pytest.mark.unit

PROMPT = JudgePrompt("prompt", "pair", "AB", ({"role": "user", "content": "which ?"},), "A", "s")
How = Literal["mean", "majority"]


def vote(
    winner: Any, prob: float | None = None, *, outcome: Any = None, order: Any = "AB", reason: str = ""
) -> Verdict:
    outcome = outcome or ("tie" if winner == "tie" else "ok" if winner else "unparsed")
    return Verdict("x", "pair", order, winner, prob, outcome, reason or f"so {winner}", tokens=5)


votes = st.lists(
    st.one_of(
        st.builds(lambda p: vote("A" if p > 0.5 else "B" if p < 0.5 else "tie", p), st.floats(0, 1)),
        st.sampled_from([vote("A"), vote("B"), vote(None), vote(None, outcome="truncated")]),
    ),
    min_size=1,
    max_size=7,
)


def combine_votes(votes: list[Verdict], how: How, margin: float) -> Verdict:
    config = JudgingConfig(combine=how, margin=margin)
    return VerdictTask(config, None, 4096, seed=17).combine(PROMPT, votes)


# --- votes


@pytest.mark.parametrize(
    ("votes", "how", "margin", "winner", "prob"),
    [
        ([vote("A", 0.9)], "mean", 0.0, "A", 0.9),
        ([vote("A", 0.54)], "mean", 0.05, "tie", 0.54),
        ([vote("A", 0.56)], "mean", 0.05, "A", 0.56),
        ([vote("B")], "mean", 0.3, "B", None),
        ([vote("A", 0.9), vote("B", 0.4), vote("B", 0.4)], "mean", 0.0, "A", 1.7 / 3),
        ([vote("A", 0.9), vote("B", 0.4), vote("B", 0.4)], "majority", 0.0, "B", 1.7 / 3),
        ([vote("A"), vote("B"), vote("A")], "mean", 0.0, "A", 2 / 3),
        ([vote("A"), vote("B")], "majority", 0.0, "tie", 0.5),
        ([vote(None), vote("B", 0.2), vote(None)], "mean", 0.0, "B", 0.2),
    ],
)
def test_votes(votes: list[Verdict], how: How, margin: float, winner: str, prob: float | None) -> None:
    verdict = combine_votes(votes, how, margin)
    assert verdict.winner == winner and verdict.prob_a == (None if prob is None else pytest.approx(prob))
    assert verdict.outcome == ("tie" if winner == "tie" else "ok")
    assert verdict.id == "prompt" and verdict.tokens == 5 * len(votes)
    assert verdict.votes == (tuple(v.winner for v in votes) if len(votes) > 1 else ())


def test_unread_votes_give_no_verdict() -> None:
    verdict = combine_votes([vote(None, outcome="truncated"), vote(None)], "mean", 0.0)
    assert (verdict.winner, verdict.prob_a, verdict.outcome, verdict.tokens) == (None, None, "truncated", 10)


def test_the_reason_belongs_to_an_agreeing_vote() -> None:
    verdict = combine_votes([vote("B", 0.4, reason="b"), vote("A", 0.9, reason="a")], "mean", 0.0)
    assert (verdict.winner, verdict.reason) == ("A", "a")


@given(some=votes, how=st.sampled_from(["mean", "majority"]), margin=st.floats(0, 0.49))
def test_votes_are_fair_to_both_letters(some: list[Verdict], how: How, margin: float) -> None:
    turned: dict[Any, Any] = {"A": "B", "B": "A"}
    other = [replace(v, winner=turned.get(v.winner, v.winner), prob_a=None if v.prob_a is None else 1 - v.prob_a) for v in some]  # fmt: skip
    here, there = combine_votes(some, how, margin), combine_votes(other, how, margin)
    assert (here.prob_a is None) == (there.prob_a is None)
    if here.prob_a is not None and there.prob_a is not None:
        assert here.prob_a + there.prob_a == pytest.approx(1)
        if abs(abs(here.prob_a - 0.5) - margin) < 1e-9 or abs(here.prob_a - 0.5) < 1e-9:
            return  # rounding decides
    assert there.winner == turned.get(here.winner, here.winner) and here.outcome == there.outcome


@pytest.mark.parametrize(
    ("share", "margin", "side"),
    [
        (0.5, 0.0, "tie"),
        (0.500001, 0.0, "A"),
        (0.4, 0.0, "B"),
        (0.4, 0.2, "tie"),
        (0.75, 0.2, "A"),
        (0.0, 0.49, "B"),
    ],
)
def test_winner_by_share(share: float, margin: float, side: str) -> None:
    assert winner_by_share(share, margin) == side


# --- orders


def compared(
    verdicts: list[Verdict], *, margin: float = 0.0, prompt_tokens: int = 0, error: str | None = None
) -> Comparison:
    """Compare orders of one completion each; the first one reads `prompt_tokens`, and all have the error."""
    completions = [
        Completion("x", "", "stop", error=error, prompt_tokens=0 if number else prompt_tokens)
        for number in range(len(verdicts))
    ]
    return compare_orders(
        "pair", [(v, [c]) for v, c in zip(verdicts, completions, strict=True)], margin=margin
    )


@pytest.mark.parametrize(
    ("verdicts", "margin", "winner", "prob"),
    [
        ([vote("A", 0.9), vote("B", 0.2, order="BA")], 0.0, "A", 0.85),
        ([vote("A", 0.9), vote("A", 0.6, order="BA")], 0.0, "A", 0.65),
        ([vote("A", 0.6), vote("A", 0.9, order="BA")], 0.0, "B", 0.35),
        ([vote("A", 0.6), vote("A", 0.9, order="BA")], 0.2, "tie", 0.35),
        ([vote("A"), vote("A", order="BA")], 0.0, "tie", None),
        ([vote("A"), vote("B", order="BA")], 0.0, "A", None),
        ([vote("A", 0.8), vote(None, order="BA")], 0.0, "A", 0.8),
        ([vote(None), vote("A", 0.7, order="BA")], 0.0, "B", pytest.approx(0.3)),
        ([vote("A", 0.9), vote("A", None, order="BA")], 0.0, "tie", None),
        ([vote("tie", 0.5)], 0.0, "tie", 0.5),
    ],
)
def test_orders(verdicts: list[Verdict], margin: float, winner: str, prob: Any) -> None:
    comparison = compared(verdicts, margin=margin, prompt_tokens=7)
    assert comparison.winner == winner and comparison.prob_a == (
        None if prob is None else pytest.approx(prob)
    )
    assert (comparison.tokens, comparison.prompt_tokens) == (
        5 * len(verdicts),
        7,
    ) and comparison.error is None


@pytest.mark.parametrize(
    ("verdicts", "winner", "reason", "reasons"),
    [
        # The order BA was judged first: there B is the caller's first answer.
        (
            [vote("B", 0.1, order="BA", reason="so B is better"), vote("A", 0.9, reason="so A is better")],
            "A",
            "so A is better",
            {"AB": "so A is better", "BA": "so B is better"},
        ),
        ([vote("A", 0.8, reason="a"), vote(None, order="BA", reason="cut")], "A", "a", {"AB": "a", "BA": "cut"}),
        # The verdict comes from BA alone; a reason with its letters is not shown as if they were the caller's.
        ([vote("B", 0.1, order="BA", reason="so B")], "A", None, {"BA": "so B"}),
        ([vote("B", 0.1, order="BA", reason="so B"), vote(None, reason="cut")], "A", None, {"AB": "cut", "BA": "so B"}),
        # Nothing can be read: the text in the caller's order shows why.
        ([vote(None, order="BA", reason="ba"), vote(None, reason="ab")], None, "ab", {"AB": "ab", "BA": "ba"}),
        ([vote(None, order="BA", reason="ba")], None, None, {"BA": "ba"}),
    ],
)  # fmt: skip
def test_the_reason_has_the_callers_letters(
    verdicts: list[Verdict], winner: str | None, reason: str | None, reasons: dict[str, str]
) -> None:
    comparison = compared(verdicts)
    assert (comparison.winner, comparison.reason) == (winner, reason)
    assert list(comparison.reasons.items()) == list(reasons.items())


def test_a_failed_comparison_holds_the_error() -> None:
    failed = vote(None, outcome="error")
    comparison = compared([failed, failed], error="too long")
    assert (comparison.winner, comparison.outcome, comparison.error) == (None, "error", "too long")
    unread = compared([vote(None)], error="too long")
    assert unread.error is None, "the judge answered"


# --- asking for several votes, and by text


def test_each_vote_has_its_own_request_and_seed(encoder: ChatEncoder) -> None:
    config = JudgingConfig(max_tokens=64, temperature=0.7, votes=3)
    task = VerdictTask(config, encoder, 4096, seed=17)
    other = replace(PROMPT, id="other")
    requests = list(task.requests([PROMPT, other]))
    assert [r.id for r in requests] == ["prompt", "prompt#2", "prompt#3", "other", "other#2", "other#3"]
    assert len({r.seed for r in requests}) == 6 and len({r.prompt_ids for r in requests}) == 1
    single = VerdictTask(JudgingConfig(max_tokens=64, temperature=0.7), encoder, 4096, seed=17)
    [one] = single.requests([PROMPT])
    assert one == requests[0], "more votes leave the first one as it is"


OWN = Grammar(a="FIRST", b="SECOND")
TEXT = VerdictTask(JudgingConfig(max_tokens=64), None, 4096, OWN, seed=17)


@pytest.mark.parametrize(
    ("text", "finish", "winner", "outcome", "reason"),
    [
        ("The one is good. SECOND", "stop", "B", "ok", "The one is good."),
        ("It says FIRST, which is wrong. **SECOND**", "stop", "B", "ok", "It says FIRST, which is wrong. **"),
        ("verdict, FIRST or SECOND.", "stop", None, "unparsed", "verdict, FIRST or SECOND."),
        ("FIRST is what the answer tells me to say", "stop", None, "unparsed", "FIRST is what the answer tells me to say"),
        ("it is FIRST", "length", None, "truncated", "it is FIRST"),
        ("", "stop", None, "unparsed", ""), ("", "error", None, "error", ""),
    ],
)  # fmt: skip
def test_a_judge_that_returns_only_text(
    text: str, finish: str, winner: Any, outcome: str, reason: str
) -> None:
    [request] = TEXT.requests([PROMPT])
    assert (request.prompt_ids, request.messages, request.stop, request.logprob_token_ids) == (
        (),
        PROMPT.messages,
        (),
        (),
    )
    completion = Completion("prompt", text, finish, billed=9)
    verdict = TEXT.read(PROMPT, completion)
    assert (verdict.winner, verdict.outcome, verdict.reason, verdict.prob_a) == (
        winner,
        outcome,
        reason,
        None,
    )
    assert verdict.tokens == 9 and TEXT.needs_rescue(verdict) == (outcome in ("unparsed", "truncated"))


def test_a_rescue_by_text_is_the_next_user_turn() -> None:
    first = Completion("prompt#2", "hm", "length", billed=9)
    request = TEXT.rescue(PROMPT, first)
    assert request.id == "prompt#2" + RESCUE and request.messages[:1] == PROMPT.messages
    assert [turn["role"] for turn in request.messages] == ["user", "assistant", "user"]
    assert request.messages[1]["content"] == "hm" and not OWN.find_all(request.messages[2]["content"])
    verdict = TEXT.read_rescue(
        PROMPT, TEXT.read(PROMPT, first), Completion(request.id, "FIRST", "stop", billed=2)
    )
    assert (verdict.winner, verdict.outcome, verdict.rescued, verdict.tokens) == ("A", "ok", True, 11)
    first_verdict = TEXT.read(PROMPT, first)
    for text in ("neither", "You ask for FIRST or SECOND.", "You ask for FIRST or SECOND. I", "THE FIRSTS"):
        assert TEXT.read_rescue(PROMPT, first_verdict, Completion(request.id, text, "stop")) == first_verdict
    cut = Completion(request.id, "You ask for FIRST", "length")
    assert TEXT.read_rescue(PROMPT, first_verdict, cut) == first_verdict
