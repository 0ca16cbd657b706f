"""Read and check the files that stage 3 leaves in a run folder."""

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
_HINT = "run 3_eval_reward_bench.sh again"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

Record = TypeVar("Record")


@dataclass(frozen=True, slots=True)
class Cost:
    """What judging a benchmark took.

    Attributes:
        prompt_tokens, tokens: tokens read and tokens sampled, rescues included.
        requests: requests to the engine.
        seconds: wall time of the engine, from a file beside the completions: it differs from run to run, and
            scores.json does not; None where it is not known.
    """

    prompt_tokens: int
    tokens: int
    requests: int
    seconds: float | None = None


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
        score, diagnostics, cost: from scores.json.
        name: `base`, a judge of the recipe, or `scalar`.
        results: pair id -> result; empty where the run was read without results.
        ratings: of a judge that rates each answer alone, row id -> the ratings of the row's answers; else empty.
    """

    score: BenchmarkScore
    diagnostics: Diagnostics
    cost: Cost | None
    name: str = ""
    results: Mapping[str, PairResult] = field(default_factory=dict)
    ratings: Mapping[str, tuple[Rating, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BenchmarkRun:
    """A benchmark of a run.

    Attributes:
        key: its name in the recipe, and of its folder.
        kind, name, path: its format, its name in tables, and where its rows came from.
        mode: how judges work, as in the recipe.
        count: rows judged.
        unreadable: rows that could not be read.
        models: the base first, a scalar head last.
        rows, drops: the rows judged, and those that could not be read.
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


@dataclass(frozen=True, slots=True)
class _BenchmarkEntry:
    """A benchmark in scores.json."""

    kind: str
    mode: str
    name: str
    path: str
    rows: int
    unreadable_rows: int
    models: dict[str, ModelRun]


@dataclass(frozen=True, slots=True)
class _Scores:
    """scores.json."""

    run: str
    benchmarks: dict[str, _BenchmarkEntry]


@dataclass(frozen=True, slots=True)
class _RatingRow:
    """The row of a line of ratings.jsonl; the lines of a row are in the order of its answers."""

    row: str


def read_run(folder: Path, *, results: bool = True) -> RunFiles:
    """Read the files of stage 3.

    Args:
        folder: the run folder.
        results: also read every model's results on every comparison.

    Raises:
        DataError: a file is missing, is broken, or does not fit the others.
    """
    path = folder / "scores.json"
    scores = read_json(path, _Scores)
    for name in (*scores.benchmarks, *(m for b in scores.benchmarks.values() for m in b.models)):
        if not _NAME.fullmatch(name):
            raise DataError(f"{name!r} cannot be the name of a folder", location=str(path), hint=_HINT)
    benchmarks = [
        _read_benchmark(folder / "evaluate" / key, entry, results) for key, entry in scores.benchmarks.items()
    ]
    manifest = read_json(folder / "manifest" / "evaluate.json", Manifest)
    return RunFiles(scores.run, manifest, tuple(benchmarks))


def _read_benchmark(folder: Path, entry: _BenchmarkEntry, with_results: bool) -> BenchmarkRun:
    key = folder.name
    rows = tuple(_read_lines(folder / "rows.jsonl", Row))
    _check_rows(folder / "rows.jsonl", rows, entry.rows)
    # The keys of scores.json are sorted, which is not the order of the models.
    names = sorted(entry.models, key=lambda name: (name != BASE, name == SCALAR, name))
    models = [replace(entry.models[name], name=name) for name in names]
    # The score has the name of a toy benchmark, whose sections are another benchmark's.
    name = models[0].score.benchmark if models else entry.name
    if key != entry.kind:
        name += f", {key}"
    if entry.mode == "ratings":
        name += ", ratings"
    return BenchmarkRun(
        key=key,
        kind=entry.kind,
        mode=entry.mode,
        name=name,
        path=entry.path,
        count=entry.rows,
        unreadable=entry.unreadable_rows,
        models=tuple(_read_model(folder, model, rows, entry.mode, with_results) for model in models),
        rows=rows,
        drops=tuple(_read_lines(folder / "dropped.jsonl", Drop)),
    )


def _read_model(
    folder: Path, model: ModelRun, rows: Sequence[Row], mode: str, with_results: bool
) -> ModelRun:
    """Return a model with its time, results and ratings."""
    timing = folder / model.name / "seconds.json"
    if model.cost is not None and timing.exists():
        model = replace(model, cost=replace(model.cost, seconds=read_json(timing, float)))
    if not with_results:
        return model
    path = folder / model.name / "results.jsonl"
    results = {result.pair_id: result for result in _read_lines(path, PairResult)}
    pair_ids = {pair.id for row in rows for pair in row.pairs}
    if results.keys() != pair_ids:
        missing, strange = len(pair_ids - results.keys()), len(results.keys() - pair_ids)
        problem = f"{missing} comparison(s) of rows.jsonl are missing, and {strange} are not of its rows"
        raise DataError(problem, location=str(path), hint=_HINT)
    rates = mode == "ratings" and model.name != SCALAR
    ratings = _read_ratings(folder / model.name / "ratings.jsonl", rows) if rates else {}
    return replace(model, results=results, ratings=ratings)


def _read_ratings(path: Path, rows: Sequence[Row]) -> dict[str, tuple[Rating, ...]]:
    """Read the ratings of every row's answers.

    Raises:
        DataError: an answer is missing.
    """
    ratings: dict[str, tuple[Rating, ...]] = {row.id: () for row in rows}
    for place, rating in zip(_read_lines(path, _RatingRow), _read_lines(path, Rating), strict=True):
        ratings[place.row] = (*ratings.get(place.row, ()), rating)
    for row in rows:
        if len(ratings[row.id]) != len(row.answers):
            raise DataError(f"ratings of row {row.id} are missing", location=str(path), hint=_HINT)
    return ratings


def _check_rows(path: Path, rows: tuple[Row, ...], count: int) -> None:
    if len(rows) != count:
        raise DataError(f"{len(rows)} rows, but scores.json counts {count}", location=str(path), hint=_HINT)
    for number, row in enumerate(rows, 1):
        if not all(0 <= i < row.right <= j < len(row.answers) for i, j in row.places):
            problem = "a place is not a right answer and a wrong one"
            raise DataError(problem, location=f"{path}:{number}", hint=_HINT)


def read_json(path: Path, kind: type[Record]) -> Record:
    """Return a JSON file as a record (or as a `dict`), its types checked.

    Raises:
        DataError: it is missing or broken.
    """
    return _decode(_read_bytes(path), kind, str(path))


def _read_lines(path: Path, kind: type[Record]) -> Iterator[Record]:
    for number, line in enumerate(_read_bytes(path).splitlines(), 1):
        yield _decode(line, kind, f"{path}:{number}")


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        hint = "run 3_eval_reward_bench.sh first"
        raise DataError("file not found", location=str(path), hint=hint) from None
    except OSError as error:
        raise DataError(f"cannot read the file: {error.strerror or error}", location=str(path)) from None


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
        raise DataError(f"broken: {first_line(error)}", location=location, hint=_HINT) from None
