"""M-RewardBench: RewardBench's sections in 23 languages.

M-RewardBench: Evaluating Reward Models in Multilingual Settings. Gureja et al. 2024, https://arxiv.org/abs/2410.15522
Upstream: https://github.com/Cohere-Labs-Community/m-rewardbench; a language is scored as RewardBench
(`benchmarks/rewardbench.py`), and the benchmark is the mean of the languages.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from reasongenrm.benchmarks import loading
from reasongenrm.benchmarks.base import Benchmark, Results, Shares, Table
from reasongenrm.benchmarks.rewardbench import REWARDBENCH
from reasongenrm.records import Row
from reasongenrm.rows.files import RawRow
from reasongenrm.rows.turns import BadRow, is_text, quoted

LANGUAGES = (
    "arb_Arab", "ces_Latn", "deu_Latn", "ell_Grek", "fra_Latn", "heb_Hebr", "hin_Deva", "ind_Latn", "ita_Latn",
    "jpn_Jpan", "kor_Hang", "nld_Latn", "pes_Arab", "pol_Latn", "por_Latn", "ron_Latn", "rus_Cyrl", "spa_Latn",
    "tur_Latn", "ukr_Cyrl", "vie_Latn", "zho_Hans", "zho_Hant",
)  # fmt: skip
"""Configurations of the hub dataset; its configuration `translation` is another task, and is not read."""


class MRewardBench(Benchmark):
    """M-RewardBench; the score is the mean of the languages, each the mean of its RewardBench sections."""

    name = "M-RewardBench"
    split = "test"
    required = ("prompt", "chosen", "rejected", "subset")
    columns = ("language", "id")
    row_hint = "a row has the columns language, prompt, chosen, rejected and subset"

    def sources(self, path: str, split: str | None) -> list[tuple[str, str]]:
        """See `Benchmark`; of a hub dataset all languages, or the one in `owner/name:deu_Latn`; of a folder its languages."""
        name = split or self.split
        local = Path(os.path.expanduser(path))
        if local.is_dir():
            folders = [local / language for language in LANGUAGES if (local / language).is_dir()]
            return [(str(folder), name) for folder in folders] or super().sources(path, split)
        if local.exists() or ":" in path or Path(path).suffix:
            return [(path, name)]
        return [(f"{path}:{language}", name) for language in LANGUAGES]

    def read_row(self, raw: RawRow) -> Row:
        """See `Benchmark`; without a known `language` it is that of the file's or folder's name."""
        subset, chosen, rejected = (loading.text(raw, name) for name in ("subset", "chosen", "rejected"))
        if subset not in REWARDBENCH.subsets:
            known = ", ".join(REWARDBENCH.subsets)
            raise BadRow("unknown_subset", f"`subset` is {quoted(subset)}; it must be one of {known}.")
        turns = loading.prompt(raw, "prompt")
        return Row.make(
            f"{_language(raw)}/{subset}", turns, [chosen], [rejected], details=loading.row_name(raw)
        )

    def table(self, rows: Sequence[Row]) -> Table:
        """See `Benchmark`; within a language every section that is present has the same weight."""
        present = {row.subset for row in rows}
        sections = {language: _weights(language, present) for language in LANGUAGES}
        return Table(self.name, sections)

    def details(self, rows: Sequence[Row], results: Results, sections: Shares) -> Shares:
        """Return the mean of the languages' accuracies per section of RewardBench."""
        credits: dict[tuple[str, str], list[float]] = {}
        for row in rows:
            language, _, subset = row.subset.partition("/")
            credit = self.row_credit(row, [results[pair.id] for pair in row.pairs])
            credits.setdefault((language, subset), []).append(credit)
        details: Shares = {}
        for section, weights in REWARDBENCH.sections.items():
            means = []
            for language in LANGUAGES:
                there = {name: weight for name, weight in weights.items() if (language, name) in credits}
                if there:
                    total = sum(weight * fmean(credits[language, name]) for name, weight in there.items())
                    means.append(total / sum(there.values()))
            details[section] = fmean(means) if means else None
        return details


def _weights(language: str, present: set[str]) -> Mapping[str, float]:
    """Return subset -> weight, so that every section of RewardBench with rows has the weight 1."""
    found: dict[str, float] = {}
    for weights in REWARDBENCH.sections.values():
        there = {
            f"{language}/{name}": weight
            for name, weight in weights.items()
            if f"{language}/{name}" in present
        }
        found |= {name: weight / sum(there.values()) for name, weight in there.items()}
    return found


def _language(raw: RawRow) -> str:
    column = raw.columns.get("language")
    for name in (column, raw.origin, Path(raw.file).parent.name):
        for language in LANGUAGES:
            if is_text(name) and language in name:
                return language
    problem = f"`language` is {quoted(column)}; it must be one of {', '.join(LANGUAGES)}, or the file must be named so."
    raise BadRow("unknown_language", problem)
