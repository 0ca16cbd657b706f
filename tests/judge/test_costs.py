"""Tokens and costs of a judge with a rubric."""

from __future__ import annotations

import pytest

from reasongenrm.config.distil import Prices, RubricJudge
from reasongenrm.judge.costs import cost_of, estimate, money, price_share
from reasongenrm.records import Message

pytestmark = pytest.mark.unit

PRICES = {"input": 2, "output": 10, "cached_input": 0.5, "cache_write": 4}
USAGE = {"input": 1_000_000, "output": 100_000, "cached_input": 600_000, "cache_write": 100_000}


def judge(mode: str = "direct", prices: object = PRICES, **options: object) -> RubricJudge:
    server = {"kind": "anthropic", "model": "m", "mode": mode}
    return RubricJudge.model_validate(
        {"rubric": ["a", "b"], "server": server, "prices": prices, "max_tokens": 1000} | options
    )


def test_each_kind_of_token_has_its_price() -> None:
    prices = Prices.model_validate(PRICES)
    assert cost_of(USAGE, prices) == pytest.approx(0.3 * 2 + 0.6 * 0.5 + 0.1 * 4 + 0.1 * 10)
    assert cost_of(USAGE, prices, 0.5) == pytest.approx(cost_of(USAGE, prices) / 2)


def test_the_cache_costs_as_much_as_input_where_it_has_no_price() -> None:
    assert cost_of(USAGE, Prices(input=2, output=10)) == pytest.approx(2 + 1)


def test_batches_cost_half() -> None:
    assert (price_share(judge("batches")), price_share(judge("direct"))) == (0.5, 1.0)
    server = {"kind": "openai", "urls": ["http://x/v1"], "model": "m", "api": "chat"}
    assert price_share(judge(server=server)) == 1.0


def test_an_estimate_counts_characters_and_criteria() -> None:
    prompts = [[Message(role="system", content="x" * 300), Message(role="user", content="y" * 50)]] * 10
    result = estimate(judge("batches"), prompts)
    assert (result.requests, result.input, result.output) == (10, 1000, 10 * 2 * 60)
    assert result.cost == pytest.approx(0.5 * (1000 * 2 + 1200 * 10) / 1e6)
    assert result.most == pytest.approx(0.5 * (1000 * 2 + 10_000 * 10) / 1e6)
    assert result.line() == (
        "10 requests, about 1,000 tokens in and 1,200 out: 0.007, at most 0.051 with the longest answers"
    )


def test_an_answer_is_not_longer_than_its_limit() -> None:
    assert estimate(judge(max_tokens=5), [[Message(role="user", content="x")]]).output == 5


def test_without_prices_there_are_no_costs() -> None:
    result = estimate(judge(prices=None), [])
    assert result.cost is None and result.line().endswith("no costs: the judge has no prices")


@pytest.mark.parametrize(
    ("amount", "text"), [(0, "0.00"), (0.0123, "0.012"), (1.5, "1.50"), (1234.567, "1,234.57")]
)
def test_amounts_have_two_digits(amount: float, text: str) -> None:
    assert money(amount) == text
