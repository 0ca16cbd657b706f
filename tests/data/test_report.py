"""The data report: sums that hold through all stages, and the language of a pair."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasongenrm.data.clean import clean
from reasongenrm.data.ranked import load_ranked
from reasongenrm.data.report import UNIT, UNKNOWN_LANGUAGE, DataReport, language, pair_language
from reasongenrm.records import Drop, Message, PreferencePair
from reasongenrm.report.data_page import page, write_report
from support.pairs import load_pairs

pytestmark = pytest.mark.unit


def pair(prompt: str = "p", chosen: str = "good", rejected: str = "bad", source: str = "s") -> PreferencePair:
    return PreferencePair.make([Message(role="user", content=prompt)], chosen, rejected, source)


LOST = Drop("f.jsonl:3", "s", "empty_answer", "The answer is empty.", "load")


small = st.sampled_from(["a", "b", "c"])
items = st.one_of(
    st.tuples(small, small, small, small)
    .filter(lambda texts: texts[1] != texts[2])
    .map(lambda texts: pair(*texts)),
    st.builds(Drop, small, small, small, small, st.sampled_from(["load", "length"])),
)


@settings(max_examples=50, deadline=None)
@given(st.lists(items, max_size=20))
def test_sums_hold_and_no_pair_is_kept_twice_or_both_ways(rows: list[PreferencePair | Drop]) -> None:
    report = DataReport()
    kept = []
    for one in clean(report.count_loaded(rows), drop_sources=["c"], on_drop=report.add_drop):
        kept.append((one.history[0]["content"], one.chosen, one.rejected))
        report.add_kept(one)
    assert len(set(kept)) == len(kept)
    assert not {(p, r, c) for p, c, r in kept} & set(kept)
    whole = report.to_dict()
    total = whole["total"]
    assert total["in"] == len(rows) == total["kept"] + total["dropped"]
    for part in ("in", "kept", "dropped"):
        assert total[part] == sum(source[part] for source in whole["sources"].values())
    for counts in [total, *whole["sources"].values()]:
        assert counts["dropped"] == sum(
            sum(reasons.values()) for reasons in counts["dropped_by_stage"].values()
        )
        assert counts["kept"] == sum(counts["user_turns"].values())


def test_report_through_four_stages(tmp_path: Path) -> None:
    report = DataReport()
    long, short = pair("q", "long answer", "x"), pair("r", "ab", "abcd", source="t")
    rows: list[PreferencePair | Drop] = [pair(), LOST, pair(), long, short, pair("z")]
    kept = list(clean(report.count_loaded(rows), drop_sources=[], on_drop=report.add_drop))
    report.add_drop(Drop(kept[-1].id, "s", "too_long", "Longer than the model's limit.", "length"))
    for one in kept[:-1]:
        report.add_kept(one, "eng" if one is long else "und")
    report.add_placement(long.source, "A")
    report.add_placement(long.source, "B")
    report.add_placement(short.source, "A")
    whole = report.to_dict()
    assert whole["unit"] == UNIT
    assert whole["total"] == {
        "in": 6,
        "kept": 3,
        "dropped": 3,
        "dropped_by_stage": {
            "clean": {"duplicate": 1},
            "length": {"too_long": 1},
            "load": {"empty_answer": 1},
        },
        "judge_prompts": {"A": 2, "B": 1, "share_A": 0.6667},
        "length": {
            "mean_chosen_characters": 5.7,
            "mean_rejected_characters": 2.7,
            "share_chosen_longer": 0.6667,
            "share_rejected_longer": 0.3333,
        },
        "user_turns": {"1": 3},
        "languages": {"eng": 1, "und": 2},
    }
    assert whole["sources"]["t"]["languages"] == {"und": 1}
    assert whole["sources"]["t"]["judge_prompts"] == {"A": 1, "B": 0, "share_A": 1.0}
    write_report(whole, tmp_path / "out" / "data.json", tmp_path / "out" / "data.html")
    assert json.loads((tmp_path / "out" / "data.json").read_text(encoding="utf-8")) == whole
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["data.html", "data.json"]


def test_pairs_with_reference_points_are_counted() -> None:
    report = DataReport()
    for one in (pair(), replace(pair("q"), reference_points=("short", "polite")), pair("r", source="t")):
        report.add_loaded(one.source)
        report.add_kept(one)
    whole = report.to_dict()
    assert whole["total"]["reference_points"] == {"pairs": 1, "points": 2}
    assert [*whole["sources"]["s"]] == [*whole["sources"]["t"], "reference_points"]
    assert "1 of the kept pairs have reference points, 2 in all" in page(whole)


def test_wrong_sums_are_an_error() -> None:
    report = DataReport()
    report.add_loaded("s")
    with pytest.raises(AssertionError, match=r"source 's': 1 in, but 0 kept \+ 0 dropped"):
        report.to_dict()
    report.add_drop(LOST)
    report.add_kept(pair())
    with pytest.raises(AssertionError, match=r"1 in, but 1 kept \+ 1 dropped"):
        report.to_dict()


def test_the_report_does_not_depend_on_the_order_of_rows(tmp_path: Path) -> None:
    rows = [pair(source=name, chosen="good" * len(name)) for name in ("bb", "a", "ccc")]
    written = []
    for order in (rows, rows[::-1]):
        report = DataReport()
        for one in order:
            report.add_loaded(one.source)
            report.add_kept(one, "eng")
            report.add_tokens(f"template {one.source}", 100)
        write_report(report.to_dict(), tmp_path / "d.json", tmp_path / "d.html")
        written.append((tmp_path / "d.json").read_bytes() + (tmp_path / "d.html").read_bytes())
    assert written[0] == written[1]


def test_sources_that_look_the_same_count_as_one() -> None:
    report = DataReport()
    for name in ("a\nb", "a\\nb", "\ud800", "", "a"):
        report.add_loaded(name)
        report.add_kept(pair(source=name))
    assert {name: row["in"] for name, row in report.to_dict()["sources"].items()} == {
        "a\\nb": 2,
        "\\ud800": 1,
        "": 1,
        "a": 1,
    }


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 20_000)), min_size=1, max_size=20))
def test_every_answer_is_in_the_length_histogram(lengths: list[tuple[int, int]]) -> None:
    report = DataReport()
    for short, long in lengths:
        report.add_loaded("s")
        report.add_kept(pair(chosen="c" * short, rejected="r" * long))
    bins = report.to_dict()["length_histogram"]
    starts = [row["characters_from"] for row in bins]
    assert starts == sorted(set(starts))
    for side, at in (("chosen", 0), ("rejected", 1)):
        for row, end in zip(bins, [*starts[1:], 10**9], strict=True):
            assert row[side] == sum(row["characters_from"] <= one[at] < end for one in lengths)
    assert all(end <= 2 * start for start, end in pairwise(starts) if start > 1)


def test_token_lengths_per_template() -> None:
    report = DataReport({"reason": 150})
    for tokens in (10, 20, 130, 200):
        report.add_tokens("reason", tokens)
    report.add_tokens("direct", 64)
    assert report.to_dict()["tokens"] == {
        "direct": {
            "prompts": 1,
            "limit": None,
            "over_limit": 0,
            "mean": 64.0,
            "half_up_to": 64,
            "nine_tenths_up_to": 64,
            "99_percent_up_to": 64,
            "longest": 64,
            "tokens_per_bin": 64,
            "histogram": [[64, 1]],
        },
        "reason": {
            "prompts": 4,
            "limit": 150,
            "over_limit": 1,
            "mean": 90.0,
            "half_up_to": 63,
            "nine_tenths_up_to": 200,
            "99_percent_up_to": 200,
            "longest": 200,
            "tokens_per_bin": 64,
            "histogram": [[0, 2], [128, 1], [192, 1]],
        },
    }


def test_empty_report() -> None:
    whole = DataReport().to_dict()
    assert whole["total"]["in"] == 0 and whole["sources"] == {} and whole["length_histogram"] == []
    assert whole["total"]["length"]["mean_chosen_characters"] is None


def test_ranked_lines_and_pairs_add_up(tmp_path: Path) -> None:
    file = tmp_path / "r.csv"
    file.write_text("prompt,answer,rank\np,a,1\np,b,2\np,c,3\np,d,x\nq,a,1\n", encoding="utf-8")
    report = DataReport()
    for one in clean(report.count_loaded(load_ranked(str(file))), drop_sources=[], on_drop=report.add_drop):
        report.add_kept(one)
    counts = report.to_dict()["sources"]["r"]
    assert (counts["in"], counts["kept"], counts["dropped"]) == (5, 3, 2)
    assert counts["dropped_by_stage"] == {"load": {"bad_rank": 1, "nothing_to_compare": 1}}


def test_real_rows_add_up(shared: Path) -> None:
    rows = load_pairs(str(shared / "preferences" / "real_pairs_skywork_schema.jsonl"))
    report = DataReport()
    for one in clean(report.count_loaded(rows), drop_sources=["magpie_ultra"], on_drop=report.add_drop):
        report.add_kept(one)
    total = report.to_dict()["total"]
    assert (total["in"], total["kept"]) == (500, 490)
    assert total["dropped_by_stage"] == {"clean": {"duplicate": 10}}


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("The quick brown fox jumps over the lazy dog, and that is what you would have to see.", "eng"),
        (
            "Le renard brun saute par-dessus le chien paresseux, et c'est tout ce qu'il fait aujourd'hui.",
            "fra",
        ),
        (
            "Der schnelle braune Fuchs springt über den faulen Hund, und das ist alles, was er heute tut.",
            "deu",
        ),
        (
            "El rápido zorro marrón salta sobre el perro perezoso, y eso es todo lo que hace hoy en día.",
            "spa",
        ),
        ("敏捷的棕色狐狸跳过了懒狗，这就是今天发生的一切。", "cmn"),
        ("すばやい茶色の狐がのろまな犬を飛び越えました。今日はそれだけです。", "jpn"),
        ("Быстрая коричневая лиса прыгает через ленивую собаку, и это всё на сегодня.", "rus"),
        ("42", UNKNOWN_LANGUAGE),
        ("", UNKNOWN_LANGUAGE),
        ("!!!! ???? **** ---- ....", UNKNOWN_LANGUAGE),
    ],
)
def test_languages(text: str, code: str) -> None:
    assert language(text) == code
    assert language(text * 1000 if len(text) > 20 else text) == code


def test_language_of_real_pairs(shared: Path) -> None:
    rows = load_pairs(str(shared / "preferences" / "real_pairs_skywork_schema.jsonl"))
    codes = [pair_language(row) for row in rows if isinstance(row, PreferencePair)]
    assert codes.count("eng") > 0.95 * len(codes)
