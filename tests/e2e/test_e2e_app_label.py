"""The tab Label in a real browser: keys, a phone, two annotators; and a page whose server is killed goes on after its restart."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from support.annotation import EVIL, SHOWN_EVIL, read_rows, write_rows
from support.app_page import AppPage
from support.scripts import ENVIRONMENT

pytest.importorskip("gradio", reason="the extra app")

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("label")
    pairs = [
        {"id": f"r{n}", "prompt": f"{n} {EVIL}", "a": f"one {EVIL}\nline {'long ' * 60}", "b": f"two {EVIL}"}
        for n in range(6)
    ]
    write_rows(folder / "pairs.jsonl", *pairs, {"prompt": "no answers"})
    verdicts = [
        {"id": f"r{n}", "winner": "AB"[n % 2], "prob_a": 0.75, "reasons": {"AB": EVIL, "BA": EVIL}}
        for n in range(6)
    ]
    write_rows(folder / "tiny.jsonl", *verdicts)
    write_rows(folder / "answers.jsonl", *({"prompt": "p", "answer": text} for text in ("x", "y")))
    return folder


@contextmanager
def served(folder: Path, port: int) -> Iterator[subprocess.Popen[str]]:
    """The command of the page, in a process; it is killed at the end."""
    command = [
        *(str(Path(sys.prefix) / "bin" / "reasongenrm"), "app", "--port", str(port), "--runs", "none"),
        *(
            "--answers",
            "answers.jsonl",
            "--out",
            "ranks.csv",
            "--pairs",
            "pairs.jsonl",
            "--labels",
            "labels.jsonl",
        ),
        *("--verdicts", "tiny.jsonl"),
    ]
    with (folder / "server.log").open("a", encoding="utf-8") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=os.environ | ENVIRONMENT, stdout=subprocess.PIPE, stderr=log, text=True
        )
    try:
        assert process.stdout is not None
        assert re.search(rf"http://127\.0\.0\.1:{port}", process.stdout.readline())
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(60)
        process.stdout.close()


@pytest.fixture(scope="module")
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def label_all(page: AppPage, name: str, key: str, start: int) -> None:
    """Label the pairs that are left by one key."""
    for done in range(start + 1, 7):
        page.keys(key)
        page.until_text("#label-progress", f"{name}: {done} of 6 labelled")


def first_annotator(page: AppPage, folder: Path, url: str) -> None:
    """Label by keys; the verdict comes after the label, and hostile texts stay text."""
    page.begin("label", "ann")
    assert "Verdict" not in page.text("#label-work") and page.text("#label-prompt .text").endswith(SHOWN_EVIL)
    page.keys("s")
    page.until_text("#label-progress", "1 skipped")
    page.keys("u")
    page.until(lambda: "skipped" not in page.text("#label-progress"))
    page.field("label-note").send_keys("t u s a b")  # in a field a key is text
    page.keys("a")
    page.until_text("#label-last", "you said A is better.")
    page.until_text("#label-last", "Verdict of tiny: ")
    assert page.field("label-note").get_attribute("value") == ""
    page.driver.execute_script("document.querySelector('#label-last details').open = true")
    assert SHOWN_EVIL in page.text("#label-last")
    page.screenshot("app-label")
    for number, (key, words) in enumerate(
        (("2", "B is better"), ("t", "equally good"), ("1", "A is better")), 2
    ):
        page.keys(key)
        page.until_text("#label-progress", f"ann: {number} of 6 labelled")
        assert f"you said {words}." in page.text("#label-last")
    rows = read_rows(folder / "labels.jsonl")
    assert len(rows) == 4 and sum(row["labels"]["ann"] == "tie" for row in rows) == 1
    assert [note for row in rows for note in row.get("notes", {}).values()] == ["t u s a b"]
    assert page.driver.title == "reasongenrm" and page.foreign(url) == []
    assert page.driver.get_log("browser") == []


def test_labels_by_two_people_over_a_kill(browser: Any, folder: Path, port: int) -> None:
    url = f"http://127.0.0.1:{port}/"
    with served(folder, port):
        page = AppPage(browser, url, "Label")
        first_annotator(page, folder, url)
        page.tab("Rank")
        page.begin("rank", "ann")
        page.keys("21")
        before = page.text("#label-progress"), (folder / "labels.jsonl").read_bytes()
    page.tab("Label")
    page.keys("b")  # nobody answers
    with served(folder, port):
        assert (folder / "labels.jsonl").read_bytes() == before[1], (
            "what was written when the server was killed"
        )
        page = AppPage(browser, url, "Label")
        page.begin("label", "ann")
        page.until_text("#label-progress", "ann: 4 of 6 labelled")
        label_all(page, "ann", "b", 4)
        page.until_text("#label-progress", "All pairs are labelled")
        second_annotator(browser, url)
    rows = read_rows(folder / "labels.jsonl")
    assert [row["id"] for row in rows] == [f"r{n}" for n in range(6)]
    assert all(set(row["labels"]) == {"ann", "bob"} and row["judges"]["tiny"] for row in rows)
    assert {row["labels"]["bob"] for row in rows} == {"A", "B"}, "the same key, and answers in both orders"
    assert all(turn["rejected"] != turn["chosen"] for turn in read_rows(folder / "labels.jsonl.pairs.jsonl"))
    assert [row["reason"] for row in read_rows(folder / "labels.jsonl.dropped.jsonl")] == ["missing_column"]
    assert "Traceback" not in (folder / "server.log").read_text(encoding="utf-8")


def second_annotator(browser: Any, url: str) -> None:
    """Label on a phone in the dark, by touch and by keys; the running agreement is shown."""
    page = AppPage(browser, url, "Label", (390, 844), dark=True)
    page.begin("label", "bob")
    assert page.brightness() < 60 and page.width() <= 390
    script = "return document.querySelector('#label-a').getBoundingClientRect().bottom <= innerHeight"
    assert page.driver.execute_script(script), "the buttons stay on the screen while a person reads"
    page.one("#label-a").click()
    page.until_text("#label-progress", "bob: 1 of 6 labelled")
    page.until_text("#label-summary", "bob and judge tiny: ")
    page.screenshot("app-label-390-dark")
    label_all(page, "bob", "1", 1)
    page.until_text("#label-summary", "ann and bob: ")
    assert page.width() <= 390
