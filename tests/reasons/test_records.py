"""DPO and GRPO records: the four corners, their candidates, and the rows."""

from __future__ import annotations

import math
import random
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasongenrm.config.prepare import Corner, DPOConfig, GRPOConfig
from reasongenrm.reasons.records import (
    dpo_pair,
    dpo_row,
    final_verdict,
    grpo_row,
    in_corner,
    is_right,
    solve_rate,
    worth_learning,
)
from reasongenrm.records import JudgePrompt, Letter, Reason, ScoredReason

pytestmark = pytest.mark.unit

PROMPT = JudgePrompt("p", "pair", "BA", ({"role": "user", "content": "which ?"},), "B", "src")


def scored(name: str, p_r: float, p_a: float, verdict: Letter = "B", text: str | None = None) -> ScoredReason:
    return ScoredReason(
        f"p#t#{name}", "p", name if text is None else text, verdict, "B", math.log(p_r), math.log(p_a), 5, "t", "blind"
    )  # fmt: skip


GROUP = [
    scored("strong but odd", 0.05, 0.99),
    scored("fluent and right", 0.6, 0.9),
    scored("fluent, leads astray", 0.7, 0.2),
    scored("fluent, says A", 0.7, 0.3, "A"),
    scored("odd, says A", 0.01, 0.1, "A"),
    scored("says A, leads to B", 0.9, 0.95, "A"),
]


@pytest.mark.parametrize(
    ("corner", "name"),
    [
        ("right_fluent", "fluent and right"),  # 0.54 against 0.0495
        ("right_disfluent", "strong but odd"),  # 0.9405 against 0.36
        ("wrong_fluent", "fluent, leads astray"),  # 0.56; says A: 0.49; odd: 0.009; leads to B: 0.045
        ("wrong_disfluent", "odd, says A"),  # 0.891
    ],
)
def test_the_best_reason_of_each_corner(corner: Corner, name: str) -> None:
    reason = in_corner(GROUP, corner)
    assert reason is not None and reason.text == name


@pytest.mark.parametrize(
    ("p_a", "verdict", "right", "written"),
    [
        (0.5001, "B", True, "B"),
        (0.4999, "B", False, "A"),  # it leads the student to A
        (0.99, "A", False, "A"),  # it concludes A, wherever it leads
        (0.01, "A", False, "A"),
    ],
)
def test_right_is_what_concludes_the_label_and_leads_to_it(
    p_a: float, verdict: Letter, right: bool, written: str
) -> None:
    reason = scored("x", 0.5, p_a, verdict)
    assert is_right(reason) is right
    assert final_verdict(reason) == written


probability = st.floats(0.001, 0.999)
reasons = st.lists(
    st.builds(
        scored,
        st.uuids().map(str),
        probability,
        probability,
        st.sampled_from(["A", "B"]),
        st.sampled_from(["x", "y", "z"]),
    ),
    max_size=6,
    unique_by=lambda s: s.id,
)


@given(
    reasons,
    st.randoms(use_true_random=False),
    st.sampled_from(get_args(Corner)),
    st.sampled_from(get_args(Corner)),
)
@settings(max_examples=100, deadline=None)
def test_pairs_are_optimal_and_no_order_matters(
    group: list[ScoredReason], rng: random.Random, chosen: Corner, rejected: Corner
) -> None:
    config = DPOConfig(chosen=chosen, rejected=rejected)
    pair = dpo_pair(group, config)
    assert pair == dpo_pair(rng.sample(group, len(group)), config)
    rights = [s for s in group if s.verdict == "B" and math.exp(s.verdict_logprob) >= 0.5]
    wrongs = [s for s in group if s not in rights]
    pools = [rights if corner.startswith("right") else wrongs for corner in (chosen, rejected)]
    if pair is None:
        one, other = in_corner(group, chosen), in_corner(group, rejected)
        assert one is None or other is None or (one.text == other.text and pools[0] is pools[1])
        return
    for corner, side, pool in zip((chosen, rejected), pair, pools, strict=True):
        assert side in pool
        best = max(_value(corner, s) for s in pool)
        assert _value(corner, side) == pytest.approx(best, rel=1e-12)


def _value(corner: Corner, s: ScoredReason) -> float:
    p_a, p_r = math.exp(s.verdict_logprob), math.exp(s.reason_logprob)
    truth = p_a if corner.startswith("right") else 1 - p_a
    return truth * ((1 - p_r) if corner.endswith("disfluent") else p_r)


def test_ties_go_to_the_lowest_id() -> None:
    group = [scored(name, 0.5, p, v) for p, v in ((0.9, "B"), (0.1, "A")) for name in ("n2" + v, "n1" + v)]  # type: ignore[arg-type]
    pair = dpo_pair(group, DPOConfig())
    assert pair is not None and [side.text for side in pair] == ["n1B", "n1A"]


def test_no_pair_without_both_sides() -> None:
    rights = [s for s in GROUP if is_right(s)]
    assert dpo_pair(rights, DPOConfig()) is None
    assert dpo_pair([s for s in GROUP if not is_right(s)], DPOConfig()) is None
    assert dpo_pair([], DPOConfig()) is None
    same = DPOConfig(chosen="right_fluent", rejected="right_disfluent")
    assert dpo_pair(rights[:1], same) is None
    assert dpo_pair(rights, same) is not None


def test_the_dpo_row() -> None:
    chosen, rejected = dpo_pair(GROUP, DPOConfig()) or (None, None)
    assert chosen is not None and rejected is not None
    assert dpo_row(PROMPT, chosen, rejected) == {
        "prompt": [{"role": "user", "content": "which ?"}],
        "chosen": [{"role": "reason", "content": "fluent and right"}, {"role": "assistant", "content": "[[B]]"}],
        "rejected": [{"role": "reason", "content": "fluent, leads astray"}, {"role": "assistant", "content": "[[A]]"}],
        "id": "p",
        "pair_id": "pair",
        "source": "src",
        "scores": {"chosen": {"reason": 0.6, "verdict": 0.9}, "rejected": {"reason": 0.7, "verdict": 0.2}},
        "teachers": {"chosen": "t", "rejected": "t"},
    }  # fmt: skip


def sample(verdict: Letter | None, finish: str = "stop", mode: str = "blind") -> Reason:
    return Reason("p#s#0", "p", "…", verdict, 3, finish, "s", mode)  # type: ignore[arg-type]


def test_the_solve_rate_counts_blind_samples() -> None:
    samples = [
        sample("B"),
        sample("A"),
        sample(None),  # unreadable: not solved
        sample("B", "length"),  # cut: not solved
        sample("B", "error"),  # the engine's fault: not counted
        sample("B", mode="hindsight"),  # hindsight: not counted
    ]
    assert solve_rate(samples, "B") == (1, 4)
    assert solve_rate(samples, "A") == (1, 4)
    assert solve_rate([sample("B", "error")], "B") == (0, 0)


@pytest.mark.parametrize(
    ("solved", "samples", "config", "worth"),
    [
        (0, 4, GRPOConfig(), False),
        (1, 4, GRPOConfig(), True),
        (3, 4, GRPOConfig(), True),
        (4, 4, GRPOConfig(), False),
        (0, 0, GRPOConfig(), False),
        (1, 4, GRPOConfig(above=0.25), False),
        (3, 4, GRPOConfig(below=0.75), False),
        (2, 4, GRPOConfig(above=0.25, below=0.75), True),
    ],
)
def test_worth_learning_is_neither_always_nor_never_solved(
    solved: int, samples: int, config: GRPOConfig, worth: bool
) -> None:
    assert worth_learning(solved, samples, config) is worth


def test_the_grpo_row() -> None:
    row = {
        "prompt": [{"role": "user", "content": "which ?"}],
        "winner": "B",
        "solve_rate": 0.25,
        "samples": 4,
        "id": "p",
        "pair_id": "pair",
        "source": "src",
    }
    assert grpo_row(PROMPT, 1, 4) == row
    assert grpo_row(PROMPT, 1, 4, ("a", "b")) == row | {"reference_points": ["a", "b"]}
