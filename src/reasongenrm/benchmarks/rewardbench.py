"""RewardBench v1: four sections of pairs, and the weighted mean of their accuracies.

RewardBench: Evaluating Reward Models for Language Modeling. Lambert et al. 2024, https://arxiv.org/abs/2403.13787
Upstream: `rewardbench/utils.py` (calculate_scores_per_section), `scripts/run_generative.py` and `scripts/run_rm.py` of
https://github.com/allenai/reward-bench
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path

from reasongenrm.benchmarks import loading
from reasongenrm.benchmarks.base import Benchmark, Table
from reasongenrm.errors import DataError
from reasongenrm.records import Drop, PairResult, Row
from reasongenrm.rows.files import RawRow, read_rows
from reasongenrm.rows.turns import BadRow, quoted

COLUMNS = ("prompt", "chosen", "rejected", "subset")

_HUMANEVAL = ("hep-cpp", "hep-go", "hep-java", "hep-js", "hep-python", "hep-rust")

# Upstream constants.py. A weight is the subset's number of rows, except math-prm: 447 rows count 984, as much
# as the six code subsets together. The xstest numbers were swapped in upstream's early versions; 154 rows
# should be refused and 250 answered.
_SECTIONS = {
    "Chat": {
        "alpacaeval-easy": 100,
        "alpacaeval-length": 95,
        "alpacaeval-hard": 95,
        "mt-bench-easy": 28,
        "mt-bench-med": 40,
    },
    "Chat Hard": {
        "mt-bench-hard": 37,
        "llmbar-natural": 100,
        "llmbar-adver-neighbor": 134,
        "llmbar-adver-GPTInst": 92,
        "llmbar-adver-GPTOut": 47,
        "llmbar-adver-manual": 46,
    },
    "Safety": {
        "refusals-dangerous": 100,
        "refusals-offensive": 100,
        "xstest-should-refuse": 154,
        "xstest-should-respond": 250,
        "donotanswer": 136,
    },
    "Reasoning": {"math-prm": 984} | dict.fromkeys(_HUMANEVAL, 164),
}

REWARDBENCH = Table(
    name="RewardBench",
    sections=_SECTIONS,
    published_rows={s: w for weights in _SECTIONS.values() for s, w in weights.items()} | {"math-prm": 447},
)

# Upstream analysis/get_benchmark_results.py: the section is the plain mean of the four sets, and has half the weight
# of another section. Row counts: the paper's table 1.
PRIOR_SETS = {"anthropic_helpful": 6192, "anthropic_hhh": 221, "shp": 1741, "summarize": 9000}

PRIOR_SECTION = "Prior Sets"

WITH_PRIOR_SETS = Table(
    name="RewardBench (with prior sets)",
    sections=_SECTIONS | {PRIOR_SECTION: dict.fromkeys(PRIOR_SETS, 1)},
    published_rows=dict(REWARDBENCH.published_rows) | PRIOR_SETS,
    section_weights={PRIOR_SECTION: 0.5},
)

# The demo's own rows under RewardBench's section names: not a published benchmark, not comparable with one.
TOY = Table(
    name="TOY (RewardBench's sections)",
    sections={section: {f"toy-{section.lower().replace(' ', '-')}": 1} for section in _SECTIONS},
    toy=True,
)


def table_for(subsets: Iterable[str], *, location: str = REWARDBENCH.name) -> Table:
    """Return the table that contains these subsets.

    Raises:
        DataError: a subset is in no table, or toy and real subsets are mixed; the error names the known subsets.
    """
    present = sorted(set(subsets))
    real, toy = ([s for s in present if s in table.subsets] for table in (REWARDBENCH, TOY))
    known = f"RewardBench's subsets: {', '.join(REWARDBENCH.subsets)}; toy subsets: {', '.join(TOY.subsets)}"
    for subset in present:
        if subset not in (*real, *toy):
            raise DataError(f"unknown subset {quoted(subset)}", location=location, hint=known)
    if toy and real:
        raise DataError(
            f"toy subset {toy[0]!r} and RewardBench subset {real[0]!r} in one benchmark",
            location=location,
            hint=f"keep them in separate files; {known}",
        )
    return TOY if toy else REWARDBENCH


class RewardBench(Benchmark):
    """RewardBench v1, or the toy benchmark of the same form.

    Args:
        prior_sets: whether to read the prior sets too, as a fifth section of half weight.
        prior_path: the prior sets: a hub dataset with one split per set, or a folder with a `.jsonl`, `.json` or
            `.parquet` file per set, such as `shp.jsonl`.
        max_messages: drop conversations with more messages, the answer included; None judges all. Upstream's generative
            runner judges at most 4 (`max_turns` in `scripts/run_generative.py`); RewardBench's own rows have fewer,
            some of the prior sets have more.
    """

    name = REWARDBENCH.name
    split = "filtered"
    required = COLUMNS
    columns = ("id",)
    row_hint = f"a row has the columns {', '.join(COLUMNS)}"

    def __init__(
        self,
        *,
        prior_sets: bool = False,
        prior_path: str = "allenai/pref-test-sets",
        max_messages: int | None = None,
    ) -> None:
        self.prior_sets, self.prior_path, self.max_messages = prior_sets, prior_path, max_messages
        if prior_sets:
            self.name = WITH_PRIOR_SETS.name

    def rows(
        self, path: str, *, split: str | None = None, revision: str | None = None, limit: int | None = None
    ) -> Iterator[Row | Drop]:
        """See `Benchmark`; `revision` is that of `path`. An empty answer, or two equal answers, is a row to be judged.

        Raises:
            DataError: also if a subset is unknown (see `table_for`): before the judging, not after it.
        """
        subsets: set[str] = set()

        def read_known(raw: RawRow) -> Row:
            row = self.read_row(raw)
            if row.subset not in subsets:
                subsets.add(row.subset)
                table_for(subsets, location=raw.location)
            return row

        raw = self.raw_rows(path, split=split, revision=revision, limit=limit)
        rows = loading.parsed_rows(raw, read_known, location=path, hint=self.row_hint)
        if not self.prior_sets:
            return rows
        raw = _prior_rows(self.prior_path)
        prior = loading.parsed_rows(raw, self._read_prior, location=self.prior_path, hint=self.row_hint)
        return islice(chain(rows, prior), limit)

    def read_row(self, raw: RawRow) -> Row:
        subset, chosen, rejected = (loading.text(raw, name) for name in ("subset", "chosen", "rejected"))
        turns = loading.prompt(raw, "prompt")
        if any(turn["role"] == "system" for turn in turns[1:]):
            problem = "`prompt` has a system turn after the first turn; a system turn must come first."
            raise BadRow("bad_role", problem)
        if self.max_messages is not None and len(turns) + 1 > self.max_messages:
            problem = (
                f"The conversation has {len(turns) + 1} messages; `max_messages` is {self.max_messages}."
            )
            raise BadRow("too_many_messages", problem)
        return Row.make(subset, turns, [chosen], [rejected], details=loading.row_name(raw))

    def _read_prior(self, raw: RawRow) -> Row:
        row = self.read_row(raw)
        # The set's name keeps the ids distinct from those of RewardBench's own rows.
        return replace(row, id=f"{row.id}-{row.subset}")

    def table(self, rows: Sequence[Row]) -> Table:
        subsets = {row.subset for row in rows}
        if self.prior_sets and not subsets <= set(TOY.subsets):
            table_for(subsets - set(PRIOR_SETS))  # raises for toy and unknown subsets
            return WITH_PRIOR_SETS
        return table_for(subsets)

    def strict_result(self, result: PairResult) -> PairResult:
        """See `Benchmark`; equal ratings of a judge that rates answers are wrong here."""
        if result.verdicts:
            return super().strict_result(result)
        return result if min(result.correct) == 1 else replace(result, correct=(0.0,))


def _prior_rows(path: str) -> Iterator[RawRow | Drop]:
    """Return the rows of the prior sets with the set's name as `subset`; a finer `subset` of the set is not used.

    Raises:
        DataError: a file in place of a folder, or a folder without a file of each set.
    """
    sources = {name: _prior_files(path, name) for name in PRIOR_SETS}

    def rows() -> Iterator[RawRow | Drop]:
        for name, files in sources.items():
            for file in files:
                for raw in read_rows(file, required=COLUMNS[:3], split=name):
                    yield (
                        raw if isinstance(raw, Drop) else replace(raw, columns=raw.columns | {"subset": name})
                    )

    return rows()


def _prior_files(path: str, name: str) -> list[str]:
    """Return the files of one prior set in a folder: `shp.jsonl`, or shards of a hub dataset; else the hub dataset."""
    local = Path(os.path.expanduser(path))
    hint = f"give a folder with one file per set, such as shp.jsonl; the sets are {', '.join(PRIOR_SETS)}"
    if local.is_file():
        raise DataError("one file in place of the four prior sets", location=path, hint=hint)
    if not local.is_dir():
        return [path]
    pattern = re.compile(rf"{name}(-\d{{5}}-of-\d{{5}}(-\w+)?)?\.(jsonl|json|parquet)")
    files = sorted(str(file) for file in local.iterdir() if file.is_file() and pattern.fullmatch(file.name))
    if not files:
        raise DataError(f"no file of the prior set {name}", location=path, hint=hint)
    return files
