"""Ratings mode of stage 3: a judge rates every answer of a benchmark alone, and the ratings are compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from reasongenrm.chat.prompts import PromptFile
from reasongenrm.config.evaluate import BenchmarkKind, EvaluationSettings
from reasongenrm.errors import ConfigError
from reasongenrm.metrics.diagnostics import Diagnostics
from reasongenrm.records import PairResult, PreferencePair, Rating

UNREAD_RATING: dict[BenchmarkKind, float] = {"rewardbench2": -1.0}
"""Rating of an answer whose rating cannot be read, in the official code of a benchmark: RewardBench 2 counts a value
below all others (`_get_single_rating` in upstream's `generative_v2.py`); four such answers of a row share its 0.25."""

OUTCOMES = ("ok", "unparsed", "truncated", "error")


def check_rating(recipe: EvaluationSettings) -> None:
    """Check that the prompt file has a wording for ratings, if a benchmark needs it.

    Raises:
        ConfigError: the prompt file has no key `rating`.
    """
    names = [name for name, config in recipe.evaluate.benchmarks.items() if config.mode == "ratings"]
    if names and PromptFile.load(recipe.prompts).rating is None:
        raise ConfigError(
            f"{recipe.prompts} has no key `rating`",
            location=f"evaluate.benchmarks.{names[0]}.mode",
            hint="add the keys `rating` and `rating_delimiters`, as in configs/prompts/judge.yaml",
        )


def rating_result(
    pair: PreferencePair, right: Rating, wrong: Rating, *, unread: float | None = None
) -> PairResult:
    """Compare the ratings of two answers: credit 1 if the right answer has the higher rating, 0.5 for equal ratings.

    If an answer has no rating, the credit is 0.5 and the outcome is that of the first answer without a rating.

    Args:
        pair: the right answer is the chosen one.
        right, wrong: their ratings.
        unread: the score of an answer without a rating; None: the result has no scores.
    """
    first, second = (unread if rating.rating is None else rating.rating for rating in (right, wrong))
    scores = None if first is None or second is None else (first, second)
    failure = next((rating.outcome for rating in (right, wrong) if rating.rating is None), None)
    if failure or scores is None or scores[0] == scores[1]:
        credit, outcome = 0.5, str(failure or "tie")
    else:
        better = scores[0] > scores[1]
        credit, outcome = float(better), "correct" if better else "wrong"
    rescued = right.rescued or wrong.rescued
    return PairResult(pair.id, pair.source, (), (credit,), (outcome,), scores, rescued)


def rating_counts(ratings: Sequence[Rating]) -> dict[str, int]:
    """Count the answers, each outcome, and the rescued answers, which are among the `ok` ones.

    `answers = ok + unparsed + truncated + error` always holds.
    """
    outcomes: Counter[str] = Counter(rating.outcome for rating in ratings)
    counts = {"answers": len(ratings)} | {name: outcomes[name] for name in OUTCOMES}
    assert counts["answers"] == sum(counts[name] for name in OUTCOMES), f"outcomes do not add up: {outcomes}"
    return counts | {"rescued": sum(rating.rescued for rating in ratings)}


def uncalibrated(diagnostics: Diagnostics) -> Diagnostics:
    """Return diagnostics without calibration: a difference of ratings is not a log-odds, unlike one of scalar scores."""
    return replace(diagnostics, calibrated=0, ece=None, brier=None, reliability=())
