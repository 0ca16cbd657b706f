"""Take the pictures of docs/app.md: the page with the demo's judge, its benchmark and the shipped answers, in Chromium.

    make demo && python docs/screenshots.py

It starts `reasongenrm app` with files in a temporary folder, acts as a person would, and writes docs/images/app-*.png.
"""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from selenium import webdriver

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs" / "images"
SHIFT, ENTER = "\ue008", "\ue007"


def browser(profile: str) -> Any:
    """Return a headless Chromium."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or "chromium"
    for switch in (
        "headless=new",
        "no-sandbox",
        "disable-gpu",
        "disable-dev-shm-usage",
        f"user-data-dir={profile}",
    ):
        options.add_argument(f"--{switch}")
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))


class Page:
    """The page in a browser."""

    def __init__(self, driver: Any, url: str) -> None:
        self.driver = driver
        self.resize(1200)
        driver.get(url)

    def resize(self, width: int) -> None:
        """Set the width of the window, in pixels."""
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def text(self, selector: str) -> str:
        """Return what a person reads there."""
        script = "return document.querySelector(arguments[0])?.innerText ?? ''"
        return str(self.driver.execute_script(script, selector))

    def wait(self, holds: Callable[[], bool], seconds: float = 180) -> None:
        """Wait until a condition holds."""
        end = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > end:
                sys.exit(f"the page did not get there: {self.text('body')[:2000]}")
            time.sleep(0.1)

    def tab(self, name: str) -> None:
        """Open a tab."""
        script = """const tab = [...document.querySelectorAll("button[role=tab]")].find(t => t.textContent.trim() === arguments[0]);
            tab?.click(); return tab?.getAttribute("aria-selected") === "true";"""
        self.wait(lambda: bool(self.driver.execute_script(script, name)))

    def write(self, name: str, text: str) -> None:
        """Write into a field."""
        field = self.driver.find_element("css selector", f"#{name} textarea, #{name} input")
        field.clear()
        field.send_keys(text)

    def picture(self, name: str, *, whole: bool = True) -> None:
        """Write the page, or what the window shows of it, as an image."""
        self.driver.execute_script("window.scrollTo(0, 0)")
        time.sleep(0.5)
        image = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": whole})
        (IMAGES / f"app-{name}.png").write_bytes(base64.b64decode(image["data"]))
        print(f"docs/images/app-{name}.png")


def write_inputs(folder: Path) -> list[str]:
    """Write pairs of the demo's benchmark with the judge's verdicts, and return the options of the page."""
    place = ROOT / "runs" / "demo" / "evaluate" / "toy"
    rows = [json.loads(line) for line in (place / "rows.jsonl").read_text(encoding="utf-8").splitlines()[:40]]
    pairs = [
        {
            "id": row["id"],
            "prompt": row["history"][-1]["content"],
            "a": row["answers"][0],
            "b": row["answers"][1],
        }
        for row in rows
    ]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
    shutil.copy(ROOT / "data" / "answers.csv", folder / "answers.csv")
    options = {"answers": "answers.csv", "out": "ranks.csv", "pairs": "pairs.jsonl", "labels": "labels.jsonl"}
    words = [word for key, name in options.items() for word in (f"--{key}", str(folder / name))]
    return [*words, "--verdicts", str(place / "reasongenrm" / "verdicts.jsonl")]


def try_and_browse(page: Page) -> None:
    """Compare two answers, and show the run's scores."""
    page.wait(lambda: "loaded in" in page.text("#judge-status"))
    page.write("prompt", "sort pear fig kiwi")
    page.write("answer-A", "fig pear kiwi")
    page.write("answer-B", "fig kiwi pear" + SHIFT + ENTER)
    page.wait(lambda: page.text("#notice") == "done")
    page.picture("try")
    page.tab("Browse")
    page.driver.find_element("css selector", "#run input").click()
    page.wait(lambda: "demo" in page.text("body"))
    options = page.driver.find_elements("css selector", "ul[role=listbox] li, .options li")
    next(option for option in options if option.text.strip() == "demo").click()
    page.wait(lambda: "reasongenrm" in page.text("#run-scores"))
    page.resize(1600)  # the table has a column per model
    page.picture("browse")


def rank_and_label(page: Page) -> None:
    """Pick answers of the first prompt, and label one pair."""
    for tab, keys in (("rank", "21"), ("label", "a")):
        page.tab(tab.capitalize())
        page.wait(lambda tab=tab: bool(page.text(f"#{tab}-begin")))  # type: ignore[misc]
        page.write(f"{tab}-name", "ann" + ENTER)
        page.wait(lambda tab=tab: "ann: " in page.text(f"#{tab}-progress"))  # type: ignore[misc]
        page.driver.execute_script("document.activeElement?.blur()")
        page.driver.find_element("css selector", "body").send_keys(keys)
        time.sleep(2)
        page.picture(tab, whole=False)  # the bar keeps to the bottom of the window


def main() -> None:
    """Write all pictures."""
    with tempfile.TemporaryDirectory() as folder:
        command = [str(Path(sys.prefix) / "bin" / "reasongenrm"), "app", "configs/demo.yaml", "--port", "0"]
        command += write_inputs(Path(folder))
        server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            found = re.search(r"http://\S+", server.stdout.readline())
            if found is None:
                sys.exit("the page printed no address")
            driver = browser(f"{folder}/profile")
            try:
                page = Page(driver, found[0])
                rank_and_label(page)
                page.tab("Try")
                try_and_browse(page)
            finally:
                driver.quit()
        finally:
            server.terminate()
            server.wait(60)


if __name__ == "__main__":
    main()
