"""The tab Try in a real browser: by mouse and keys, on a phone, in the dark; hostile texts do nothing, and nothing leaves
this machine."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from reasongenrm.app.history import PLACE, History
from reasongenrm.app.sources import AppSources
from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.chat.prompts import PromptFile
from reasongenrm.config.evaluate import JudgingConfig
from reasongenrm.engines.vllm import VLLMEngine
from reasongenrm.judge.api import Judge
from support.browser import requested_urls
from support.engine_fixtures import LentEngine
from support.pages import running_page
from support.servers import ReceivedRequest, Reply, event_stream, serving

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

EVIL = "<img src=x onerror=\"document.title='pwned'\"><script>document.title='pwned'</script>[x](javascript:1) $x^2$ \u202e"
SHIFT, ENTER, TAB = "\ue008", "\ue007", "\ue004"
SCREENSHOTS = Path("build/screenshots")


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> AppSources:
    return AppSources(runs=tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def url(
    sources: AppSources,
    engine: VLLMEngine,
    encoders: dict[str, ChatEncoder],
    toy_prompts: PromptFile,
    adapter: Path,
) -> Iterator[str]:
    config = JudgingConfig(max_tokens=40)
    judge = Judge(LentEngine(engine), encoders["reason"], toy_prompts, config, adapter=adapter)
    with running_page(sources, judge) as address:
        yield f"{address}/"


class Page:
    """What a person does and sees."""

    def __init__(self, driver: Any, url: str, width: int = 1280, *, dark: bool = False) -> None:
        self.driver, self.url = driver, url
        driver.get("about:blank")
        metrics = {"width": width, "height": 1400, "deviceScaleFactor": 1, "mobile": width < 500}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        driver.get_log("browser")
        requested_urls(driver)
        driver.get(url)
        self.until(lambda: "judge: tiny" in self.text("#judge-status"))

    def one(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def text(self, selector: str) -> str:
        return str(self.one(selector).text)

    def value(self, name: str) -> str:
        return str(self.one(f"#{name} textarea, #{name} input").get_attribute("value"))

    def write(self, name: str, text: str) -> None:
        field = self.one(f"#{name} textarea, #{name} input")
        field.clear()
        field.send_keys(text)

    def click(self, selector: str) -> None:
        element = self.one(selector)
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
        element.click()

    def until(self, holds: Callable[[], bool]) -> None:
        from selenium.common.exceptions import WebDriverException

        end = time.monotonic() + 90
        while True:
            try:
                if holds():
                    return
            except WebDriverException:  # the page is still drawn
                pass
            assert time.monotonic() < end, f"the page did not get there: {self.text('body')}"
            time.sleep(0.05)

    def ask(self, button: str) -> None:
        """Click a button, and wait for the result."""
        self.click(button)
        self.until(lambda: "at work" in self.text("#notice") or "done" in self.text("#notice"))
        self.until(lambda: self.text("#notice") == "done")

    def screenshot(self, name: str) -> None:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.driver.execute_script("window.scrollTo(0, 0)")
        whole = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})
        import base64

        (SCREENSHOTS / f"app-try-{name}.png").write_bytes(base64.b64decode(whole["data"]))

    def check_harmless(self) -> None:
        """No text has become markup, nothing was asked of another host, and the browser reports no error."""
        assert self.driver.title == "reasongenrm"
        assert not self.driver.find_elements("css selector", "img[src='x'], a[href^='javascript']")
        assert all(
            name.startswith((self.url, "data:", "blob:", "about:")) for name in requested_urls(self.driver)
        )
        assert [e["message"] for e in self.driver.get_log("browser") if e["level"] == "SEVERE"] == []


def test_answers_are_compared_ranked_and_found_again(browser: Any, url: str, sources: AppSources) -> None:
    page = Page(browser, url)
    page.screenshot("start")
    page.click("table tbody tr")  # an example
    page.until(lambda: "boiling point" in page.value("prompt"))
    assert page.value("answer-A").startswith("Water boils")

    page.write("prompt", f"say fan 2 times {EVIL}")
    page.write("answer-A", f"fan fan {EVIL}")
    page.write("answer-B", "fan" + SHIFT + ENTER)  # compares
    page.until(lambda: page.text("#notice") == "done")
    assert "P(A is better) = " in page.text("#result") and "written" in page.text("#result")
    assert page.value("order-AB") and page.value("order-BA")
    page.screenshot("compare")

    page.click("#more")
    page.until(lambda: page.one("#answer-C textarea").is_displayed())
    page.write("answer-C", EVIL)
    page.ask("#rank")
    assert "is best" in page.text("#result") and "3 comparisons" in page.text("#result")
    page.screenshot("rank")
    page.click("#rate")  # this judge's prompt file has no wording for it
    page.until(lambda: "add the keys `rating`" in page.text("#notice"))

    calls = History(sources.runs / PLACE).calls()
    assert [(call.kind, len(call.answers)) for call in calls] == [("compare", 2), ("rank", 3)]
    assert calls[0].prompt[0]["content"] == f"say fan 2 times {EVIL}"
    page.click("#history button")
    page.until(
        lambda: "compare" in page.text("#history-table") and "<img src=x" in page.text("#history-table")
    )
    page.screenshot("history")
    page.write("history-again", "1: compare" + ENTER)
    page.until(lambda: page.value("answer-B") == "fan")
    page.until(lambda: not page.driver.find_elements("css selector", "#answer-C textarea"))
    rows_of = "return (await fetch(document.querySelector(arguments[0]).href)).text()"
    assert json.loads(page.driver.execute_script(rows_of, "a[href='history/compare.jsonl']"))["b"] == "fan"
    page.check_harmless()


def test_by_keys_alone(browser: Any, url: str) -> None:
    page = Page(browser, url)
    page.write("prompt", "say fan")
    page.write("answer-A", "fan")
    page.write("answer-B", "bus" + TAB)
    for _ in range(20):
        focus = page.driver.switch_to.active_element
        if focus.get_attribute("id") == "compare":
            break
        focus.send_keys(TAB)
    focus.send_keys(ENTER)
    page.until(lambda: page.text("#notice") == "done" and "P(A is better)" in page.text("#result"))
    page.check_harmless()


def test_a_phone_in_the_dark(browser: Any, url: str) -> None:
    page = Page(browser, url, 390, dark=True)
    page.write("prompt", "say fan " + "fan" * 60)
    page.write("answer-A", "x" * 300)
    page.write("answer-B", EVIL)
    page.ask("#compare")
    assert page.driver.execute_script("return document.documentElement.scrollWidth") <= 390
    colour = page.driver.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert sum(map(int, colour[colour.index("(") + 1 : -1].split(",")[:3])) < 200, colour
    page.screenshot("phone-dark")
    page.check_harmless()


def test_a_model_on_a_server_and_errors_in_words(browser: Any, url: str) -> None:
    def reply(received: ReceivedRequest) -> Reply:
        deltas = [{"delta": {"content": word}} for word in ("because ", EVIL, " so [[A]]")]
        choices = [*deltas, {"delta": {}, "finish_reason": "stop"}]
        head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        return event_stream([head | {"choices": [{"index": 0, **choice}]} for choice in choices])

    page = Page(browser, url)
    with serving(reply) as server:
        page.click("#judge-fields > button")
        page.until(lambda: page.one("#judge-unload").is_displayed())
        page.click("#judge-unload")
        page.until(lambda: "no judge is loaded" in page.text("#judge-status"))
        page.write("prompt", "say fan")
        page.write("answer-A", "fan")
        page.write("answer-B", EVIL)
        page.click("#compare")
        page.until(lambda: "choose one and load it" in page.text("#notice"))
        assert page.one("#notice [role=alert]")
        page.screenshot("error")

        page.click("#server-fields > button")
        page.until(lambda: page.one("#server-load").is_displayed())
        page.write("server-url", f"{server.url}/v1")
        page.write("server-model", f"m {EVIL}")
        page.click("#server-load")
        page.until(lambda: "judge: m <img" in page.text("#judge-status"))
        page.screenshot("server")
        page.ask("#compare")
    assert "the orders disagree: A where A comes first, B where B does" in page.text("#result")
    assert "<img src=x" in page.value("order-AB") and len(server.received) == 2
    assert server.received[0].body["stream"] is True
    page.check_harmless()
