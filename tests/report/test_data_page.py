"""The data report as a page: one file, nothing from elsewhere, and no text of the data becomes structure."""

from __future__ import annotations

import base64
import json
import re
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasongenrm.config.prepare import DecontaminateConfig, NearDuplicateConfig
from reasongenrm.data.clean import NearDuplicates, filter_pairs
from reasongenrm.data.decontaminate import Decontaminator, benchmark_texts
from reasongenrm.data.leaks import LeakDetector
from reasongenrm.data.report import DataReport
from reasongenrm.records import Drop, Message, PreferencePair
from reasongenrm.report.data_page import page, write_report
from support.html_pages import Page
from support.pairs import load_pairs

pytestmark = pytest.mark.unit

EVIL = "<script>alert('x')</script>"


def pair(chosen: str = "good", rejected: str = "bad", source: str = "s") -> PreferencePair:
    return PreferencePair.make([Message(role="user", content="p")], chosen, rejected, source)


def report_of(*pairs: PreferencePair, drops: tuple[Drop, ...] = ()) -> DataReport:
    report = DataReport({"reason": 100})
    for one in pairs:
        report.add_loaded(one.source)
        report.add_kept(one, "eng")
        report.add_placement(one.source, "A")
        report.add_tokens("reason", len(one.chosen))
    for drop in drops:
        report.add_loaded(drop.source)
        report.add_drop(drop)
    return report


def pictures(seen: Page) -> list[bytes]:
    start = "data:image/png;base64,"
    return [base64.b64decode(value[len(start) :]) for value in seen.values("img", "src")]


def test_a_report_is_one_page_with_pictures(tmp_path: Path) -> None:
    drop = Drop("f.jsonl:3", "s", "empty_answer", "The answer is empty; fill it.", "load")
    whole = report_of(pair(), pair("x" * 300, "yy", "t"), drops=(drop,)).to_dict()
    write_report(whole, tmp_path / "data.json", tmp_path / "data.html")
    assert json.loads((tmp_path / "data.json").read_text(encoding="utf-8")) == whole
    html = (tmp_path / "data.html").read_text(encoding="utf-8")
    seen = Page(html)
    assert "for every source: 3 = 2 + 1 in all" in seen.text
    assert {"f.jsonl:3", "The answer is empty; fill it.", "empty_answer", "all sources"} <= set(seen.cells)
    assert "Balance and length" in seen.titles and "Languages" in seen.titles
    images = pictures(seen)
    assert len(images) == 5  # drops, placement, lengths, languages, tokens
    for png in images:
        width, height = struct.unpack(">II", png[16:24])
        assert png.startswith(b"\x89PNG") and width == 700 and height > 100
    assert "script" not in seen.tags and "link" not in seen.tags
    assert all(value.startswith("data:") for _, key, value in seen.attributes if key == "src")
    assert all(value.startswith("#") for _, key, value in seen.attributes if key == "href")
    assert not re.search(r"https?:|url\(|@import", re.sub(r"base64,[^\"]+", "", html))


def test_text_of_the_data_stays_text() -> None:
    drop = Drop(EVIL, EVIL, EVIL, f'{EVIL} {{{{ 7 * 7 }}}} "quoted" & $x$', EVIL)
    report = report_of(pair(source=EVIL), pair(source="a$b_{c"), drops=(drop,))
    section = {EVIL: EVIL, "table": [{EVIL: EVIL}], "deep": {EVIL: {"x": [1]}}}
    seen = Page(page(report.to_dict() | {"leaks": leak_report(EVIL), EVIL: section}))
    assert "script" not in seen.tags
    assert seen.cells.count(EVIL) > 6
    assert f'{EVIL} {{{{ 7 * 7 }}}} "quoted" & $x$' in seen.cells
    assert "49" not in seen.text


def leak_report(source: str) -> dict[str, Any]:
    detector = LeakDetector()
    for at in range(40):
        one = pair(f"word{at} a", f"other{at} b {EVIL}", source)
        detector.add(one)
        detector.add_placement(one, "A")
    return detector.to_dict()


def test_leaks_are_an_alarm_and_their_absence_is_stated() -> None:
    report = report_of(pair())
    seen = Page(page(report.to_dict() | {"leaks": leak_report("s")}))
    assert ("p", "class", "alarm") in seen.attributes and "suspected label leak(s)" in seen.text
    assert "marker <script>" in seen.cells
    seen = Page(page(report.to_dict() | {"leaks": LeakDetector().to_dict()}))
    assert ("p", "class", "alarm") not in seen.attributes and "No label leak was found." in seen.text


def test_sections_of_any_form_are_shown() -> None:
    report: dict[str, Any] = report_of(pair()).to_dict()
    report["reasons"] = {
        "sampled": 12345,
        "share": 0.25,
        "none": None,
        "flag": True,
        "dropped": {"giveaway": 3},
        "teachers": {"big": {"kept": 1}, "small": {"kept": 2, "cost": 1.5}},
        "deep": {"one": {"two": {"three": "bottom"}}},
        "rows": [{"a": 1}, {"b": 2}],
        "list": ["x", 2],
        "nothing": {},
    }
    report["selection"] = ["plain"]
    report["choices"] = "text"
    seen = Page(page(report))
    for cell in ("12,345", "0.25", "–", "yes", "giveaway", "big", "small", "1.5", "bottom", "x, 2"):
        assert cell in seen.cells, cell
    assert {"Reasons", "Teachers", "Deep", "One", "Selection", "Choices"} <= set(seen.titles)


def test_an_empty_report_is_a_page() -> None:
    seen = Page(page(DataReport().to_dict()))
    assert "0 = 0 + 0 in all" in seen.text and "None." in seen.text


def test_long_tables_are_cut_with_a_word_about_it() -> None:
    report: dict[str, Any] = DataReport().to_dict()
    report["reasons"] = {"rows": [{"n": at} for at in range(1000)]}
    assert "… and 600 more rows: see the JSON beside this page" in Page(page(report)).cells


def test_a_page_that_could_not_be_written_leaves_no_json(tmp_path: Path) -> None:
    report: dict[str, Any] = DataReport().to_dict()
    del report["total"]["length"]
    with pytest.raises(KeyError):
        write_report(report, tmp_path / "data.json", tmp_path / "data.html")
    assert list(tmp_path.iterdir()) == []


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**12), 10**12)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.text(max_size=8), values, max_size=4))
def test_any_json_is_a_well_formed_section(section: dict[str, Any]) -> None:
    report = {"reasons": section}
    seen = Page(page(report))
    assert seen.titles[0] == "Reasons"
    texts = [item for item in section.values() if isinstance(item, str) and item.strip()]
    assert all(text in seen.text for text in texts)
    assert set(seen.tags) <= set("html head meta title style body h1 h2 h3 nav a div p".split()) | {
        *("table", "thead", "tbody", "tr", "th", "td")
    }


def test_a_whole_run_over_real_pairs(shared: Path, tmp_path: Path) -> None:
    report, detector = DataReport(), LeakDetector()
    bench = shared / "benchmarks" / "rewardbench_llmbar.jsonl"
    looked = Decontaminator(DecontaminateConfig(), [("llmbar", benchmark_texts(str(bench)))])
    rows = report.count_loaded(load_pairs(str(shared / "preferences" / "real_pairs_skywork_schema.jsonl")))
    pairs = (row for row in rows if isinstance(row, PreferencePair))
    distinct = filter_pairs(pairs, NearDuplicates(NearDuplicateConfig()).problems, report.add_drop)
    for one in filter_pairs(distinct, looked.problems, report.add_drop):
        report.add_kept(one)
        detector.add(one)
    whole = report.to_dict() | {"leaks": detector.to_dict(), "contamination": looked.to_dict()}
    assert whole["total"]["dropped_by_stage"]["clean"]["near_duplicate"] == 10
    assert whole["total"]["dropped_by_stage"]["clean"]["contaminated_prompt"] >= 5
    write_report(whole, tmp_path / "data.json", tmp_path / "data.html")
    seen = Page((tmp_path / "data.html").read_text(encoding="utf-8"))
    assert {"Label leaks", "Contamination", "Matches"} <= set(seen.titles)
    assert "llmbar" in seen.cells
