"""Runs that a page can show: the folders below the folder of the runs, read lazily; and the route to their reports."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reasongenrm.errors import DataError

if TYPE_CHECKING:
    from reasongenrm.records import Row
    from reasongenrm.report.comparison import RunsComparison
    from reasongenrm.report.run_files import BenchmarkRun

REPORT = "report.html"

STAGES = ("prepare", "train", "evaluate")
"""Names of the manifests that the stages leave, in their order."""

Stamp = tuple[tuple[int, int], ...]
"""Time of the last change (ns) and size (bytes) of each of some files; zeros for one that is not there."""


class RunFolders:
    """The run folders below one folder: no name leads out of it.

    Args:
        folder: of the run folders; may not exist.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def names(self) -> list[str]:
        """Return the names of the run folders: those with manifests or scores."""
        try:
            children = sorted(self._folder.iterdir())
        except OSError:
            return []
        return [path.name for path in children if self._is_run(path)]

    def _is_run(self, path: Path) -> bool:
        if path.name.startswith(".") or not any(
            (path / name).exists() for name in ("manifest", "scores.json")
        ):
            return False
        return path.resolve().parent == self._folder.resolve()  # not a link to another place

    def path(self, name: str | None) -> Path:
        """Return the folder of a run.

        Raises:
            DataError: there is no such run.
        """
        if name in self.names():
            return self._folder / str(name)
        problem = f"no run {name!r}" if name else "no run is chosen"
        raise DataError(problem, location=str(self._folder), hint="choose one of the list, or read it again")

    def models(self, name: str | None) -> list[str]:
        """Return the names of the models that a run has judged.

        Raises:
            DataError: there is no such run, or its scores are missing or broken.
        """
        from reasongenrm.report.run_files import read_scores

        return models_of(read_scores(self.path(name)).benchmarks)


def models_of(benchmarks: Iterable[BenchmarkRun]) -> list[str]:
    """Return the names of the models of some benchmarks, each once."""
    return list(dict.fromkeys(model for benchmark in benchmarks for model in benchmark.models))


def stages_done(folder: Path) -> list[str]:
    """Return the stages that have begun in a run, from their manifests."""
    return [stage for stage in STAGES if (folder / "manifest" / f"{stage}.json").exists()]


def inside(folder: Path, name: str) -> Path | None:
    """Return a file of a run folder; None where it is not there, or is a link that leads out of the folder."""
    path = folder / name
    return path if path.is_file() and folder.resolve() in path.resolve().parents else None


def file_stamp(*paths: Path) -> Stamp:
    """Return the state of files on the disk: while it is the same, they need not be read again."""

    def stamp(path: Path) -> tuple[int, int]:
        try:
            state = path.stat()
        except OSError:
            return 0, 0
        return state.st_mtime_ns, state.st_size

    return tuple(map(stamp, paths))


@dataclass(frozen=True, slots=True)
class JudgedPair:
    """One comparison of a benchmark, as one model judged it.

    Attributes:
        number: its place in the benchmark, from 1.
        id: the pair's.
        row: the row.
        outcome: over the orders, a key of `OUTCOME_NOTES`.
    """

    number: int
    id: str
    row: Row
    outcome: str


@dataclass(frozen=True, slots=True)
class JudgedRows:
    """A benchmark as one model judged it.

    Attributes:
        benchmark: with its rows, and this model alone.
        pairs: its comparisons, in the order of the rows.
    """

    benchmark: BenchmarkRun
    pairs: tuple[JudgedPair, ...]


def judged_rows(folder: Path, key: str, model: str) -> JudgedRows:
    """Return a benchmark of a run as one model judged it; the files of other models are not read.

    Raises:
        DataError: there is no such benchmark or model, or a file is missing or broken.
    """
    place = folder / "evaluate" / key
    names = ("results.jsonl", "ratings.jsonl")
    files = (folder / "scores.json", place / "rows.jsonl", *(place / model / name for name in names))
    return _judged_rows(folder, key, model, file_stamp(*files))


@lru_cache(maxsize=4)  # a model's results on 3,000 rows take some 30 MB
def _judged_rows(folder: Path, key: str, model: str, stamp: Stamp) -> JudgedRows:
    from reasongenrm.report.explorer import pair_outcome
    from reasongenrm.report.run_files import read_judged, read_scores

    benchmarks = {benchmark.key: benchmark for benchmark in read_scores(folder).benchmarks}
    if key not in benchmarks or model not in benchmarks[key].models:
        problem = f"no model {model!r} on a benchmark {key!r} in this run"
        raise DataError(problem, location=str(folder), hint="choose the run again")
    benchmark = read_judged(folder, benchmarks[key], [model])
    results = benchmark.models[model].results

    def pairs() -> Iterator[JudgedPair]:
        numbered = ((row, pair.id) for row in benchmark.judged_rows for pair in row.pairs)
        for number, (row, pair_id) in enumerate(numbered, 1):
            yield JudgedPair(number, pair_id, row, pair_outcome(results[pair_id]))

    return JudgedRows(benchmark, tuple(pairs()))


def compared_runs(*sides: tuple[Path, str]) -> RunsComparison:
    """Return the comparison of models of runs; a repeated call is answered from memory.

    Args:
        sides: folder and model of each, the reference first.

    Raises:
        ConfigError, DataError: see `report.comparison.compare_all`.
    """
    return _compared_runs(sides, file_stamp(*(folder / "scores.json" for folder, _ in sides)))


@lru_cache(maxsize=2)
def _compared_runs(sides: tuple[tuple[Path, str], ...], stamp: Stamp) -> RunsComparison:
    from reasongenrm.report.comparison import compare_all

    return compare_all([folder.with_name(f"{folder.name}:{model}") for folder, model in sides])


def add_reports(app: Any, runs: RunFolders) -> None:
    """Add the route that a run's link leads to: GET /runs/<name>/report.html, a file to save."""
    from fastapi.responses import FileResponse, JSONResponse, Response

    @app.get("/runs/{name}/report.html")
    def report(name: str) -> Response:
        try:
            path = inside(runs.path(name), REPORT)
        except DataError:
            path = None
        if path is None:
            return JSONResponse({"error": "no such report", "hint": ""}, 404)
        # Saved, and not shown at this address: its scripts would belong to this page.
        return FileResponse(path, filename=f"{name}-report.html", media_type="text/html")
