"""Answers of the HTTP API: their JSON, and the schemas that /openapi.json shows of it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from reasongenrm.judge.criteria import RubricComparison, RubricRating, rating_score
from reasongenrm.judge.remote import COMPARISON_FIELDS, RATING_FIELDS
from reasongenrm.judge.tournament import Ranking
from reasongenrm.records import Comparison, Order, Outcome, Rating, Winner


class _Reply(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Problem(_Reply):
    """Why a request failed, and what to do about it.

    Attributes:
        error: the problem.
        hint: what to do about it.
    """

    error: str
    hint: str


class ComparisonReply(_Reply):
    """Which of two answers is better.

    Attributes:
        winner: A for the first answer, B for the second; null where nothing can be read.
        prob_a: P(the first answer is better); null without log-probabilities.
        reason: the judge's reason in the caller's order.
        reasons: the reason by order; in BA the first answer is shown as B.
        outcome: `ok` and `tie` have a verdict.
        prompt_tokens, tokens: read and written.
        problem: the engine's error, where the outcome is `error`.
        criteria: the comparison by each criterion of a rubric.
    """

    winner: Winner | None
    prob_a: float | None = Field(ge=0, le=1)
    reason: str | None
    reasons: dict[Order, str]
    outcome: Outcome
    prompt_tokens: int
    tokens: int
    problem: str | None
    criteria: dict[str, ComparisonReply] = Field(default_factory=dict)


class ScoreReply(ComparisonReply):
    """The comparison of an answer with a reference, where A is the answer.

    Attributes:
        score: P(the answer is better than the reference), or 1, 0.5 or 0 without log-probabilities; null where nothing can be read.
    """

    score: float | None = Field(ge=0, le=1)


class RatingReply(_Reply):
    """The rating of an answer.

    Attributes:
        rating: 1 to 10, the mean of the votes; null where nothing can be read.
        outcome: `ok` has a rating.
        reason: the judge's reason.
        prompt_tokens, tokens: read and written.
        rescued: whether the judge was asked for the rating alone, as its first text had none.
        problem: the engine's error, where the outcome is `error`.
        score: the same, rescaled to 0 to 1; of a rubric, its weighted score.
        votes: the rating of each vote, if there were several.
        scores, criteria: of a rubric, by criterion.
    """

    rating: float | None
    outcome: Outcome
    reason: str
    prompt_tokens: int
    tokens: int
    rescued: bool
    votes: list[float | None]
    score: float | None = Field(ge=0, le=1)
    problem: str | None
    scores: dict[str, float] = Field(default_factory=dict)
    criteria: dict[str, RatingReply] = Field(default_factory=dict)


class Game(_Reply):
    """One comparison of a tournament.

    Attributes:
        first, second: indexes of the answers; A is the first one.
        winner, prob_a, reason, reasons: as in the answer of `/compare`.
    """

    first: int
    second: int
    winner: Winner | None
    prob_a: float | None
    reason: str | None
    reasons: dict[Order, str]


class RankingReply(_Reply):
    """The answers of a prompt in order, best first.

    Attributes:
        order: indexes of the answers.
        ratings: of each answer, higher is better; see the docs of the method.
        unread: number of games without a verdict.
        games: the comparisons.
        prompt_tokens, tokens: read and written.
    """

    order: list[int]
    ratings: list[float]
    unread: int
    games: list[Game]
    prompt_tokens: int
    tokens: int


class BestReply(RankingReply):
    """The best answer, and the knockout that decided it.

    Attributes:
        index: of the best answer.
        answer: its text.
    """

    index: int
    answer: str


class RowsReply(_Reply):
    """A record per row.

    Attributes:
        results: with the columns of the files that `reasongenrm judge` writes, in the order of the rows.
    """

    results: list[dict[str, Any]]


class HealthReply(_Reply):
    """What the server has, and what it has done; while it loads or stops, the status is 503 and the body another one.

    Attributes:
        status: `ok`.
        model: the judge's name.
        adapter: its folder, if it has one.
        fingerprint: of a recipe's judge.
        counts: of requests and results; `waiting` and `running` are those of now.
    """

    status: str
    model: str | None
    adapter: str | None
    fingerprint: str | None
    counts: dict[str, int]


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """Return the JSON of a `ComparisonReply`; `criteria` is there only with a rubric."""
    fields = {name: getattr(comparison, name) for name in COMPARISON_FIELDS} | {"problem": comparison.error}
    if isinstance(comparison, RubricComparison):
        fields["criteria"] = {name: comparison_json(one) for name, one in comparison.criteria.items()}
    return fields


def rating_json(rating: Rating) -> dict[str, Any]:
    """Return the JSON of a `RatingReply`; `scores` and `criteria` are there only with a rubric."""
    fields = {name: getattr(rating, name) for name in RATING_FIELDS}
    fields |= {"score": rating_score(rating), "problem": rating.error}
    if isinstance(rating, RubricRating):
        criteria = {name: rating_json(one) for name, one in rating.criteria.items()}
        fields |= {"scores": rating.scores, "criteria": criteria}
    return fields


def ranking_json(ranking: Ranking) -> dict[str, Any]:
    """Return the JSON of a `RankingReply`."""
    games = [
        {"first": game.first, "second": game.second}
        | {name: getattr(game.comparison, name) for name in ("winner", "prob_a", "reason", "reasons")}
        for game in ranking.games
    ]
    return {
        "order": ranking.order,
        "ratings": ranking.ratings,
        "unread": ranking.unread,
        "games": games,
        "prompt_tokens": sum(game.comparison.prompt_tokens for game in ranking.games),
        "tokens": sum(game.comparison.tokens for game in ranking.games),
    }


def documented(model: type[BaseModel], summary: str) -> dict[str, Any]:
    """Return the keywords of a route whose body of status 200 has a schema.

    The body is not validated against it again: its bytes are those of the handler's dict.
    """
    return {
        "summary": summary,
        "response_model": None,
        "responses": {200: {"model": model, "description": (model.__doc__ or "").splitlines()[0]}},
    }


PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": text}
    for status, text in {
        400: "The JSON or a value of it cannot be used.",
        401: "No valid key.",
        413: "A limit of the request is exceeded.",
        422: "The body does not fit the schema.",
        429: "Too many requests wait; Retry-After says when to ask again.",
        500: "The engine failed.",
        503: "The judge loads, stops, or had no result in time; in the first two cases with Retry-After.",
    }.items()
}
"""Answers to requests that fail, of every route."""
