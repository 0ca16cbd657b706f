"""Reading benchmark files, by the example of RewardBench: every input row becomes a row or a Drop."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from reasongenrm.benchmarks.registry import BENCHMARKS
from reasongenrm.benchmarks.rewardbench import RewardBench
from reasongenrm.errors import ConfigError, DataError
from reasongenrm.records import Drop, PreferencePair, Row
from support.judged import array, good

pytestmark = pytest.mark.unit

REAL = Path(__file__).parents[2].parent / "shared" / "benchmarks" / "rewardbench_llmbar.jsonl"


def row(**changes: Any) -> dict[str, Any]:
    return {"prompt": "q", "chosen": "good", "rejected": "bad", "subset": "hep-go", "id": 1} | changes


def write(path: Path, *rows: Any) -> str:
    lines = (line if isinstance(line, str) else json.dumps(line) for line in rows)
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return str(path)


def test_a_row_has_one_pair(tmp_path: Path) -> None:
    (item,) = RewardBench().rows(write(tmp_path / "b.jsonl", row()))
    assert isinstance(item, Row)
    (pair,) = item.pairs
    assert pair == PreferencePair.make([{"role": "user", "content": "q"}], "good", "bad", "hep-go")


def test_a_prompt_of_messages(tmp_path: Path) -> None:
    turns = [{"role": r, "content": r[0]} for r in ("system", "user", "assistant", "user")]
    (item,) = RewardBench().rows(write(tmp_path / "b.jsonl", row(prompt=turns)))
    assert isinstance(item, Row) and list(item.history) == turns


def test_repeated_rows_are_kept(tmp_path: Path) -> None:
    path = write(tmp_path / "b.jsonl", row(), row(subset="hep-js"), row(chosen="x"), row())
    rows = good(RewardBench().rows(path))
    first = rows[0].id
    name = first.removesuffix("-hep-go")
    assert [row.id for row in rows] == [first, f"{name}-hep-js", rows[2].id, f"{first}-2"]
    assert [row.subset for row in rows] == ["hep-go", "hep-js", "hep-go", "hep-go"]
    assert len({pair.id for row in rows for pair in row.pairs}) == 4


def test_ids_of_equal_rows_in_two_subsets_do_not_depend_on_the_order_of_the_rows(tmp_path: Path) -> None:
    raw = [row(), row(subset="hep-js"), row(chosen="x"), row(subset="hep-js")]
    ids = []
    for number, order in enumerate(itertools.permutations(raw)):
        rows = good(RewardBench().rows(write(tmp_path / f"{number}.jsonl", *order)))
        ids.append(sorted((one.id, one.subset, one.answers) for one in rows))
    assert all(one == ids[0] for one in ids)


def test_messages_do_not_quote_a_long_field_whole(tmp_path: Path) -> None:
    long = "x" * 5_000_000
    turns = [{"role": long, "content": "a"}]
    cases: dict[str, list[dict[str, Any]]] = {
        "pairs": [row(subset=long), row(prompt=turns)],
        "rewardbench": [row(prompt=turns), row() | {"chosen": None, long: 1}],
        "rewardbench2": [
            {"prompt": "q", "chosen": ["a"], "rejected": ["b"] * 3, "subset": "Math", "num_correct": long},
            {"prompt": "q", "chosen": ["a"], "rejected": ["b"] * 3, "subset": "Ties", "id": long},
            {"prompt": "q", "chosen": ["a"], "rejected": ["b"] * 3, "subset": long},
        ],
        "rmbench": [{"prompt": "q", "chosen": ["a"] * 3, "rejected": ["b"] * 3, "domain": long}],
        "judgebench": [{"question": "q", "response_A": "a", "response_B": "b", "label": long, "source": long}],
        "llmbar": [{"input": "q", "output_1": "a", "output_2": "b", "label": 1, "subset": long}],
        "ppe": [
            {"prompt": "q", "responses": ["a", "b"], "scores": [True, False], "sampled_conflict_pairs": [[long]]},
            {"prompt": "q", "response_1": "a", "response_2": "b", "winner": long},
        ],
        "rmb": [{"conversation_input": [{"role": "user", "content": "q"}], "category_path": long,
                 "chosen": {"answer": "a"}, "reject": {"answer": "b"}}],
    }  # fmt: skip
    for kind, raw in cases.items():
        readable = KINDS[kind]
        items = list(BENCHMARKS[kind].rows(write(tmp_path / f"{kind}.jsonl", *raw, readable)))
        drops = [item for item in items if isinstance(item, Drop)]
        assert len(drops) == len(raw), kind
        assert all(len(drop.detail) < 1000 and len(drop.source) <= 200 for drop in drops), kind
    with pytest.raises(DataError) as unknown:
        list(RewardBench().rows(write(tmp_path / "x.jsonl", row(subset=long[:150]))))
    assert len(str(unknown.value).split("RewardBench's subsets")[0]) < 300


KINDS: dict[str, dict[str, Any]] = {
    "pairs": row(),
    "rewardbench": row(),
    "rewardbench2": {"prompt": "q", "chosen": ["a"], "rejected": ["b"] * 3, "subset": "Math"},
    "rmbench": {"prompt": "q", "chosen": ["a"] * 3, "rejected": ["b"] * 3, "domain": "chat"},
    "judgebench": {"question": "q", "response_A": "a", "response_B": "b", "label": "A>B", "source": "x"},
    "llmbar": {"input": "q", "output_1": "a", "output_2": "b", "label": 1, "subset": "Natural"},
    "ppe": {"prompt": "q", "response_1": "a", "response_2": "b", "winner": "model_a"},
    "rmb": {"conversation_input": "q", "category_path": "Helpfulness/x", "chosen": {"answer": "a"},
            "reject": {"answer": "b"}},
}  # fmt: skip
"""Kind -> a row that can be read."""


def test_a_json_array_and_a_folder_of_them_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "arrays"
    array(folder / "a.json", [row(), row(chosen=None)])
    array(folder / "b.json", [row(chosen="x")])
    items = list(RewardBench().rows(str(folder / "a.json")))
    assert [type(item).__name__ for item in items] == ["Row", "Drop"]
    assert isinstance(items[1], Drop) and items[1].location.endswith("a.json[1]")
    assert len([item for item in RewardBench().rows(str(folder)) if isinstance(item, Row)]) == 2


def test_empty_and_equal_answers_are_judged(tmp_path: Path) -> None:
    path = write(tmp_path / "b.jsonl", row(chosen=""), row(rejected=""), row(chosen="same", rejected="same"))
    assert len(good(RewardBench().rows(path))) == 3


def test_bad_rows_are_drops_with_their_location(tmp_path: Path) -> None:
    without = row()
    del without["rejected"]
    bad_turns = [
        [],
        [{"role": "user"}],
        [{"role": "assistant", "content": "a"}],
        [
            {"role": "user", "content": "a"},
            {"role": "system", "content": "s"},
            {"role": "user", "content": "a"},
        ],
        ["q"],
        None,
    ]
    lines = [
        "{torn",
        "",
        without,
        row(chosen=None),
        row(subset=7),
        "[1]",
        row(),
        *(row(prompt=p) for p in bad_turns),
    ]
    path = write(tmp_path / "b.jsonl", *lines)
    items = list(RewardBench().rows(path))
    drops = [drop for drop in items if isinstance(drop, Drop)]
    assert [(drop.location.rsplit(":", 1)[1], drop.reason) for drop in drops[:5]] == [
        ("1", "broken_json"),
        ("3", "missing_column"),
        ("4", "missing_column"),
        ("5", "bad_type"),
        ("6", "broken_json"),
    ]
    assert "rejected" in drops[1].detail and drops[1].source == "hep-go" and drops[3].source == "?"
    reasons = ["no_messages", "bad_type", "no_final_question", "bad_role", "bad_type", "missing_column"]
    assert [drop.reason for drop in drops[5:]] == reasons
    assert len(items) == len(lines) - 1  # a blank line is not a row


def test_a_line_that_is_not_utf8_is_one_drop(tmp_path: Path) -> None:
    path = tmp_path / "b.jsonl"
    good = json.dumps(row()).encode()
    path.write_bytes(b"\xef\xbb\xbf" + good + b"\n\xff\xfe\n" + good + b"\n")
    assert [type(item).__name__ for item in RewardBench().rows(str(path))] == [
        "Row",
        "Drop",
        "Row",
    ]


def test_limit(tmp_path: Path) -> None:
    path = write(tmp_path / "b.jsonl", "{torn", row(), row(chosen="x"))
    assert len(list(RewardBench().rows(path, limit=2))) == 2


def test_parquet_and_folders(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    turns = [{"role": "user", "content": "q"}]
    table = pyarrow.Table.from_pylist([row(prompt=turns), row(prompt=turns, chosen=None)])
    folder = tmp_path / "hub" / "data"
    folder.mkdir(parents=True)
    shard = folder / "filtered-00000-of-00001.parquet"
    parquet.write_table(table, shard)
    first, drop = RewardBench().rows(str(shard))
    assert isinstance(first, Row) and list(first.history) == turns
    assert isinstance(drop, Drop) and drop.location == f"{shard}[1]"
    write(folder / "raw-00000-of-00001.jsonl", row(), row(), row())
    assert len(list(RewardBench().rows(str(folder)))) == 2  # the split's own files
    assert len(list(RewardBench().rows(str(folder), split="raw"))) == 3
    with pytest.raises(DataError, match=r"no file of split 'other'.*filtered, raw"):
        list(RewardBench().rows(str(folder), split="other"))
    with pytest.raises(DataError, match=f"give the folder {folder}"):
        list(RewardBench().rows(str(tmp_path / "hub")))
    parquet.write_table(table.drop_columns(["subset"]), shard)
    with pytest.raises(DataError, match="missing column 'subset'"):
        list(RewardBench().rows(str(shard)))
    shard.write_bytes(b"PAR1 torn")
    with pytest.raises(DataError, match="invalid Parquet file"):
        list(RewardBench().rows(str(shard)))


def test_half_a_surrogate_pair_is_one_drop(tmp_path: Path) -> None:
    items = list(
        RewardBench().rows(write(tmp_path / "b.jsonl", row(prompt="\ud83d"), row(subset="\udc00"), row()))
    )
    assert [type(item).__name__ for item in items] == ["Drop", "Drop", "Row"]
    assert [(drop.reason, drop.source) for drop in items[:2]] == [
        ("bad_encoding", "hep-go"),
        ("bad_encoding", "?"),
    ]


def test_a_local_benchmark_has_no_revision(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="set revision=null"):
        list(RewardBench().rows(write(tmp_path / "b.jsonl", row()), revision="abc"))


def test_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    calls: list[Any] = []

    def load_dataset(path: str, **options: Any) -> Any:
        calls.append((path, options))
        return datasets.Dataset.from_list([row(), row(chosen=None)])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    _, drop = RewardBench().rows("allenai/reward-bench", revision="abc")
    assert isinstance(drop, Drop)
    assert calls == [("allenai/reward-bench", {"split": "filtered", "revision": "abc"})]
    list(RewardBench().rows("owner/many:one", limit=1))
    assert calls[-1] == ("owner/many", {"name": "one", "split": "filtered", "revision": None})
    assert drop.location == "allenai/reward-bench[1]"

    def offline(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(DataError, match=r"the hub reports: ConnectionError: no route to host \(") as caught:
        list(RewardBench().rows("allenai/reward-bench"))
    assert "\n" not in str(caught.value)


def test_a_path_without_rows_is_an_error(tmp_path: Path) -> None:
    for path in (tmp_path / "no.jsonl", tmp_path / "no" / "thing", "benchmarks/no.jsonl"):
        with pytest.raises(DataError, match="no such file"):
            list(RewardBench().rows(str(path)))
    with pytest.raises(DataError, match=r"no \.jsonl or \.parquet"):
        list(RewardBench().rows(str(tmp_path)))
    (tmp_path / "b.csv").write_text("a")
    with pytest.raises(DataError, match=r"unsupported file type: \.csv"):
        list(RewardBench().rows(str(tmp_path / "b.csv")))
    with pytest.raises(DataError, match="no readable row"):
        list(RewardBench().rows(write(tmp_path / "b.jsonl", "{torn")))


def test_unknown_and_mixed_subsets_stop_the_load(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"b\.jsonl:2: unknown subset 'hep-basic'"):
        list(RewardBench().rows(write(tmp_path / "b.jsonl", row(), row(subset="hep-basic"))))
    with pytest.raises(DataError, match=r"b\.jsonl:2: toy subset 'toy-chat' and RewardBench subset 'hep-go'"):
        list(RewardBench().rows(write(tmp_path / "b.jsonl", row(), row(subset="toy-chat"))))


@pytest.mark.skipif(not REAL.exists(), reason=f"{REAL} is absent")
def test_every_real_llmbar_row_is_read() -> None:
    rows = good(RewardBench().rows(str(REAL)))
    assert len(rows) == len({row.id for row in rows}) == 234
    subsets = [row.subset for row in rows]
    assert (subsets.count("llmbar-natural"), subsets.count("llmbar-adver-neighbor")) == (100, 134)
