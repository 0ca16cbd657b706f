"""The vocabulary: frozen records that all rooms share, and their ids.

Every record is a frozen dataclass of plain values, so that it is one JSON object in a `.jsonl` file
(`store.to_json`). Ids are content hashes: the same row has the same id in every run.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol, TypedDict, get_args

Letter = Literal["A", "B", "C", "D", "E", "F", "G", "H"]
Winner = Literal["A", "B", "tie"]
Order = Literal["AB", "BA"]
TeacherMode = Literal["hindsight", "blind"]
Selector = Literal[
    "rstar", "random_correct", "longest_correct", "shortest_correct", "max_p_verdict", "self_consistency"
]
SELECTORS: tuple[Selector, ...] = get_args(Selector)
Outcome = Literal["ok", "tie", "unparsed", "truncated", "error"]


class Message(TypedDict):
    """One turn of a conversation: `role` (system, user, assistant, reason; or `criteria`, see `split_criteria`) and its text."""

    role: str
    content: str


REFERENCE_POINTS = "reference_points"
"""Column of sources of pairs and of `grpo.jsonl`: a list of texts, the points of a reference reason."""

CRITERIA = "criteria"
"""Role of the turn before a conversation that holds the criteria by which its answers are compared; and the column of rows."""


def with_criteria(history: Sequence[Message], criteria: str) -> list[Message]:
    """Return the turns with criteria before them, if there are any."""
    return [*[Message(role=CRITERIA, content=criteria)] * bool(criteria), *history]


def split_criteria(history: Sequence[Message]) -> tuple[str, Sequence[Message]]:
    """Return the criteria of a row (empty where it has none) and its conversation.

    They are a part of the history, so that pairs and lists with other criteria are other ones.
    """
    if history and history[0]["role"] == CRITERIA:
        return history[0]["content"], history[1:]
    return "", history


_CANONICAL = json.JSONEncoder(ensure_ascii=True, sort_keys=True, separators=(",", ":"), check_circular=False)


def content_id(*parts: Any) -> str:
    """Return the first 16 hex digits of the SHA-256 of the parts' canonical JSON.

    The JSON is ASCII-escaped, so that a lone surrogate in a text has an id too.
    """
    return hashlib.sha256(_CANONICAL.encode(parts).encode("ascii")).hexdigest()[:16]


def unit_hash(*parts: Any) -> float:
    """Return a number in [0, 1) that depends on the parts alone (used to place, split and order rows)."""
    # A float holds 53 bits: 64 could be rounded up to 1.
    return (int(content_id(*parts), 16) >> 11) / 2**53


class HasPair(Protocol):
    """A pair, or a record that has one: input and output of the filters in `data/`."""

    @property
    def source(self) -> str:
        """The pair's source."""

    @property
    def pair(self) -> PreferencePair:
        """The pair."""


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """A conversation and two answers to its last user turn.

    Attributes:
        id: content hash of history, chosen and rejected (a benchmark's repeated row gets `-2`, `-3`, …).
        history: turns up to and including the last user turn; at most one system turn, which comes first.
        chosen: the better answer.
        rejected: the other one.
        source: where the row comes from (a dataset's source column, a file, or a benchmark's subset).
        distance: how far apart the answers' ranks are, where the pair comes from ranks; above 0, in ranks.
        reference_points: the points of a reason why the chosen answer is better, by people or by a stronger judge.
    """

    id: str
    history: tuple[Message, ...]
    chosen: str
    rejected: str
    source: str
    distance: float | None = None
    reference_points: tuple[str, ...] = ()

    @classmethod
    def make(
        cls,
        history: Sequence[Message],
        chosen: str,
        rejected: str,
        source: str,
        *,
        distance: float | None = None,
        reference_points: Sequence[str] = (),
    ) -> PreferencePair:
        """Build a pair; its id is the content hash of history and answers."""
        turns, points = tuple(history), tuple(reference_points)
        return cls(content_id(turns, chosen, rejected), turns, chosen, rejected, source, distance, points)

    def to_row(self) -> dict[str, Any]:
        """Return the pair as a row of `pairs.jsonl`, which has the key `reference_points` only where there are some."""
        names = self.__slots__ if self.reference_points else self.__slots__[:-1]
        return {name: getattr(self, name) for name in names}

    @property
    def pair(self) -> PreferencePair:
        """The pair itself (see `HasPair`)."""
        return self


@dataclass(frozen=True, slots=True)
class AnswerList:
    """A conversation and two to eight answers to its last user turn, of which one is preferred to all others.

    Attributes:
        id: content hash of history and answers; the pair's id for two answers.
        history: turns up to and including the last user turn.
        answers: the best one first.
        source: where the rows come from.
    """

    id: str
    history: tuple[Message, ...]
    answers: tuple[str, ...]
    source: str


@dataclass(frozen=True, slots=True)
class JudgePrompt:
    """A pair placed as answers A and B, or a list as A to H, and rendered as the judge's user turn.

    Attributes:
        id: content hash of pair id, order and wording.
        pair_id: the pair, or the list, that it was rendered from.
        order: `AB` when the chosen answer is A, `BA` when it is B; of a list, the letters of its answers, the best one first.
        messages: the judge's input.
        winner: the letter of the chosen answer.
        source: the pair's source.
    """

    id: str
    pair_id: str
    order: str
    messages: tuple[Message, ...]
    winner: Letter
    source: str

    @property
    def pair_order(self) -> Order:
        """The order of a pair."""
        return "AB" if self.winner == "A" else "BA"


@dataclass(frozen=True, slots=True)
class RatingPrompt:
    """One answer rendered as the user turn of a judge that rates single answers.

    Attributes:
        id: content hash of history, answer and wording.
        messages: the judge's input.
    """

    id: str
    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class ListPrompt:
    """Two to eight answers rendered as the user turn of a judge that names the best one.

    Attributes:
        id: content hash of list id, order and wording.
        list_id: content hash of history and answers, or the caller's id.
        order: index of the answer shown as A, as B, and so on.
        messages: the judge's input.
    """

    id: str
    list_id: str
    order: tuple[int, ...]
    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Reason:
    """One sampled explanation of a verdict.

    Attributes:
        id: `<prompt id>#<teacher>#<sample number>`.
        prompt_id: the judge prompt it explains.
        text: the explanation, without a verdict that follows it.
        verdict: its conclusion: the last verdict it states, else the one in the teacher's prompt; None when a blind
            teacher states none.
        tokens: number of sampled tokens.
        finish_reason: `stop`, `length` when the token limit cut it, or `error`.
        teacher: name of the teacher in the recipe.
        mode: `hindsight` (the prompt contained the verdict) or `blind`.
        error: the error message, when `finish_reason` is `error`.
    """

    id: str
    prompt_id: str
    text: str
    verdict: Letter | None
    tokens: int
    finish_reason: str
    teacher: str
    mode: TeacherMode
    error: str | None = None


@dataclass(frozen=True, slots=True)
class ScoredReason:
    """A reason with the student's log-probabilities: the input of every selector.

    Attributes:
        id, prompt_id, text, verdict, teacher, mode: of the reason.
        winner: the right verdict.
        reason_logprob: mean over the reason's tokens of log p(R | U) under the student, in nats (<= 0).
        verdict_logprob: mean over the right verdict's tokens of log p(A | U, R) under the student, in nats (<= 0).
        tokens: number of reason tokens under the student's tokenizer.
    """

    id: str
    prompt_id: str
    text: str
    verdict: Letter
    winner: Letter
    reason_logprob: float
    verdict_logprob: float
    tokens: int
    teacher: str
    mode: TeacherMode


@dataclass(frozen=True, slots=True)
class SFTRecord:
    """One training example, in TRL's prompt-completion format with `reason` and `response` beside it.

    Attributes:
        prompt: the turns before the answer: of a judge record, the judge's user turn alone.
        reason: the selected explanation; empty for the verdict-only (GenRM) model.
        response: the verdict, `[[A]]` or `[[B]]`; of general data, the answer.
        id: the judge prompt's id; of general data, the content hash.
        source: the pair's source.
        pair_id, order: of the judge prompt (None for general data).
        teacher, score: who wrote the reason, and its selector's value (None for verdict-only records).
    """

    prompt: tuple[Message, ...]
    reason: str
    response: str
    id: str
    source: str
    pair_id: str | None = None
    order: str | None = None
    teacher: str | None = None
    score: float | None = None

    def to_row(self) -> dict[str, Any]:
        """Return the record as JSON, with TRL's `completion`: the reason's turn, if there is one, and the answer's."""
        completion = [Message(role="assistant", content=self.response)]
        if self.reason:
            completion.insert(0, Message(role="reason", content=self.reason))
        row = {name: getattr(self, name) for name in self.__slots__}
        return row | {"prompt": list(self.prompt), "completion": completion}


@dataclass(frozen=True, slots=True)
class Completion:
    """An engine's answer to one request.

    Attributes:
        id: the request's id.
        text: decoded tokens, special tokens included.
        finish_reason: `stop`, `length`, or `error`.
        token_ids: the sampled token ids (empty for engines that do not give them); of a judge also those that its
            template has between and after them.
        logprobs: `{position: {token id: nats}}`: raw log-probabilities of the requested tokens, at each position where
            one of them was sampled; JSON turns the keys into strings.
        error: the error message, when `finish_reason` is `error`.
        billed: number of sampled tokens that an engine without token ids reports.
        prompt_tokens: number of tokens read; 0 if the engine does not report it.
        cached, cache_write: of `prompt_tokens`, those that a server had in its cache, and those that it put there.
        refused: the model, or the server's filter, declined to answer; `finish_reason` is `error`.
    """

    id: str
    text: str
    finish_reason: str
    token_ids: tuple[int, ...] = ()
    logprobs: dict[int, dict[int, float]] = field(default_factory=dict)
    error: str | None = None
    billed: int | None = None
    prompt_tokens: int = 0
    cached: int = 0
    cache_write: int = 0
    refused: bool = False

    @property
    def tokens(self) -> int:
        """Number of tokens of the completion; 0 if the engine does not report it."""
        return len(self.token_ids) or self.billed or 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """The judgement of one pair in one order.

    Attributes:
        id: the judge prompt's id.
        pair_id, order: the pair, and its order in the prompt.
        winner: the answer named by the judge, `tie`, or None when nothing can be read.
        prob_a: P(A) in [0, 1], renormalised over A and B; None when the engine gave no log-probabilities.
        outcome: `ok`, `tie`, `unparsed`, `truncated` or `error`.
        reason: the explanation that came before the verdict.
        rescued: whether the verdict comes from a rescue request, after a completion that could not be read.
        tokens: number of tokens of the completion, the rescue's included.
        votes: the winner of each vote, if there were several.
    """

    id: str
    pair_id: str
    order: Order
    winner: Winner | None
    prob_a: float | None
    outcome: Outcome
    reason: str
    rescued: bool = False
    tokens: int = 0
    votes: tuple[Winner | None, ...] = ()


@dataclass(frozen=True, slots=True)
class Rating:
    """The judgement of a single answer.

    Attributes:
        id: the rating prompt's id.
        rating: from 1 to 10, the mean of the votes that can be read; None where none can.
        outcome: `ok`, `unparsed`, `truncated` or `error`.
        reason: the explanation that came before the rating, of the first vote that can be read.
        tokens, prompt_tokens: tokens sampled and tokens read, over all votes, rescues included.
        error: the error message, when the outcome is `error`.
        rescued: whether a vote comes from a rescue request, after a completion that could not be read.
        votes: the rating of each vote, if there were several.
    """

    id: str
    rating: float | None
    outcome: Literal["ok", "unparsed", "truncated", "error"]
    reason: str
    tokens: int = 0
    prompt_tokens: int = 0
    error: str | None = None
    rescued: bool = False
    votes: tuple[float | None, ...] = ()


@dataclass(frozen=True, slots=True)
class ListVerdict:
    """The judgement of several answers: which one is best.

    Attributes:
        id: the list prompt's id.
        list_id: the list's.
        winner: index of the best answer, in the caller's order; None when nothing can be read, or at a tie.
        probs: P(best) of every answer in the caller's order, renormalised over them; None without log-probabilities.
        outcome: `ok`, `tie` (several answers share the highest probability, or the most votes), `unparsed`, `truncated`
            or `error`.
        reason: the explanation that came before the verdict; its letters are those of the prompt.
        rescued: whether a vote comes from a rescue request, after a completion that could not be read.
        tokens: number of tokens of the completions, rescues included.
        votes: the winner of each vote, if there were several.
        error: the error message, when the outcome is `error`.
    """

    id: str
    list_id: str
    winner: int | None
    probs: tuple[float, ...] | None
    outcome: Outcome
    reason: str
    rescued: bool = False
    tokens: int = 0
    votes: tuple[int | None, ...] = ()
    error: str | None = None


@dataclass(frozen=True, slots=True)
class PairResult:
    """One benchmark row after judging.

    Attributes:
        pair_id: the row.
        subset: the benchmark's subset.
        verdicts: one verdict per order (empty for a scalar head, and for a judge that rates).
        correct: credit per order in [0, 1]: 1 right, 0 wrong, 0.5 for a tie or what could not be read.
        outcomes: per order: `correct`, `wrong`, `tie`, `unparsed`, `truncated` or `error`.
        scores: of (chosen, rejected), from a scalar head or a judge that rates; None for a judge that compares.
        rescued_rating: whether one of the two ratings comes from a rescue request.
    """

    pair_id: str
    subset: str
    verdicts: tuple[Verdict, ...]
    correct: tuple[float, ...]
    outcomes: tuple[str, ...]
    scores: tuple[float, float] | None = None
    rescued_rating: bool = False

    @property
    def rescued(self) -> int:
        """Number of judgements that needed a rescue request."""
        return sum(verdict.rescued for verdict in self.verdicts) + self.rescued_rating

    @property
    def credit(self) -> float:
        """Mean credit over the orders, in [0, 1]."""
        return math.fsum(self.correct) / len(self.correct)


@dataclass(frozen=True, slots=True)
class Comparison:
    """The judgement of two answers, over all orders and votes.

    Attributes:
        id: content hash of history and answers, or the caller's id.
        winner: `A` when the first answer is better, `B` the second, `tie`, or None when nothing can be read.
        prob_a: P(the first answer is better) in [0, 1], the mean over orders and votes; None without
            log-probabilities.
        reason: the explanation given in order AB, whose letters are the caller's; None where that order was not judged,
            or where only the other order could be read.
        outcome: `ok`, `tie`, `unparsed`, `truncated` or `error`.
        verdicts: one per order; letters are those of the order they were judged in.
        prompt_tokens, tokens: tokens read and tokens sampled, over all orders and votes, rescues included.
        error: the error message, when the outcome is `error`.
        reasons: order -> explanation; under `BA` the caller's first answer is called B.
    """

    id: str
    winner: Winner | None
    prob_a: float | None
    reason: str | None
    outcome: Outcome
    verdicts: tuple[Verdict, ...]
    prompt_tokens: int
    tokens: int
    error: str | None = None
    reasons: dict[Order, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Conversation:
    """A reply to a message, and what came before the message: the input of a judge with a rubric.

    Attributes:
        id: content hash of the other fields.
        context: the situation or the earlier turns, as one text; may be empty.
        message: the message that is answered.
        response: the reply.
    """

    id: str
    context: str
    message: str
    response: str

    @classmethod
    def make(cls, context: str, message: str, response: str) -> Conversation:
        """Build a conversation; its id is the content hash of its texts."""
        return cls(content_id(context, message, response), context, message, response)

    @property
    def history(self) -> tuple[Message, ...]:
        """The turns before the response: the context as a system turn, unless it is empty, and the message."""
        system = [Message(role="system", content=self.context)] if self.context else []
        return (*system, Message(role="user", content=self.message))


@dataclass(frozen=True, slots=True)
class Judgment:
    """The scores of one reply by a rubric.

    Attributes:
        id: the conversation's.
        scores: criterion -> mean score over the samples that can be read, on the criterion's scale; empty where none can.
        score: weighted score in [0, 1]; None where no sample can be read.
        rationale: of the first sample that can be read.
        samples: the scores of every sample that can be read.
        outcomes: outcome (`ok`, `refused`, `unreadable`, `truncated` or `error`) -> number of samples; only `ok` ones are scored.
        usage: tokens of all samples: `input`, `output`, `cached_input`, `cache_write`.
    """

    id: str
    scores: dict[str, float]
    score: float | None
    rationale: str
    samples: tuple[dict[str, float], ...]
    outcomes: dict[str, int]
    usage: dict[str, int]


@dataclass(frozen=True, slots=True)
class Drop:
    """A dropped row, and the reason.

    Attributes:
        location: `file:line`, dataset row, or the id of the record.
        source: the row's source (`?` when it cannot be known).
        reason: a stable slug for counts in reports, such as `empty_answer`.
        detail: one sentence for the user.
        stage: the step that dropped it (load, clean, length, select, …).
    """

    location: str
    source: str
    reason: str
    detail: str
    stage: str


@dataclass(frozen=True)  # no slots: `pairs` is kept in the instance
class Row:
    """One row of a benchmark: right and wrong answers to one prompt.

    Attributes:
        id: content hash of the row (a repeated row gets `-2`, `-3`, …).
        subset: the benchmark's subset.
        history: turns up to and including the last user turn.
        answers: the candidates, the right ones first.
        right: number of right answers, at least one; the others are wrong, at least one.
        places: the comparisons, as (index of a right answer, index of a wrong one).
        details: what else the benchmark's metric needs, as plain values.
    """

    id: str
    subset: str
    history: tuple[Message, ...]
    answers: tuple[str, ...]
    right: int
    places: tuple[tuple[int, int], ...]
    details: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def pairs(self) -> tuple[PreferencePair, ...]:
        """The comparisons as pairs, in the order of `places`; the pair of a row with a single one has the row's id."""
        single = len(self.places) == 1
        return tuple(
            PreferencePair(
                self.id if single else f"{self.id}.{right}-{wrong}",
                self.history,
                self.answers[right],
                self.answers[wrong],
                self.subset,
            )
            for right, wrong in self.places
        )

    @classmethod
    def make(
        cls,
        subset: str,
        history: Sequence[Message],
        right: Sequence[str],
        wrong: Sequence[str],
        *,
        places: Sequence[tuple[int, int]] | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> Row:
        """Build a row; its id is the content hash of history and answers.

        Args:
            places: the comparisons; by default every right answer with every wrong one.
        """
        turns, answers = tuple(history), (*right, *wrong)
        if places is None:
            places = [(i, len(right) + j) for i in range(len(right)) for j in range(len(wrong))]
        # A row with two answers has the id of their pair (see `PreferencePair.make`).
        name = content_id(turns, *answers) if len(answers) == 2 else content_id(turns, right, wrong)
        return cls(name, subset, turns, answers, len(right), tuple(places), details or {})
