"""Verdicts of one judge: its requests, several votes as one verdict, both orders as one comparison."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.chat.grammar import DEFAULT, Grammar
from reasongenrm.chat.verdict import VerdictTokens, read_completion, read_rescue, read_text, read_text_rescue
from reasongenrm.judge.ask import ForcedChoice, JudgeTask, SamplingSettings
from reasongenrm.records import Comparison, Completion, JudgePrompt, Outcome, Verdict

Winner = Literal["A", "B", "tie"]


_POINTS = {"A": 1.0, "tie": 0.5, "B": 0.0}


def combine_votes(
    prompt: JudgePrompt, votes: Sequence[Verdict], how: Literal["mean", "majority"], margin: float
) -> Verdict:
    """Return one verdict for all votes on a prompt.

    Votes that cannot be read do not count; where none can, the verdict is the first vote's. `mean` takes the mean P(A)
    of the votes; a vote without log-probabilities counts as 1 for A and 0 for B. `majority` takes the letter most votes
    named. What is even is a tie, and with a margin also what is nearer to 0.5 than that (of `majority` the share of A
    is meant).

    Args:
        prompt: what was judged.
        votes: one or more.
        how: `mean` or `majority`.
        margin: in P(A), from 0 to 0.5.
    """
    read = [vote for vote in votes if vote.winner is not None]
    tokens = sum(vote.tokens for vote in votes)
    letters = tuple(vote.winner for vote in votes) if len(votes) > 1 else ()
    rescued = any(vote.rescued for vote in votes)
    if not read:
        return replace(votes[0], id=prompt.id, tokens=tokens, rescued=rescued, votes=letters)
    share = math.fsum(_POINTS[str(vote.winner)] for vote in read) / len(read)
    known = [vote.prob_a for vote in read if vote.prob_a is not None]
    if known or len(read) > 1:
        probability = mean_of([_POINTS[str(v.winner)] if v.prob_a is None else v.prob_a for v in read])
    else:
        probability = None
    if len(read) == 1 and (probability is None or abs(probability - 0.5) >= margin):
        winner = read[0].winner
    else:
        decides = share if how == "majority" or probability is None else probability
        winner = decide(decides, margin)
    outcome: Outcome = "tie" if winner == "tie" else "ok"
    agreeing = next((vote for vote in read if vote.winner == winner), read[0])
    return replace(
        agreeing,
        id=prompt.id,
        winner=winner,
        prob_a=probability,
        outcome=outcome,
        rescued=rescued,
        tokens=tokens,
        votes=letters,
    )


def decide(share: float, margin: float) -> Winner:
    """Return the side a share of A is on; a tie at 0.5, and nearer to it than the margin."""
    if share == 0.5 or abs(share - 0.5) < margin:
        return "tie"
    return "A" if share > 0.5 else "B"


def mean_of(values: Sequence[float]) -> float:
    """Return the mean, whatever the order of the values."""
    return math.fsum(values) / len(values)


def compare_orders(
    name: str, verdicts: Sequence[Verdict], *, margin: float, prompt_tokens: int, error: str | None = None
) -> Comparison:
    """Return what the verdicts on both orders of two answers say together.

    Order AB means that the first answer stood as A. An order that cannot be read does not count. Where all that were
    read have a P(A), the mean probability decides (see `decide`); else the letters do, and two that disagree are a
    tie.

    Args:
        name: id of the comparison.
        verdicts: one per order, one or more.
        margin: in P(A), from 0 to 0.5.
        prompt_tokens: tokens read.
        error: what went wrong, if the engine failed.
    """
    tokens = sum(verdict.tokens for verdict in verdicts)
    read = [verdict for verdict in verdicts if verdict.winner is not None]
    if not read:
        first = verdicts[0]
        failed = error if first.outcome == "error" else None
        return Comparison(
            name, None, None, first.reason, first.outcome, tuple(verdicts), prompt_tokens, tokens, failed
        )
    points = [_first_wins(_POINTS[str(verdict.winner)], verdict) for verdict in read]
    known = [_first_wins(v.prob_a, v) for v in read if v.prob_a is not None]
    probability = mean_of(known) if len(known) == len(read) else None
    if probability is None:
        winner = decide(mean_of(points), 0.0)
    elif len(read) == 1:
        winner = decide(points[0], 0.0)
    else:
        winner = decide(probability, margin)
    wanted = _POINTS[winner]
    agreeing = next((v for v, point in zip(read, points, strict=True) if point == wanted), read[0])
    outcome: Outcome = "tie" if winner == "tie" else "ok"
    return Comparison(
        name, winner, probability, agreeing.reason, outcome, tuple(verdicts), prompt_tokens, tokens
    )


def _first_wins(share_of_a: float, verdict: Verdict) -> float:
    """P(the first answer) from P(A) in the verdict's order."""
    return share_of_a if verdict.order == "AB" else 1 - share_of_a


def preference(comparison: Comparison) -> float | None:
    """Return P(the first answer is better): by log-probabilities, else 1, 0.5 or 0 by the winner; None when unread."""
    if comparison.winner is None:
        return None
    if comparison.prob_a is not None:
        return comparison.prob_a
    return {"A": 1.0, "tie": 0.5, "B": 0.0}[comparison.winner]


class VerdictTask(JudgeTask[JudgePrompt, Verdict]):
    """Requests for the verdicts of one judge, and their reading.

    Args:
        asking: limits, votes and seeds.
        encoder: tokenizer and chat template of the judge; None for a server that is asked by messages alone.
        max_model_len: tokens of prompt and completion together.
        grammar: the verdict grammar, where there is no encoder to know it.

    Raises:
        ConfigError: the tokenizer does not tell the verdicts apart.
    """

    def __init__(
        self,
        asking: SamplingSettings,
        encoder: ChatEncoder | None,
        max_model_len: int,
        grammar: Grammar = DEFAULT,
    ) -> None:
        tokens = VerdictTokens.of(encoder) if encoder else None
        letters = (tokens.a, tokens.b) if tokens else ()
        alone = (
            ForcedChoice(tokens.opening, letters, 1, tokens.header, logprob_token_ids=letters)
            if tokens
            else None
        )
        super().__init__(asking, encoder, tokens, alone, max_model_len)
        self.grammar = encoder.grammar if encoder else grammar
        self.closing = self.grammar.closing
        self.rescue_prompt = f"Now give your verdict alone: {self.grammar.a} or {self.grammar.b}."

    def read(self, prompt: JudgePrompt, completion: Completion) -> Verdict:
        """Return the verdict of one completion; its id is the completion's."""
        if self.encoder is None or self.verdict_tokens is None:
            return read_text(prompt, completion, self.grammar)
        return read_completion(prompt, completion, self.encoder, self.verdict_tokens)

    def read_rescue(self, first: Verdict, completion: Completion) -> Verdict:
        """Return the verdict with what was asked for alone; as it was where that cannot be read either."""
        if self.verdict_tokens is None:
            return read_text_rescue(first, completion, self.grammar)
        return read_rescue(first, completion, self.verdict_tokens)

    def combine(self, prompt: JudgePrompt, votes: Sequence[Verdict]) -> Verdict:
        """Return the verdict of a prompt's votes."""
        return combine_votes(prompt, votes, self.asking.combine, self.asking.margin)
