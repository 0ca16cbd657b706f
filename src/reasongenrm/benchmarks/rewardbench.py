"""RewardBench v1: four sections of pairs, and the weighted mean of their accuracies.

Sources: the paper, Lambert et al. 2024, arXiv 2403.13787; upstream `rewardbench/utils.py`
(calculate_scores_per_section), `scripts/run_generative.py` and `scripts/run_rm.py` of
github.com/allenai/reward-bench.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from reasongenrm.benchmarks.base import ScoredBenchmark, Scoring, Table, tally
from reasongenrm.errors import DataError
from reasongenrm.metrics.scores import BenchmarkScore
from reasongenrm.records import Drop, Message, PairResult, PreferencePair, Row
from reasongenrm.rows.files import UNKNOWN_SOURCE, RawRow, read_rows
from reasongenrm.rows.turns import is_text, kind_of

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
    "Reasoning": {
        "math-prm": 984,
        "hep-cpp": 164,
        "hep-go": 164,
        "hep-java": 164,
        "hep-js": 164,
        "hep-python": 164,
        "hep-rust": 164,
    },
}


REWARDBENCH = Table(
    name="RewardBench",
    toy=False,
    sections=_SECTIONS,
    published_rows={s: w for weights in _SECTIONS.values() for s, w in weights.items()} | {"math-prm": 447},
)


# Upstream analysis/get_benchmark_results.py: the section is the plain mean of the four sets, and weighs half of
# another section. Row counts: the paper's table 1.
PRIOR_SETS = {"anthropic_helpful": 6192, "anthropic_hhh": 221, "shp": 1741, "summarize": 9000}


PRIOR_SECTION = "Prior Sets"


WITH_PRIOR_SETS = Table(
    name="RewardBench (with prior sets)",
    toy=False,
    sections=_SECTIONS | {PRIOR_SECTION: dict.fromkeys(PRIOR_SETS, 1)},
    published_rows=dict(REWARDBENCH.published_rows) | PRIOR_SETS,
    section_weights={PRIOR_SECTION: 0.5},
)


# TOY: the demo's own rows under RewardBench's section names. Not a published benchmark; compares with
# nothing.
TOY = Table(
    name="TOY (RewardBench's sections)",
    toy=True,
    sections={
        "Chat": {"toy-chat": 1},
        "Chat Hard": {"toy-chat-hard": 1},
        "Safety": {"toy-safety": 1},
        "Reasoning": {"toy-reasoning": 1},
    },
    published_rows={},
)


def table_for(subsets: Iterable[str], *, location: str = "") -> Table:
    """Return the table that holds all the given subsets.

    Raises:
        DataError: a subset is in no table, or toy and real subsets are mixed; names the subset and the known
            ones.
    """
    present = sorted(set(subsets))
    for subset in present:
        if not any(subset in table.subsets for table in (REWARDBENCH, TOY)):
            known = ", ".join(REWARDBENCH.subsets + TOY.subsets)
            raise DataError(f"unknown subset {subset!r}", location=location, hint=f"known subsets: {known}")
    toy = [subset for subset in present if subset in TOY.subsets]
    if toy and len(toy) < len(present):
        real = next(subset for subset in present if subset not in toy)
        raise DataError(
            f"toy subset {toy[0]!r} and RewardBench subset {real!r} in one benchmark",
            location=location,
            hint=f"keep them in separate files; toy subsets: {', '.join(TOY.subsets)}; "
            f"RewardBench's: {', '.join(REWARDBENCH.subsets)}",
        )
    return TOY if toy else REWARDBENCH


COLUMNS = ("prompt", "chosen", "rejected", "subset")


def to_pair(row: RawRow) -> PreferencePair | Drop:
    """Return a row as a pair.

    The prompt is one user turn as a string, or a list of messages that ends with a user turn; answers are
    strings, empty and equal ones too. Anything else is a Drop (`missing_column`, `bad_type`,
    `bad_encoding`).
    """
    parsed = _parse(row.columns)
    if isinstance(parsed, PreferencePair):
        return parsed
    subset = row.columns.get("subset")
    source = subset if is_text(subset) else UNKNOWN_SOURCE
    return Drop(row.location, source, *parsed, "load")


def _parse(columns: Mapping[str, Any]) -> PreferencePair | tuple[str, str]:
    """Return the pair, or the slug and the sentence of what is wrong with the row."""
    missing = [name for name in COLUMNS if name not in columns]
    if missing:
        return "missing_column", f"There is no column {', '.join(missing)}."
    prompt, *texts = (columns[name] for name in COLUMNS)
    for name, text in zip(COLUMNS[1:], texts, strict=True):
        if not isinstance(text, str):
            return "bad_type", f"`{name}` is {kind_of(text)}; make it a string."
    history = _history(prompt)
    if history is None:
        return "bad_type", "`prompt` is neither a string nor a list of messages that ends with a user turn."
    if not all(map(is_text, (*texts, *(turn["content"] for turn in history)))):
        return "bad_encoding", "A text of the row holds half a surrogate pair; write the whole character."
    return PreferencePair.make(history, *texts)


def _history(prompt: Any) -> tuple[Message, ...] | None:
    """Return the prompt's turns, the last of them a user turn; None when it cannot be read so."""
    if isinstance(prompt, str):
        return (Message(role="user", content=prompt),)
    if not isinstance(prompt, list) or not prompt:
        return None
    turns: list[Message] = []
    for turn in prompt:
        if not isinstance(turn, dict) or not isinstance(turn.get("content"), str):
            return None
        role = turn.get("role")
        if role not in ("system", "user", "assistant") or (role == "system" and turns):
            return None
        turns.append(Message(role=role, content=turn["content"]))
    return tuple(turns) if turns[-1]["role"] == "user" else None


def load_benchmark(
    path: str, *, split: str = "filtered", revision: str | None = None, limit: int | None = None
) -> Iterator[PreferencePair | Drop]:
    """Yield a benchmark's rows as pairs whose `source` is the subset; a row that cannot be read is a Drop.

    Only unreadable rows are dropped: an empty answer, or two equal answers, is still a row to be judged. A
    repeated row keeps its content id with `-2`, `-3`, … added.

    Args:
        path, split, revision, limit: see `reading.read_rows`; the columns are `prompt` (one user turn as a
            string, or a list of messages), `chosen`, `rejected`, `subset`.

    Raises:
        ConfigError: a negative limit, or a revision of a local path.
        DataError: nothing is at `path`, a file lacks a column, no row can be read, or a subset is unknown
            (see `table_for`).
    """
    copies: Counter[str] = Counter()
    subsets: set[str] = set()
    for row in read_rows(path, required=COLUMNS, split=split, revision=revision, limit=limit):
        pair = row if isinstance(row, Drop) else to_pair(row)
        if isinstance(pair, Drop):
            yield pair
            continue
        if pair.source not in subsets:  # now, not after hours of judging
            subsets.add(pair.source)
            table_for(subsets, location=row.location)
        copies[pair.id] += 1
        yield pair if copies[pair.id] == 1 else replace(pair, id=f"{pair.id}-{copies[pair.id]}")
    if not copies:
        raise DataError("no readable row", location=path, hint=f"a row has the columns {', '.join(COLUMNS)}")


def score(results: Iterable[PairResult], *, seed: int = 0) -> BenchmarkScore:
    """Return the official score of some judged rows, with all that a report says about it.

    A row's credit is the mean over its orders. The result does not depend on the order of the rows.

    Args:
        seed: of the bootstrap behind the score's interval.

    Raises:
        DataError: no rows, or subsets that no table holds.
    """
    return _worked(results, seed=seed).score


def _worked(results: Iterable[PairResult], *, seed: int) -> ScoredBenchmark:
    by_subset: defaultdict[str, list[PairResult]] = defaultdict(list)
    for result in results:
        by_subset[result.subset].append(result)
    if not by_subset:
        raise DataError("no rows to score", hint="judge a benchmark first")
    return _tallied(table_for(by_subset), by_subset, seed=seed)


def _tallied(table: Table, by_subset: Mapping[str, Sequence[PairResult]], *, seed: int) -> ScoredBenchmark:
    return tally(
        table,
        {name: [row.credit for row in rows] for name, rows in by_subset.items()},
        {name: [float(min(row.correct) == 1) for row in rows] for name, rows in by_subset.items()},
        by_subset,
        rows={name: len(rows) for name, rows in by_subset.items()},
        seed=seed,
    )


@dataclass(frozen=True, slots=True)
class RewardBench(Scoring):
    """RewardBench v1, or the toy benchmark of the same form.

    Attributes:
        prior_sets: whether the prior sets are read too, as a fifth section of half weight.
        prior_path: the prior sets: a hub dataset with one split per set, or a folder that holds a `.jsonl` or
            `.parquet` file per set (`shp.jsonl`, or the hub's `shp-00000-of-00001.parquet`).
        split: see `Benchmark`.
    """

    prior_sets: bool = False
    prior_path: str = "allenai/pref-test-sets"
    split: str = "filtered"

    @property
    def name(self) -> str:
        """See `Benchmark`."""
        return (WITH_PRIOR_SETS if self.prior_sets else REWARDBENCH).name

    def rows(
        self, path: str, *, split: str | None = None, revision: str | None = None, limit: int | None = None
    ) -> Iterator[Row | Drop]:
        """See `Benchmark` and `load_benchmark`; the revision is that of `path`, not of the prior sets."""
        pairs = load_benchmark(path, split=split or self.split, revision=revision, limit=limit)
        if self.prior_sets:
            pairs = islice(chain(pairs, _prior_pairs(self.prior_path)), limit)
        for pair in pairs:
            yield pair if isinstance(pair, Drop) else _row(pair)

    def score_details(
        self, rows: Sequence[Row], results: Mapping[str, PairResult], *, seed: int = 0
    ) -> ScoredBenchmark:
        """See `Benchmark` and `score`."""
        judged = [results[pair.id] for row in rows for pair in row.pairs]
        if not self.prior_sets or all(result.subset in TOY.subsets for result in judged):
            return _worked(judged, seed=seed)
        by_subset: defaultdict[str, list[PairResult]] = defaultdict(list)
        for result in judged:
            by_subset[result.subset].append(result)
        table_for(set(by_subset) - set(PRIOR_SETS))  # refuses toy and unknown subsets
        return _tallied(WITH_PRIOR_SETS, by_subset, seed=seed)


def _row(pair: PreferencePair) -> Row:
    return Row(pair.id, pair.source, pair.history, (pair.chosen, pair.rejected), 1, ((0, 1),))


def _prior_pairs(path: str) -> Iterator[PreferencePair | Drop]:
    """Yield the rows of the prior sets; a set's own column `subset` (a finer one) is not used."""
    copies: Counter[str] = Counter()
    for name in PRIOR_SETS:
        file = next((f for f in _prior_files(path, name) if f.is_file()), None)
        for raw in read_rows(str(file or path), required=COLUMNS[:3], split=name):
            if isinstance(raw, Drop):
                yield raw
                continue
            pair = to_pair(replace(raw, columns=raw.columns | {"subset": name}))
            if isinstance(pair, PreferencePair):
                copies[pair.id] += 1
                # The set's name keeps the ids apart from those of RewardBench's own rows.
                count = f"-{copies[pair.id]}" if copies[pair.id] > 1 else ""
                pair = replace(pair, id=f"{pair.id}-{name}{count}")
            yield pair


def _prior_files(path: str, name: str) -> list[Path]:
    folder = Path(path).expanduser()
    return [folder / f"{name}{suffix}" for suffix in (".jsonl", ".parquet")]
