"""RewardBench v1: four sections of pairs, and the weighted mean of their accuracies.

RewardBench: Evaluating Reward Models for Language Modeling. Lambert et al. 2024, https://arxiv.org/abs/2403.13787
Upstream: `rewardbench/utils.py` (calculate_scores_per_section), `scripts/run_generative.py` and `scripts/run_rm.py` of
https://github.com/allenai/reward-bench
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path

from reasongenrm.benchmarks import loading
from reasongenrm.benchmarks.base import Benchmark, Table
from reasongenrm.errors import DataError
from reasongenrm.metrics.scores import BenchmarkScore
from reasongenrm.records import Drop, PairResult, Row
from reasongenrm.rows.files import RawRow, read_rows
from reasongenrm.rows.turns import BadRow

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
            raise DataError(f"unknown subset {subset!r}", location=location, hint=known)
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
        prior_path: the prior sets: a hub dataset with one split per set, or a folder with a `.jsonl` or `.parquet` file
            per set, such as `shp.jsonl`.
    """

    name = REWARDBENCH.name
    split = "filtered"
    required = COLUMNS
    row_hint = f"a row has the columns {', '.join(COLUMNS)}"

    def __init__(self, *, prior_sets: bool = False, prior_path: str = "allenai/pref-test-sets") -> None:
        self.prior_sets, self.prior_path = prior_sets, prior_path
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
        return Row.make(subset, turns, [chosen], [rejected])

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
        return result if min(result.correct) == 1 else replace(result, correct=(0.0,))


def _prior_rows(path: str) -> Iterator[RawRow | Drop]:
    """Yield the rows of the prior sets with the set's name as `subset`; a finer `subset` of the set is not used."""
    folder = Path(path).expanduser()
    for name in PRIOR_SETS:
        files = [folder / f"{name}{suffix}" for suffix in (".jsonl", ".parquet")]
        file = next((file for file in files if file.is_file()), None)
        for raw in read_rows(str(file or path), required=COLUMNS[:3], split=name):
            yield raw if isinstance(raw, Drop) else replace(raw, columns=raw.columns | {"subset": name})


def leaderboard_files(
    score: BenchmarkScore, model: str, *, model_type: str = "Generative RM", chat_template: str | None = None
) -> dict[str, dict[str, str | float | None]]:
    """Return a result in the layout of allenai's leaderboard: folder -> content of `<folder>/<model>.json`.

    `eval-set` has the benchmark's own subsets, `pref-sets` the prior sets (only if they were judged):
    `{model, model_type, chat_template, <subset>: accuracy, …}`, keys sorted, as upstream's `scripts/run_rm.py`,
    `run_generative.py` and `run_v2.py` pass them to `save_to_hub`.

    Args:
        score: of RewardBench or RewardBench 2.
        model: `org/name`.
        model_type: upstream's value: `Generative RM`, `Seq. Classifier`, `Custom Classifier` or `DPO`.
        chat_template: upstream's value: `tokenizer` if the tokenizer's own is used; null for generative judges.

    Raises:
        DataError: a toy benchmark, which has no leaderboard.
    """
    if score.toy:
        problem = "a toy benchmark has no leaderboard"
        raise DataError(problem, location=score.benchmark, hint="judge RewardBench itself")
    header = {"model": model, "model_type": model_type, "chat_template": chat_template}
    files: dict[str, dict[str, str | float | None]] = {"eval-set": {**header}}
    for name, subset in score.subsets.items():
        folder = "pref-sets" if subset.section == PRIOR_SECTION else "eval-set"
        files.setdefault(folder, {**header})[name] = subset.accuracy
    return {folder: dict(sorted(content.items())) for folder, content in files.items()}
