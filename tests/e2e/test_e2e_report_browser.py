"""The report in a real browser: it filters, sorts, pages and opens rows, and no text of the run does anything."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reasongenrm.report.run_report import write_report
from support.judged_run import EVIL_ANSWER, EVIL_PROMPT, judged, rows_of, toy_run, write_run

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


DESKTOP, PHONE = (1280, 900), (390, 844)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run of 81 rows, one of them evil."""
    return write_report(toy_run(tmp_path_factory.mktemp("runs") / "toy"))


class Page:
    """The report as a reader sees and uses it."""

    def __init__(self, driver: Any, path: Path, size: tuple[int, int] = DESKTOP) -> None:
        self.driver = driver
        # Headless windows are not made narrower than 500 pixels; a device may be.
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size == PHONE}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        driver.get_log("browser")  # of the page before
        driver.get(path.as_uri())
        self.until(lambda: self.one(".shown").text != "")

    def until(self, holds: Callable[[], bool]) -> None:
        """Wait for what a click or a key brings about."""
        end = time.monotonic() + 20
        while not holds():
            assert time.monotonic() < end, "the page did not get there"
            time.sleep(0.02)

    def all(self, selector: str) -> list[Any]:
        return list(self.driver.find_elements("css selector", selector))

    def one(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def choose(self, control: str, text: str) -> None:
        """Choose the option of a select whose text begins so."""
        [option] = [o for o in self.all(f".controls .{control} option") if o.text.startswith(text)]
        option.click()

    def search(self, text: str, *, count: int) -> None:
        """Type into the text filter; `count` rows are left."""
        box = self.one(".controls .find")
        box.send_keys("\ue009a\ue000\ue003", text)  # Ctrl-A, backspace (WebDriver's own key codes)
        self.until(lambda: self.count() == count)

    def count(self) -> int:
        """Rows that the filters leave, as the page says."""
        shown = self.one(".shown").text.split(" (")[0]
        return int(shown.split(" of ")[-1].replace(",", ""))

    def column(self, number: int) -> list[str]:
        """The texts of a column of the rows on this page."""
        return [cell.text for cell in self.all(f".rows tr.row td:nth-child({number})")]

    def open_first(self) -> str:
        """Open the first row and return what it shows."""
        self.one(".rows tr.row .open").click()
        self.until(lambda: len(self.all(".rows tr.detail")) == 1)
        return str(self.one(".rows tr.detail").text)

    def calm(self) -> None:
        """Check that the browser logged no error and ran no text of the run."""
        assert self.driver.get_log("browser") == []
        assert self.driver.title == "toy: report"


def test_pages_and_sorting(browser: Any, report: Path) -> None:
    page = Page(browser, report)
    assert page.one(".shown").text == "1–50 of 81 (81 in all)"
    assert page.column(1) == [str(n) for n in range(1, 51)]
    assert not page.one(".previous").is_enabled()
    page.one(".next").click()
    assert page.one(".shown").text == "51–81 of 81 (81 in all)"
    assert page.column(1) == [str(n) for n in range(51, 82)]
    assert not page.one(".next").is_enabled()
    page.one(".previous").click()
    assert page.column(1)[0] == "1"
    page.choose("sort", "reasongenrm: P(right)")
    cells = [cell.split()[-1] for cell in page.column(6)]
    known = [float(cell) for cell in cells if cell != "–"]
    assert known == sorted(known) and len(known) > 40
    page.one(".direction").click()
    assert page.one(".direction").text == "descending"
    cells = [cell.split()[-1] for cell in page.column(6)]
    known = [float(cell) for cell in cells if cell != "–"]
    assert known == sorted(known, reverse=True) and known[0] > 0.95
    page.calm()


def test_filters_narrow_the_rows(browser: Any, report: Path) -> None:
    page = Page(browser, report)
    page.choose("subset", "toy-safety (20)")
    assert page.count() == 20 and set(page.column(2)) == {"toy-safety"}
    page.search("safety 7:", count=1)
    assert "toy-safety 7:" in page.column(3)[0]
    page.choose("subset", "all subsets")
    page.search("", count=81)
    page.choose("model", "scalar")
    assert [head.text for head in page.all(".rows th")] == ["#", "subset", "prompt", "scalar"]
    page.choose("outcome", "wrong")
    assert {cell.split()[0] for cell in page.column(4)} == {"wrong"}
    wrong = page.count()
    page.choose("outcome", "right")
    assert wrong + page.count() == 81 and page.count() > wrong
    page.choose("outcome", "inconsistent")
    assert page.count() == 0 and page.all(".rows tr.row") == [] and page.one(".shown").text == "0 (81 in all)"
    page.choose("model", "base")
    assert page.count() > 10
    page.choose("outcome", "unread")
    assert page.count() >= 1
    page.calm()


def test_a_row_opens_to_prompt_answers_reasons_and_verdicts(browser: Any, report: Path) -> None:
    page = Page(browser, report)
    shown = page.open_first()
    for heading in ("Prompt", "Answers", "system", "be brief", "user", "assistant", "toy-chat 0:"):
        assert heading in shown, heading
    assert "right answer: " in shown and "wrong answer: " in shown and "comparison" in shown
    assert shown.count("order AB: A is the right answer, B the wrong one") == 3
    assert shown.count("order BA: A is the wrong answer, B the right one") == 3
    assert shown.count("P(A)") == 6 and "verdict: A" in shown and "20 tokens" in shown
    assert "reasongenrm1" in shown and "score of the right answer" in shown
    page.one(".rows tr.row .open").click()
    page.until(lambda: page.all(".rows tr.detail") == [])
    page.calm()


def test_text_of_the_run_is_shown_and_does_nothing(browser: Any, report: Path) -> None:
    page = Page(browser, report)
    page.search("onerror=", count=1)
    assert page.column(3) == [EVIL_PROMPT]
    shown = page.open_first()
    texts = browser.execute_script(
        "return [...document.querySelectorAll('.detail .text')].map(node => node.textContent)"
    )
    assert texts[:3] == [EVIL_PROMPT, EVIL_ANSWER, "**fine** `text`"] and "onerror" in shown
    assert page.all(".rows img") == page.all(".rows script") == page.all(".rows b") == []
    # The policy holds also for what a hole in the page would let through.
    browser.execute_script(
        "const hole = document.createElement('div'); hole.innerHTML = arguments[0]; document.body.append(hole)",
        "<img src=x onerror=\"document.title='pwned'\"><img src='http://127.0.0.1:9/x.png'>",
    )
    time.sleep(0.5)
    assert browser.title == "toy: report"
    assert all("Content Security Policy" in entry["message"] for entry in browser.get_log("browser"))


def test_nothing_is_loaded_from_the_network(browser: Any, report: Path) -> None:
    page = Page(browser, report)
    page.open_first()
    loaded = browser.execute_script(
        "return performance.getEntriesByType('resource').map(entry => entry.name)"
    )
    assert all(name.startswith("data:") for name in loaded)
    pictures = browser.execute_script(
        "return [...document.images].map(image => [image.complete, image.naturalWidth])"
    )
    assert pictures == [[True, 700]] * 4
    page.calm()


@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_it_fits_a_desk_and_a_phone(
    browser: Any, report: Path, tmp_path: Path, size: tuple[int, int]
) -> None:
    page = Page(browser, report, size)
    page.open_first()
    width, seen = browser.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
    assert width <= seen == size[0], "the page is wider than the screen"
    browser.execute_script("document.querySelector('.explorer').scrollIntoView()")
    assert browser.save_screenshot(str(tmp_path / "seen.png"))
    png = (tmp_path / "seen.png").read_bytes()
    assert struct.unpack(">II", png[16:24]) == size and len(png) > 20_000
    page.calm()


def test_a_row_of_several_comparisons_and_a_second_benchmark(browser: Any, tmp_path: Path) -> None:
    from reasongenrm.records import Row

    several = Row.make("toy-chat", [{"role": "user", "content": "which?"}], ["yes"], ["no", "nay", "never"])
    rows = rows_of(["toy-safety"], 3)
    folder = write_run(
        tmp_path / "toy",
        {
            "first": ([several], {"base": judged([several], "base")}),
            "second": (rows, {"base": judged(rows, "base")}),
        },
    )
    page = Page(browser, write_report(folder))
    assert page.count() == 3 and "3 comparisons" in page.one(".explorer summary").text
    assert "wrong answer, number 2 of 4" in page.open_first()
    second = page.all(".explorer")[1]
    assert second.find_elements("css selector", "tr.row") == []
    second.find_element("css selector", "summary").click()
    page.until(lambda: len(second.find_elements("css selector", "tr.row")) == 3)
    page.calm()
