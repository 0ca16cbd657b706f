"""The tab Rank, without a browser: its state is the journal, and what it shows is text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reasongenrm.answers.rank import RankingFiles
from reasongenrm.data.ranked import read_ranked
from reasongenrm.errors import ConfigError
from support.annotation import EVIL, SHOWN_EVIL, Shown, write_rows

gradio = pytest.importorskip("gradio", reason="the extra app")

from reasongenrm.app.rank import RankTab, build_rank  # noqa: E402
from reasongenrm.app.sources import AppSources  # noqa: E402

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module", autouse=True)
def page() -> Iterator[Any]:
    """One page, to which every test adds its tab: a new one takes a second."""
    with gradio.Blocks(analytics_enabled=False) as page:
        yield page


@pytest.fixture
def answers(tmp_path: Path) -> Path:
    rows = [
        {"prompt": f"{n} {EVIL}", "answer": f"answer {a} {EVIL}", "model": "secret-model"}
        for n in range(3)
        for a in range(3)
    ]
    return write_rows(tmp_path / "in.jsonl", *rows)


@pytest.fixture
def tab(answers: Path) -> RankTab:
    return RankTab(RankingFiles(str(answers), str(answers.with_name("out.csv"))), "")


def test_begin_rank_skip_undo(tab: RankTab, tmp_path: Path) -> None:
    state = Shown(tab, tab.begin("  ann "))
    assert state["who"] == "ann" and state["message"] == "" and "ann: 0 of 3 ranked" in state["progress"]
    assert SHOWN_EVIL in state["prompt"] and state["answers"].count(SHOWN_EVIL) == 3
    assert "secret-model" not in str(state.updates)
    first = state["shown"]
    state = Shown(tab, tab.rank("ann", first, "2 1=3"))
    assert "ann: 1 of 3 ranked" in state["progress"] and state["order"] == "" and state["shown"] != first
    prompts, drops = read_ranked(str(tmp_path / "out.csv"))
    assert drops == [] and [sorted(answer.ranks["ann"] for answer in p.answers) for p in prompts] == [
        [1, 2, 2]
    ]
    second = state["shown"]
    assert "1 skipped" in Shown(tab, tab.skip("ann", second))["progress"]
    assert Shown(tab, tab.undo("ann"))["shown"] == second
    assert Shown(tab, tab.undo("ann"))["shown"] == first
    assert read_ranked(str(tmp_path / "out.csv"))[0] == []
    for _ in range(3):
        state = Shown(tab, tab.rank("ann", Shown(tab, tab.begin("ann"))["shown"], "1=2=3"))
    assert "All prompts are ranked" in state["progress"] and state["prompt"] == "" and state["shown"] == ""


@pytest.mark.parametrize(
    ("order", "problem"),
    [
        ("1 2", "not ranked: answer 3"),
        ("1 2 3 4", "there is no answer 4"),
        ("", "not ranked: answer 1, 2, 3"),
        (EVIL, "is not the number of an answer"),
    ],
)
def test_a_wrong_order_is_named_and_stays_in_the_field(tab: RankTab, order: str, problem: str) -> None:
    shown = Shown(tab, tab.begin("ann"))["shown"]
    state = Shown(tab, tab.rank("ann", shown, order))
    assert problem in state["message"] and "order" not in state and "shown" not in state


@pytest.mark.parametrize("name", ["", " ", "x" * 81, "a\u202eb", "a\x1b[2J"])
def test_a_wrong_name_is_named(tab: RankTab, name: str) -> None:
    for updates in (tab.begin(name), tab.rank(name, "x", "1"), tab.skip(name, "x"), tab.undo(name)):
        assert "annotator's name" in Shown(tab, updates)["message"]


def test_a_page_that_shows_an_old_prompt_is_refused_and_shows_the_new_one(tab: RankTab) -> None:
    old = Shown(tab, tab.begin("ann"))["shown"]
    new = Shown(tab, tab.rank("ann", old, "1 2 3"))["shown"]
    for updates in (tab.rank("ann", old, "3 2 1"), tab.skip("ann", old), tab.rank("ann", "", "1 2 3")):
        state = Shown(tab, updates)
        assert "another prompt is current" in state["message"] and state["shown"] == new
    assert "ann: 1 of 3 ranked" in state["progress"]
    assert "there is nothing to undo" in Shown(tab, tab.undo("bob"))["message"]


def test_two_annotators_and_a_restart(tab: RankTab, answers: Path) -> None:
    for name in ("ann", "bob"):
        shown = Shown(tab, tab.begin(name))["shown"]
        for _ in range(3):
            state = Shown(tab, tab.rank(name, shown, "1 2 3"))
            shown = state["shown"]
    assert "ranked by ann 3, bob 3" in state["summary"] and "Kendall's W" in state["summary"]
    again = RankTab(RankingFiles(str(answers), str(answers.with_name("out.csv"))), "bob")
    assert Shown(again, again.undo("bob"))["shown"] == Shown(again, again.begin("bob"))["shown"] != ""


def test_files_that_do_not_fit_stop_the_start(answers: Path, tmp_path: Path) -> None:
    (tmp_path / "out.csv").write_text("mine", encoding="utf-8")
    with pytest.raises(ConfigError, match="the output exists"):
        build_rank(AppSources(answers=answers, ranks=tmp_path / "out.csv"))


def test_without_answers_the_tab_says_how_to_give_them(page: Any) -> None:
    build_rank(AppSources())
    texts: list[Any] = [block.value for block in page.blocks.values() if isinstance(block, gradio.HTML)]
    assert "reasongenrm app --answers" in texts[-1]
