"""A tab of `reasongenrm app` in a real browser: what a person does, and sees."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"
ENTER, BACKSPACE = "\ue007", "\ue003"


class AppPage:
    """One tab of the page.

    Args:
        driver: the browser.
        url: of the page.
        tab: name of the tab.
        size: width and height in pixels.
        dark: whether the system asks for dark colours.
    """

    def __init__(
        self, driver: Any, url: str, tab: str, size: tuple[int, int] = (1280, 1000), *, dark: bool = False
    ) -> None:
        self.driver = driver
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size[0] < 500}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        driver.get_log("browser")  # of the page before
        driver.get(url)
        self.until(lambda: self.tab(tab))

    def tab(self, name: str) -> bool:
        """Open a tab; return whether it is open."""
        script = """
            const tab = [...document.querySelectorAll("button[role=tab]")].find(one => one.textContent.trim() === arguments[0]);
            tab?.click();
            return tab?.getAttribute("aria-selected") === "true";"""
        return bool(self.driver.execute_script(script, name))

    def one(self, selector: str) -> Any:
        """Return an element."""
        return self.driver.find_element("css selector", selector)

    def field(self, name: str) -> Any:
        """Return the field of a text box."""
        return self.one(f"#{name} textarea, #{name} input")

    def text(self, selector: str) -> str:
        """Return what a person reads there; nothing where the element is missing or is being replaced."""
        script = "return document.querySelector(arguments[0])?.innerText ?? ''"
        return str(self.driver.execute_script(script, selector))

    def until(self, holds: Callable[[], bool], seconds: float = 60) -> None:
        """Wait until a condition holds."""
        end = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < end, f"the page did not get there: {self.text('body')[:2000]}"
            time.sleep(0.05)

    def until_text(self, selector: str, text: str) -> None:
        """Wait until an element shows a text."""
        self.until(lambda: text in self.text(selector))

    def keys(self, keys: str) -> None:
        """Press keys outside of any field."""
        self.driver.execute_script("document.activeElement?.blur()")
        self.one("body").send_keys(keys)

    def begin(self, tab: str, name: str) -> None:
        """Give a name on the tab Rank or Label."""
        self.until(lambda: bool(self.text(f"#{tab}-begin")))
        self.field(f"{tab}-name").clear()
        self.field(f"{tab}-name").send_keys(name + ENTER)
        self.until_text(f"#{tab}-progress", f"{name}: ")

    def screenshot(self, name: str) -> None:
        """Keep what is on the screen as build/screenshots/<name>.png."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.driver.save_screenshot(str(SCREENSHOTS / f"{name}.png"))

    def width(self) -> int:
        """Return the width that the content needs, in pixels."""
        return int(self.driver.execute_script("return document.documentElement.scrollWidth"))

    def brightness(self) -> float:
        """Return the mean of the background's red, green and blue, from 0 to 255."""
        colour = self.driver.execute_script("return getComputedStyle(document.body).backgroundColor")
        numbers = [float(part) for part in str(colour).partition("(")[2].rstrip(")").split(",")[:3]]
        return sum(numbers) / 3

    def foreign(self, url: str) -> list[str]:
        """Return what was requested from other addresses than the page's."""
        script = "return performance.getEntriesByType('resource').map(entry => entry.name)"
        names: list[str] = self.driver.execute_script(script)
        return [name for name in names if not name.startswith((url, "data:", "blob:"))]
