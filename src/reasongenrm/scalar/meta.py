"""The judge of judges: a scalar head that scores judgements, trained on right and wrong ones of the same prompt.

It chooses which votes of a judge count: the better half of them, as in DeepSeek-GRM (Z. Liu et al., "Inference-Time Scaling for
Generalist Reward Modeling", arXiv 2504.02495), whose meta reward model guides a vote in the same way. Theirs is trained with a binary
loss on single judgements; this one is the head of `scalar/model.py`, trained on pairs with the Bradley-Terry loss.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

from reasongenrm.chat.grammar import Grammar
from reasongenrm.records import JudgePrompt, Letter, PreferencePair, Reason, Verdict, Winner
from reasongenrm.scalar.model import ScalarRewardModel
from reasongenrm.store import PartStore

Votes = tuple[JudgePrompt, Sequence[Verdict]]
"""A judge prompt, and the votes on it."""


def judgement_text(reason: str, winner: Letter | Winner | None, grammar: Grammar) -> str:
    """Return a judgement as the head reads it after the judge's prompt: the reason, and the verdict on a line of its own.

    A tie, which no judge writes, is the reason alone.
    """
    verdict = "" if winner is None or winner == "tie" else grammar.text(winner)
    return "\n".join(filter(None, (reason, verdict)))


def judgement_pairs(
    reasons: Iterable[tuple[JudgePrompt, Sequence[Reason]]], grammar: Grammar
) -> Iterator[PreferencePair]:
    """Yield pairs of a right and a wrong judgement of one prompt: the training data of the head.

    Every judgement of a prompt that has both kinds is in a pair; of the kind with fewer, some are in several. A reason in hindsight, one
    that was cut, or one that states no verdict, is in none.

    Args:
        reasons: the judge prompts with their reasons.
        grammar: the verdict grammar of the prompts.
    """
    for prompt, some in reasons:
        stated = [one for one in some if one.mode == "blind" and one.verdict and one.finish_reason == "stop"]
        right = [one for one in stated if one.verdict == prompt.winner]
        wrong = [one for one in stated if one.verdict != prompt.winner]
        if not right or not wrong:
            continue
        for number in range(max(len(right), len(wrong))):
            better, worse = (
                judgement_text(one.text, one.verdict, grammar)
                for one in (right[number % len(right)], wrong[number % len(wrong)])
            )
            yield PreferencePair.make(prompt.messages, better, worse, prompt.source)


def better_half(votes: Sequence[Verdict], scores: Sequence[float]) -> list[Verdict]:
    """Return the votes with the highest scores, half of them rounded up, in their order; of equal scores the first."""
    ranked = sorted(range(len(votes)), key=lambda place: -scores[place])
    kept = sorted(ranked[: (len(votes) + 1) // 2])
    return [votes[place] for place in kept]


class MetaScores:
    """The scores of votes by a trained head, which is loaded when the first vote has none yet.

    Args:
        folder: of the head.
        grammar: the verdict grammar of the votes.
        store: where scores are kept by vote id; None: nowhere.
    """

    def __init__(self, folder: str | Path, grammar: Grammar, store: PartStore | None = None) -> None:
        self.folder, self._grammar, self._store = Path(folder), grammar, store
        self._ids: list[str] = []

    @cached_property
    def _head(self) -> ScalarRewardModel:
        return ScalarRewardModel.from_pretrained(self.folder)

    def better_halves(self, votes: Sequence[Votes]) -> list[list[Verdict]]:
        """Return the votes on each prompt that count: of those with a verdict, the better half.

        Raises:
            EngineError: the head cannot be loaded, or a score is not finite.
        """
        read = [[vote for vote in some if vote.winner is not None] for _, some in votes]
        judged = [(prompt, vote) for (prompt, _), some in zip(votes, read, strict=True) for vote in some]
        scores = iter(self._scores(judged))
        return [better_half(some, [next(scores) for _ in some]) for some in read]

    def _scores(self, judged: Sequence[tuple[JudgePrompt, Verdict]]) -> list[float]:
        store = self._store
        if store is None:
            return self._compute(judged)
        self._ids += [vote.id for _, vote in judged]
        new = [(prompt, vote) for prompt, vote in judged if vote.id not in store]
        if new:
            scores = self._compute(new)
            store.append({"id": vote.id, "score": s} for (_, vote), s in zip(new, scores, strict=True))
        return [store[vote.id]["score"] for _, vote in judged]

    def _compute(self, judged: Sequence[tuple[JudgePrompt, Verdict]]) -> list[float]:
        texts = [judgement_text(vote.reason, vote.winner, self._grammar) for _, vote in judged]
        return self._head.score_batch([prompt.messages for prompt, _ in judged], texts)

    def finish(self) -> None:
        """Complete the file of scores: it holds those of all votes so far."""
        if self._store is not None:
            self._store.finish(self._ids)
