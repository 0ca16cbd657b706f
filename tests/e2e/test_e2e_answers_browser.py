"""The ranking page in a real browser: by keys and by mouse, and no text of an answer does anything."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from reasongenrm.answers.session import RankingSession
from reasongenrm.answers.table import read_answers
from reasongenrm.answers.web import create_app

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

EVIL = "<img src=x onerror=\"document.title='pwned'\"><script>document.title='pwned'</script>\u202e"
ENTER, BACKSPACE = "\ue007", "\ue003"


@pytest.fixture
def sessions(tmp_path: Path) -> Callable[[str], RankingSession]:
    """Sessions over three prompts of three answers and one of twelve."""
    rows = [
        {"prompt": f"prompt {n}: {EVIL}", "answer": f"answer {a} {EVIL}"}
        for n, count in enumerate((3, 3, 3, 12))
        for a in range(count)
    ]
    file = tmp_path / "in.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    prompts = read_answers(str(file)).prompts
    return lambda name: RankingSession(prompts, tmp_path / "j", name)


@pytest.fixture
def url(sessions: Callable[[str], RankingSession]) -> Iterator[str]:
    """The page's server, in a thread."""
    import uvicorn

    listening = socket.create_server(("127.0.0.1", 0))
    app = create_app(sessions, api_key="opensesame")
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
    server.should_exit = True
    thread.join(60)
    listening.close()
    assert not thread.is_alive()


class Page:
    """What an annotator does, and sees."""

    def __init__(self, driver: Any, url: str, size: tuple[int, int] = (1280, 1200)) -> None:
        self.driver = driver
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size[0] < 500}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        driver.get_log("browser")  # of the page before
        driver.get(url)

    def one(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def text(self, selector: str) -> str:
        return str(self.one(selector).text)

    def until(self, holds: Callable[[], bool]) -> None:
        end = time.monotonic() + 20
        while not holds():
            assert time.monotonic() < end, f"the page did not get there: {self.text('body')}"
            time.sleep(0.02)

    def keys(self, keys: str) -> None:
        self.one("body").send_keys(keys)

    def answers(self) -> int:
        return len(self.driver.find_elements("css selector", ".answer"))


def rank_with_keys(page: Page, count: int) -> None:
    """Rank the prompt that is shown: the first two tied, then the others in order."""
    if count == 3:
        page.keys("1")
        assert page.text(".order") == "1"
        page.keys("=2")
        assert page.text(".order") == "1=2" and not page.one(".submit").is_enabled()
        page.keys(BACKSPACE + BACKSPACE + "3" + BACKSPACE + "1=23")
    else:
        page.keys("1 =23456789101112")  # a space ends a number that could go on
    page.keys(ENTER)


def ranked_groups(session: RankingSession) -> list[tuple[int, ...]]:
    """The sizes of the groups of each ranking in the journal."""
    return [tuple(map(len, entry.order)) for entry in session.journal.read() if entry.kind == "rank"]


def test_ranking_by_keys_and_mouse(
    browser: Any,
    url: str,
    sessions: Callable[[str], RankingSession],
) -> None:
    page = Page(browser, url)
    page.one(".annotator").send_keys("ann" + ENTER)
    page.until(lambda: "no valid key" in page.text(".message"))
    page.one(".key").send_keys("opensesame" + ENTER)
    page.until(lambda: page.text(".progress") == "0 of 4 ranked")
    assert page.text(".name") == "ann" and page.text(".turns .text").startswith("prompt ")
    assert "<img src=x onerror=" in page.text(".turns .text") and "‹U+202E›" in page.text(".answer .text")

    page.keys("s")
    page.until(lambda: page.text(".progress") == "0 of 4 ranked, 1 skipped")
    page.keys("u")
    page.until(lambda: page.text(".progress") == "0 of 4 ranked")
    if page.answers() == 12:  # by keys, where two digits are wanted
        page.keys("s")
        page.until(lambda: page.answers() == 3)
    page.keys("11")
    assert "is already ranked" in page.text(".message") and page.text(".order") == "1"
    page.keys("9")
    assert "no answer 9" in page.text(".message")
    page.keys(BACKSPACE)

    # By mouse; and the button that was clicked does not take the Enter that follows.
    for selector in (
        ".answer:nth-child(2) .pick",
        ".answer:nth-child(3) .pick",
        ".tie",
        ".answer:nth-child(1) .pick",
    ):
        page.one(selector).click()
    assert page.text(".order") == "2 3=1" and page.text(".answer:nth-child(1) .place") == "rank 2"
    page.keys(ENTER)
    page.until(lambda: page.text(".progress").startswith("1 of 4"))
    (first,) = ranked_groups(sessions("ann"))
    assert first == (1, 2)

    browser.refresh()  # the page knows who ranks
    page.until(lambda: page.text(".progress").startswith("1 of 4"))
    for done in (2, 3, 4):
        rank_with_keys(page, page.answers())
        page.until(lambda done=done: page.text(".progress").startswith(f"{done} of 4"))  # type: ignore[misc]
    assert page.one(".done").is_displayed() and not page.one(".skip").is_enabled()
    session = sessions("ann")
    assert sorted(ranked_groups(session)) == [(1, 2), (2, 1), (2, 1), (2, *[1] * 10)]
    page.one(".undo").click()
    page.until(lambda: page.text(".progress").startswith("3 of 4"))
    assert browser.title == "Rank the answers"
    assert all("401" in entry["message"] for entry in browser.get_log("browser"))
    asked = browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert all(name.startswith((url, "data:")) for name in asked)


def test_the_policy_holds_and_it_fits_a_phone(browser: Any, url: str) -> None:
    page = Page(browser, url, (390, 844))
    browser.execute_script(
        "sessionStorage.setItem('who', JSON.stringify({annotator: 'bob', key: 'opensesame'}))"
    )
    browser.refresh()
    page.until(lambda: page.text(".progress") == "0 of 4 ranked")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    browser.get_log("browser")
    browser.execute_script(
        "const hole = document.createElement('div'); hole.innerHTML = arguments[0]; document.body.append(hole)",
        EVIL + "<img src='http://127.0.0.1:9/x.png'>",
    )
    time.sleep(0.5)
    assert browser.title == "Rank the answers"
    assert all("Content Security Policy" in entry["message"] for entry in browser.get_log("browser"))
