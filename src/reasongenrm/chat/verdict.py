"""Read a verdict from a completion: which text counts as one, and P(A) at its token."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.chat.grammar import Grammar
from reasongenrm.errors import ConfigError
from reasongenrm.records import Completion, JudgePrompt, Letter, Verdict, Winner


@dataclass(frozen=True, slots=True)
class VerdictTokens:
    """Token ids of a verdict: `opening`, then `a` or `b`, then `closing`.

    Attributes:
        opening: ids before the letter.
        a, b: ids of the two letters.
        closing: ids after the letter.
        header: ids between a reason and its verdict.
        reason_end: the header's ids up to its first added token, at which a reason ends.
        end: id of the end-of-turn marker.
    """

    opening: tuple[int, ...]
    a: int
    b: int
    closing: tuple[int, ...]
    header: tuple[int, ...]
    reason_end: tuple[int, ...]
    end: int

    @classmethod
    def from_encoder(cls, encoder: ChatEncoder) -> VerdictTokens:
        """Find the ids in an encoder's tokenizer.

        Raises:
            ConfigError: the two verdicts do not differ in exactly one token, or the header contains no added token.
        """
        grammar = encoder.grammar
        ids_a, ids_b = encoder.content(grammar.a), encoder.content(grammar.b)
        places = [i for i, (x, y) in enumerate(zip(ids_a, ids_b, strict=False)) if x != y]
        if len(ids_a) != len(ids_b) or len(places) != 1:
            raise ConfigError(
                f"{grammar.a} and {grammar.b} do not differ by one token of the tokenizer",
                location="model.path",
                hint="set other texts under `verdict` in the prompt file",
            )
        at = places[0]
        [end] = encoder.structure(encoder.end_marker)
        header = encoder.structure(encoder.reason_verdict_separator)
        added = encoder.tokenizer.added_tokens_decoder
        markers = [place for place, token in enumerate(header, 1) if token in added]
        if encoder.reasons_first and not markers:
            raise ConfigError(
                f"{encoder.reason_verdict_separator.strip()!r}, which ends a reason, is not a token of this tokenizer: "
                "a reason that quotes it would look finished",
                location="chat template",
                hint="use the template reason, or a model whose tokenizer has this token",
            )
        reason_end = tuple(header[: markers[0]]) if markers else ()
        opening, closing = tuple(ids_a[:at]), tuple(ids_a[at + 1 :])
        return cls(opening, ids_a[at], ids_b[at], closing, tuple(header), reason_end, end)


def after_header(token_ids: Sequence[int], header: Sequence[int]) -> int | None:
    """Return the index after the last verdict header, or None if there is no header."""
    for start in range(len(token_ids) - len(header), -1, -1):
        if tuple(token_ids[start : start + len(header)]) == tuple(header):
            return start + len(header)
    return None


def prob_a(logprobs: dict[int, float], tokens: VerdictTokens) -> float | None:
    """Return P(A) renormalised over A and B from raw log-probabilities; None if one of them is missing."""
    if tokens.a not in logprobs or tokens.b not in logprobs:
        return None
    return 1 / (1 + math.exp(min(700.0, logprobs[tokens.b] - logprobs[tokens.a])))


def winner_by_share(share: float, margin: float = 0.0) -> Winner:
    """Return A for a share of A above 0.5 and B for one below; a tie at 0.5, and nearer to it than the margin."""
    if share == 0.5 or abs(share - 0.5) < margin:
        return "tie"
    return "A" if share > 0.5 else "B"


def reason_ids(completion: Completion, tokens: VerdictTokens) -> list[int]:
    """Return the ids of the judge's reason: everything before its first end of turn and before the verdict's header."""
    ids = list(completion.token_ids)
    start = after_header(ids, tokens.header)
    if start is not None:
        ids = ids[: start - len(tokens.header)]
    return ids[: ids.index(tokens.end)] if tokens.end in ids else ids


def read_reason(completion: Completion, encoder: ChatEncoder, tokens: VerdictTokens) -> str:
    """Return the text of the judge's reason; empty under a verdict-only template."""
    if not encoder.reasons_first:
        return ""
    reason: str = encoder.tokenizer.decode(reason_ids(completion, tokens))
    return reason.strip()


def verdict_turn(
    completion: Completion, encoder: ChatEncoder, tokens: VerdictTokens
) -> tuple[int, list[int]] | None:
    """Return where the verdict's turn starts, and its ids up to the end of the turn; None if there is no such turn."""
    ids = list(completion.token_ids)
    start = after_header(ids, tokens.header) if encoder.reasons_first else 0
    if start is None:
        return None
    turn = ids[start:]
    return start, turn[: turn.index(tokens.end)] if tokens.end in turn else turn


def read_outcome(
    completion: Completion, value: object | None
) -> Literal["ok", "unparsed", "truncated", "error"]:
    """Return the outcome of a completion from which `value` was read, None for nothing."""
    if completion.finish_reason == "error":
        return "error"
    if value is not None:
        return "ok"
    return "truncated" if completion.finish_reason == "length" else "unparsed"


def read_completion(
    prompt: JudgePrompt, completion: Completion, encoder: ChatEncoder, tokens: VerdictTokens
) -> Verdict:
    """Read one completion by its token ids; an unread one is `truncated` (out of tokens) or `unparsed`."""
    winner: Letter | None = None
    probability: float | None = None
    start_and_turn = verdict_turn(completion, encoder, tokens)
    if start_and_turn and completion.finish_reason != "error":
        start, turn = start_and_turn
        decode = encoder.tokenizer.decode
        winner = encoder.grammar.last(decode(turn))
        if winner is not None:
            # A letter elsewhere in the turn is not a verdict.
            text = encoder.grammar.text(winner).removesuffix(encoder.grammar.closing)
            places = [
                p for p in completion.logprobs if p >= start and decode(turn[: p + 1 - start]).endswith(text)
            ]
            probability = prob_a(completion.logprobs[max(places)], tokens) if places else None
    return Verdict(
        completion.id,
        prompt.pair_id,
        prompt.order,
        winner,
        probability,
        read_outcome(completion, winner),
        read_reason(completion, encoder, tokens),
        tokens=len(completion.token_ids),
    )


def read_text(prompt: JudgePrompt, completion: Completion, grammar: Grammar) -> Verdict:
    """Read a completion of which only the text is known: the verdict that closes it, and the reason before it.

    Without token ids only its place separates the judge's verdict from a quoted one: a verdict elsewhere in the text
    does not count.
    """
    parts = grammar.split_at_end(completion.text) if completion.finish_reason == "stop" else None
    reason, winner = parts or (completion.text, None)
    outcome, tokens = read_outcome(completion, winner), completion.tokens
    return Verdict(
        completion.id, prompt.pair_id, prompt.order, winner, None, outcome, reason.strip(), tokens=tokens
    )


def read_rescue(
    first: Verdict, completion: Completion, grammar: Grammar, tokens: VerdictTokens | None
) -> Verdict:
    """Return `first` with the verdict of a rescue, counted as rescued; unchanged if there is none.

    With token ids the rescue is one token, A or B: the letters' probabilities decide, and equal ones are a tie.
    """
    winner: Winner | None = None
    probability = prob_a(completion.logprobs.get(0, {}), tokens) if tokens else None
    if probability is not None:
        winner = winner_by_share(probability)
    elif tokens is None:
        winner = grammar.last(completion.text)
    if completion.finish_reason == "error" or winner is None:
        return first
    return replace(
        first,
        winner=winner,
        prob_a=probability,
        outcome="tie" if winner == "tie" else "ok",
        rescued=True,
        tokens=first.tokens + completion.tokens,
    )
