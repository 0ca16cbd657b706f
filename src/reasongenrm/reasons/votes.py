"""Training records from a judge's own votes: rejection sampling, on-policy pairs for DPO, and prompts for GRPO."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.config.prepare import GRPOConfig
from reasongenrm.data.points import coverage
from reasongenrm.reasons.records import grpo_row, worth_learning
from reasongenrm.records import Drop, JudgePrompt, Letter, Message, SFTRecord, Verdict

PromptVotes = tuple[JudgePrompt, Sequence[Verdict]]
"""A judge prompt, and the votes on it."""


def best_vote(votes: Sequence[Verdict], letter: Letter) -> Verdict | None:
    """Return the vote for a letter whose reason leads to it most surely: the one with the highest probability of the letter.

    The first factor of R*, the probability of the reason under the judge, is left out: the judge has sampled all reasons
    itself. None where no vote with a reason names the letter; ties go to the earlier vote.
    """

    named = [vote for vote in votes if vote.winner == letter and vote.reason]
    return max(named, key=lambda vote: _probability(vote, letter) or 0.0, default=None)


def _probability(vote: Verdict, letter: Letter) -> float | None:
    """Return P(letter) of a vote; None without log-probabilities."""
    return vote.prob_a if vote.prob_a is None or letter == "A" else 1 - vote.prob_a


class VoteRecords:
    """Records of one pair after the other, each from the judge's votes on a prompt of it.

    Args:
        judge: name of the model that voted, written as the records' teacher.
        encoder: of the judge, for the length limit.
        max_tokens: limit of prompt, reason and verdict.
        rationale: share of a pair's reference points that the reason of a right vote has to cover.

    Attributes:
        counts: number of `prompts`, of `votes` that are `right`, `wrong` and `unreadable`, and of written records and drops
            by reason.
    """

    def __init__(self, judge: str, encoder: ChatEncoder, max_tokens: int, rationale: float = 0.0) -> None:
        self._judge, self._encoder, self._max_tokens, self._rationale = judge, encoder, max_tokens, rationale
        self.counts: Counter[str] = Counter()

    def sft_rows(
        self, orders: Sequence[PromptVotes], points: Sequence[str] = ()
    ) -> Iterator[dict[str, Any] | Drop]:
        """Yield for each prompt of a pair the record of the best right vote, or why there is none.

        A pair in both orders gives records only if both have a right vote that is short enough. A judge that prefers a letter is
        right wherever that letter is: from one order alone it would learn to prefer it more.

        Args:
            orders: the prompts of one pair, with the votes on each.
            points: the pair's reference points.
        """
        self._count_votes(orders)
        best = [self._best_right(prompt, votes, points) for prompt, votes in orders]
        other = next((drop for drop in best if isinstance(drop, Drop)), None)
        for (prompt, _), vote in zip(orders, best, strict=True):
            if isinstance(vote, Drop):
                yield self._counted(vote)
            elif other:
                detail = f"the other order of its pair gives none: {other.reason}, {other.detail}"
                yield self._counted(_drop(prompt, "other_order_lost", detail))
            else:
                self.counts["records"] += 1
                yield SFTRecord(
                    prompt.messages, vote.reason, self._encoder.grammar.text(prompt.winner), prompt.id, prompt.source,
                    prompt.pair_id, prompt.order, self._judge, _probability(vote, prompt.winner),
                ).to_row()  # fmt: skip

    def dpo_rows(
        self, orders: Sequence[PromptVotes], points: Sequence[str] = ()
    ) -> Iterator[dict[str, Any] | Drop]:
        """Yield for each prompt of a pair its best right and its best wrong vote as a pair for DPO, or why there is none.

        Args:
            orders, points: see `sft_rows`.
        """
        self._count_votes(orders)
        for prompt, votes in orders:
            yield self._dpo_row(prompt, votes, points)

    def grpo_rows(
        self, orders: Sequence[PromptVotes], bounds: GRPOConfig, points: Sequence[str], *, whole_pairs: bool
    ) -> Iterator[dict[str, Any] | Drop]:
        """Yield for each prompt of a pair its row of `grpo.jsonl`, or why it is not worth learning from.

        Args:
            orders, points: see `sft_rows`.
            bounds: of the solve rate, the share of right votes; an unreadable vote is not right.
            whole_pairs: take the solve rate of both orders together. The rewards of a pair's orders are compared, so that a pair
                which is always right in one order and always wrong in the other one teaches much.
        """
        self._count_votes(orders)
        solved = [sum(vote.winner == prompt.winner for vote in votes) for prompt, votes in orders]
        samples = [len(votes) for _, votes in orders]
        for (prompt, _), own, number in zip(orders, solved, samples, strict=True):
            right, total = (sum(solved), sum(samples)) if whole_pairs else (own, number)
            if worth_learning(right, total, bounds):
                self.counts["records"] += 1
                yield grpo_row(prompt, own, number, points)
            else:
                reason = "too_hard" if right <= bounds.above * total else "too_easy"
                yield self._counted(_drop(prompt, reason, f"{right} of {total} votes are right"))

    def _count_votes(self, orders: Sequence[PromptVotes]) -> None:
        for prompt, votes in orders:
            self.counts["prompts"] += 1
            for vote in votes:
                if vote.winner not in ("A", "B"):
                    self.counts["unreadable"] += 1
                else:
                    self.counts["right" if vote.winner == prompt.winner else "wrong"] += 1

    def _dpo_row(
        self, prompt: JudgePrompt, votes: Sequence[Verdict], points: Sequence[str]
    ) -> dict[str, Any] | Drop:
        loser: Letter = "B" if prompt.winner == "A" else "A"
        right, wrong = self._best_right(prompt, votes, points), best_vote(votes, loser)
        if isinstance(right, Drop):
            return self._counted(right)
        if wrong is None:
            detail = f"none of {len(votes)} votes is for {loser}"
            return self._counted(_drop(prompt, "no_wrong_reason", detail))
        if drop := self._too_long(prompt, wrong):
            return self._counted(drop)
        row: dict[str, Any] = {"prompt": list(prompt.messages)}
        for side, letter, vote in (("chosen", prompt.winner, right), ("rejected", loser, wrong)):
            verdict = self._encoder.grammar.text(letter)
            row[side] = [
                Message(role="reason", content=vote.reason),
                Message(role="assistant", content=verdict),
            ]
        self.counts["records"] += 1
        return row | {
            "id": prompt.id,
            "pair_id": prompt.pair_id,
            "source": prompt.source,
            "teacher": self._judge,
        }

    def _best_right(
        self, prompt: JudgePrompt, votes: Sequence[Verdict], points: Sequence[str]
    ) -> Verdict | Drop:
        """Return the best right vote whose reason covers enough of the points and is short enough, or why there is none."""
        right = [vote for vote in votes if vote.winner == prompt.winner and vote.reason]
        covering = [
            vote for vote in right if not self._rationale or coverage(vote.reason, points) >= self._rationale
        ]
        too_long = None
        while vote := best_vote(covering, prompt.winner):
            if not (drop := self._too_long(prompt, vote)):
                return vote
            covering.remove(vote)
            too_long = too_long or drop
        if too_long:
            return too_long
        if right:
            detail = f"none of {len(right)} right votes covers {self._rationale:.0%} of the reference points"
            return _drop(prompt, "points_not_covered", detail)
        return _drop(prompt, "no_right_reason", f"none of {len(votes)} votes is right")

    def _too_long(self, prompt: JudgePrompt, vote: Verdict) -> Drop | None:
        verdict = self._encoder.grammar.text(prompt.winner)
        length = sum(map(len, self._encoder.record(prompt.messages, vote.reason, verdict)))
        if length <= self._max_tokens:
            return None
        return _drop(prompt, "record_too_long", f"{length} tokens; data.max_tokens is {self._max_tokens}")

    def _counted(self, drop: Drop) -> Drop:
        self.counts[drop.reason] += 1
        return drop


def _drop(prompt: JudgePrompt, reason: str, detail: str) -> Drop:
    return Drop(prompt.id, prompt.source, reason, detail, "round")
