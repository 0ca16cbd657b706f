"""Tab Browse in a real browser: a run opens, its rows are filtered and paged, two runs are compared, and no text does anything."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from reasongenrm.app.sources import AppSources
from reasongenrm.benchmarks.rewardbench import TOY
from reasongenrm.report.run_report import write_report
from reasongenrm.store import write_json, write_jsonl
from support.app import running
from support.judged_run import EVIL_PROMPT, evil_row, judged, rows_of, toy_run, write_run

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

DESKTOP, PHONE = (1280, 1000), (390, 844)
SCREENSHOTS = Path("build/screenshots")
TAB, ENTER, DOWN, ESCAPE = "\ue004", "\ue007", "\ue015", "\ue00c"
"""WebDriver's key codes."""

EVIL = "<img src=x onerror=\"document.title='pwned'\">"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of 81 rows, one of them evil, and a broken one with an evil name."""
    folder = tmp_path_factory.mktemp("runs")
    toy = toy_run(folder / "toy")
    metrics = [{"step": step, "loss": 1 / step} for step in range(1, 20)]
    write_jsonl(toy / "judges" / "reasongenrm" / "metrics.jsonl", metrics)
    write_json(toy / "judges" / "reasongenrm" / "training.json", {"alarms": [EVIL], "records": 9})
    write_report(toy)
    rows = [*rows_of(TOY.subsets, 20), evil_row("toy-chat")]
    models = {"other": judged(rows, EVIL, skill=0.9, words=30)}
    write_run(folder / "second", {"toy": (rows, models)})
    broken = folder / EVIL.replace("/", "")
    broken.mkdir()
    (broken / "scores.json").write_text("{")
    return folder


@pytest.fixture(scope="module")
def address(runs: Path) -> Iterator[str]:
    from reasongenrm.app.server import create_app
    from reasongenrm.connections import ConnectionLimits

    limits = ConnectionLimits(stop_seconds=1)  # an open page holds a connection
    with running(create_app(AppSources(runs=runs)), limits) as url:
        yield url


class Page:
    """The tab as a visitor sees and uses it."""

    def __init__(self, driver: Any, url: str, size: tuple[int, int] = DESKTOP, scheme: str = "light") -> None:
        self.driver = driver
        # Headless windows are not made narrower than 500 pixels; a device may be.
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size == PHONE}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        driver.get_log("browser")  # of the page before
        driver.get(url)
        self.until(lambda: bool(self.all("button[role=tab]")))
        self.tab("Browse")
        self.until(lambda: self.one("#run input").is_displayed())

    def until(self, holds: Callable[[], bool]) -> None:
        """Wait for what a click or a key brings about; an element may be replaced meanwhile."""
        from selenium.common.exceptions import WebDriverException

        end = time.monotonic() + 60
        while True:
            try:
                if holds():
                    return
            except WebDriverException:
                pass
            assert time.monotonic() < end, "the page did not get there"
            time.sleep(0.05)

    def all(self, selector: str) -> list[Any]:
        return list(self.driver.find_elements("css selector", selector))

    def one(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def text(self, selector: str) -> str:
        return str(self.one(selector).text)

    def tab(self, name: str) -> None:
        """Show a tab; on a narrow page it may be behind the button for more of them."""
        found = [
            button for button in self.all("button[role=tab]") if button.is_displayed() and button.text == name
        ]
        if not found:
            [more] = [button for button in self.all(".overflow-menu > button") if button.is_displayed()]
            more.click()
            entries = ".overflow-dropdown button"
            self.until(lambda: any(b.is_displayed() and b.text == name for b in self.all(entries)))
            found = [button for button in self.all(entries) if button.is_displayed() and button.text == name]
        found[0].click()

    def choose(self, field: str, text: str) -> None:
        """Choose an option of a list by its text."""
        self.one(f"#{field} input").click()
        options = f"#{field} ul[role=listbox] li"
        self.until(lambda: bool(self.all(options)))
        [option] = [option for option in self.all(options) if option.text.strip(" ✓\n") == text]
        option.click()

    def open_run(self, name: str) -> None:
        self.choose("run", name)
        self.until(lambda: name in self.text("#run-head"))

    def count(self, name: str = "rows") -> str:
        return self.text(f"#{name}-count")

    def screenshot(self, name: str) -> None:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        picture = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": False})
        (SCREENSHOTS / f"app-browse-{name}.png").write_bytes(base64.b64decode(picture["data"]))

    def calm(self) -> None:
        """Check that nothing of the run was executed, nothing overflows, and the browser logged no error."""
        assert self.driver.title == "reasongenrm"
        assert not self.all(
            "#run-head img, #rows-list img, #changed-list img, #run-scores img, script[src^=x]"
        )
        log = [entry for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]
        assert log == []
        width, inner = self.driver.execute_script(
            "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
        )
        assert width <= inner


def test_a_run_opens_to_tables_training_and_its_report(browser: Any, address: str, runs: Path) -> None:
    page = Page(browser, address)
    page.open_run("toy")
    page.until(lambda: "score [95%]" in page.text("#run-scores"))
    scores = page.text("#run-scores")
    assert "reasongenrm" in scores and "Brier score" in scores
    page.screenshot("scores")
    link = page.one("#run-head a")
    reply = page.driver.execute_async_script(
        "const done = arguments[1]; fetch(arguments[0]).then(async r => done([r.status, r.headers.get('content-disposition'), await r.text()]))",
        link.get_attribute("href"),
    )
    assert reply[:2] == [200, 'attachment; filename="toy-report.html"']
    assert reply[2] == (runs / "toy" / "report.html").read_text(encoding="utf-8")
    page.tab("Training")
    page.until(lambda: page.one("#run-training .curves img").get_attribute("naturalWidth") not in (None, "0"))
    assert EVIL in page.text("#run-training")
    page.screenshot("training")
    page.calm()


def test_rows_are_filtered_paged_and_opened(browser: Any, address: str) -> None:
    page = Page(browser, address)
    page.open_run("toy")
    page.tab("Rows")
    page.until(lambda: page.count() == "1–10 of 81 (81 in all)")
    page.one("#rows-next").click()
    page.until(lambda: page.count() == "11–20 of 81 (81 in all)")
    page.choose("rows-judge", "reasongenrm")
    page.until(lambda: page.count() == "1–10 of 81 (81 in all)")
    page.choose("rows-subset", "toy-chat")
    page.until(lambda: page.count() == "1–10 of 21 (81 in all)")
    page.one("#rows-next").click()
    page.until(lambda: page.count() == "11–20 of 21 (81 in all)")
    page.one("#rows-next").click()
    page.until(lambda: page.count() == "21–21 of 21 (81 in all)")
    assert not page.one("#rows-next").is_enabled() and page.one("#rows-previous").is_enabled()
    page.until(lambda: len(page.all("#rows-list summary")) == 1)
    row = page.one("#rows-list summary")
    assert EVIL_PROMPT in row.text
    row.click()
    page.until(lambda: "order BA" in page.text("#rows-list"))
    assert "document.title='pwned'" in page.text("#rows-list") and "**fine** `text`" in page.text(
        "#rows-list"
    )
    page.screenshot("rows")
    page.choose("rows-outcome", "wrong: wrong in every order")
    page.until(lambda: "of 21" not in page.count())
    page.calm()


def test_two_runs_are_compared(browser: Any, address: str) -> None:
    page = Page(browser, address, scheme="dark")
    page.open_run("toy")
    page.tab("Compare")
    page.until(lambda: page.one("#compare-reference input").get_attribute("value") == "genrm")
    page.choose("compare-run", "second")
    page.until(lambda: page.one("#compare-judge input").get_attribute("value") == "other")
    page.one("#compare-runs").click()
    page.until(lambda: bool(page.all("#changed-list summary")))
    assert "against toy/genrm" in page.text("#comparison") and "second/other" in page.text("#comparison")
    page.choose("changed-kind", "wrong to right")
    page.until(lambda: all("wrong → right" in row.text for row in page.all("#changed-list summary")))
    page.all("#changed-list summary")[0].click()
    page.until(lambda: "toy/genrm: wrong" in page.text("#changed-list"))
    assert "second/other: right" in page.text("#changed-list") and EVIL in page.text("#changed-list")
    page.screenshot("compare-dark")
    page.calm()


def test_a_broken_run_gives_one_line(browser: Any, address: str) -> None:
    page = Page(browser, address)
    name = EVIL.replace("/", "")
    page.open_run(name)
    page.until(lambda: "broken" in page.text("#run-scores"))
    assert name in page.text("#run-head") and page.one("#run-scores [role=alert]").is_displayed()
    page.calm()


def test_a_phone_shows_all_and_needs_no_mouse(browser: Any, address: str) -> None:
    page = Page(browser, address, PHONE)
    field = page.one("#run input")
    field.send_keys("toy", ENTER)
    page.until(lambda: "toy" in page.text("#run-head"))
    page.until(lambda: "score [95%]" in page.text("#run-scores"))
    page.screenshot("phone-scores")
    page.calm()
    page.tab("Rows")
    page.until(lambda: page.count() == "1–10 of 81 (81 in all)")
    page.one("#rows-next").send_keys(ENTER)
    page.until(lambda: page.count() == "11–20 of 81 (81 in all)")
    row = page.all("#rows-list summary")[0]
    row.send_keys(ENTER)
    page.until(lambda: page.one("#rows-list details").get_attribute("open") is not None)
    page.driver.execute_script("arguments[0].scrollIntoView()", row)
    page.screenshot("phone-rows")
    page.calm()
