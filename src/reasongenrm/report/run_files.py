"""What a report is made of: the files that stage 3 leaves in a run folder, read and checked."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from reasongenrm.errors import DataError, first_line
from reasongenrm.metrics.diagnostics import Diagnostics
from reasongenrm.metrics.scores import BenchmarkScore
from reasongenrm.records import Drop, PairResult, Rating, Row

BASE, SCALAR = "base", "scalar"
_MEND = "run 3_eval_reward_bench.sh again"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

Record = TypeVar("Record")


@dataclass(frozen=True, slots=True)
class Cost:
    """What judging a benchmark took.

    Attributes:
        prompt_tokens, tokens: tokens read and tokens sampled, rescues included.
        requests: requests made.
        seconds: wall time of the engine, from a file beside the completions: it differs from run to run, and
            scores.json does not; None where it is not known.
    """

    prompt_tokens: int
    tokens: int
    requests: int
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class _ModelEntry:
    """A model of a benchmark in scores.json."""

    score: BenchmarkScore
    diagnostics: Diagnostics
    cost: Cost | None


@dataclass(frozen=True, slots=True)
class _BenchmarkEntry:
    """A benchmark in scores.json."""

    kind: str
    mode: str
    name: str
    path: str
    rows: int
    unreadable_rows: int
    models: dict[str, _ModelEntry]


@dataclass(frozen=True, slots=True)
class _Place:
    """Which row a line of ratings.jsonl is about; its lines stand in the order of its answers."""

    row: str


@dataclass(frozen=True, slots=True)
class _Scores:
    """scores.json."""

    run: str
    benchmarks: dict[str, _BenchmarkEntry]


@dataclass(frozen=True, slots=True)
class Manifest:
    """What the stage ran with.

    Attributes:
        recipe: the resolved recipe.
        settings: what the stage's files depend on.
        versions: package -> version.
        git: commit.
        python: version.
        machine: what it ran on.
    """

    recipe: dict[str, Any]
    settings: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    git: str = "unknown"
    python: str = "unknown"
    machine: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ModelRun:
    """A model's part of a benchmark.

    Attributes:
        name: `base`, a judge of the recipe, or `scalar`.
        score, diagnostics, cost: from scores.json.
        results: pair id -> result; empty where they were not asked for.
        ratings: of a judge that rated each answer alone, row id -> what it said of the row's answers; empty where they
            were not asked for.
    """

    name: str
    score: BenchmarkScore
    diagnostics: Diagnostics
    cost: Cost | None
    results: Mapping[str, PairResult]
    ratings: Mapping[str, tuple[Rating, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BenchmarkRun:
    """A benchmark of a run.

    Attributes:
        key: its name in the recipe, and of its folder.
        kind, name, path: its format, its name in tables, and where its rows came from.
        mode: how judges were asked, as in the recipe.
        count: rows judged.
        unreadable: rows that could not be read.
        models: the base first, a scalar head last.
        rows, drops: what was judged, and what could not be read.
    """

    key: str
    kind: str
    mode: str
    name: str
    path: str
    count: int
    unreadable: int
    models: tuple[ModelRun, ...]
    rows: tuple[Row, ...]
    drops: tuple[Drop, ...]


@dataclass(frozen=True, slots=True)
class RunFiles:
    """A run after stage 3.

    Attributes:
        name: the run's name.
        manifest: what the stage ran with.
        benchmarks: in the order of scores.json.
    """

    name: str
    manifest: Manifest
    benchmarks: tuple[BenchmarkRun, ...]


def read_run(folder: Path, *, results: bool = True) -> RunFiles:
    """Read what stage 3 wrote.

    Args:
        folder: the run folder.
        results: also read what every model said of every comparison.

    Raises:
        DataError: a file is missing, is broken, or does not fit the others.
    """
    path = folder / "scores.json"
    scores = read_json(path, _Scores)
    for name in (*scores.benchmarks, *(m for b in scores.benchmarks.values() for m in b.models)):
        if not _NAME.fullmatch(name):
            raise DataError(f"{name!r} cannot be the name of a folder", location=str(path), hint=_MEND)
    return RunFiles(
        scores.run,
        read_json(folder / "manifest" / "evaluate.json", Manifest),
        tuple(
            _benchmark(folder / "evaluate", key, entry, results) for key, entry in scores.benchmarks.items()
        ),
    )


def _benchmark(evaluate: Path, key: str, entry: _BenchmarkEntry, with_results: bool) -> BenchmarkRun:
    folder = evaluate / key
    rows = tuple(_read_lines(folder / "rows.jsonl", Row))
    _check_rows(folder / "rows.jsonl", rows, entry.rows)
    owed = {pair.id for row in rows for pair in row.pairs} if with_results else set()
    # The file's keys are sorted, which is no order of models.
    names = sorted(entry.models, key=lambda name: (name != BASE, name == SCALAR, name))
    models = []
    for name in names:
        path, model = folder / name / "results.jsonl", entry.models[name]
        lines = _read_lines(path, PairResult) if with_results else ()
        found = {result.pair_id: result for result in lines}
        if found.keys() != owed:
            missing, strange = len(owed - found.keys()), len(found.keys() - owed)
            problem = f"{missing} comparison(s) of rows.jsonl are missing, and {strange} are of no row there"
            raise DataError(problem, location=str(path), hint=_MEND)
        cost, timed = model.cost, folder / name / "seconds.json"
        if cost is not None and timed.exists():
            cost = replace(cost, seconds=read_json(timed, float))
        rated = with_results and entry.mode == "ratings" and name != SCALAR
        ratings = _ratings(folder / name / "ratings.jsonl", rows) if rated else {}
        models.append(ModelRun(name, model.score, model.diagnostics, cost, found, ratings))
    drops = tuple(_read_lines(folder / "dropped.jsonl", Drop))
    # The score knows a toy from the benchmark whose sections it has.
    name = models[0].score.benchmark if models else entry.name
    if key != entry.kind:
        name += f", {key}"
    if entry.mode == "ratings":
        name += ", ratings"
    return BenchmarkRun(
        key,
        entry.kind,
        entry.mode,
        name,
        entry.path,
        entry.rows,
        entry.unreadable_rows,
        tuple(models),
        rows,
        drops,
    )


def _ratings(path: Path, rows: Sequence[Row]) -> dict[str, tuple[Rating, ...]]:
    """Read what was said of every row's answers.

    Raises:
        DataError: an answer is missing.
    """
    found: dict[str, list[Rating]] = {}
    for number, line in enumerate(_bytes(path).splitlines(), 1):
        location = f"{path}:{number}"
        at = _decode(line, _Place, location)
        found.setdefault(at.row, []).append(_decode(line, Rating, location))
    told = {row.id: tuple(found.get(row.id, ())) for row in rows}
    short = next((row.id for row in rows if len(told[row.id]) != len(row.answers)), None)
    if short is not None:
        raise DataError(f"ratings of row {short} are missing", location=str(path), hint=_MEND)
    return told


def _check_rows(path: Path, rows: tuple[Row, ...], count: int) -> None:
    if len(rows) != count:
        raise DataError(f"{len(rows)} rows, and scores.json counts {count}", location=str(path), hint=_MEND)
    for number, row in enumerate(rows, 1):
        sides = (range(row.right), range(row.right, len(row.answers)))
        if not all(i in sides[0] and j in sides[1] for i, j in row.places):
            problem = "a place is not a right answer and a wrong one"
            raise DataError(problem, location=f"{path}:{number}", hint=_MEND)


def read_json(path: Path, kind: type[Record]) -> Record:
    """Return a JSON file as a record (or as a `dict`), its types checked.

    Raises:
        DataError: it is missing or broken.
    """
    return _decode(_bytes(path), kind, str(path))


def _read_lines(path: Path, kind: type[Record]) -> Iterator[Record]:
    for number, line in enumerate(_bytes(path).splitlines(), 1):
        yield _decode(line, kind, f"{path}:{number}")


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DataError(
            "file not found", location=str(path), hint="run 3_eval_reward_bench.sh first"
        ) from None
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", location=str(path)) from None


def _decode(text: bytes, kind: type[Record], location: str) -> Record:
    """Return JSON as a record, its types checked."""
    import msgspec

    try:
        try:
            return msgspec.json.decode(text, type=kind)
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:  # half of a surrogate pair, which only Python's own reader takes
            return msgspec.convert(json.loads(text), kind)
    except ValueError as error:  # also of msgspec
        raise DataError(f"broken: {first_line(error)}", location=location, hint=_MEND) from None
