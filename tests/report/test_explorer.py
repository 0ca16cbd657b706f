"""Outcomes of comparisons, and texts that are cut."""

from __future__ import annotations

import pytest

from reasongenrm.benchmarks.base import judge_result
from reasongenrm.records import PairResult, Verdict
from reasongenrm.report.explorer import LONGEST, pair_outcome, shorten

pytestmark = pytest.mark.unit


def outcome_of(*winners: str) -> str:
    verdicts = [
        Verdict("v", "p", order, problem if problem in ("A", "B", "tie") else None, None, "ok" if problem in ("A", "B") else problem, "")  # type: ignore[arg-type]
        for order, problem in zip(("AB", "BA"), winners, strict=False)
    ]  # fmt: skip
    return pair_outcome(judge_result("p", "s", verdicts))


def test_outcomes_of_a_comparison() -> None:
    assert outcome_of("A", "B") == outcome_of("A") == "right"
    assert outcome_of("B", "A") == outcome_of("B") == "wrong"
    assert outcome_of("A", "A") == outcome_of("B", "B") == "inconsistent"
    assert outcome_of("tie", "B") == outcome_of("tie", "tie") == "tie"
    assert outcome_of("A", "unparsed") == outcome_of("error", "tie") == outcome_of("truncated") == "unread"
    assert pair_outcome(PairResult("p", "s", (), (), ())) == "unread"


def test_long_texts_are_cut_and_say_so() -> None:
    assert shorten("x" * LONGEST) == "x" * LONGEST
    cut = shorten("ab" * LONGEST)
    assert cut.startswith("ab" * (LONGEST // 2)) and cut.endswith(
        "[shortened: the first 20,000 of 40,000 characters]"
    )
    assert len(cut) < LONGEST + 80
