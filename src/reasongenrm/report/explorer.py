"""The rows of a benchmark for the explorer of a page: outcomes, and texts as plain JSON values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reasongenrm.metrics.diagnostics import probability_right
from reasongenrm.records import PairResult, Rating, Verdict
from reasongenrm.report.run_files import BenchmarkRun, ModelRun

LONGEST = 20_000
"""The most characters of a text that are shown."""

OUTCOME_NOTES: Mapping[str, str] = {
    "right": "right in every order",
    "wrong": "wrong in every order",
    "inconsistent": "right in one order, wrong in the other",
    "tie": "a tie, and nothing unread",
    "unread": "unparsed, truncated or an error in some order",
}


def pair_outcome(result: PairResult) -> str:
    """Return the outcome of a comparison over its orders: a key of OUTCOME_NOTES."""
    outcomes = set(result.outcomes)
    if not outcomes or outcomes & {"unparsed", "truncated", "error"}:
        return "unread"
    if "tie" in outcomes:
        return "tie"
    if len(outcomes) > 1:
        return "inconsistent"
    return "right" if outcomes == {"correct"} else "wrong"


def shorten(text: str, longest: int = LONGEST) -> str:
    """Return a text; of one that is too long its beginning, and its length."""
    if len(text) <= longest:
        return text
    return f"{text[:longest]}\n… [shortened: the first {longest:,} of {len(text):,} characters]"


def payload(benchmark: BenchmarkRun) -> dict[str, Any]:
    """Return the benchmark's rows and comparisons as plain values.

    A comparison refers to its row and to two of the row's answers, and has one result per model. A judge's ratings
    of single answers are part of the row, by model: None for a model that compares.
    """
    rows, pairs = [], []
    for at, row in enumerate(benchmark.judged_rows):
        rows.append(
            {
                "id": row.id,
                "subset": row.subset,
                "turns": [[turn["role"], shorten(turn["content"])] for turn in row.history],
                "answers": [shorten(answer) for answer in row.answers],
                "lengths": [len(answer) for answer in row.answers],
                "length": sum(len(turn["content"]) for turn in row.history),
                "rated": [_ratings(model, row.id) for model in benchmark.models.values()],
            }
        )
        for pair, (right, wrong) in zip(row.pairs, row.places, strict=True):
            results = [
                _result(model, pair.id, log_odds=_has_log_odds(benchmark, model))
                for model in benchmark.models.values()
            ]
            pairs.append({"id": pair.id, "row": at, "right": right, "wrong": wrong, "results": results})
    return {"models": list(benchmark.models), "rows": rows, "pairs": pairs}


def _has_log_odds(benchmark: BenchmarkRun, model: ModelRun) -> bool:
    """Whether the scores of a model, if it has any, are log-odds: only those of a scalar head are, which has no cost; ratings
    and scores of the mode `fourway` are not."""
    return model.cost is None or (benchmark.mode == "pairs" and not model.ratings)


def _ratings(model: ModelRun, row_id: str) -> list[dict[str, Any]] | None:
    if not model.ratings:
        return None
    return [
        {"rating": one.rating, "outcome": one.outcome, **_sample_fields(one)} for one in model.ratings[row_id]
    ]


def _result(model: ModelRun, pair_id: str, *, log_odds: bool) -> dict[str, Any]:
    result = model.results[pair_id]
    verdicts = [
        {
            "order": one.order,
            "winner": one.winner,
            "a": _round(one.prob_a),
            "outcome": outcome,
            **_sample_fields(one),
        }
        for one, outcome in zip(result.verdicts, result.outcomes, strict=False)
    ]
    return {
        "outcome": pair_outcome(result),
        "p": _round(probability_right(result)) if log_odds else None,
        "scores": result.scores,
        "verdicts": verdicts,
    }


def _sample_fields(one: Verdict | Rating) -> dict[str, Any]:
    return {"reason": shorten(one.reason), "rescued": one.rescued, "tokens": one.tokens}


def _round(probability: float | None) -> float | None:
    return None if probability is None else round(probability, 4)
