"""Rows of several sources: their order, their turns under a limit, and the share of each that is used."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

from reasongenrm.config.prepare import SourceConfig
from reasongenrm.data.mixing import load_sources, source_rows
from reasongenrm.demo.build import skywork_row
from reasongenrm.demo.world import toy_pairs
from reasongenrm.errors import DataError
from reasongenrm.records import Drop, PreferencePair
from reasongenrm.store import write_jsonl

pytestmark = pytest.mark.unit


@pytest.fixture
def sources(tmp_path: Path) -> list[SourceConfig]:
    """Three sources: `long` has 200 pairs, `short` 20, and ranked.csv 6."""
    pairs = [list(toy_pairs("train", 50, seed)) for seed in (1, 2)]
    for name, rows in (("long", pairs[0]), ("short", pairs[1][:20])):
        write_jsonl(tmp_path / f"{name}.jsonl", (skywork_row(pair) | {"source": name} for pair in rows))
    answers = "".join(f"question,answer {rank},{rank}\n" for rank in (1, 2, 3, 4))
    (tmp_path / "ranked.csv").write_text(f"prompt,answer,rank\n{answers}", encoding="utf-8")
    return [
        SourceConfig(path=str(tmp_path / "long.jsonl")),
        SourceConfig(path=str(tmp_path / "short.jsonl")),
        SourceConfig(path=str(tmp_path / "ranked.csv"), kind="ranked"),
    ]


def names(sources: list[SourceConfig], limit: int | None = None) -> list[str]:
    return [row.source for row in load_sources(sources, limit)]


def ids(source: SourceConfig, limit: int | None = None) -> list[str]:
    return [row.id for row in load_sources([source], limit) if isinstance(row, PreferencePair)]


def weighted(source: SourceConfig, weight: float) -> SourceConfig:
    return source.model_copy(update={"weight": weight})


def test_without_a_limit_sources_come_one_after_the_other(sources: list[SourceConfig]) -> None:
    assert names(sources) == ["long"] * 200 + ["short"] * 20 + ["ranked"] * 6


def test_limit_takes_the_same_share_of_every_source(sources: list[SourceConfig]) -> None:
    assert names(sources, 9) == ["long", "short", "ranked"] * 3
    assert Counter(names(sources, 12)) == {"long": 4, "short": 4, "ranked": 4}


def test_limit_of_one_source_takes_its_first_rows(sources: list[SourceConfig]) -> None:
    assert ids(sources[0], 7) == ids(sources[0])[:7]


def test_rest_of_a_source_that_ends_early_comes_from_the_others(sources: list[SourceConfig]) -> None:
    assert Counter(names(sources, 100)) == {"long": 74, "short": 20, "ranked": 6}
    assert Counter(names(sources, 500)) == {"long": 200, "short": 20, "ranked": 6}


def test_rows_of_one_source_stay_in_its_order(sources: list[SourceConfig]) -> None:
    rows = [
        row.id
        for row in load_sources(sources, 30)
        if isinstance(row, PreferencePair) and row.source == "long"
    ]
    assert rows == ids(sources[0])[: len(rows)]


def test_limit_divides_the_rows_by_weight(sources: list[SourceConfig]) -> None:
    long, short, _ = sources
    assert Counter(names([long, weighted(short, 0.5)], 18)) == {"long": 12, "short": 6}
    assert Counter(names([weighted(long, 0.1), short], 11)) == {"long": 1, "short": 10}


def test_weight_keeps_a_share_of_the_rows(sources: list[SourceConfig]) -> None:
    half, most = ids(weighted(sources[0], 0.5)), ids(weighted(sources[0], 0.8))
    assert 80 <= len(half) <= 120 and 145 <= len(most) <= 175
    assert set(half) < set(most)
    assert half == [one for one in ids(sources[0]) if one in set(half)]  # in the order of the file
    assert half == ids(weighted(sources[0], 0.5))


def test_weight_depends_on_the_content_and_not_on_the_position(
    tmp_path: Path, sources: list[SourceConfig]
) -> None:
    file = Path(sources[0].path)
    lines = file.read_text(encoding="utf-8").splitlines()
    reverse = tmp_path / "reverse.jsonl"
    reverse.write_text("\r\n".join(lines[::-1]), encoding="utf-8")
    source = SourceConfig(path=str(reverse), weight=0.5)
    assert ids(source) == ids(weighted(sources[0], 0.5))[::-1]


def test_weight_of_parquet_and_ranked_sources(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [skywork_row(pair) for pair in toy_pairs("train", 50, 1)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "pairs.parquet")
    answers = "".join(f"question {number // 2},answer {number},{number + 1}\n" for number in range(400))
    (tmp_path / "ranked.csv").write_text(f"prompt,answer,rank\n{answers}", encoding="utf-8")
    for source in (
        SourceConfig(path=str(tmp_path / "pairs.parquet"), weight=0.5),
        SourceConfig(path=str(tmp_path / "ranked.csv"), kind="ranked", weight=0.5),
    ):
        half = ids(source)
        assert 80 <= len(half) <= 120 and half == ids(source)
        assert set(half) < set(ids(weighted(source, 1.0)))


def test_rows_that_cannot_be_read_are_always_reported(tmp_path: Path) -> None:
    (tmp_path / "ranked.csv").write_text("prompt,answer,rank\nq,a,x\nq,b,y\nq,c,z\n", encoding="utf-8")
    source = SourceConfig(path=str(tmp_path / "ranked.csv"), kind="ranked", weight=0.01)
    assert [type(row) for row in load_sources([source])] == [Drop] * 3


def test_unreadable_source_is_named_before_the_first_row(tmp_path: Path, sources: list[SourceConfig]) -> None:
    with pytest.raises(DataError, match="missing"):
        source_rows([*sources, SourceConfig(path=str(tmp_path / "missing.csv"), kind="ranked")])


def test_limit_reads_no_more_rows_than_it_needs(tmp_path: Path) -> None:
    endless = tmp_path / "endless.jsonl"
    endless.write_text("{}\n" * 10_000, encoding="utf-8")
    rows = source_rows([SourceConfig(path=str(endless))], 3)
    assert len(list(islice(rows, 10))) == 3


@pytest.mark.parametrize("weight", [0, -1, 1.5, float("nan")])
def test_invalid_weight_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="weight"):
        SourceConfig(path="x.jsonl", weight=weight)
