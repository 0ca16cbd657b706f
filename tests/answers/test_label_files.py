"""Files of a labelling: what `agree` and stage 1 read, what is left out, and agreement."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sklearn.metrics import cohen_kappa_score

from reasongenrm.answers.label_files import LabelFiles, agreement_lines, decision
from reasongenrm.answers.verdicts import swap
from reasongenrm.errors import ConfigError, DataError
from reasongenrm.records import PreferencePair
from support.pairs import load_pairs

pytestmark = pytest.mark.unit


def write_rows(path: Path, *rows: Any) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def pair_rows(count: int, **columns: Any) -> list[dict[str, Any]]:
    return [{"id": f"r{n}", "prompt": f"p{n}", "a": f"a{n}", "b": f"b{n}"} | columns for n in range(count)]


def open_files(folder: Path, *rows: Any, **options: Any) -> LabelFiles:
    return LabelFiles(write_rows(folder / "pairs.jsonl", *rows), str(folder / "labels.jsonl"), **options)


def give(files: LabelFiles, name: str, labels: dict[str, str]) -> None:
    """Let an annotator give labels, in the order of the file, by the row's id; other rows are skipped once."""
    session = files.open_session(name)
    for _ in range(len(files.pairs)):
        if (shown := session.current) and shown.pair.name in labels:
            label: Any = labels[shown.pair.name]
            session.label(
                swap(label, shown.swapped), note=f"{name} on {shown.pair.name}" if label == "tie" else ""
            )
        elif shown:
            session.skip()
    files.write()


def test_the_labels_hold_a_row_per_labelled_pair_in_the_order_of_the_file(tmp_path: Path) -> None:
    turns = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "r"},
        {"role": "user", "content": "s"},
    ]
    rows = [
        *pair_rows(3, subset="chat"),
        {"prompt": turns, "a": "x", "b": "y", "criteria": "brief", "winner": "A", "prob_a": 0.8},
    ]
    files = open_files(tmp_path, *rows)
    assert not files.target.exists()
    give(files, "bob", {"r2": "A", "r0": "tie"})
    give(files, "ann", {"r0": "B", files.pairs[3].name: "A"})
    first, second, third = read_rows(files.target)
    assert first == {
        "id": "r0", "prompt": "p0", "a": "a0", "b": "b0", "labels": {"ann": "B", "bob": "tie"},
        "notes": {"bob": "bob on r0"}, "source": "pairs", "subset": "chat",
    }  # fmt: skip
    assert second["id"] == "r2" and second["labels"] == {"bob": "A"} and "judges" not in second
    assert third["prompt"] == turns and third["judges"] == {"judge": {"winner": "A", "prob_a": 0.8}}
    assert third["criteria"] == "brief"
    # The labels are pairs themselves: others can label them with the same verdicts, and no label is copied.
    again = LabelFiles(str(files.target), str(tmp_path / "again.jsonl"))
    assert [pair.verdicts for pair in again.pairs] == [files.pairs[n].verdicts for n in (0, 2, 3)]
    assert [pair.id for pair in again.pairs] == [
        files.pairs[n].id for n in (0, 2, 3)
    ] and again.labels() == {}


def test_agree_reads_the_labels(tmp_path: Path) -> None:
    from reasongenrm.rows.labels import JudgeLabel, LabelledRow, read_columns, read_labels

    files = open_files(tmp_path, *pair_rows(3, winner="B", prob_a=0.25))
    give(files, "ann", {"r0": "A", "r1": "tie", "r2": "B"})
    give(files, "bob", {"r1": "B"})
    rows = list(read_labels(str(files.target), read_columns([])))
    assert all(isinstance(row, LabelledRow) for row in rows)
    assert [row.people for row in rows] == [{"ann": "A"}, {"ann": "tie", "bob": "B"}, {"ann": "B"}]  # type: ignore[union-attr]
    assert [row.id for row in rows] == ["r0", "r1", "r2"]  # type: ignore[union-attr]
    assert rows[0].judges == {"judge": JudgeLabel("B", 0.25)}  # type: ignore[union-attr]


def test_stage_1_reads_the_preference_pairs_and_ties_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [
        *pair_rows(5, source="mine"),
        {"prompt": "p", "a": "1", "b": "2", "id": "last", "criteria": "true"},
    ]
    files = open_files(tmp_path, *rows, {"prompt": "broken"})
    give(files, "ann", {"r0": "A", "r1": "tie", "r2": "A", "r3": "B", "last": "B"})
    give(files, "bob", {"r2": "B", "r3": "B"})
    give(files, "eve", {"r3": "tie"})
    pairs = list(load_pairs(str(tmp_path / "labels.jsonl.pairs.jsonl")))
    assert all(isinstance(pair, PreferencePair) for pair in pairs)
    found = [(pair.chosen, pair.rejected, pair.source) for pair in pairs if isinstance(pair, PreferencePair)]
    assert found == [("a0", "b0", "mine"), ("b3", "a3", "mine"), ("2", "1", "pairs")]
    assert pairs[2].history[0] == {"role": "criteria", "content": "true"}  # type: ignore[union-attr]
    line = files.summary()
    assert "6 pairs; labelled by ann 5, bob 2, eve 1; preference pairs: 3 (labels.jsonl.pairs.jsonl)" in line
    assert line.endswith("left out: 2 (tie 1, no majority 1); 1 dropped (labels.jsonl.dropped.jsonl)")
    assert [row["reason"] for row in read_rows(tmp_path / "labels.jsonl.dropped.jsonl")] == ["missing_column"]


def test_more_than_half_decides() -> None:
    def of(*labels: Any) -> Any:
        return decision({str(n): label for n, label in enumerate(labels)})

    assert [of("A"), of("A", "A", "B"), of("tie", "tie"), of("B", "tie", "B")] == ["A", "A", "tie", "B"]
    assert [of("A", "B"), of("A", "tie"), of("A", "B", "tie"), of("A", "A", "B", "tie")] == [None] * 4


def test_a_label_given_after_the_verdict_counts_for_training_and_not_for_agreement(tmp_path: Path) -> None:
    files = open_files(tmp_path, *pair_rows(2, winner="A"))
    session = files.open_session("ann")
    shown = session.current
    assert shown is not None
    session.label(swap("B", shown.swapped))
    session.undo()
    session.label(swap("A", shown.swapped))
    files.write()
    (row,) = read_rows(files.target)
    assert row["labels"] == {} and row["labels_after_verdict"] == {"ann": "A"}
    assert agreement_lines(files.pairs, files.labels()) == []
    assert len(read_rows(tmp_path / "labels.jsonl.pairs.jsonl")) == 1


def test_agreement_in_words(tmp_path: Path) -> None:
    rows = [row | {"judges": {"tiny": "AB"[n % 2], "none": None}} for n, row in enumerate(pair_rows(8))]
    files = open_files(tmp_path, *rows)
    ann = {f"r{n}": "ABABBAAA"[n] for n in range(8)}
    bob = {f"r{n}": ("A", "B", "tie", "B", "A")[n] for n in range(5)}
    give(files, "ann", ann)
    assert len(agreement_lines(files.pairs, files.labels())) == 1, "nobody to compare ann with"
    give(files, "bob", bob)
    judge = ["AB"[n % 2] for n in range(8)]

    def kappa(one: list[str], other: list[str]) -> str:
        return f"{cohen_kappa_score(one, other):.2f}"

    with_ann, with_bob, both = agreement_lines(files.pairs, files.labels())
    assert with_ann == f"ann and judge tiny: 5 of 8 equal, Cohen's kappa {kappa(list(ann.values()), judge)}"
    assert (
        with_bob == f"bob and judge tiny: 4 of 5 equal, Cohen's kappa {kappa(list(bob.values()), judge[:5])}"
    )
    assert (
        both
        == f"ann and bob: 3 of 5 equal, Cohen's kappa {kappa(list(ann.values())[:5], list(bob.values()))}"
    )
    for name in ("cat", "dan"):
        give(files, name, {"r0": "A"})
    lines = agreement_lines(files.pairs, files.labels())
    assert lines[2] == "cat and judge tiny: 1 of 1 equal, Cohen's kappa not defined (all labels are the same)"
    assert lines[4].startswith("6 pairs of annotators: mean Cohen's kappa 0.") and len(lines) == 5


def test_no_file_is_overwritten(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "pairs.jsonl", *pair_rows(2))
    with pytest.raises(ConfigError, match="two of the files"):
        LabelFiles(source, source)
    with pytest.raises(ConfigError, match="two of the files"):
        LabelFiles(source, str(tmp_path / "out.jsonl"), verdicts=str(tmp_path / "out.jsonl.journal.jsonl"))
    (tmp_path / "out.jsonl").write_text("mine", encoding="utf-8")
    with pytest.raises(ConfigError, match="the output exists"):
        LabelFiles(source, str(tmp_path / "out.jsonl"))
    assert (tmp_path / "out.jsonl").read_text(encoding="utf-8") == "mine"
    bad = write_rows(tmp_path / "bad.jsonl", {"prompt": "p"})
    with pytest.raises(DataError, match=r"no pair to label.*new.jsonl.dropped.jsonl"):
        LabelFiles(bad, str(tmp_path / "new.jsonl"))
    assert not (tmp_path / "new.jsonl").exists()


def test_verdicts_from_a_file_and_other_pairs_at_a_restart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = pair_rows(3)
    verdicts = write_rows(
        tmp_path / "tiny.jsonl", {"id": "r1", "winner": "B"}, {"id": "r9", "winner": "A"}, {"id": 1}
    )
    files = open_files(tmp_path, *rows, verdicts=verdicts)
    assert f"{verdicts}: verdicts on 1 of 3 pairs" in capsys.readouterr().err
    assert [list(pair.verdicts) for pair in files.pairs] == [[], ["tiny"], []] and files.dropped == 1
    give(files, "ann", {"r0": "A"})
    with pytest.raises(ConfigError, match="does not have"):
        open_files(tmp_path, *rows[1:])
