"""Files, folders and hub datasets: their rows, locations and errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reasongenrm.errors import ConfigError, DataError
from reasongenrm.records import Drop, PreferencePair
from reasongenrm.rows.files import read_rows
from support.pairs import load_pairs

pytestmark = pytest.mark.unit

REPOSITORY = Path(__file__).parents[2]
REAL = REPOSITORY.parent / "shared" / "preferences" / "real_pairs_skywork_schema.jsonl"


def row(number: int, **changes: Any) -> dict[str, Any]:
    user = {"role": "user", "content": f"Question {number}"}
    sides = {
        side: [user, {"role": "assistant", "content": f"{side} answer"}] for side in ("chosen", "rejected")
    }
    return sides | {"source": "s"} | changes


def write_jsonl(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def write_parquet(file: Path, rows: list[dict[str, Any]], row_group_size: int = 3) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), file, row_group_size=row_group_size)
    return file


def questions(path: Path, **options: Any) -> list[str]:
    items = list(load_pairs(str(path), **options))
    assert all(isinstance(item, PreferencePair) for item in items), items
    return [item.history[-1]["content"].split()[-1] for item in items if isinstance(item, PreferencePair)]


def test_bom_crlf_blank_lines_and_line_numbers(tmp_path: Path) -> None:
    good = json.dumps(row(1), ensure_ascii=False).encode()
    split = json.dumps(row(2, source="a\u2028b"), ensure_ascii=False).encode()
    file = tmp_path / "p.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + good + b"\r\n\r\n  \n" + split + b"\n" + b"broken\r\n" + good)
    first, second, drop, last = load_pairs(str(file))
    assert isinstance(first, PreferencePair) and first == last
    assert isinstance(second, PreferencePair) and second.source == "a\u2028b"
    assert isinstance(drop, Drop) and drop.location == f"{file}:5"


def test_limit_counts_rows_read_good_and_bad(tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text("\n".join(["broken", "", json.dumps(row(1)), json.dumps(row(2))]), encoding="utf-8")
    assert [type(item) for item in load_pairs(str(file), limit=2)] == [Drop, PreferencePair]
    assert list(load_pairs(str(file), limit=0)) == []
    assert len(list(load_pairs(str(file), limit=99))) == 3
    assert len(list(read_rows(str(file), limit=2))) == 2
    with pytest.raises(ConfigError, match="limit"):
        read_rows(str(file), limit=-1)


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf"])
def test_empty_file_has_no_rows(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "p.jsonl"
    file.write_bytes(content)
    assert list(load_pairs(str(file))) == []


def test_parquet_and_jsonl_give_the_same_pairs(tmp_path: Path) -> None:
    rows = [row(number) for number in range(10)]
    rows[3]["chosen"][-1]["content"] = " "
    rows[4]["source"] = None
    rows[5]["rejected"] = None
    from_jsonl = list(load_pairs(str(write_jsonl(tmp_path / "a" / "p.jsonl", rows))))
    from_parquet = list(load_pairs(str(write_parquet(tmp_path / "p.parquet", rows))))
    pairs = [item for item in from_parquet if isinstance(item, PreferencePair)]
    assert pairs == [item for item in from_jsonl if isinstance(item, PreferencePair)]
    assert len(pairs) == 8 and pairs[3].source == "p"
    drops = [item for item in from_parquet if isinstance(item, Drop)]
    assert [(drop.location, drop.reason) for drop in drops] == [
        (f"{tmp_path / 'p.parquet'}[3]", "empty_answer"),
        (f"{tmp_path / 'p.parquet'}[5]", "bad_type"),
    ]


def test_parquet_text_that_is_not_utf8_costs_one_row(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pylist([row(number) for number in range(3)])
    raw = pa.array([b"s", b"\xff", b"s"]).view(pa.string())
    pq.write_table(
        table.set_column(table.column_names.index("source"), "source", raw), tmp_path / "p.parquet"
    )
    first, drop, last = load_pairs(str(tmp_path / "p.parquet"))
    assert isinstance(first, PreferencePair) and isinstance(last, PreferencePair)
    assert isinstance(drop, Drop) and drop.reason == "bad_encoding" and drop.location.endswith("[1]")


def test_parquet_without_a_column_is_an_error(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "p.parquet", [{"prompt": "x", "chosen": []}])
    with pytest.raises(DataError, match="'rejected'") as caught:
        load_pairs(str(file))
    assert caught.value.location == str(file)
    assert "prompt" in caught.value.hint


@pytest.mark.parametrize("keep", [0, 100, -20])
def test_torn_parquet_is_refused(tmp_path: Path, keep: int) -> None:
    file = write_parquet(tmp_path / "p.parquet", [row(1)])
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(DataError, match="invalid Parquet file"):
        load_pairs(str(file))


def test_parquet_with_a_corrupt_page_names_the_row(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "p.parquet", [row(number) for number in range(9)])
    data = bytearray(file.read_bytes())
    data[10:200] = b"\x00" * 190
    file.write_bytes(data)
    with pytest.raises(DataError, match=r"p\.parquet\[\d\]: reading failed here"):
        list(load_pairs(str(file)))


def test_folder_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "b.jsonl", [row(2), row(3)])
    write_parquet(tmp_path / "a.parquet", [row(1)])
    write_jsonl(tmp_path / "c.JSONL", [row(4)])
    for ignored in (".hidden.jsonl", "README.md", "old/x.jsonl"):
        write_jsonl(tmp_path / ignored, [row(9)])
    assert questions(tmp_path) == ["1", "2", "3", "4"]
    assert questions(tmp_path, limit=2) == ["1", "2"]


def test_empty_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x", encoding="utf-8")
    with pytest.raises(DataError, match=r"no \.jsonl or \.parquet file in this folder"):
        load_pairs(str(tmp_path))
    write_jsonl(tmp_path / "data" / "x.jsonl", [row(1)])
    with pytest.raises(DataError) as caught:
        load_pairs(str(tmp_path))
    assert str(tmp_path / "data") in caught.value.hint


def test_shards_of_another_split_are_skipped(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train-00000-of-00002.parquet", [row(1)])
    write_parquet(tmp_path / "train-00001-of-00002-0a1b2c.parquet", [row(2)])
    write_parquet(tmp_path / "test-00000-of-00001.parquet", [row(3)])
    assert questions(tmp_path) == ["1", "2"]
    assert questions(tmp_path, split="test") == ["3"]
    with pytest.raises(DataError, match=r"no file of split 'dev'.*test, train"):
        load_pairs(str(tmp_path), split="dev")


@pytest.mark.parametrize(
    ("name", "says"),
    [("x.csv", "ranked CSV"), ("x.txt", r"unsupported file type: \.txt"), ("x", "no suffix")],
)
def test_other_files_are_refused(tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / name).write_text("{}", encoding="utf-8")
    with pytest.raises(DataError, match=says):
        load_pairs(str(tmp_path / name))


@pytest.mark.parametrize(
    "path",
    [
        "/nowhere/x.jsonl",
        "nowhere/x.parquet",
        "a/b/c",
        "../up",
        "has space/x",
        "word",
        "~nobody-here/x.jsonl",
    ],
)
def test_invalid_hub_ids_are_refused_without_a_request_to_the_hub(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)  # importing it would raise
    with pytest.raises(DataError, match="no such file or folder") as caught:
        read_rows(path)
    assert caught.value.location == path


def test_a_path_that_the_system_refuses() -> None:
    path = "x" * 300 + ".jsonl"
    with pytest.raises(DataError) as caught:
        read_rows(path)
    assert caught.value.location == path and caught.value.hint == "check the path and its permissions"
    assert caught.value.problem == "cannot be read: File name too long"


def test_empty_path_and_revision_of_a_local_path_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="empty"):
        load_pairs(" ")
    with pytest.raises(ConfigError, match=r"revision 'v2'.*set revision=null"):
        load_pairs(str(write_jsonl(tmp_path / "p.jsonl", [row(1)])), revision="v2")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Path], None]:
    """Return a function that lets an id stand for a local folder in the hub's layout."""
    import datasets

    real = datasets.load_dataset
    folders: dict[str, Path] = {}

    def load_dataset(name: str, *, split: str, revision: str | None) -> Any:
        return real(str(folders[name]), split=split, revision=revision, cache_dir=str(tmp_path / "cache"))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.chdir(tmp_path)
    return lambda name, folder: folders.update({name: folder})


def test_hub_dataset(tmp_path: Path, hub: Callable[[str, Path], None]) -> None:
    rows = [row(number, score=0.5) for number in range(4)]
    rows[1]["rejected"] = rows[1]["chosen"]
    rows[2]["source"] = None
    write_parquet(tmp_path / "there" / "data" / "train-00000-of-00001.parquet", rows)
    write_parquet(tmp_path / "there" / "data" / "test-00000-of-00001.parquet", [row(7)])
    hub("owner/pairs-v0.2", tmp_path / "there")
    first, drop, third, _ = load_pairs("owner/pairs-v0.2")
    assert (
        isinstance(drop, Drop) and drop.reason == "equal_answers" and drop.location == "owner/pairs-v0.2[1]"
    )
    assert isinstance(third, PreferencePair) and third.source == "pairs-v0.2"
    local = load_pairs(str(tmp_path / "there" / "data"))
    assert next(local) == first, "the same row has the same id wherever it is read from"
    assert len(list(load_pairs("owner/pairs-v0.2", limit=2))) == 2
    assert len(list(load_pairs("owner/pairs-v0.2", split="test"))) == 1
    with pytest.raises(DataError, match="hub reports: ValueError: Unknown split"):
        load_pairs("owner/pairs-v0.2", split="dev")


def test_hub_dataset_without_a_column(tmp_path: Path, hub: Callable[[str, Path], None]) -> None:
    write_jsonl(tmp_path / "there" / "train.jsonl", [{"text": "x"}])
    hub("owner/other", tmp_path / "there")
    with pytest.raises(DataError, match=r"'chosen'.*found: text"):
        load_pairs("owner/other")


def test_hub_id_without_a_network_fails_fast_in_one_line() -> None:
    program = (
        "from reasongenrm.rows.files import read_rows\n"
        "from reasongenrm.errors import DataError\n"
        "try:\n    read_rows('nobody/nothing-of-this-name')\n"
        "except DataError as error:\n    print(error)\n"
    )
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(REPOSITORY / "src")}
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert time.monotonic() - begin < 60
    (line,) = done.stdout.splitlines()
    assert line.startswith("nobody/nothing-of-this-name: not a local path, and the hub reports: ")
    assert "give a .jsonl or .parquet file" in line


def test_memory_does_not_grow_with_a_jsonl_file(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "p.jsonl", [row(number, source="s" * 2000) for number in range(4000)])
    tracemalloc.start()
    try:
        assert sum(1 for _ in load_pairs(str(file))) == 4000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000, f"{peak} bytes for 8 MB of texts"


def test_memory_does_not_grow_with_a_parquet_file_of_one_row_group(tmp_path: Path) -> None:
    import pyarrow as pa

    rows = [row(number, source=f"{number:06}" * 700) for number in range(12_000)]
    file = write_parquet(tmp_path / "p.parquet", rows, row_group_size=len(rows))
    del rows
    before = pa.total_allocated_bytes()
    peak = max(pa.total_allocated_bytes() - before for _ in load_pairs(str(file)))
    assert peak < 20_000_000, f"{peak} bytes for 50 MB of texts"


def test_loading_from_files_needs_no_heavy_import() -> None:
    program = (
        "import sys, reasongenrm.data.sources, reasongenrm.data.ranked, reasongenrm.data.report\n"
        "print([name for name in ('datasets', 'pyarrow', 'pandas', 'numpy', 'torch') if name in sys.modules])"
    )
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY / "src")}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_real_rows() -> None:
    if not REAL.exists():
        pytest.skip(f"the shared data is not there: {REAL}")
    items = list(load_pairs(str(REAL)))
    assert len(items) == 500
    assert Counter(type(item) for item in items) == {PreferencePair: 500}
    assert Counter(item.source for item in items) == {"dpo_en_demo": 300, "mt_bench_human": 200}
    again = {item.id for item in load_pairs(str(REAL)) if isinstance(item, PreferencePair)}
    assert len(again) == 490, "ten rows are there twice"
