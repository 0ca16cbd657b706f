"""Read a verdict from a completion: what counts as one, and P(A) at its token."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.chat.grammar import Grammar
from reasongenrm.errors import ConfigError
from reasongenrm.records import Completion, JudgePrompt, Letter, Outcome, Verdict


def stated_verdicts(
    reason: str, phrases: Sequence[str], grammar: Grammar | None = None
) -> list[tuple[int, Letter]]:
    """Return the verdicts a reason states, as (number of words before it, letter), in the order of the text.

    Args:
        reason: the text.
        phrases: regular expressions with one group, A or B; a phrase may ignore case, and its group may be empty in a
            match that states nothing.
        grammar: its verdicts count as well.
    """
    found: set[tuple[int, Letter]] = set(grammar.found(reason)) if grammar else set()
    for phrase in phrases:
        found |= {(m.start(1), "A" if m[1] in "Aa" else "B") for m in re.finditer(phrase, reason) if m[1]}
    return [(len(reason[:start].split()), letter) for start, letter in sorted(found)]


@dataclass(frozen=True, slots=True)
class VerdictTokens:
    """How a tokenizer spells a verdict: `opening`, then `a` or `b`, then `closing`.

    Attributes:
        opening: ids before the letter.
        a, b: ids of the two letters.
        header: ids between a reason and its verdict.
        end: id of the end-of-turn marker.
    """

    opening: tuple[int, ...]
    a: int
    b: int
    header: tuple[int, ...]
    end: int

    @classmethod
    def of(cls, encoder: ChatEncoder) -> VerdictTokens:
        """Find the letters' ids.

        Raises:
            ConfigError: the tokenizer does not give each letter one token of its own.
        """
        grammar = encoder.grammar
        ids_a, ids_b = encoder.content(grammar.a), encoder.content(grammar.b)
        places = [i for i, (x, y) in enumerate(zip(ids_a, ids_b, strict=False)) if x != y]
        if len(ids_a) != len(ids_b) or len(places) != 1:
            raise ConfigError(
                f"the tokenizer does not tell {grammar.a} from {grammar.b} by one token",
                location="model.path",
                hint="name other texts under `verdict` in the prompt file",
            )
        at = places[0]
        [end] = encoder.structure(encoder.end)
        header = encoder.structure(encoder.between)
        if encoder.reasons_first and not set(header) & encoder.tokenizer.added_tokens_decoder.keys():
            raise ConfigError(
                f"{encoder.between.strip()!r}, which ends a reason, is no token of this tokenizer: a reason that "
                "quotes it could not be told from one that ends there",
                location="chat template",
                hint="take the template reason, or a model whose tokenizer has this token",
            )
        return cls(tuple(ids_a[:at]), ids_a[at], ids_b[at], tuple(header), end)


def after_header(token_ids: Sequence[int], header: Sequence[int]) -> int | None:
    """Return the index behind the last verdict header, or None where there is none."""
    for start in range(len(token_ids) - len(header), -1, -1):
        if tuple(token_ids[start : start + len(header)]) == tuple(header):
            return start + len(header)
    return None


def prob_a(logprobs: dict[int, float], tokens: VerdictTokens) -> float | None:
    """Return P(A) renormalised over A and B from raw log-probabilities; None where one of them is missing."""
    if tokens.a not in logprobs or tokens.b not in logprobs:
        return None
    return 1 / (1 + math.exp(min(700.0, logprobs[tokens.b] - logprobs[tokens.a])))


def reason_ids(completion: Completion, tokens: VerdictTokens) -> list[int]:
    """Return the ids of the judge's reason: what it wrote before its first end of turn, and before the verdict's
    header."""
    ids = list(completion.token_ids)
    behind = after_header(ids, tokens.header)
    if behind is not None:
        ids = ids[: behind - len(tokens.header)]
    return ids[: ids.index(tokens.end)] if tokens.end in ids else ids


def read_outcome(
    completion: Completion, found: object | None
) -> Literal["ok", "unparsed", "truncated", "error"]:
    """Return the outcome of a completion in which this was found, None for nothing."""
    if completion.finish_reason == "error":
        return "error"
    if found is not None:
        return "ok"
    return "truncated" if completion.finish_reason == "length" else "unparsed"


def read_completion(
    prompt: JudgePrompt, completion: Completion, encoder: ChatEncoder, tokens: VerdictTokens
) -> Verdict:
    """Read one completion; what cannot be read is `truncated` (out of tokens) or `unparsed`."""
    ids = completion.token_ids
    start = after_header(ids, tokens.header) if encoder.reasons_first else 0
    if (
        start is not None and tokens.end in ids[start:]
    ):  # decoded on: a turn that the judge made up is no verdict
        ids = ids[: ids.index(tokens.end, start)]
    decode = encoder.tokenizer.decode
    reason = decode(reason_ids(completion, tokens)) if encoder.reasons_first else ""
    winner: Letter | None = None
    probability: float | None = None
    if start is not None and completion.finish_reason != "error":
        winner = encoder.grammar.last(decode(list(ids[start:])))
    if start is not None and winner is not None:
        said = encoder.grammar.said(winner)  # a letter elsewhere in the turn is no verdict
        places = [
            p for p in completion.logprobs if p >= start and decode(list(ids[start : p + 1])).endswith(said)
        ]
        probability = prob_a(completion.logprobs[max(places)], tokens) if places else None
    return Verdict(
        completion.id,
        prompt.pair_id,
        prompt.order,
        winner,
        probability,
        read_outcome(completion, winner),
        reason.strip(),
        tokens=len(completion.token_ids),
    )


def read_text(prompt: JudgePrompt, completion: Completion, grammar: Grammar) -> Verdict:
    """Read a completion of which the text alone is known: the verdict that closes it, and the reason before it.

    Without token ids nothing tells a verdict that is quoted from one that is given but its place: one in the midst of
    the text counts for nothing.
    """
    found = grammar.at_end(completion.text) if completion.finish_reason == "stop" else None
    reason, winner = found if found else (completion.text, None)
    return Verdict(
        completion.id,
        prompt.pair_id,
        prompt.order,
        winner,
        None,
        read_outcome(completion, winner),
        reason.strip(),
        tokens=completion.tokens,
    )


def read_text_rescue(first: Verdict, completion: Completion, grammar: Grammar) -> Verdict:
    """Read the verdict that was asked for alone by text, and count it as rescued."""
    winner = grammar.last(completion.text) if completion.finish_reason != "error" else None
    if winner is None:
        return first
    used = first.tokens + completion.tokens
    return replace(first, winner=winner, outcome="ok", rescued=True, tokens=used)


def read_rescue(first: Verdict, completion: Completion, tokens: VerdictTokens) -> Verdict:
    """Read the verdict that was asked for alone (one token, A or B) and count it as rescued.

    The letters' probabilities decide; equal ones are a tie.
    """
    logprobs = completion.logprobs.get(0, {})
    probability = prob_a(logprobs, tokens)
    if completion.finish_reason == "error" or probability is None:
        return first
    winner: Literal["A", "B", "tie"] = "A" if probability > 0.5 else "B" if probability < 0.5 else "tie"
    outcome: Outcome = "tie" if winner == "tie" else "ok"
    return replace(
        first,
        winner=winner,
        prob_a=probability,
        outcome=outcome,
        rescued=True,
        tokens=first.tokens + len(completion.token_ids),
    )
