"""Select criteria by their agreement with preference labels: each is judged alone, and what it is worth is measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from reasongenrm.chat.prompts import placed_prompts
from reasongenrm.config.draft import KeepConfig
from reasongenrm.config.rubric import Criterion
from reasongenrm.console import bar
from reasongenrm.judge.api import Judge
from reasongenrm.judge.ask import ask_all, compare_orders, preference, read_all
from reasongenrm.judge.criteria import comparison_text
from reasongenrm.judge.proposals import Candidate
from reasongenrm.metrics.intervals import McNemar, mcnemar
from reasongenrm.metrics.label_consistency import (
    CriterionVerdicts,
    Share,
    Worth,
    credit_share,
    fitted_weights,
    same_verdicts,
    weighted_credits,
    worth,
)
from reasongenrm.records import PreferencePair, Verdict, content_id, split_criteria, with_criteria
from reasongenrm.report.rubric_draft import KEPT, DraftedCriterion
from reasongenrm.store import PartStore

NO_RUBRIC, RUBRIC, EQUAL, BEST = (
    "judge without a rubric", "this rubric", "its criteria with equal weights", "its most accurate criterion alone",
)  # fmt: skip
"""Ways to decide the test rows."""

_NONE = ""
"""In place of a criterion's name, the judge without a rubric."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What a selection gives; see `DraftReport` for the attributes."""

    criteria: list[DraftedCriterion]
    together: dict[str, Share]
    better: McNemar | None


def prompt_id(pair: PreferencePair) -> str:
    """Return the content hash of a pair's conversation, without its criteria."""
    return content_id(split_criteria(pair.history)[1])


def select_criteria(
    judge: Judge,
    candidates: Sequence[Candidate],
    select: Sequence[PreferencePair],
    test: Sequence[PreferencePair],
    keep: KeepConfig,
    *,
    selection_path: Path,
    test_path: Path,
    seed: int,
) -> Selection:
    """Judge by each candidate alone, keep what agrees with the labels, weight it, and measure it on the test rows.

    Args:
        judge: a judge that compares.
        candidates: with unique names.
        select: rows that select and weight the criteria.
        test: rows that measure those which are kept, and the judge without a rubric.
        keep: the limits.
        selection_path, test_path: of the completions; an interrupted selection continues from them.
        seed: of intervals.
    """
    criteria = {c.name: Criterion(name=c.name, text=c.text) for c in candidates}
    verdicts = criteria_verdicts(judge, criteria, select, selection_path)
    clusters = [prompt_id(pair) for pair in select]
    worths = {name: worth(one, clusters, seed=seed) for name, one in verdicts.items()}
    fates = label_consistent(verdicts, worths, keep)
    agreeing = {name: verdicts[name] for name, fate in fates.items() if fate == KEPT}
    weights = fitted_weights(agreeing) if agreeing else {}
    fates |= dict.fromkeys(agreeing.keys() - weights.keys(), "adds nothing beside the others")
    tested: dict[str, CriterionVerdicts] = {}
    if weights:
        asked: dict[str, Criterion | None] = {_NONE: None} | {name: criteria[name] for name in weights}
        tested = criteria_verdicts(judge, asked, test, test_path)
    test_clusters = [prompt_id(pair) for pair in test]
    drafted = [
        DraftedCriterion(
            c.name, c.text, c.proposed, fates[c.name], worths[c.name], weights.get(c.name),
            worth(tested[c.name], test_clusters, seed=seed) if c.name in weights else None,
        )
        for c in candidates
    ]  # fmt: skip
    drafted.sort(key=lambda one: (one.fate != KEPT, -(one.weight or 0.0)))
    credits = _credits(tested, weights, worths)
    together = {name: credit_share(values, test_clusters, seed=seed) for name, values in credits.items()}
    better = None
    if credits:
        ours, theirs = ([value == 1 for value in credits[name]] for name in (RUBRIC, NO_RUBRIC))
        better = mcnemar(ours, theirs)
    return Selection(drafted, together, better)


def criteria_verdicts(
    judge: Judge,
    criteria: Mapping[str, Criterion | None],
    pairs: Sequence[PreferencePair],
    path: Path,
) -> dict[str, CriterionVerdicts]:
    """Judge every pair by each criterion alone, all in one store; return name -> verdicts in the order of the pairs.

    Args:
        judge: a judge that compares.
        criteria: name -> criterion; None for the judge without a rubric.
        pairs: with distinct contents.
        path: of the completions.
    """

    def history(pair: PreferencePair, criterion: Criterion | None) -> Any:
        if criterion is None:
            return pair.history
        return with_criteria(split_criteria(pair.history)[1], comparison_text(criterion))

    both = judge.config.both_orders
    placed = [
        placed_prompts(
            PreferencePair.make(history(pair, criterion), pair.chosen, pair.rejected, pair.source),
            judge.prompt_file,
            seed=judge.seed,
            both_orders=both,
        )
        for criterion in criteria.values()
        for pair in pairs
    ]
    prompts = [prompt for orders in placed for prompt in orders]
    store = PartStore(path)
    with bar("judging", len(prompts) * judge.config.votes) as progress:
        ask_all(prompts, judge.engine, judge.task, store, adapter=judge.adapter, progress=progress)
    verdicts = iter(read_all(prompts, judge.task, store))
    results = {}
    for name, group in zip(criteria, _chunks(placed, len(pairs)), strict=True):
        by_pair = [list(islice(verdicts, len(orders))) for orders in group]
        margin = judge.config.margin
        combined = [compare_orders("", [(v, ()) for v in some], margin=margin) for some in by_pair]
        results[name] = CriterionVerdicts(
            tuple(preference(comparison) for comparison in combined), tuple(map(_decided, by_pair))
        )
    return results


def _chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _decided(verdicts: Sequence[Verdict]) -> bool:
    """Whether every order names an answer, and all the same one."""
    named = {(verdict.winner == "A") == (verdict.order == "AB") for verdict in verdicts}
    return len(named) == 1 and all(verdict.winner in ("A", "B") for verdict in verdicts)


def label_consistent(
    verdicts: Mapping[str, CriterionVerdicts], worths: Mapping[str, Worth], keep: KeepConfig
) -> dict[str, str]:
    """Return name -> `kept`, or why the criterion is left out.

    Of two criteria whose verdicts are nearly the same, the one with the higher lower limit of its accuracy is kept.

    Args:
        verdicts: name -> verdicts on the same rows.
        worths: name -> what it is worth alone.
        keep: the limits.
    """

    def lower(name: str) -> float:
        share: Share = worths[name].accuracy
        return share.interval[0] if share.interval else 0.0

    fates: dict[str, str] = {}
    kept: list[str] = []
    for name in sorted(verdicts, key=lambda name: (-lower(name), -worths[name].coverage)):  # stable
        share = worths[name].accuracy
        twin = next((k for k in kept if same_verdicts(verdicts[name], verdicts[k]) >= keep.same_verdicts), "")
        if worths[name].coverage < keep.coverage or share.value is None:
            fates[name] = "decides too few rows"
        elif lower(name) <= keep.accuracy:
            fates[name] = (
                "contradicts the labels"
                if share.interval and share.interval[1] < 0.5
                else "agreement not shown"
            )
        elif twin:
            fates[name] = f"same verdicts as {twin}"
        else:
            fates[name] = KEPT
            kept.append(name)
    return {name: fates[name] for name in verdicts}


def _credits(
    tested: Mapping[str, CriterionVerdicts], weights: Mapping[str, float], worths: Mapping[str, Worth]
) -> dict[str, list[float]]:
    """Return each way to decide the test rows -> the credit of each row."""
    if not weights:
        return {}
    best = max(weights, key=lambda name: worths[name].accuracy.value or 0.0)
    return {
        NO_RUBRIC: weighted_credits(tested, {_NONE: 1.0}),
        RUBRIC: weighted_credits(tested, weights),
        EQUAL: weighted_credits(tested, dict.fromkeys(weights, 1.0)),
        BEST: weighted_credits(tested, {best: 1.0}),
    }
