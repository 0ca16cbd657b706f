"""Read a verdict from a completion: which text counts as one, and P(A) at its token."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.chat.grammar import Grammar, VerdictTexts
from reasongenrm.errors import ConfigError
from reasongenrm.records import Completion, JudgePrompt, Verdict, Winner


@dataclass(frozen=True, slots=True)
class VerdictTokens:
    """Token ids of a verdict: `opening`, then one of `letters`, then `closing`.

    Attributes:
        opening: ids before the letter.
        letters: the ids in which the verdicts differ, in the order of the grammar: A, B, and so on.
        closing: ids after the letter.
        header: ids between a reason and its verdict.
        reason_end: the header's ids up to its first added token, at which a reason ends; empty where there is none.
        end: id of the end-of-turn marker.
    """

    opening: tuple[int, ...]
    letters: tuple[int, ...]
    closing: tuple[int, ...]
    header: tuple[int, ...]
    reason_end: tuple[int, ...]
    end: int

    @classmethod
    def from_encoder(cls, encoder: ChatEncoder, verdicts: VerdictTexts | None = None) -> VerdictTokens:
        """Find the ids in an encoder's tokenizer.

        Args:
            encoder: tokenizer and chat template of the judge.
            verdicts: by default those of the encoder's grammar.

        Raises:
            ConfigError: the verdicts do not differ in exactly one token, or the header contains no added token.
        """
        texts = (verdicts or encoder.grammar.verdicts).texts
        ids = [encoder.content(text) for text in texts]
        first, one_length = ids[0], len({len(spelled) for spelled in ids}) == 1
        places = [at for at, tokens in enumerate(zip(*ids, strict=False)) if len(set(tokens)) > 1]
        if not one_length or len(places) != 1 or len({spelled[places[0]] for spelled in ids}) != len(ids):
            raise ConfigError(
                f"{' and '.join(texts)} do not differ by one token of the tokenizer",
                location="model.path",
                hint="set other texts under `verdict` (for several answers, `listwise_verdict`) in the prompt file",
            )
        at = places[0]
        [end] = encoder.structure(encoder.end_marker)
        header = encoder.structure(encoder.reason_verdict_separator)
        added = encoder.tokenizer.added_tokens_decoder
        markers = [place for place, token in enumerate(header, 1) if token in added]
        if encoder.reasons_first and not encoder.one_turn and not markers:
            raise ConfigError(
                f"{encoder.reason_verdict_separator.strip()!r}, which ends a reason, is not a token of this tokenizer: "
                "a reason that quotes it would look finished",
                location="chat template",
                hint="use the template reason, or a model whose tokenizer has this token",
            )
        reason_end = tuple(header[: markers[0]]) if markers else ()
        letters = tuple(spelled[at] for spelled in ids)
        return cls(tuple(first[:at]), letters, tuple(first[at + 1 :]), tuple(header), reason_end, end)


def after_header(token_ids: Sequence[int], header: Sequence[int]) -> int | None:
    """Return the index after the first verdict header, or None if there is no header."""
    wanted = tuple(header)
    for start in range(len(token_ids) - len(wanted) + 1):
        if token_ids[start] == wanted[0] and tuple(token_ids[start : start + len(wanted)]) == wanted:
            return start + len(wanted)
    return None


def probabilities(logprobs: Mapping[int, float], letters: Sequence[int]) -> tuple[float, ...] | None:
    """Return the letters' probabilities, renormalised over them, from raw log-probabilities.

    None if one of them is missing or is not finite.
    """
    if any(token not in logprobs or not math.isfinite(logprobs[token]) for token in letters):
        return None
    values = [logprobs[token] for token in letters]
    return tuple(1 / math.fsum(math.exp(min(700.0, other - own)) for other in values) for own in values)


def prob_a(logprobs: Mapping[int, float], tokens: VerdictTokens) -> float | None:
    """Return P(A) of two letters (see `probabilities`)."""
    both = probabilities(logprobs, tokens.letters)
    return both[0] if both else None


def winner_by_share(share: float, margin: float = 0.0) -> Winner:
    """Return A for a share of A above 0.5 and B for one below; a tie at 0.5, and nearer to it than the margin."""
    if share == 0.5 or abs(share - 0.5) < margin:
        return "tie"
    return "A" if share > 0.5 else "B"


def reason_ids(completion: Completion, tokens: VerdictTokens) -> list[int]:
    """Return the ids of the judge's reason: everything before its first end of turn and before the verdict's header."""
    ids = list(completion.token_ids)
    start = after_header(ids, tokens.header) if tokens.reason_end else None
    if start is not None:
        ids = ids[: start - len(tokens.header)]
    return ids[: ids.index(tokens.end)] if tokens.end in ids else ids


def read_reason(
    completion: Completion, encoder: ChatEncoder, tokens: VerdictTokens, verdicts: VerdictTexts
) -> str:
    """Return the text of the judge's reason, without a verdict in the same turn; empty under a verdict-only template."""
    if not encoder.reasons_first:
        return ""
    ids = reason_ids(completion, tokens)
    if encoder.one_turn:
        text = encoder.tokenizer.decode(ids, skip_special_tokens=True)
        return read_closing(replace(completion, text=text), verdicts)[0]
    reason: str = encoder.tokenizer.decode(ids)
    return reason.strip()


@dataclass(frozen=True, slots=True)
class VerdictTurn:
    """The turn in which a judge states its verdict.

    Attributes:
        start: index of its first id in the completion.
        ids: its ids, up to the end of the turn.
        ended: whether the judge ended it; otherwise it ran out of tokens.
    """

    start: int
    ids: tuple[int, ...]
    ended: bool


def verdict_turn(
    completion: Completion, encoder: ChatEncoder, tokens: VerdictTokens, verdicts: VerdictTexts
) -> VerdictTurn | None:
    """Return the first verdict turn behind the reason, or None if no verdict's header ends the reason.

    What a judge writes after the end of that turn, such as a user turn that it makes up, does not count. Where reason and
    verdict are one turn, it is the end of that turn, from the verdict that closes it.
    """
    if encoder.one_turn:
        return _closing_verdict(completion, encoder, tokens, verdicts)
    ids, start = completion.token_ids, 0
    if encoder.reasons_first:
        behind = after_header(ids, tokens.header)
        if behind is None or tokens.end in ids[: behind - len(tokens.header)]:
            return None
        start = behind
    turn = ids[start:]
    ended = tokens.end in turn
    if ended:
        turn = turn[: turn.index(tokens.end)]
    return VerdictTurn(start, turn, ended or completion.finish_reason == "stop")


def _closing_verdict(
    completion: Completion, encoder: ChatEncoder, tokens: VerdictTokens, verdicts: VerdictTexts
) -> VerdictTurn | None:
    ids = tuple(reason_ids(completion, tokens))

    def text(end: int) -> str:
        decoded: str = encoder.tokenizer.decode(ids[:end], skip_special_tokens=True)
        return decoded.strip()

    reason, verdict = read_closing(replace(completion, text=text(len(ids))), verdicts)
    if verdict is None:
        return None
    start = next(end for end in range(len(ids), -1, -1) if len(text(end)) <= len(reason))
    return VerdictTurn(start, ids[start:], ended=True)


def read_turn(
    completion: Completion, encoder: ChatEncoder, tokens: VerdictTokens, verdicts: VerdictTexts
) -> tuple[int | None, tuple[float, ...] | None]:
    """Return the index of the verdict that a completion states, and the probabilities of all verdicts at its letter.

    The probabilities are None where the engine gave none of one of the letters. Values that are not finite (NaN or
    infinity: the engine's numbers are wrong) make the verdict None, too.

    Args:
        completion: its token ids are read.
        encoder: tokenizer and chat template of the judge.
        tokens: of these verdicts; it may hold further letters, which are not counted.
        verdicts: which one can state.
    """
    failed = completion.finish_reason == "error"
    turn = None if failed else verdict_turn(completion, encoder, tokens, verdicts)
    if turn is None:
        return None, None
    decode = encoder.tokenizer.decode
    verdict = verdicts.in_turn(decode(turn.ids), ended=turn.ended)
    if verdict is None:
        return None, None
    letter_id, letters = tokens.letters[verdict], tokens.letters[: len(verdicts.texts)]
    text, ids = verdicts.texts[verdict].removesuffix(verdicts.closing), turn.ids

    def is_letter(at: int) -> bool:
        """Whether a place in the turn is the letter of a verdict: a letter elsewhere is not."""
        spelled = ids[max(0, at - len(tokens.opening)) : at + 1 + len(tokens.closing)]
        return ids[at] == letter_id and (
            spelled == (*tokens.opening, letter_id, *tokens.closing) or decode(ids[: at + 1]).endswith(text)
        )

    places = (p - turn.start for p in sorted(completion.logprobs, reverse=True))
    at = next((at for at in places if 0 <= at < len(ids) and is_letter(at)), None)
    if at is None:
        return verdict, None
    values = completion.logprobs[turn.start + at]
    if any(not math.isfinite(values[token]) for token in letters if token in values):
        return None, None
    return verdict, probabilities(values, letters)


def read_outcome(
    completion: Completion, value: object | None
) -> Literal["ok", "unparsed", "truncated", "error"]:
    """Return the outcome of a completion from which `value` was read, None for nothing."""
    if completion.finish_reason == "error":
        return "error"
    if value is not None:
        return "ok"
    return "truncated" if completion.finish_reason == "length" else "unparsed"


def _side(verdict: int | None) -> Literal["A", "B"] | None:
    if verdict is None:
        return None
    return "B" if verdict else "A"


def read_completion(
    prompt: JudgePrompt, completion: Completion, encoder: ChatEncoder, tokens: VerdictTokens
) -> Verdict:
    """Read one completion by its token ids; an unread one is `truncated` (out of tokens) or `unparsed`."""
    verdict, both = read_turn(completion, encoder, tokens, encoder.grammar.verdicts)
    winner = _side(verdict)
    return Verdict(
        completion.id,
        prompt.pair_id,
        prompt.pair_order,
        winner,
        both[0] if both else None,
        read_outcome(completion, winner),
        read_reason(completion, encoder, tokens, encoder.grammar.verdicts),
        tokens=len(completion.token_ids),
    )


def read_closing(completion: Completion, verdicts: VerdictTexts) -> tuple[str, int | None]:
    """Return the reason and the verdict of a completion of which only the text is known: the verdict that closes it.

    Without token ids only its place separates the judge's verdict from a quoted one: a verdict elsewhere in the text
    does not count.
    """
    parts = verdicts.split_at_end(completion.text) if completion.finish_reason == "stop" else None
    reason, verdict = parts or (completion.text, None)
    return reason.strip(), verdict


def read_text(prompt: JudgePrompt, completion: Completion, grammar: Grammar) -> Verdict:
    """Read a completion of which only the text is known (see `read_closing`)."""
    reason, verdict = read_closing(completion, grammar.verdicts)
    winner = _side(verdict)
    outcome, tokens = read_outcome(completion, winner), completion.tokens
    return Verdict(
        completion.id, prompt.pair_id, prompt.pair_order, winner, None, outcome, reason, tokens=tokens
    )


def read_rescue(
    first: Verdict, completion: Completion, grammar: Grammar, tokens: VerdictTokens | None
) -> Verdict:
    """Return `first` with the verdict of a rescue, counted as rescued; unchanged if there is none.

    With token ids the rescue is one token, A or B: the letters' probabilities decide, and equal ones are a tie. By text
    only a verdict that closes it counts.
    """
    winner: Winner | None = None
    probability = prob_a(completion.logprobs.get(0, {}), tokens) if tokens else None
    if probability is not None:
        winner = winner_by_share(probability)
    elif tokens is None and (verdict := read_closing(completion, grammar.verdicts)[1]) is not None:
        winner = _side(verdict)
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
