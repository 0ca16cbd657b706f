"""The tab Label, without a browser: no verdict before a label, and the letters are those that the annotator saw."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reasongenrm.answers.label_files import LabelFiles
from support.annotation import EVIL, SHOWN_EVIL, Shown, read_rows, write_rows

gradio = pytest.importorskip("gradio", reason="the extra app")

from reasongenrm.app.label import LabelTab, build_label  # noqa: E402
from reasongenrm.app.sources import AppSources  # noqa: E402

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module", autouse=True)
def page() -> Iterator[Any]:
    """One page, to which every test adds its tab: a new one takes a second."""
    with gradio.Blocks(analytics_enabled=False) as page:
        yield page


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Four pairs whose first answer the judge `tiny` prefers; its reasons name the order that they are about."""
    judges = {
        f"tiny {EVIL}": {
            "winner": "A",
            "prob_a": 0.9,
            "reasons": {"AB": f"first {EVIL}", "BA": f"second {EVIL}"},
        }
    }
    rows = [
        {
            "id": f"r{n}",
            "prompt": f"{n} {EVIL}",
            "a": f"one {n} {EVIL}",
            "b": f"two {n} {EVIL}",
            "judges": judges,
        }
        for n in range(4)
    ]
    return write_rows(tmp_path / "in.jsonl", *rows)


@pytest.fixture
def tab(pairs: Path) -> LabelTab:
    return LabelTab(LabelFiles(str(pairs), str(pairs.with_name("labels.jsonl"))), "")


def swapped(state: Shown) -> bool:
    """Whether the file's second answer is shown as A."""
    text = state["answers"]
    return text.index("two") < text.index("one")


def test_the_verdict_is_shown_after_the_label_with_the_letters_that_were_seen(
    tab: LabelTab, tmp_path: Path
) -> None:
    state = Shown(tab, tab.begin("ann"))
    orders = set()
    for number in range(4):
        assert ("Verdict of" in state["last"]) == (number > 0), "the one before, if any"
        assert SHOWN_EVIL in state["prompt"] and state["answers"].count(SHOWN_EVIL) == 2
        shown_swapped = swapped(state)
        orders.add(shown_swapped)
        state = Shown(tab, tab.label("A", "ann", state["shown"], f" note {EVIL}"))
        letter, prob_a, order = ("B", "0.10", "second") if shown_swapped else ("A", "0.90", "first")
        assert "you said A is better." in state["last"]
        verdict = f"Verdict of tiny {SHOWN_EVIL}: {letter} is better, P(A) {prob_a}"
        assert f"{verdict}its reason{order} {SHOWN_EVIL}" in state["last"]
    assert orders == {True, False}
    assert "All pairs are labelled" in state["progress"] and "Cohen's kappa" in state["summary"]
    rows = read_rows(tmp_path / "labels.jsonl")
    assert {row["labels"]["ann"] for row in rows} == {"A", "B"} and [row["id"] for row in rows] == [
        "r0",
        "r1",
        "r2",
        "r3",
    ]
    assert all(row["notes"] == {"ann": f"note {EVIL}"} for row in rows)


def test_nothing_of_the_judge_is_on_the_page_before_the_label(tab: LabelTab) -> None:
    state = Shown(tab, tab.begin("ann"))
    for updates in (tab.skip("ann", state["shown"]), tab.begin("ann")):
        text = str(Shown(tab, updates).updates)
        assert not any(word in text for word in ("tiny", "0.9", "first ", "Verdict"))


def test_ties_skips_undo_and_a_second_label(tab: LabelTab, tmp_path: Path) -> None:
    first = Shown(tab, tab.begin("ann"))["shown"]
    state = Shown(tab, tab.label("tie", "ann", first, ""))
    assert "you said equally good." in state["last"] and "ann: 1 of 4 labelled" in state["progress"]
    assert read_rows(tmp_path / "labels.jsonl.pairs.jsonl") == []
    state = Shown(tab, tab.undo("ann"))
    assert state["shown"] == first and state["last"] == "" and read_rows(tmp_path / "labels.jsonl") == []
    tab.label("B", "ann", first, "")
    (row,) = read_rows(tmp_path / "labels.jsonl")
    assert row["labels"] == {} and set(row["labels_after_verdict"]) == {"ann"}


def test_a_page_that_shows_an_old_pair_is_refused_and_shows_the_new_one(tab: LabelTab) -> None:
    old = Shown(tab, tab.begin("ann"))["shown"]
    new = Shown(tab, tab.label("A", "ann", old, ""))["shown"]
    for updates in (tab.label("B", "ann", old, "lost?"), tab.skip("ann", old)):
        state = Shown(tab, updates)
        assert "another pair is current" in state["message"] and state["shown"] == new
    assert "ann: 1 of 4 labelled" in state["progress"]
    state = Shown(tab, tab.label("A", "ann", new, "x" * 2001))
    assert "2001 characters" in state["message"] and "note" not in state and "shown" not in state


def test_two_annotators_and_a_restart(tab: LabelTab, pairs: Path) -> None:
    for name in ("ann", "bob"):
        shown = Shown(tab, tab.begin(name))["shown"]
        for _ in range(3):
            state = Shown(tab, tab.label("tie", name, shown, ""))
            shown = state["shown"]
    assert "labelled by ann 3, bob 3" in state["summary"] and "ann and bob: " in state["summary"]
    again = LabelTab(LabelFiles(str(pairs), str(pairs.with_name("labels.jsonl"))), "bob")
    assert Shown(again, again.begin("bob"))["shown"] == shown


def test_verdicts_come_from_a_file_of_their_own(tmp_path: Path) -> None:
    pairs = write_rows(tmp_path / "p.jsonl", {"id": "x", "prompt": "p", "a": "1", "b": "2"})
    verdicts = write_rows(tmp_path / "big.jsonl", {"id": "x", "winner": "tie"})
    build_label(AppSources(pairs=pairs, labels=tmp_path / "out.jsonl", verdicts=verdicts))
    tab = LabelTab(LabelFiles(str(pairs), str(tmp_path / "out.jsonl"), verdicts=str(verdicts)), "")
    shown = Shown(tab, tab.begin("ann"))["shown"]
    assert "Verdict of big: equally good" in Shown(tab, tab.label("A", "ann", shown, ""))["last"]


def test_without_pairs_the_tab_says_how_to_give_them(page: Any) -> None:
    build_label(AppSources())
    texts: list[Any] = [block.value for block in page.blocks.values() if isinstance(block, gradio.HTML)]
    assert "reasongenrm app --pairs" in texts[-1]
