"""Verdicts of one judge: requests, several votes as one verdict, both orders as one comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.chat.grammar import DEFAULT_GRAMMAR, Grammar
from reasongenrm.chat.verdict import (
    VerdictTokens,
    read_completion,
    read_rescue,
    read_text,
    winner_by_share,
)
from reasongenrm.config.evaluate import JudgingConfig
from reasongenrm.engines.base import Request
from reasongenrm.judge.ask import JudgeTask
from reasongenrm.records import Comparison, Completion, JudgePrompt, Verdict, Winner

_POINTS = {"A": 1.0, "tie": 0.5, "B": 0.0}


def compare_orders(
    comparison_id: str, results: Sequence[tuple[Verdict, Sequence[Completion]]], *, margin: float
) -> Comparison:
    """Combine the verdicts on both orders of two answers.

    In order AB the first answer is shown as A. An order that cannot be read does not count. If all orders that were
    read have a P(A), the mean probability decides (see `winner_by_share`); otherwise the letters do, and two that
    disagree are a tie.

    Args:
        comparison_id: id of the comparison.
        results: per order, one or more, the verdict and the completions it was read from.
        margin: in P(A), from 0 to 0.5.
    """
    verdicts = [verdict for verdict, _ in results]
    completions = [completion for _, read_from in results for completion in read_from]
    read = [verdict for verdict in verdicts if verdict.winner is not None]
    probability: float | None = None
    winner: Winner | None = None
    outcome = verdicts[0].outcome
    if read:
        points = [_first_wins(_POINTS[str(verdict.winner)], verdict) for verdict in read]
        known = [_first_wins(v.prob_a, v) for v in read if v.prob_a is not None]
        probability = fmean(known) if len(known) == len(read) else None
        if probability is None or len(read) == 1:
            winner = winner_by_share(fmean(points))
        else:
            winner = winner_by_share(probability, margin)
        outcome = "tie" if winner == "tie" else "ok"
    by_order = {verdict.order: verdict for verdict in sorted(verdicts, key=lambda verdict: verdict.order)}
    callers = by_order.get("AB")
    return Comparison(
        comparison_id,
        winner,
        probability,
        # A reason in order BA calls the caller's first answer B: it is shown only under its label.
        callers.reason if callers and (callers.winner is not None or not read) else None,
        outcome,
        tuple(verdicts),
        prompt_tokens=sum(completion.prompt_tokens for completion in completions),
        tokens=sum(verdict.tokens for verdict in verdicts),
        error=next((c.error for c in completions if c.error), None) if outcome == "error" else None,
        reasons={order: verdict.reason for order, verdict in by_order.items()},
    )


def _first_wins(share_of_a: float, verdict: Verdict) -> float:
    """Return P(the first answer is better) from P(A) in the verdict's order."""
    return share_of_a if verdict.order == "AB" else 1 - share_of_a


def preference(comparison: Comparison) -> float | None:
    """Return P(the first answer is better): P(A), or else 1, 0.5 or 0 by the winner; None if nothing can be read."""
    if comparison.winner is None:
        return None
    return _POINTS[comparison.winner] if comparison.prob_a is None else comparison.prob_a


class VerdictTask(JudgeTask[JudgePrompt, Verdict]):
    """Verdicts on pairs of answers: requests, and how completions are read.

    Args:
        config, encoder, max_model_len, seed: see `JudgeTask`.
        grammar: the verdict grammar of a judge without an encoder.
    """

    def __init__(
        self,
        config: JudgingConfig,
        encoder: ChatEncoder | None,
        max_model_len: int,
        grammar: Grammar = DEFAULT_GRAMMAR,
        *,
        seed: int,
    ) -> None:
        super().__init__(config, encoder, max_model_len, seed=seed)
        self.grammar = encoder.grammar if encoder else grammar
        self.closing = self.grammar.closing
        self.rescue_prompt = f"Now give your verdict alone: {self.grammar.a} or {self.grammar.b}."

    def forced_choice_request(self, encoder: ChatEncoder) -> Request:
        """Return the request that holds the verdict's opening, and allows A or B."""
        tokens = VerdictTokens.from_encoder(encoder)
        letters = (tokens.a, tokens.b)
        return Request("", tokens.opening, max_tokens=1, allowed=letters, logprob_token_ids=letters)

    def read(self, prompt: JudgePrompt, completion: Completion) -> Verdict:
        """Read the verdict of one completion; its id is the completion's."""
        if self.encoder is None or self.verdict_tokens is None:
            return read_text(prompt, completion, self.grammar)
        return read_completion(prompt, completion, self.encoder, self.verdict_tokens)

    def read_rescue(self, first: Verdict, completion: Completion) -> Verdict:
        """Return `first` with the verdict of its rescue; unchanged where that cannot be read either."""
        return read_rescue(first, completion, self.grammar, self.verdict_tokens)

    def combine(self, prompt: JudgePrompt, votes: Sequence[Verdict]) -> Verdict:
        """Return one verdict for all votes on a prompt.

        Votes that cannot be read do not count; if none can be read, the verdict is the first vote's. `mean` takes the
        mean P(A) of the votes, in which a vote without log-probabilities counts as 1 for A and 0 for B. `majority`
        takes the letter that most votes name. An exactly even result is a tie, and so is one that is nearer to 0.5 than
        the margin (for `majority`, the share of A).
        """
        read = [vote for vote in votes if vote.winner is not None]
        total = replace(
            (read or votes)[0],
            id=prompt.id,
            tokens=sum(vote.tokens for vote in votes),
            rescued=any(vote.rescued for vote in votes),
            votes=tuple(vote.winner for vote in votes) if len(votes) > 1 else (),
        )
        if not read:
            return total
        points = [_POINTS[str(vote.winner)] for vote in read]
        probability = None
        if len(read) > 1 or read[0].prob_a is not None:
            probability = fmean(
                p if v.prob_a is None else v.prob_a for v, p in zip(read, points, strict=True)
            )
        margin = self.config.margin
        if len(read) == 1 and (probability is None or abs(probability - 0.5) >= margin):
            winner = read[0].winner
        elif probability is None or self.config.combine == "majority":
            winner = winner_by_share(fmean(points), margin)
        else:
            winner = winner_by_share(probability, margin)
        return replace(
            total,
            winner=winner,
            prob_a=probability,
            outcome="tie" if winner == "tie" else "ok",
            reason=next((vote for vote in read if vote.winner == winner), read[0]).reason,
        )
