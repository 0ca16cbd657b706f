"""Results of judges and scalar heads, and files of rows, for the tests of benchmarks."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from reasongenrm.benchmarks.base import judge_result, scalar_result
from reasongenrm.benchmarks.rewardbench import RewardBench
from reasongenrm.metrics.scores import BenchmarkScore
from reasongenrm.records import Drop, Message, PairResult, Row, Verdict

VERDICTS = ("right", "wrong", "tie", "unparsed", "truncated", "error")


def judged(pair_id: str, kinds: Sequence[str]) -> PairResult:
    """Return a judge's result; `kinds` are its verdicts in order AB, then BA, each one of VERDICTS."""
    verdicts = []
    for order, kind in zip(("AB", "BA"), kinds, strict=False):
        letter = {"right": "A", "wrong": "B"}.get(kind)
        if letter and order == "BA":
            letter = {"A": "B", "B": "A"}[letter]
        winner = letter or ("tie" if kind == "tie" else None)
        verdicts.append(Verdict("v", pair_id, order, winner, None, "ok" if letter else kind, ""))  # type: ignore[arg-type]
    return judge_result(pair_id, "s", verdicts)


def judge_all(rows: Iterable[Row], kinds: Callable[[Row, int, int], Sequence[str]]) -> dict[str, PairResult]:
    """Judge every comparison; `kinds` takes the row and the indexes of the right and the wrong answer."""
    return {
        pair.id: judged(pair.id, kinds(row, *place))
        for row in rows
        for pair, place in zip(row.pairs, row.places, strict=True)
    }


def score_all(rows: Iterable[Row], head: Callable[[Row, int], float]) -> dict[str, PairResult]:
    """Score every comparison with a scalar head; `head` takes the row and the index of an answer."""
    return {
        pair.id: scalar_result(pair.id, pair.source, head(row, right), head(row, wrong))
        for row in rows
        for pair, (right, wrong) in zip(row.pairs, row.places, strict=True)
    }


def rewardbench_rows(results: Iterable[PairResult]) -> list[Row]:
    """Make one row per result, with its id and subset; all have the same texts."""
    turns = (Message(role="user", content="q"),)
    return [Row(r.pair_id, r.subset, turns, ("a", "b"), 1, ((0, 1),)) for r in results]


def rewardbench_score(results: Iterable[PairResult], *, seed: int = 0) -> BenchmarkScore:
    """Score results as RewardBench; their ids must be distinct."""
    by_id = {result.pair_id: result for result in results}
    return RewardBench().score(rewardbench_rows(by_id.values()), by_id, seed=seed)


def lines(path: Path, rows: Iterable[Any]) -> str:
    """Write a JSONL file; a string is written unchanged as a line."""
    written = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    path.write_text("".join(line + "\n" for line in written), encoding="utf-8")
    return str(path)


def array(path: Path, rows: Iterable[Any]) -> str:
    """Write a JSON file of one array."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(list(rows)), encoding="utf-8")
    return str(path)


def dropped(items: Iterable[Row | Drop]) -> list[tuple[str, str]]:
    """Return the drops as (location after the file's name, reason)."""
    return [(d.location.rsplit("/", 1)[1].split(".", 1)[1], d.reason) for d in items if isinstance(d, Drop)]


def good(items: Iterable[Row | Drop]) -> list[Row]:
    """Return the rows; a Drop is a failure."""
    rows = list(items)
    assert not [row for row in rows if isinstance(row, Drop)]
    return [row for row in rows if isinstance(row, Row)]
