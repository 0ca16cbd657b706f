"""RMB and plain pairs: by hand, by the definition, and rows that cannot be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasongenrm.benchmarks.pairs import Pairs
from reasongenrm.benchmarks.rmb import RMB, ROWS, SECTIONS
from reasongenrm.records import Message, Row
from support.judged import VERDICTS, array, dropped, good, judge_all, lines, score_all

pytestmark = pytest.mark.unit
BENCH = RMB()


def answer(text: str) -> dict[str, str]:
    return {"llm_name": "m", "answer": text}


def talk(text: str) -> list[dict[str, str]]:
    return [{"content": text, "language": "English", "role": "user"}]


def pair(goal: str = "Helpfulness/Chat/Discussion", **changes: Any) -> dict[str, Any]:
    row = {"conversation_input": talk("q"), "chosen": answer("a"), "reject": answer("b"), "pair_uid": "1"}
    return row | {"category_path": f"Pairwise_set/{goal}"} | changes


def best(goal: str = "Harmlessness/S1", losers: int = 3, **changes: Any) -> dict[str, Any]:
    row = {"conversation_input": talk("q"), "bon_best": answer("a"), "bon_uid": "1"}
    row["loser_list"] = [answer(f"l{n}") for n in range(losers)]
    return row | {"category_path": f"BoN_set/{goal}"} | changes


def test_rmb_by_hand(tmp_path: Path) -> None:
    raw = [pair(), pair("Helpfulness/Code/Documentation"), pair("Helpfulness/Chat/Discussion", chosen=answer("c")),
           pair("Harmlessness/S2"), best("Helpfulness/Chat/Discussion"), best(), best(conversation_input=talk("r"))]  # fmt: skip
    rows = good(BENCH.rows(array(tmp_path / "x.json", raw)))
    assert [len(r.places) for r in rows] == [1, 1, 1, 1, 3, 3, 3] and len({r.id for r in rows}) == 7
    verdicts = {rows[0].id: ("wrong", "wrong"), rows[1].id: ("right", "tie"), rows[3].id: ("tie", "tie")}
    lost = {(rows[5].id, 2): ("right", "wrong")}  # half is no win: that list is lost
    results = judge_all(rows, lambda r, i, j: lost.get((r.id, j), verdicts.get(r.id, ("right", "right"))))
    scored = BENCH.score(rows, results)
    pairs = (0 + 0.75 + 1) / 3  # every pair counts alike, not every scenario
    assert scored.sections == pytest.approx(dict(zip(SECTIONS, (1.0, pairs, 0.5, 0.5), strict=True)))
    assert list(SECTIONS) == [
        f"{g} {k}" for g in ("Helpfulness", "Harmlessness") for k in ("BoN", "Pairwise")
    ]
    assert scored.score == pytest.approx((1 + pairs + 0.5 + 0.5) / 4)
    assert scored.details == pytest.approx({"Helpfulness": (1 + pairs) / 2, "Harmlessness": 0.5})
    assert scored.partial and scored.missing == SECTIONS and scored.rows == 7
    assert scored.strict == pytest.approx((1 + 1 / 3 + 0.5 + 0) / 4)


def test_missing_rows_are_counted_against_upstreams_totals() -> None:
    """10,067 pairs and 2,109 lists for helpfulness, 7,064 and 1,677 for harmlessness (upstream's tables)."""
    assert dict(zip(SECTIONS, (2109, 10067, 1677, 7064), strict=True)) == ROWS
    assert ROWS["Helpfulness BoN"] + ROWS["Harmlessness BoN"] == 3786  # the dataset card of ilgee/RMB-BoN
    turns = (Message(role="user", content="q"),)
    rows = [
        Row(f"{section}{n}", f"{section}/x", turns, ("a", "b"), 1, ((0, 1),), {"kind": section.split()[1], "section": section})
        for section, count in ROWS.items()
        for n in range(count)
    ]  # fmt: skip
    results = score_all(rows, lambda _, place: -place)
    scored = BENCH.score(rows, results)
    assert not scored.partial and scored.rows == 20917 and scored.score == 1
    assert BENCH.score(rows[1:], results).missing == ("Helpfulness BoN",)


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_the_subset_is_named_like_the_file_without_its_suffix(tmp_path: Path, suffix: str) -> None:
    folder = tmp_path / "Pairwise_set" / "Helpfulness" / "Chat"
    folder.mkdir(parents=True)
    without = {k: v for k, v in pair().items() if k != "category_path"}
    path = folder / f"Discussion.{suffix}"
    rows = good(
        BENCH.rows(
            (array if suffix == "json" else lines)(
                path, [without, without | {"conversation_input": talk("r")}]
            )
        )
    )
    assert {one.subset for one in rows} == {"Pairwise/Helpfulness/Chat/Discussion"}


def test_subfolders_are_read_and_an_absent_part_is_missing(tmp_path: Path) -> None:
    without = {k: v for k, v in pair().items() if k != "category_path"}
    array(tmp_path / "Pairwise_set" / "Helpfulness" / "Chat" / "Discussion.json", [without])
    array(tmp_path / "BoN_set" / "Harmlessness" / "S1.json", [best()])
    rows = good(BENCH.rows(str(tmp_path)))
    assert [r.subset for r in rows] == ["BoN/Harmlessness/S1", "Pairwise/Helpfulness/Chat/Discussion"]
    scored = BENCH.score(rows, score_all(rows, lambda r, place: -place))
    assert scored.missing == SECTIONS and scored.partial
    assert scored.score == 1 and scored.sections["Helpfulness BoN"] is None


BOTH_ORDERS = st.tuples(*[st.sampled_from(VERDICTS)] * 2)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(SECTIONS), st.lists(BOTH_ORDERS, min_size=3, max_size=3)),
        min_size=1,
        max_size=8,
    )
)
def test_the_score_is_the_mean_of_the_parts(verdicts: list[Any]) -> None:
    credit = {"right": 1.0, "wrong": 0.0}
    rows, expected = [], {}
    for number, (section, three) in enumerate(verdicts):
        kind = section.split()[1]
        wrong = ["w1", "w2", "w3"] if kind == "BoN" else ["w1"]
        details = {"kind": kind, "section": section}
        rows.append(
            Row.make(
                f"{section}/x", [{"role": "user", "content": str(number)}], ["r"], wrong, details=details
            )
        )  # type: ignore[list-item]
        means = [sum(credit.get(one, 0.5) for one in pair) / 2 for pair in three[: len(wrong)]]
        value = float(all(m > 0.5 for m in means)) if kind == "BoN" else means[0]
        expected.setdefault(section, []).append(value)
    verdicts_by_id = {r.id: three for r, (_, three) in zip(rows, verdicts, strict=True)}
    results = judge_all(rows, lambda r, i, j: verdicts_by_id[r.id][j - 1])
    scored = BENCH.score(rows, results)
    means = [sum(values) / len(values) for values in expected.values()]
    assert scored.score == pytest.approx(sum(means) / len(means))
    assert scored.strict <= scored.score + 1e-12
    assert BENCH.score(rows[::-1], results) == scored


def test_bad_rmb_rows_are_drops_with_their_location(tmp_path: Path) -> None:
    bad = [
        best(losers=0), best(loser_list=["x"]), best(bon_best="a"), pair(reject=None), pair(chosen={"llm_name": "m"}),
        pair(conversation_input=[]), pair(conversation_input=[{"role": "assistant", "content": "a"}]),
        pair("Cheerfulness"), {"conversation_input": talk("q")}, pair(),
    ]  # fmt: skip
    assert dropped(BENCH.rows(array(tmp_path / "x.json", bad))) == [
        ("json[0]", "no_answer"),
        ("json[1]", "bad_type"),
        ("json[2]", "bad_type"),
        ("json[3]", "missing_column"),
        ("json[4]", "bad_type"),
        ("json[5]", "no_messages"),
        ("json[6]", "no_final_question"),
        ("json[7]", "unknown_goal"),
        ("json[8]", "missing_column"),
    ]


def test_all_pairs_have_the_same_weight(tmp_path: Path) -> None:
    raw = [{"prompt": f"q{n}", "chosen": "c", "rejected": "r", "subset": "ab"[n == 0]} for n in range(3)]
    raw.append({"prompt": [{"role": "user", "content": "t"}], "chosen": "", "rejected": "r"})
    rows = good(Pairs().rows(lines(tmp_path / "mine.jsonl", raw)))
    assert [r.subset for r in rows] == ["b", "a", "a", "mine"]
    verdicts = dict(
        zip(
            [r.id for r in rows],
            [("right", "right"), ("wrong", "tie"), ("tie", "tie"), ("right", "error")],
            strict=True,
        )
    )
    scored = Pairs().score(rows, judge_all(rows, lambda r, *_: verdicts[r.id]))
    assert {name: one.accuracy for name, one in scored.subsets.items()} == {
        "a": 0.375,
        "b": 1.0,
        "mine": 0.75,
    }
    assert scored.score == scored.swap_mean == pytest.approx((1 + 0.25 + 0.5 + 0.75) / 4)
    assert scored.strict == 0.25 and not scored.partial and not scored.toy


def test_pairs_from_parquet_and_bad_rows(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    raw = [{"prompt": "q", "chosen": "c", "rejected": "r"}, {"prompt": "q", "chosen": None, "rejected": "r"}]
    parquet.write_table(pyarrow.Table.from_pylist(raw), tmp_path / "x.parquet")
    assert dropped(Pairs().rows(str(tmp_path / "x.parquet"))) == [("parquet[1]", "missing_column")]
    bad = [
        {"prompt": 1, "chosen": "c", "rejected": "r"},
        {"prompt": "q", "chosen": ["c"], "rejected": "r"},
        raw[0],
    ]
    assert dropped(Pairs().rows(lines(tmp_path / "x.jsonl", bad))) == [
        ("jsonl:1", "bad_type"),
        ("jsonl:2", "bad_type"),
    ]
