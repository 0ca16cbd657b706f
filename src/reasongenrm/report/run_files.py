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
from reasongenrm.metrics.scores import BenchmarkScore, ProtocolScore
from reasongenrm.records import Drop, PairResult, Rating, Row
from reasongenrm.steps import FILE

BASES, SCALAR = ("base", "base-direct"), "scalar"
_HINT = "run 3_eval_reward_bench.sh again"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]*")

Record = TypeVar("Record")


@dataclass(frozen=True, slots=True)
class Cost:
    """What judging a benchmark took.

    Attributes:
        prompt_tokens, tokens: tokens of prompts, and of completions, rescues included; the ids of the template in a
            completion count too.
        requests: completions; reason and verdict are one, although the engine gets a request for each.
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
        steps: the stage's steps (see `steps.Step`), by name.
        versions: package -> version.
        git: commit.
        python: version.
        machine: what it ran on.
    """

    recipe: dict[str, Any]
    steps: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    git: str = "unknown"
    python: str = "unknown"
    machine: dict[str, Any] = field(default_factory=dict)

    @property
    def file_hashes(self) -> dict[str, str]:
        """Hashes of the input files of all steps, by path."""
        settings = (step["settings"] for step in self.steps.values())
        return {
            key.removeprefix(FILE): value
            for one in settings
            for key, value in one.items()
            if key.startswith(FILE)
        }


@dataclass(frozen=True, slots=True)
class ModelRun:
    """A model's part of a benchmark.

    Attributes:
        score, diagnostics, cost, protocols: from scores.json; a run of an earlier version has no protocols.
        results: pair id -> result.
        ratings: of a judge that rates each answer alone, row id -> the ratings of the row's answers; else empty.
    """

    score: BenchmarkScore
    diagnostics: Diagnostics
    cost: Cost | None
    protocols: Mapping[str, ProtocolScore | None] = field(default_factory=dict)
    results: Mapping[str, PairResult] = field(default_factory=dict)
    ratings: Mapping[str, Sequence[Rating]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BenchmarkRun:
    """A benchmark of a run: its entry in scores.json, then what the other files add.

    Attributes:
        kind, name, path: its format, its name in tables, and where its rows came from.
        mode: how judges work, as in the recipe.
        rows, unreadable_rows: number of rows judged, and of those that could not be read.
        models: by name, the base first, a scalar head last.
        key: its name in the recipe, and of its folder.
        judged_rows, drops: the rows judged, and those that could not be read.
    """

    kind: str
    mode: str
    name: str
    path: str
    rows: int
    unreadable_rows: int
    models: dict[str, ModelRun]
    key: str = ""
    judged_rows: tuple[Row, ...] = ()
    drops: tuple[Drop, ...] = ()


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
class _Scores:
    """scores.json."""

    run: str
    benchmarks: dict[str, BenchmarkRun]


@dataclass(frozen=True, slots=True)
class _RowRating(Rating):
    """A line of ratings.jsonl; the lines of a row are in the order of its answers."""

    row: str = field(kw_only=True)


def read_run(folder: Path) -> RunFiles:
    """Read the files of stage 3 in a run folder.

    Raises:
        DataError: a file is missing, is broken, or does not fit the others.
    """
    run = read_scores(folder)
    return replace(run, benchmarks=tuple(read_judged(folder, benchmark) for benchmark in run.benchmarks))


def read_scores(folder: Path) -> RunFiles:
    """Read scores.json, times and the manifest; rows, drops, results and ratings stay empty.

    Raises:
        DataError: a file is missing or broken.
    """
    path = folder / "scores.json"
    scores = read_json(path, _Scores)
    for name in (*scores.benchmarks, *(m for b in scores.benchmarks.values() for m in b.models)):
        if not _NAME.fullmatch(name):
            raise DataError(f"{name!r} cannot be the name of a folder", location=str(path), hint=_HINT)
    entries = scores.benchmarks.items()
    benchmarks = tuple(_named(folder / "evaluate" / key, entry) for key, entry in entries)
    return RunFiles(scores.run, read_json(folder / "manifest" / "evaluate.json", Manifest), benchmarks)


def _named(folder: Path, entry: BenchmarkRun) -> BenchmarkRun:
    """Return an entry of scores.json with its name in tables, and its models in their order, with their times."""
    key = folder.name
    # The keys of scores.json are sorted, which is not the order of the models.
    names = sorted(entry.models, key=lambda name: (name not in BASES, name == SCALAR, name))
    models = {name: _timed(entry.models[name], folder / name / "seconds.json") for name in names}
    # The score has the name of a toy benchmark, whose sections are another benchmark's.
    title = models[names[0]].score.benchmark if models else entry.name
    title += f", {key}" if key != entry.kind else ""
    title += {"ratings": ", ratings", "fourway": ", four-way"}.get(entry.mode, "")
    return replace(entry, key=key, name=title, models=models)


def read_judged(folder: Path, benchmark: BenchmarkRun, names: Sequence[str] | None = None) -> BenchmarkRun:
    """Return a benchmark of `read_scores` with its rows, its drops, and what models judged.

    Args:
        folder: the run folder.
        benchmark: from scores.json.
        names: the models to read, which the result has alone; all by default.

    Raises:
        DataError: a file is missing, is broken, or does not fit the others.
    """
    folder = folder / "evaluate" / benchmark.key
    rows = _read_rows(folder / "rows.jsonl", benchmark.rows)
    models = {
        name: _read_model(folder / name, model, rows, _rates(benchmark, folder / name))
        for name, model in benchmark.models.items()
        if names is None or name in names
    }
    drops = tuple(read_lines(folder / "dropped.jsonl", Drop))
    return replace(benchmark, models=models, judged_rows=rows, drops=drops)


def _rates(entry: BenchmarkRun, model: Path) -> bool:
    """Whether a model has rated the answers: all do in the mode `ratings`, and judges that can only rate in any."""
    return model.name != SCALAR and (entry.mode == "ratings" or (model / "ratings.jsonl").exists())


def _read_rows(path: Path, count: int) -> tuple[Row, ...]:
    rows = tuple(read_lines(path, Row))
    if len(rows) != count:
        raise DataError(f"{len(rows)} rows, but scores.json counts {count}", location=str(path), hint=_HINT)
    for number, row in enumerate(rows, 1):
        if not all(0 <= i < row.right <= j < len(row.answers) for i, j in row.places):
            problem = "a place is not a right answer and a wrong one"
            raise DataError(problem, location=f"{path}:{number}", hint=_HINT)
    return rows


def _read_model(folder: Path, model: ModelRun, rows: Sequence[Row], rates: bool) -> ModelRun:
    """Return a model with its results and ratings."""
    path = folder / "results.jsonl"
    results = {result.pair_id: result for result in read_lines(path, PairResult)}
    pair_ids = {pair.id for row in rows for pair in row.pairs}
    if results.keys() != pair_ids:
        missing, strange = len(pair_ids - results.keys()), len(results.keys() - pair_ids)
        problem = f"{missing} comparison(s) of rows.jsonl are missing, and {strange} are not of its rows"
        raise DataError(problem, location=str(path), hint=_HINT)
    ratings: dict[str, list[Rating]] = {}
    if rates:
        path = folder / "ratings.jsonl"
        for rating in read_lines(path, _RowRating):
            ratings.setdefault(rating.row, []).append(rating)
        for row in rows:
            if len(ratings.get(row.id, ())) != len(row.answers):
                raise DataError(f"ratings of row {row.id} are missing", location=str(path), hint=_HINT)
    return replace(model, results=results, ratings=ratings)


def _timed(model: ModelRun, path: Path) -> ModelRun:
    """Return a model with the time of its cost, where a file has it."""
    if model.cost is None or not path.exists():
        return model
    return replace(model, cost=replace(model.cost, seconds=read_json(path, float)))


def read_json(path: Path, kind: type[Record]) -> Record:
    """Return a JSON file as a record (or as a `dict`), its types checked.

    Raises:
        DataError: it is missing or broken.
    """
    return _decode(_read_bytes(path), kind, str(path))


def read_lines(path: Path, kind: type[Record]) -> Iterator[Record]:
    """Yield the lines of a JSONL file as records, their types checked.

    Raises:
        DataError: the file is missing, or a line is broken; names `file:line`.
    """
    for number, line in enumerate(_read_bytes(path).splitlines(), 1):
        yield _decode(line, kind, f"{path}:{number}")


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        hint = "run 3_eval_reward_bench.sh first"
        raise DataError("file not found", location=str(path), hint=hint) from None
    except OSError as error:
        problem, hint = f"cannot be read: {error.strerror or error}", "check the path and its permissions"
        raise DataError(problem, location=str(path), hint=hint) from None


def _decode(text: bytes, kind: type[Record], location: str) -> Record:
    """Return JSON as a record, its types checked."""
    import msgspec

    try:
        return msgspec.convert(json.loads(text), kind)  # msgspec's reader refuses half of a surrogate pair
    except ValueError as error:  # also of msgspec
        raise DataError(f"broken: {first_line(error)}", location=location, hint=_HINT) from None
