"""Too few prompts keep a reason: the distribution of the scores, what was dropped, and what to change."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from reasongenrm.config.prepare import SelectConfig
from reasongenrm.reasons.select import compile_formula, right_reasons
from reasongenrm.records import ScoredReason
from reasongenrm.report.tables import MISSING, TextTable

SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Quantiles of the table of scores."""

HINTS: dict[str, str] = {
    "engine_error": "see the files in reasons/ for the errors",
    "truncated": "raise the teachers' max_tokens",
    "empty_reason": "see the files in reasons/, and the teacher's wording in the prompt file",
    "no_verdict": "see the files in reasons/, and verdict_phrases in the prompt file",
    "gives_verdict_away": "lower select.giveaway_words",
    "points_not_covered": "lower select.rationale, or raise the teachers' samples",
    "wrong_verdict": "raise the teachers' samples, or add a teacher",
    "contradicts_verdict": "raise the teachers' samples, or add a teacher",
    "record_too_long": "raise data.max_tokens, or lower the teachers' max_tokens",
    "not_selected": "set another select.selector",
}
"""What to change, by the slug of the drops that are the most frequent."""


def quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest of the sorted values that at least this share of them does not exceed."""
    return values[max(0, math.ceil(share * len(values)) - 1)]


@dataclass(frozen=True)
class ScoreDistribution:
    """Scores of the right reasons of a run, each list sorted.

    Attributes:
        reason: mean log p(R | U), in nats per token.
        verdict: mean log p(A | U, R), in nats per token.
        value: R*, by `select.formula`.
        best: the highest R* of each prompt with a right reason.
    """

    reason: list[float]
    verdict: list[float]
    value: list[float]
    best: list[float]

    @classmethod
    def from_groups(cls, groups: Iterable[Sequence[ScoredReason]], config: SelectConfig) -> ScoreDistribution:
        """Read the scored reasons, one prompt after the other."""
        formula = compile_formula(config.formula)
        lists: tuple[list[float], ...] = ([], [], [], [])
        for group in groups:
            right = right_reasons(group)
            values = [formula(r.reason_logprob, r.verdict_logprob) for r in right]
            lists[0].extend(r.reason_logprob for r in right)
            lists[1].extend(r.verdict_logprob for r in right)
            lists[2].extend(values)
            lists[3].extend([max(values)] if values else [])
        return cls(*map(sorted, lists))

    def table(self) -> TextTable:
        """Return the quantiles of the scores."""
        rows = [
            ("log p(R|U), per token", self.reason),
            ("log p(A|U,R), per token", self.verdict),
            ("R*", self.value),
            ("R*, best of each prompt", self.best),
        ]
        headings = ("reasons with the right verdict", "count", *(f"{100 * share:.0f} %" for share in SHARES))
        cells = [
            (name, str(len(values)), *(f"{quantile(values, share):.3f}" if values else MISSING for share in SHARES))
            for name, values in rows
        ]  # fmt: skip
        return TextTable(headings, tuple(cells), title="Quantiles of the scores")

    def threshold(self, prompts: int, min_kept: float) -> float | None:
        """Return the highest `select.threshold`, to four digits, with which R* keeps a reason of `min_kept` of the prompts;
        None where too few prompts have a right reason."""
        needed = max(1, math.ceil(min_kept * prompts))
        if needed > len(self.best):
            return None
        return math.ceil(self.best[-needed] * 1e4 - 1) / 1e4  # R* has to be above it


def drop_table(
    sampled: Mapping[str, int], kept: Mapping[str, int], dropped: Mapping[tuple[str, str], int]
) -> TextTable:
    """Return the reasons by teacher: sampled, dropped by slug and teacher, and kept."""
    teachers = list(sampled)

    def row(name: str, counts: Mapping[str, int]) -> tuple[str, ...]:
        return (name, *(str(counts.get(teacher, 0)) for teacher in teachers), str(sum(counts.values())))

    slugs = sorted({slug for slug, _ in dropped})
    drops = {slug: {teacher: dropped.get((slug, teacher), 0) for teacher in teachers} for slug in slugs}
    rows = [row("sampled", sampled), *(row(slug, drops[slug]) for slug in slugs), row("kept", kept)]
    return TextTable(("reasons", *teachers, "all"), tuple(rows), title="Reasons by teacher")


def advice(
    config: SelectConfig, scores: ScoreDistribution, prompts: int, dropped: Mapping[tuple[str, str], int]
) -> str:
    """Return what to change so that enough prompts keep a reason; sampled reasons and their scores can stay."""
    threshold = scores.threshold(prompts, config.min_kept)
    if config.selector == "rstar" and threshold is not None and threshold < config.threshold:
        return f"select.threshold={threshold:g} keeps {100 * config.min_kept:g} %"
    counts: Counter[str] = Counter()
    for (slug, _), count in dropped.items():
        counts[slug] += count * (slug in HINTS)
    slug, count = max(counts.items(), key=lambda item: item[1], default=("", 0))
    return f"most are {slug}: {HINTS[slug]}" if count else "see reasons_dropped.jsonl"
