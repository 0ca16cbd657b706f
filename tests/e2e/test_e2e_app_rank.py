"""The tab Rank in a real browser: by keys and by mouse, two annotators, two tabs of one; no text of an answer does anything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reasongenrm.data.ranked import read_ranked
from support.annotation import EVIL, SHOWN_EVIL, write_rows
from support.app_page import BACKSPACE, ENTER, AppPage

pytest.importorskip("gradio", reason="the extra app")

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rank") / "out.csv"


@pytest.fixture(scope="module")
def url(out: Path) -> Iterator[str]:
    """A page with three prompts of three answers and one of twelve."""
    from reasongenrm.app.sources import AppSources
    from support.pages import running_page

    rows = [
        {"prompt": f"prompt {n}: {EVIL}", "answer": f"answer {a} {EVIL}\nnext line {'long ' * 60}"}
        for n, count in enumerate((3, 3, 3, 12))
        for a in range(count)
    ]
    answers = write_rows(out.with_name("in.jsonl"), *rows)
    with running_page(AppSources(answers=answers, ranks=out, annotator="preset")) as url:
        yield url


def order(page: AppPage) -> str:
    return str(page.field("rank-order").get_attribute("value"))


def cards(page: AppPage) -> int:
    return len(page.driver.find_elements("css selector", "#rank-answers .answer"))


def groups(out: Path, name: str) -> list[list[int]]:
    """The ranks that an annotator gave, sorted, of each prompt."""
    prompts, drops = read_ranked(str(out))
    assert drops == []
    ranks = [sorted(int(answer.ranks[name]) for answer in p.answers if name in answer.ranks) for p in prompts]
    return sorted(one for one in ranks if one)


def test_ranking_by_keys_and_mouse(browser: Any, url: str, out: Path) -> None:
    page = AppPage(browser, url, "Rank")
    page.until(lambda: page.field("rank-name").get_attribute("value") == "preset")
    page.begin("rank", "ann")
    page.until_text("#rank-progress", "ann: 0 of 4 ranked")
    assert page.text("#rank-prompt .text").endswith(SHOWN_EVIL) and SHOWN_EVIL in page.text("#rank-answers")

    page.keys("s")
    page.until_text("#rank-progress", "0 of 4 ranked, 1 skipped")
    page.keys("u")
    page.until(lambda: "skipped" not in page.text("#rank-progress"))
    if cards(page) == 12:  # by keys below, where two digits are wanted
        page.keys("s")
        page.until(lambda: cards(page) == 3)
    page.keys("11")
    assert "answer 1 is already ranked" in page.text("#rank-answers p.picked") and order(page) == "1"
    page.keys("9")
    assert "there is no answer 9" in page.text("#rank-answers p.picked")
    page.keys(ENTER)
    page.until_text("#rank-message", "not ranked: answer 2, 3")
    assert order(page) == "1"
    page.keys(BACKSPACE)
    # By mouse; and the button that was clicked does not take the Enter that follows.
    for selector in (
        ".answer:nth-child(2) .pick",
        ".answer:nth-child(3) .pick",
        "#rank-tie",
        ".answer:nth-child(1) .pick",
    ):
        page.one(selector).click()
    assert order(page) == "2 3=1"
    assert [page.text(f".answer:nth-child({n}) .place") for n in (1, 2, 3)] == ["rank 2", "rank 1", "rank 2"]
    page.screenshot("app-rank")
    page.one("body").send_keys(ENTER)
    page.until_text("#rank-progress", "ann: 1 of 4 ranked")
    assert groups(out, "ann") == [[1, 2, 2]] and order(page) == "" and page.text("#rank-message") == ""

    for done in (2, 3, 4):
        if cards(page) == 3:
            page.keys("1=2" + BACKSPACE + BACKSPACE + "3" + BACKSPACE + "1=23")
            assert order(page) == "1=2 3"
        else:
            page.keys("1 =23456789101112")  # a space ends a number that could go on
            assert order(page) == "1=2 3 4 5 6 7 8 9 10 11 12"
        page.keys(ENTER)
        page.until_text("#rank-progress", f"ann: {done} of 4 ranked")
    page.until_text("#rank-progress", "All prompts are ranked")
    assert groups(out, "ann") == sorted([[1, 2, 2], [1, 1, 3], [1, 1, 3], [1, 1, *range(3, 13)]])
    page.one("#rank-undo").click()
    page.until_text("#rank-progress", "ann: 3 of 4 ranked")
    assert browser.title == "reasongenrm" and page.foreign(url) == [] and browser.get_log("browser") == []


def test_a_second_annotator_types_the_order_on_a_phone_in_the_dark(browser: Any, url: str, out: Path) -> None:
    page = AppPage(browser, url, "Rank", (390, 844), dark=True)
    page.begin("rank", "bob")
    assert page.brightness() < 60 and page.width() <= 390
    while cards(page) != 3:
        page.one("#rank-skip").click()
        page.until_text("#rank-progress", "1 skipped")
        page.until(lambda: cards(page) == 3)
    page.field("rank-order").send_keys("s u 3")  # in the field a key is text
    page.field("rank-order").send_keys(BACKSPACE * 5 + "2 3=1")
    assert order(page) == "2 3=1" and page.text(".answer:nth-child(2) .place") == "rank 1"
    page.screenshot("app-rank-390-dark")
    page.field("rank-order").send_keys(ENTER)
    page.until_text("#rank-progress", "bob: 1 of 4 ranked")
    page.until_text("#rank-summary", "ranked by ann 3, bob 1")
    page.until_text("#rank-summary", "Kendall's W")
    assert groups(out, "bob") == [[1, 2, 2]] and len(groups(out, "ann")) == 3 and page.width() <= 390
    page.one("#rank-another").click()
    page.until(lambda: not page.text("#rank-progress"))
    page.begin("rank", "ann")
    page.until_text("#rank-progress", "ann: 3 of 4 ranked")


def test_two_tabs_of_one_annotator(browser: Any, url: str) -> None:
    page = AppPage(browser, url, "Rank")
    page.begin("rank", "eve")
    first, shown = browser.current_window_handle, page.text("#rank-prompt")
    browser.switch_to.new_window("tab")
    try:
        other = AppPage(browser, url, "Rank")
        other.begin("rank", "eve")
        assert other.text("#rank-prompt") == shown
        other.keys("s")
        other.until_text("#rank-progress", "1 skipped")
        current = other.text("#rank-prompt")
    finally:
        browser.close()
        browser.switch_to.window(first)
    page.keys("s")
    page.until_text("#rank-message", "another prompt is current")
    assert page.text("#rank-prompt") == current and "eve: 0 of 4 ranked, 1 skipped" in page.text(
        "#rank-progress"
    )
