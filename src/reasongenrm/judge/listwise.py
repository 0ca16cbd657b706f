"""Verdicts on lists of two to eight answers: which one is best; requests, reading, and several votes as one verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.chat.prompts import PromptFile
from reasongenrm.chat.verdict import (
    VerdictTokens,
    probabilities,
    read_closing,
    read_outcome,
    read_reason,
    read_turn,
)
from reasongenrm.config.evaluate import JudgingConfig
from reasongenrm.engines.base import Request
from reasongenrm.errors import ConfigError
from reasongenrm.judge.ask import JudgeTask, without_winner
from reasongenrm.records import Completion, ListPrompt, ListVerdict


class ListTask(JudgeTask[ListPrompt, ListVerdict]):
    """Verdicts on lists: requests, and how completions are read; `margin` is not used.

    A letter beyond the answers of a list does not count.

    Args:
        config, encoder, max_model_len, seed: see `JudgeTask`.
        prompts: the wording, whose `listwise_verdict` is the grammar.

    Raises:
        ConfigError: the verdicts `A` to `H` do not differ in one token of the tokenizer, or `config.combine` is `meta`.
    """

    name = "list"

    def __init__(
        self,
        config: JudgingConfig,
        encoder: ChatEncoder | None,
        max_model_len: int,
        prompts: PromptFile,
        *,
        seed: int,
    ) -> None:
        self.prompts = prompts
        if config.combine == "meta":
            problem, hint = "meta scores votes on two answers", "set mean or majority for lists"
            raise ConfigError(problem, location="combine", hint=hint)
        super().__init__(config, encoder, max_model_len, seed=seed)

    def find_tokens(self, encoder: ChatEncoder) -> VerdictTokens:
        """Return the token ids of the verdicts on eight answers."""
        return VerdictTokens.from_encoder(encoder, self.prompts.list_verdicts())

    def forced_choice_request(self, encoder: ChatEncoder) -> Request:
        """Return the request that holds the verdict's opening, and allows A to H."""
        tokens = self.find_tokens(encoder)
        return Request(
            "", tokens.opening, max_tokens=1, allowed=tokens.letters, logprob_token_ids=tokens.letters
        )

    def rescue(self, prompt: ListPrompt, completion: Completion) -> Request:
        """Return the request for the verdict alone, which allows the letters of the list's answers."""
        request = super().rescue(prompt, completion)
        if self.verdict_tokens is None:
            return request
        letters = self.verdict_tokens.letters[: len(prompt.order)]
        return replace(request, allowed=letters, logprob_token_ids=letters)

    def read(self, prompt: ListPrompt, completion: Completion) -> ListVerdict:
        """Read the verdict of one completion; its id is the completion's."""
        verdicts, shown = self.prompts.list_verdicts(len(prompt.order)), None
        if self.encoder is None or self.verdict_tokens is None:
            reason, place = read_closing(completion, verdicts)
        else:
            place, shown = read_turn(completion, self.encoder, self.verdict_tokens, verdicts)
            reason = read_reason(completion, self.encoder, self.verdict_tokens, verdicts)
        outcome = read_outcome(completion, place)
        return ListVerdict(
            completion.id,
            prompt.list_id,
            None if place is None or outcome == "error" else prompt.order[place],
            _by_answer(prompt, shown),
            outcome,
            reason,
            tokens=completion.tokens,
            error=completion.error if outcome == "error" else None,
        )

    def read_rescue(self, prompt: ListPrompt, first: ListVerdict, completion: Completion) -> ListVerdict:
        """Return `first` with the verdict of its rescue; unchanged where that cannot be read either.

        With token ids the rescue is one letter, whose probabilities decide; by text only a verdict that closes it counts.
        """
        count = len(prompt.order)
        probs: tuple[float, ...] | None = None
        winner: int | None = None
        if self.verdict_tokens:
            shown = probabilities(completion.logprobs.get(0, {}), self.verdict_tokens.letters[:count])
            probs = _by_answer(prompt, shown)
            winner = best_index(probs) if probs else None
        else:
            place = read_closing(completion, self.prompts.list_verdicts(count))[1]
            winner = None if place is None else prompt.order[place]
        if completion.finish_reason == "error" or (winner is None and probs is None):
            return first
        return replace(
            first,
            winner=winner,
            probs=probs,
            outcome="tie" if winner is None else "ok",
            rescued=True,
            tokens=first.tokens + completion.tokens,
        )

    def combine(self, prompt: ListPrompt, votes: Sequence[ListVerdict]) -> ListVerdict:
        """Return one verdict for all votes on a list.

        Votes that cannot be read do not count; if none can be read, the verdict is the first vote's. `mean` takes the mean
        P(best) of the votes, in which a vote without log-probabilities counts as 1 for its answer; `majority` takes the
        answer that most votes name. Several best answers are a tie.
        """
        read = [vote for vote in votes if vote.outcome in ("ok", "tie")]
        total = without_winner(prompt.id, read, votes)
        if len(read) < 2:
            return total
        answers = range(len(prompt.order))
        shares = [vote.probs or letter_shares(vote, len(answers)) for vote in read]
        probs = tuple(fmean(share[index] for share in shares) for index in answers)
        counts = Counter(vote.winner for vote in read if vote.winner is not None)
        if self.config.combine == "majority":
            winner = best_index([float(counts[index]) for index in answers])
        else:
            winner = best_index(probs)
        return replace(
            total,
            winner=winner,
            probs=probs,
            outcome="tie" if winner is None else "ok",
            reason=next((vote for vote in read if vote.winner == winner), read[0]).reason,
        )


def _by_answer(prompt: ListPrompt, shown: Sequence[float] | None) -> tuple[float, ...] | None:
    """Return probabilities in the caller's order of the answers, from those in the order of the prompt."""
    if shown is None:
        return None
    by_answer = dict(zip(prompt.order, shown, strict=True))
    return tuple(by_answer[index] for index in range(len(shown)))


def letter_shares(verdict: ListVerdict, answers: int) -> tuple[float, ...]:
    """Return 1 for the best answer and 0 for the others, where a verdict has no probabilities."""
    return tuple(float(index == verdict.winner) for index in range(answers))


def list_shares(verdict: ListVerdict, answers: int) -> tuple[float, ...] | None:
    """Return P(best) of each answer, or 1 for the best one without log-probabilities; None if nothing can be read."""
    if verdict.probs is not None or verdict.winner is None:
        return verdict.probs
    return letter_shares(verdict, answers)


def best_index(values: Sequence[float]) -> int | None:
    """Return the index of the highest value; None if several have it."""
    highest = max(values)
    return values.index(highest) if list(values).count(highest) == 1 else None
