"""Tokens and costs of a judge with a rubric: an estimate before it is asked, and the true ones after."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from reasongenrm.config.distil import Prices, RubricJudge
from reasongenrm.records import Message

BATCH_SHARE = 0.5
"""What a token costs in Anthropic's batches, as a share of its price in a single call (docs, Message Batches, pricing)."""

CHARACTERS_PER_TOKEN = 3.5
"""Of prompts (assumed; of text in English. Other scripts have more tokens)."""

RATIONALE_TOKENS = 60
"""Tokens of an answer per criterion, with its score (assumed: one or two sentences)."""

MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Estimate:
    """What judging will take, estimated from the lengths of its prompts.

    Attributes:
        requests: number of completions.
        input, output: tokens; nothing of the input is counted as cached.
        cost: in the currency of the prices; None without prices.
        most: the cost where every answer is as long as `max_tokens` allows.
    """

    requests: int
    input: int
    output: int
    cost: float | None
    most: float | None

    def line(self) -> str:
        """Return the estimate in one line for the user."""
        text = f"{self.requests:,} requests, about {self.input:,} tokens in and {self.output:,} out"
        if self.cost is None or self.most is None:
            return f"{text}; no costs: the judge has no prices"
        return f"{text}: {money(self.cost)}, at most {money(self.most)} with the longest answers"


def money(amount: float) -> str:
    """Return an amount with two digits that count, without a currency: the prices say which."""
    return f"{amount:,.2f}" if amount >= 1 or not amount else f"{amount:.2g}"


def price_share(judge: RubricJudge) -> float:
    """Return the share of the prices that a completion costs now."""
    server = judge.server
    batches = server is not None and server.kind == "anthropic" and server.mode == "batches"
    return BATCH_SHARE if batches else 1.0


def cost_of(usage: Mapping[str, int], prices: Prices, share: float = 1.0) -> float:
    """Return what tokens cost.

    Args:
        usage: tokens by the names in `judge.rubric.USAGE`; those of the cache are among `input`.
        prices: per million.
        share: of the prices.
    """
    cached, written = usage["cached_input"], usage["cache_write"]
    cached_price = prices.input if prices.cached_input is None else prices.cached_input
    write_price = prices.input if prices.cache_write is None else prices.cache_write
    plain = (usage["input"] - cached - written) * prices.input + usage["output"] * prices.output
    return share * (plain + cached * cached_price + written * write_price) / MILLION


def estimate(judge: RubricJudge, prompts: Iterable[Sequence[Message]]) -> Estimate:
    """Estimate tokens and costs.

    Args:
        judge: samples, limits and prices.
        prompts: the turns of every request.
    """
    requests = characters = 0
    for turns in prompts:
        requests += 1
        characters += sum(len(turn["content"]) for turn in turns)
    per_answer = min(judge.max_tokens, RATIONALE_TOKENS * len(judge.rubric.criteria))
    tokens_in, tokens_out = round(characters / CHARACTERS_PER_TOKEN), requests * per_answer

    def cost(output: int) -> float | None:
        usage = {"input": tokens_in, "output": output, "cached_input": 0, "cache_write": 0}
        return None if judge.prices is None else cost_of(usage, judge.prices, price_share(judge))

    return Estimate(requests, tokens_in, tokens_out, cost(tokens_out), cost(requests * judge.max_tokens))
