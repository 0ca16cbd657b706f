"""Unfit reasons, the selectors, and the drops of the other reasons."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasongenrm.chat.prompts import PromptFile
from reasongenrm.config.prepare import SelectConfig
from reasongenrm.errors import ConfigError
from reasongenrm.reasons.select import (
    compile_formula,
    eligible_reasons,
    group_by_prompt,
    right_reasons,
    selector,
    unfit_drop,
    unselected_drops,
)
from reasongenrm.records import SELECTORS, JudgePrompt, Reason, ScoredReason, Selector

pytestmark = pytest.mark.unit

LN2 = math.log(2)
CONFIG = SelectConfig(threshold=0.1)


def prompt(name: str = "p", winner: Any = "A") -> JudgePrompt:
    return JudgePrompt(name, "pair", "AB", ({"role": "user", "content": "?"},), winner, "source of " + name)


def scored(
    name: str, reason: float = -1.0, verdict: float = -0.1, *, says: Any = "A", tokens: int = 5, mode: Any = "hindsight"
) -> ScoredReason:  # fmt: skip
    return ScoredReason(name, name.partition("#")[0], "text", says, "A", reason, verdict, tokens, "t", mode)


def reason(text: str, finish: str = "stop", verdict: Any = "A", error: str | None = None) -> Reason:
    return Reason("p#t#0", "p", text, verdict, 5, finish, "t", "hindsight", error)


# --- R*


@pytest.mark.parametrize(
    ("reason_logprob", "verdict_logprob", "value"),
    [
        (0.0, 0.0, 1.0),  # sure of both
        (0.0, -LN2, 0.0),  # the verdict is a toss-up
        (-LN2, -LN2, 0.0),
        (-LN2, math.log(0.75), 0.25),
        (-LN2, math.log(0.25), -0.25),
        (math.log(0.1), 0.0, 0.1),
        (0.0, -math.inf, -1.0),
        (-math.inf, 0.0, 0.0),
        (-1.0, -0.1, 0.2978627),  # worked out by hand: 0.3678794 · (2 · 0.9048374 − 1)
    ],
)
def test_the_shipped_formula(reason_logprob: float, verdict_logprob: float, value: float) -> None:
    assert compile_formula(SelectConfig().formula)(reason_logprob, verdict_logprob) == pytest.approx(
        value, abs=1e-7
    )


nats = st.floats(-30, 0)


@given(nats, nats, nats, nats)
def test_rstar_grows_with_the_verdict_and_its_sign_is_the_verdicts(
    r: float, v: float, r2: float, v2: float
) -> None:
    rstar = compile_formula(SelectConfig().formula)
    assert -1 <= rstar(r, v) <= 1
    assert abs(v + LN2) < 1e-9 or (rstar(r, v) > 0) == (v > -LN2)
    low, high = sorted((v, v2))
    assert rstar(r, low) <= rstar(r, high)
    low, high = sorted((r, r2))
    if v > -LN2:  # a likelier reason is better, if it leads to the verdict
        assert rstar(low, v) <= rstar(high, v)


def test_another_formula_selects_another_reason() -> None:
    group = [scored("p#0", -0.1, -0.6), scored("p#1", -3.0, -0.01)]
    kept = {
        text: selector(SelectConfig(formula=text, threshold=-99), 1)(group)
        for text in (SelectConfig().formula, "verdict", "reason + 0.5 * verdict", "exp(verdict) ** 2")
    }
    assert [choice.reason.id for choice in kept.values() if choice] == ["p#0", "p#1", "p#0", "p#1"]


@pytest.mark.parametrize(
    "text",
    ["exp(reason", "", "logprob", "exp(reson)", "'words'", "1 / (reason - reason)", "log(reason)",
     "reason.__class__", "''.__class__.__mro__", "[].append(1)", "exp"],
)  # fmt: skip
def test_an_invalid_formula_is_an_error_at_once(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^select\.formula: ") as caught:
        compile_formula(text)
    assert "\n" not in str(caught.value)


# --- selectors


def test_golden_choices() -> None:
    group = [
        scored("p#0", -1.0, -0.10, tokens=5),
        scored("p#1", -0.5, -0.20, tokens=9),
        scored("p#2", -2.0, -0.01, tokens=3),
        scored("p#3", -0.1, -3.0, says="B", tokens=99),  # concludes the other verdict
    ]
    kept = {name: selector(CONFIG, 17, name)(group) for name in SELECTORS}
    assert {name: choice.reason.id for name, choice in kept.items() if choice} == {
        "rstar": "p#1",
        "random_correct": kept["random_correct"].reason.id,  # type: ignore[union-attr]
        "longest_correct": "p#1",
        "shortest_correct": "p#2",
        "max_p_verdict": "p#2",
        "self_consistency": "p#1",
    }
    assert kept["self_consistency"].value == 0.75  # type: ignore[union-attr]


groups_of_reasons = st.lists(
    st.tuples(
        st.sampled_from([-2.0, -1.0, -0.1]),
        st.sampled_from([-2.0, -0.5, 0.0]),
        st.sampled_from("AB"),
        st.integers(1, 4),
        st.sampled_from(["hindsight", "blind"]),
    ),
    max_size=8,
)


@given(groups_of_reasons, st.integers(0, 5), st.sampled_from(SELECTORS))
def test_every_selector_selects_one_right_reason_and_drops_the_others(
    rows: list[tuple[float, float, str, int, str]], seed: int, name: Selector
) -> None:
    group = [
        scored(f"p#{n}", r, v, says=says, tokens=tokens, mode=mode)
        for n, (r, v, says, tokens, mode) in enumerate(rows)
    ]
    rule = selector(CONFIG, 17, name)
    choice = rule(group)
    assert rule(random.Random(seed).sample(group, len(group))) == choice, (
        "the order of reasons decides nothing"
    )
    dropped = list(unselected_drops(group, choice, "s"))
    assert sorted([d.location for d in dropped] + ([choice.reason.id] if choice else [])) == [
        r.id for r in group
    ]
    if name in ("random_correct", "longest_correct", "shortest_correct", "max_p_verdict"):
        assert (choice is None) == (not right_reasons(group))
    if choice is None:
        assert {d.reason for d in dropped} <= {"not_selected", "wrong_verdict", "contradicts_verdict"}
        return
    kept = choice.reason
    assert kept.verdict == kept.winner
    best = {
        "longest_correct": lambda r: r.tokens,
        "shortest_correct": lambda r: -r.tokens,
        "max_p_verdict": lambda r: r.verdict_logprob,
        "self_consistency": lambda r: r.reason_logprob,
        "rstar": lambda r: math.exp(r.reason_logprob) * (2 * math.exp(r.verdict_logprob) - 1),
    }
    if name in best:
        assert best[name](kept) == max(map(best[name], right_reasons(group)))
    if name == "rstar":
        assert choice.value > CONFIG.threshold
    assert {d.reason for d in dropped} <= {"not_the_best", "wrong_verdict", "contradicts_verdict"}


def test_a_reason_at_the_threshold_is_not_above_it() -> None:
    group = [scored("p#0", 0.0, math.log(0.75))]
    exact = compile_formula(CONFIG.formula)(0.0, math.log(0.75))
    assert selector(SelectConfig(threshold=exact), 1)(group) is None
    assert selector(SelectConfig(threshold=math.nextafter(exact, -1)), 1)(group)


def test_random_correct_is_a_function_of_the_seed_and_takes_each_about_as_often() -> None:
    group = [scored(f"p#{n}") for n in range(4)]
    kept = [selector(CONFIG, seed, "random_correct")(group) for seed in range(400)]
    ids = [choice.reason.id for choice in kept if choice]
    assert all(70 <= ids.count(f"p#{n}") <= 130 for n in range(4))


def test_hindsight_samples_do_not_vote_beside_blind_ones() -> None:
    hindsight = [scored(f"p#{n}") for n in range(3)]
    blind = [scored("p#8", says="B", mode="blind"), scored("p#9", says="B", mode="blind")]
    vote = selector(CONFIG, 1, "self_consistency")
    assert vote(hindsight) and vote([*hindsight, *blind]) is None
    assert vote([*hindsight, blind[0], scored("p#7", mode="blind")]) is None, (
        "half of the votes is no majority"
    )


def test_reasons_are_grouped_by_prompt() -> None:
    rows = [scored("p#0"), scored("p#1"), scored("q#0")]
    assert [(name, [r.id for r in group]) for name, group in group_by_prompt(rows)] == [
        ("p", ["p#0", "p#1"]),
        ("q", ["q#0"]),
    ]
    assert list(group_by_prompt([])) == []


# --- fitness


@pytest.mark.parametrize(
    ("text", "finish", "slug"),
    [
        ("needs 3 . A has 3 , right . so A is better .", "stop", None),
        ("no verdict is stated here", "stop", None),
        ("anything", "error", "engine_error"),
        ("so A is", "length", "truncated"),
        ("", "stop", "empty_reason"),
        ("", "length", "truncated"),
        ("one might think B is better but in truth A is better .", "stop", None),
        ("A is better . it is nice", "stop", "gives_verdict_away"),
        ("so , A is better . it is nice", "stop", "gives_verdict_away"),
        ("[[A]] it is nice", "stop", "gives_verdict_away"),
        ("so , well A is better . it is nice", "stop", None),  # behind three words
        ("B is better , no , A is better .", "stop", "gives_verdict_away"),
    ],
)
def test_unfit(text: str, finish: str, slug: str | None, toy_prompts: PromptFile) -> None:
    drop = unfit_drop(reason(text, finish, error="boom"), prompt(), toy_prompts, 3)
    assert (drop.reason if drop else None) == slug
    if drop:
        assert (drop.location, drop.source, drop.stage) == ("p#t#0", "source of p", "reason") and drop.detail
        assert slug != "engine_error" or "boom" in drop.detail


def test_a_blind_reason_without_a_verdict_is_unfit(toy_prompts: PromptFile) -> None:
    drop = unfit_drop(reason("hard to say .", verdict=None), prompt(), toy_prompts, 3)
    assert drop and drop.reason == "no_verdict"


def test_fitness_is_the_same_for_both_letters(toy_prompts: PromptFile) -> None:
    turned = str.maketrans("AB", "BA")
    for text in ("so well now A is better .", "so well now B is better .", "A is better .", "B is better ."):
        one = unfit_drop(reason(text), prompt(winner="A"), toy_prompts, 3)
        two = unfit_drop(reason(text.translate(turned)), prompt(winner="B"), toy_prompts, 3)
        assert (one and one.reason) == (two and two.reason)


def test_no_giveaway_words_means_that_none_is_a_giveaway(toy_prompts: PromptFile) -> None:
    assert unfit_drop(reason("A is better ."), prompt(), toy_prompts, 0) is None


def test_all_samples_vote_and_one_that_covers_the_points_is_selected() -> None:
    """Five of eight samples are right, and one of these has the point; without it nothing is selected."""
    group = [replace(scored(f"p#{n}", says="A" if n < 5 else "B", mode="blind"), text="it is red" if n == 3 else "it is") for n in range(8)]  # fmt: skip
    strict = CONFIG.model_copy(update={"rationale": 1.0})
    rule = selector(strict, 1, "self_consistency")
    choice = rule(eligible_reasons(group, ["`red`"], strict), group)
    assert choice is not None and choice.reason.id == "p#3" and choice.value == 0.625
    assert rule(eligible_reasons(group, ["`blue`"], strict), group) is None
    assert eligible_reasons(group, [], strict) == eligible_reasons(group, ["`blue`"], CONFIG) == group
