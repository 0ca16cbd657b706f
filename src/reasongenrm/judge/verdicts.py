"""Verdicts of one judge: requests, several votes as one verdict, both orders as one comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean
from typing import Literal

from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.chat.grammar import DEFAULT_GRAMMAR, Grammar
from reasongenrm.chat.verdict import VerdictTokens, read_completion, read_rescue, read_text, read_text_rescue
from reasongenrm.config.evaluate import JudgingConfig
from reasongenrm.judge.ask import ForcedChoice, JudgeTask
from reasongenrm.records import Comparison, Completion, JudgePrompt, Outcome, Verdict

Winner = Literal["A", "B", "tie"]

_POINTS = {"A": 1.0, "tie": 0.5, "B": 0.0}


def combine_votes(
    prompt: JudgePrompt, votes: Sequence[Verdict], how: Literal["mean", "majority"], margin: float
) -> Verdict:
    """Return one verdict for all votes on a prompt.

    Votes that cannot be read do not count; if none can be read, the verdict is the first vote's. `mean` takes the mean
    P(A) of the votes, in which a vote without log-probabilities counts as 1 for A and 0 for B. `majority` takes the
    letter that most votes name. An exactly even result is a tie, and so is one that is nearer to 0.5 than the margin
    (for `majority`, the share of A).

    Args:
        prompt: the prompt that was judged.
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
    points = [_POINTS[str(vote.winner)] for vote in read]
    probability = None
    if len(read) > 1 or read[0].prob_a is not None:
        probability = fmean(p if v.prob_a is None else v.prob_a for v, p in zip(read, points, strict=True))
    if len(read) == 1 and (probability is None or abs(probability - 0.5) >= margin):
        winner = read[0].winner
    else:
        share = fmean(points) if how == "majority" or probability is None else probability
        winner = winner_by_share(share, margin)
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


def winner_by_share(share: float, margin: float) -> Winner:
    """Return A for a share of A above 0.5 and B for one below; a tie at 0.5, and nearer to it than the margin."""
    if share == 0.5 or abs(share - 0.5) < margin:
        return "tie"
    return "A" if share > 0.5 else "B"


def compare_orders(
    comparison_id: str,
    verdicts: Sequence[Verdict],
    *,
    margin: float,
    prompt_tokens: int,
    error: str | None = None,
) -> Comparison:
    """Combine the verdicts on both orders of two answers.

    In order AB the first answer is shown as A. An order that cannot be read does not count. If all orders that were
    read have a P(A), the mean probability decides (see `winner_by_share`); otherwise the letters do, and two that
    disagree are a tie.

    Args:
        comparison_id: id of the comparison.
        verdicts: one per order, one or more.
        margin: in P(A), from 0 to 0.5.
        prompt_tokens: tokens read.
        error: what went wrong, if the engine failed.
    """
    read = [verdict for verdict in verdicts if verdict.winner is not None]
    probability: float | None = None
    winner: Winner | None = None
    outcome = verdicts[0].outcome
    if read:
        points = [_first_wins(_POINTS[str(verdict.winner)], verdict) for verdict in read]
        known = [_first_wins(v.prob_a, v) for v in read if v.prob_a is not None]
        probability = fmean(known) if len(known) == len(read) else None
        if probability is None or len(read) == 1:
            winner = winner_by_share(fmean(points), 0.0)
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
        prompt_tokens,
        tokens=sum(verdict.tokens for verdict in verdicts),
        error=error if outcome == "error" else None,
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

    def rescue_choice(self, encoder: ChatEncoder) -> ForcedChoice:
        """Return the token ids of a rescue: the verdict's opening, then A or B."""
        tokens = VerdictTokens.from_encoder(encoder)
        letters = (tokens.a, tokens.b)
        return ForcedChoice(tokens.opening, letters, 1, logprob_token_ids=letters)

    def read(self, prompt: JudgePrompt, completion: Completion) -> Verdict:
        """Read the verdict of one completion; its id is the completion's."""
        if self.encoder is None or self.verdict_tokens is None:
            return read_text(prompt, completion, self.grammar)
        return read_completion(prompt, completion, self.encoder, self.verdict_tokens)

    def read_rescue(self, first: Verdict, completion: Completion) -> Verdict:
        """Return `first` with the verdict of its rescue; unchanged where that cannot be read either."""
        if self.verdict_tokens is None:
            return read_text_rescue(first, completion, self.grammar)
        return read_rescue(first, completion, self.verdict_tokens)

    def combine(self, prompt: JudgePrompt, votes: Sequence[Verdict]) -> Verdict:
        """Combine the votes on a prompt (see `combine_votes`)."""
        return combine_votes(prompt, votes, self.config.combine, self.config.margin)
