"""Results of a judge as JSON: the columns of the rows that `reasongenrm judge` and the page's history write."""

from __future__ import annotations

from typing import Any

from reasongenrm.judge.criteria import RubricComparison, RubricRating, rating_score
from reasongenrm.judge.tournament import Ranking
from reasongenrm.records import Comparison, Rating
from reasongenrm.store import to_json


def comparison_columns(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison as JSON; with a rubric, those by each criterion are in `criteria`."""
    return _columns(comparison)


def rating_columns(rating: Rating) -> dict[str, Any]:
    """Return a rating as JSON, with its score in [0, 1]; with a rubric, those by each criterion are in `criteria`."""
    return {"score": rating_score(rating), **_columns(rating)}


def _columns(judged: Comparison | Rating) -> dict[str, Any]:
    columns = to_json(judged)
    if isinstance(judged, RubricComparison | RubricRating):
        columns["criteria"] = {name: to_json(part) for name, part in judged.criteria.items()}
    return columns


def ranking_columns(ranking: Ranking) -> dict[str, Any]:
    """Return a ranking as JSON, with its games."""
    names = ("winner", "prob_a", "outcome", "reason", "reasons")
    games = [
        {"first": game.first, "second": game.second}
        | {name: getattr(game.comparison, name) for name in names}
        for game in ranking.games
    ]
    return {"order": ranking.order, "ratings": ranking.ratings, "unread": ranking.unread, "games": games}
