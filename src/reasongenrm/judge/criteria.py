"""Criteria of a rubric, each judged alone: the text a judge reads of one, its rating as a score, and several comparisons as one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reasongenrm.chat.verdict import winner_by_share
from reasongenrm.config.loading import parse_yaml, read_yaml, validate
from reasongenrm.config.rubric import Criterion, Rubric
from reasongenrm.judge.ask import preference
from reasongenrm.judge.listwise import best_index, list_shares
from reasongenrm.judge.rate import HIGHEST, LOWEST
from reasongenrm.records import Comparison, ListVerdict, Message, Rating, split_criteria, with_criteria
from reasongenrm.rows.turns import replace_surrogates


def load_rubric(path: str | Path) -> Rubric:
    """Read a rubric from a YAML file: its key `criteria`, or the key `rubric` of a file such as configs/distil/judge.yaml.

    Raises:
        ConfigError: the file is missing, is not valid YAML, or is not a rubric.
    """
    return _rubric(read_yaml(Path(path), "rubric", _RUBRIC_HINT), str(path))


def parse_rubric(text: str, location: str) -> Rubric:
    """Return the rubric of a YAML text: criteria, alone or under a key as in a file (see `load_rubric`).

    Args:
        text: the text.
        location: the field that it comes from, for errors.

    Raises:
        ConfigError: it is not valid YAML, or not a rubric.
    """
    return _rubric(parse_yaml(text, location), location)


_RUBRIC_HINT = "write criteria: [{name: …, text: …, weight: …}, …]"


def _rubric(raw: Any, location: str) -> Rubric:
    if isinstance(raw, Mapping) and "rubric" in raw:
        raw = raw["rubric"]
    mapping = raw if isinstance(raw, Mapping) else {"criteria": raw}
    return validate(Rubric, mapping, f"{location}: ", _RUBRIC_HINT)


def _lines(criterion: Criterion, levels: Mapping[str, str]) -> str:
    head = f"- {criterion.name}{f': {criterion.text}' if criterion.text else ''}"
    return "\n".join([head, *(f"  {name}: {text}" for name, text in levels.items())])


def comparison_text(criterion: Criterion) -> str:
    """Return what a judge that compares answers reads of a criterion: the text for `records.with_criteria`."""
    return _lines(criterion, {f"score {level}": text for level, text in sorted(criterion.levels.items())})


def rating_text(criterion: Criterion) -> str:
    """Return what a judge that rates from 1 to 10 reads of a criterion; its levels are shown at the nearest ratings.

    Levels that fall on one rating share its line.
    """
    texts: dict[str, str] = {}
    for level, text in sorted(criterion.levels.items()):
        rating = str(int(LOWEST + criterion.share(level) * (HIGHEST - LOWEST) + 0.5))
        texts[rating] = f"{texts[rating]}; {text}" if rating in texts else text
    return _lines(criterion, texts)


def score_of_rating(criterion: Criterion, rating: float) -> float:
    """Return a rating of 1 to 10 as a score on the criterion's own scale: the same share of it."""
    low, high = criterion.scale
    return low + (rating - LOWEST) / (HIGHEST - LOWEST) * (high - low)


@dataclass(frozen=True, slots=True)
class RubricComparison(Comparison):
    """The comparison of two answers by a rubric; `reason`, `reasons` and `verdicts` are those of each criterion, in `criteria`.

    Attributes:
        prob_a: P(the first answer is better), Σ weight · P / Σ weight over the criteria that can be read.
        criteria: name -> the comparison by this criterion alone.
    """

    criteria: dict[str, Comparison] = field(default_factory=dict)


def combine_comparisons(
    rubric: Rubric, criteria: Mapping[str, Comparison], *, comparison_id: str, margin: float
) -> RubricComparison:
    """Return the weighted result of the comparisons by each criterion.

    P(the first answer is better) by a criterion is its P(A), or 1, 0.5 or 0 without log-probabilities. A criterion that
    cannot be read does not count; where none can be, the outcome is that of the first.

    Args:
        rubric: weights.
        criteria: name of each criterion -> the comparison by it.
        comparison_id: id of the result.
        margin: in P, from 0 to 0.5: a result nearer to 0.5 is a tie.
    """
    preferences = {name: preference(comparison) for name, comparison in criteria.items()}
    weights = {c.name: c.weight for c in rubric.criteria if preferences[c.name] is not None}
    probability = winner = None
    outcome = next(iter(criteria.values())).outcome
    if weights:
        weighted = sum(weight * (preferences[name] or 0.0) for name, weight in weights.items())
        probability = min(1.0, weighted / sum(weights.values()))
        winner = winner_by_share(probability, margin)
        outcome = "tie" if winner == "tie" else "ok"
    return RubricComparison(
        comparison_id,
        winner,
        probability,
        None,
        outcome,
        (),
        prompt_tokens=sum(comparison.prompt_tokens for comparison in criteria.values()),
        tokens=sum(comparison.tokens for comparison in criteria.values()),
        error=next((c.error for c in criteria.values() if c.error), None) if outcome == "error" else None,
        criteria=dict(criteria),
    )


@dataclass(frozen=True, slots=True)
class RubricRating(Rating):
    """The rating of one answer by a rubric; `reason` and `votes` are those of each criterion, in `criteria`.

    Attributes:
        rating: the score as a rating from 1 to 10, `1 + 9 · score`.
        outcome: `ok`, or that of the first criterion that cannot be read.
        score: weighted score in [0, 1]; None where a criterion cannot be read: without it the score would be of another rubric.
        scores: name of each criterion that can be read -> its score, on the criterion's scale.
        criteria: name -> the rating by this criterion alone, from 1 to 10.
    """

    score: float | None = None
    scores: dict[str, float] = field(default_factory=dict)
    criteria: dict[str, Rating] = field(default_factory=dict)


def combine_ratings(rubric: Rubric, criteria: Mapping[str, Rating], *, rating_id: str) -> RubricRating:
    """Return the weighted score of the ratings by each criterion.

    Args:
        rubric: weights and scales.
        criteria: name of each criterion -> the rating by it.
        rating_id: id of the result.
    """
    scores = {
        c.name: score_of_rating(c, rating)
        for c in rubric.criteria
        if (rating := criteria[c.name].rating) is not None
    }
    unread = next((rating for rating in criteria.values() if rating.rating is None), None)
    score = None if unread else rubric.weighted_score(scores)
    return RubricRating(
        rating_id,
        None if score is None else LOWEST + score * (HIGHEST - LOWEST),
        unread.outcome if unread else "ok",
        "",
        tokens=sum(rating.tokens for rating in criteria.values()),
        prompt_tokens=sum(rating.prompt_tokens for rating in criteria.values()),
        error=next((rating.error for rating in criteria.values() if rating.error), None),
        rescued=any(rating.rescued for rating in criteria.values()),
        score=score,
        scores=scores,
        criteria=dict(criteria),
    )


@dataclass(frozen=True, slots=True)
class RubricListVerdict(ListVerdict):
    """The verdict on a list by a rubric; `reason` and `votes` are those of each criterion, in `criteria`.

    Attributes:
        probs: P(best) of each answer, Σ weight · P / Σ weight over the criteria that can be read.
        criteria: name -> the verdict by this criterion alone.
    """

    criteria: dict[str, ListVerdict] = field(default_factory=dict)


def combine_list_verdicts(
    rubric: Rubric, criteria: Mapping[str, ListVerdict], answers: int, *, verdict_id: str
) -> RubricListVerdict:
    """Return the weighted result of the verdicts on a list by each criterion.

    A criterion that cannot be read does not count; where none can be, the outcome is that of the first. Without
    log-probabilities a criterion's best answer has 1.

    Args:
        rubric: weights.
        criteria: name of each criterion -> the verdict by it.
        answers: number of answers in the list.
        verdict_id: id of the result, and of its list.
    """
    shares = {name: list_shares(verdict, answers) for name, verdict in criteria.items()}
    read = [(c.weight, share) for c in rubric.criteria if (share := shares[c.name]) is not None]
    probs, winner, outcome = None, None, next(iter(criteria.values())).outcome
    if total := sum(weight for weight, _ in read):
        probs = tuple(sum(weight * share[i] for weight, share in read) / total for i in range(answers))
        winner = best_index(probs)
        outcome = "tie" if winner is None else "ok"
    return RubricListVerdict(
        verdict_id,
        verdict_id,
        winner,
        probs,
        outcome,
        "",
        rescued=any(verdict.rescued for verdict in criteria.values()),
        tokens=sum(verdict.tokens for verdict in criteria.values()),
        error=next((v.error for v in criteria.values() if v.error), None) if outcome == "error" else None,
        criteria=dict(criteria),
    )


def rating_score(rating: Rating) -> float | None:
    """Return a rating as a score in [0, 1]; None where it cannot be read."""
    if isinstance(rating, RubricRating):
        return rating.score
    return None if rating.rating is None else (rating.rating - LOWEST) / (HIGHEST - LOWEST)


def criteria_histories(
    turns: Sequence[Message], rubric: Rubric | None, text: Callable[[Criterion], str]
) -> list[Sequence[Message]]:
    """Return the turns of each criterion's request: that criterion, in place of any before, and the conversation.

    Without a rubric they are the turns as they are.

    Args:
        turns: the conversation.
        rubric: the criteria.
        text: what the judge reads of one, `comparison_text` or `rating_text`.
    """
    if rubric is None:
        return [turns]
    conversation = split_criteria(turns)[1]
    return [with_criteria(conversation, replace_surrogates(text(criterion))) for criterion in rubric.criteria]
