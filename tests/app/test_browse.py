"""Tab Browse without a browser: what it reads of a run folder, what it shows of it, and what it refuses."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from reasongenrm.app.browse import BrowseTab
from reasongenrm.app.pager import PAGE
from reasongenrm.app.runs import RunFolders, add_reports, judged_rows
from reasongenrm.benchmarks.rewardbench import TOY
from reasongenrm.console import escape_controls
from reasongenrm.errors import DataError
from reasongenrm.report.comparison import compare_all
from reasongenrm.report.explorer import pair_outcome
from reasongenrm.report.run_files import RunFiles, read_run
from reasongenrm.report.run_table import run_table
from reasongenrm.store import write_json, write_jsonl
from support.judged_run import EVIL_ANSWER, evil_row, judged, rows_of, toy_run, write_run

pytestmark = pytest.mark.unit

EACH = 6
MODELS = {"base", "reasongenrm", "genrm", "scalar"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs: two finished ones on the same rows, and others that are no run, or a bad one."""
    runs = tmp_path_factory.mktemp("work") / "runs"
    toy_run(runs / "toy", each=EACH)
    (runs / "toy" / "report.html").write_text("<p>the report</p>")
    train(runs / "toy")
    rows = [*rows_of(TOY.subsets, EACH), evil_row("toy-chat")]
    write_run(runs / "other", {"toy": (rows, {"better": judged(rows, "better", skill=0.95)})})
    shutil.copytree(runs / "toy", runs / "broken")
    (runs / "broken" / "scores.json").write_text("{")
    (runs / "unfinished" / "manifest").mkdir(parents=True)
    write_json(runs / "unfinished" / "manifest" / "prepare.json", {})
    (runs / "app").mkdir()
    (runs / "file").write_text("no folder")
    shutil.copytree(runs / "other", runs / ".hidden")
    shutil.copytree(runs / "other", runs.parent / "outside")
    (runs / "link").symlink_to(runs.parent / "outside")
    return runs


def train(run: Path) -> None:
    """Write what a finished step and one that runs leave."""
    rows = [{"step": step, "loss": 1 / step, "tokens_per_second": 100.0} for step in range(1, 9)]
    judges = run / "judges"
    write_json(
        judges / "reasongenrm" / "training.json", {"kind": "sft", "records": 77, "alarms": ["<b>loss</b>"]}
    )
    write_jsonl(judges / "reasongenrm" / "metrics.jsonl", rows)
    write_jsonl(judges / "reasongenrm@dpo.partial" / "metrics.jsonl", rows[:3])


@pytest.fixture(scope="module")
def tab(folder: Path) -> BrowseTab:
    import gradio as gr

    with gr.Blocks():
        return BrowseTab(RunFolders(folder))


@pytest.fixture(scope="module")
def run(folder: Path) -> RunFiles:
    return read_run(folder / "toy")


class Elements(HTMLParser):
    """The elements of a piece of HTML, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


def check_harmless(html: str) -> Elements:
    """Check that no text of the run became markup."""
    elements = Elements(html)
    known = "div p table thead tbody tr th td h3 h4 details summary span bdi strong code a img"
    assert elements.tags <= set(known.split())
    assert not any(name.startswith("on") or name == "style" for name in elements.attributes)
    return elements


def test_only_run_folders_are_listed(folder: Path) -> None:
    runs = RunFolders(folder)
    assert runs.names() == ["broken", "other", "toy", "unfinished"]
    assert runs.path("toy") == folder / "toy"
    assert RunFolders(folder / "nowhere").names() == []


@pytest.mark.parametrize(
    "name", [None, "", ".", "..", "../outside", "link", ".hidden", "app", "file", "toy/judges"]
)
def test_no_name_leads_out_of_the_folder_of_the_runs(folder: Path, name: str | None) -> None:
    with pytest.raises(DataError):
        RunFolders(folder).path(name)


def test_the_report_is_a_file_to_save(folder: Path) -> None:
    from fastapi import FastAPI
    from fastapi.testclient import TestClient

    app = FastAPI()
    add_reports(app, RunFolders(folder))
    client = TestClient(app)
    reply = client.get("/runs/toy/report.html")
    assert reply.status_code == 200 and reply.content == (folder / "toy" / "report.html").read_bytes()
    assert reply.headers["content-disposition"] == 'attachment; filename="toy-report.html"'
    (folder / "outside.html").write_text("secret")
    (folder / "other" / "report.html").symlink_to(folder / "outside.html")
    try:
        for name in ("other", "unfinished", "link", "..", "%2e%2e", "toy%2f..%2ftoy", ".hidden", "app"):
            assert client.get(f"/runs/{name}/report.html").status_code == 404, name
    finally:
        (folder / "other" / "report.html").unlink()


def test_a_run_opens_with_its_tables(tab: BrowseTab, run: RunFiles) -> None:
    head, scores, training, benchmark, model, subset, reference, *_ = tab.open_run("toy")
    assert 'href="runs/toy/report.html"' in head and "evaluate" in head and training == ""
    shown = check_harmless(scores).text
    [toy] = run.benchmarks
    for row in run_table(toy).rows:
        assert all(cell in shown for cell in row)
    assert set(toy.models) == MODELS and all(name in shown for name in MODELS)
    assert "another benchmark's" not in shown and toy.name in shown
    assert (benchmark.choices, benchmark.value) == ([("toy", "toy")], "toy")
    assert {name for name, _ in model.choices} == MODELS and model.value == reference.value == "genrm"
    assert {value for _, value in subset.choices} == {"", *TOY.subsets} and subset.value == ""


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("broken", "scores.json: broken:"),
        ("unfinished", "scores.json: file not found (run 3_eval_reward_bench.sh first)"),
        ("../outside", "no run '../outside'"),
        (None, "no run is chosen"),
    ],
)
def test_a_bad_run_gives_one_line(tab: BrowseTab, name: str | None, problem: str) -> None:
    head, scores, *others = tab.open_run(name)
    shown = Elements(scores)
    for part in re.split(r": | \(|\)", problem):
        assert part in shown.text
    assert shown.text.count("\n") == 0 and 'role="alert"' in scores
    assert ("prepare" in head) == (name == "unfinished")
    choices = others[1:5]
    assert [field.value for field in choices] == [None, None, "", None]
    assert [len(field.choices) for field in choices] == [0, 0, 1, 0]


def matching(run: RunFiles, model: str, subset: str, outcome: str) -> list[str]:
    [toy] = run.benchmarks
    pairs = [(row, pair.id) for row in toy.judged_rows for pair in row.pairs]
    return [
        pair_id
        for row, pair_id in pairs
        if subset in ("", row.subset) and outcome in ("", pair_outcome(toy.models[model].results[pair_id]))
    ]


def listed(tab: BrowseTab, *filters: str) -> Iterator[str]:
    """Yield the ids of the comparisons of all pages, from the first page to the last."""
    start = 0
    while True:
        html, _, at, previous, following = tab.rows.pager.page(start, ("toy", "toy", *filters))
        ids = re.findall(r"comparison (\w+) of row", html)
        assert at == start and len(ids) <= PAGE
        assert previous.interactive == (start > 0)
        yield from ids
        if not following.interactive:
            return
        start += PAGE


@pytest.mark.parametrize("outcome", ["", "right", "wrong", "inconsistent", "unread"])
@pytest.mark.parametrize("subset", ["", "toy-chat"])
@pytest.mark.parametrize("model", ["base", "scalar"])
def test_pages_of_rows_have_what_the_filters_leave(
    tab: BrowseTab, run: RunFiles, model: str, subset: str, outcome: str
) -> None:
    expected = matching(run, model, subset, outcome)
    assert list(listed(tab, model, subset, outcome)) == expected
    count = tab.rows.pager.first("toy", "toy", model, subset, outcome)[1]
    assert f"({4 * EACH + 1} in all)" in count and (f"of {len(expected)} " in count or not expected)


def test_a_row_shows_prompt_answers_and_reasons_as_text(tab: BrowseTab, run: RunFiles) -> None:
    [toy] = run.benchmarks
    result = next(iter(toy.models["reasongenrm"].results.values()))
    html = tab.rows.pager.first("toy", "toy", "reasongenrm", "", "")[0]
    shown = check_harmless(html).text
    assert toy.judged_rows[0].history[-1]["content"] in shown and toy.judged_rows[0].answers[0] in shown
    for verdict in result.verdicts:
        assert verdict.reason in shown and f"order {verdict.order}: " in shown
    last = tab.rows.pager.page(10**6, ("toy", "toy", "reasongenrm", "toy-chat", ""))
    assert last[2] == 0, "a page behind the last is the last"
    html = tab.rows.pager.page(4 * EACH, ("toy", "toy", "reasongenrm", "", ""))[0]
    assert escape_controls(EVIL_ANSWER) in check_harmless(html).text


def test_only_the_chosen_judge_is_read(folder: Path, tab: BrowseTab, tmp_path: Path) -> None:
    shutil.copytree(folder / "toy", tmp_path / "toy")
    evaluated = tmp_path / "toy" / "evaluate" / "toy"
    whole = judged_rows(tmp_path / "toy", "toy", "genrm")
    for name in ("base", "reasongenrm", "scalar"):
        (evaluated / name / "results.jsonl").write_text("{")
    results = evaluated / "genrm" / "results.jsonl"
    (tmp_path / "toy" / "scores.json").touch()
    assert judged_rows(tmp_path / "toy", "toy", "genrm").pairs == whole.pairs
    assert judged_rows(tmp_path / "toy", "toy", "genrm") is judged_rows(tmp_path / "toy", "toy", "genrm")
    results.write_text(results.read_text() + "{\n")  # a file that changes is read again
    with pytest.raises(DataError, match=r"results\.jsonl:26: broken"):
        judged_rows(tmp_path / "toy", "toy", "genrm")


def test_the_training_shows_steps_alarms_and_curves(tab: BrowseTab) -> None:
    html = tab.open_training("toy")
    shown = check_harmless(html)
    assert "reasongenrm: <b>loss</b>" in shown.text and "77" in shown.text
    titles = re.findall(r'<img loading="lazy" alt="([^"]+)" src="data:image/png;base64,iVBORw0KGgo', html)
    assert titles == ["reasongenrm: training", "reasongenrm@dpo: training so far"]
    assert "nothing was trained" in tab.open_training("unfinished")
    assert 'role="alert"' in tab.open_training("../outside")


def test_two_runs_are_compared_as_by_the_command(tab: BrowseTab, folder: Path) -> None:
    sides = ("toy", "base", "other", "better")
    tables, benchmark, *_ = tab.compare.compare(*sides)
    [expected] = compare_all([Path(f"{folder}/toy:base"), Path(f"{folder}/other:better")]).comparisons
    shown = check_harmless(tables).text
    assert "against toy/base" in shown and "other/better" in shown and benchmark.value == "toy"
    assert f"{100 * expected.difference:+.1f} [" in shown
    ids: dict[str, list[str]] = {}
    for kind in ("", "wrong to right", "right to wrong", "other change"):
        start, more = 0, True
        while more:
            html, _, _, _, following = tab.compare.pager.page(start, (*sides, "toy", kind))
            ids.setdefault(kind, []).extend(re.findall(r"comparison (\w+) of row", check_harmless(html).text))
            start, more = start + PAGE, following.interactive
        changes = [change for change in expected.changes if kind in ("", change["change"])]
        assert sorted(ids[kind]) == sorted(pair["id"] for change in changes for pair in change["comparisons"])
    assert ids[""] and ids["wrong to right"], "else this shows little"


@pytest.mark.parametrize(
    ("sides", "problem"),
    [
        (("toy", "base", None, None), "nothing to compare"),
        (("toy", "base", "toy", "base"), "only one model"),
        (("toy", "base", "../outside", "better"), "no run"),
        (("toy", "no such judge", "other", "better"), "no model"),
        (("toy", "base", "broken", "better"), "broken"),
    ],
)
def test_what_cannot_be_compared_gives_a_line(
    tab: BrowseTab, sides: tuple[str | None, ...], problem: str
) -> None:
    tables, benchmark, rows, *_ = tab.compare.compare(*sides)
    assert problem in Elements(tables).text and benchmark.value is None and rows == ""
