"""The report of a run folder: rebuilt from its files alone, the same bytes each time, and text stays text."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import socket
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reasongenrm.errors import DataError
from reasongenrm.metrics.diagnostics import diagnose, probability_right
from reasongenrm.records import Row
from reasongenrm.report.explorer import payload
from reasongenrm.report.run_files import read_run
from reasongenrm.report.run_report import write_report
from reasongenrm.report.run_table import metric_lines, protocol_table
from support.html_pages import Page
from support.judged import rewardbench_score
from support.judged_run import EVIL_ANSWER, EVIL_PROMPT, evil_row, judged, rows_of, scored, toy_run, write_run

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy run with its report."""
    run = toy_run(tmp_path_factory.mktemp("runs") / "toy", each=6)
    assert write_report(run) == run / "report.html"
    return run


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def files(folder: Path) -> dict[str, bytes]:
    paths = [folder / "report.html", folder / "report.md", *sorted((folder / "plots").iterdir())]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_the_same_folder_gives_the_same_bytes_at_any_path(folder: Path, tmp_path: Path) -> None:
    before = files(folder)
    moved = shutil.copytree(folder, tmp_path / "elsewhere")
    for name in before:
        (moved / name).unlink()
    write_report(moved)
    assert files(moved) == before
    assert sorted(before)[:4] == [
        f"plots/toy-{name}.png" for name in ("bias", "reliability", "sections", "subsets")
    ]
    assert str(folder).encode() not in before["report.html"]


def test_it_is_one_page_that_loads_nothing_from_the_network(
    folder: Path, page: Page, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pictures = page.values("img", "src")
    assert len(pictures) == 4
    for source in pictures:
        png = base64.b64decode(source.removeprefix("data:image/png;base64,"), validate=True)
        width, height = struct.unpack(">II", png[16:24])
        assert png.startswith(b"\x89PNG") and width == 700 and height > 100
    assert page.values("link", "href") == ["data:,"] and page.values("script", "src") == []
    assert all(value.startswith("#") for value in page.values("a", "href"))
    html = (folder / "report.html").read_text(encoding="utf-8")
    assert not re.search(
        r"https?:|url\(|@import|innerHTML|insertAdjacent|document\.write", html.split("application/json")[0]
    )
    assert not re.search(
        r"innerHTML|insertAdjacent|document\.write|eval\(|fetch\(", page.inside["script"][-1]
    )

    def no_network(*_: Any) -> None:
        raise AssertionError("the report reached for the network")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    write_report(shutil.copytree(folder, tmp_path / "again"))


def test_the_policy_allows_this_script_and_this_style_alone(page: Page) -> None:
    [policy] = page.values("meta", "content")[:1]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'" and rules["img-src"] == "data:"
    for kind, rule in (("script", "script-src"), ("style", "style-src")):
        digest = hashlib.sha256(page.inside[kind][-1].encode()).digest()
        assert rules[rule] == f"'sha256-{base64.b64encode(digest).decode()}'"
    assert len(page.inside["style"]) == 1 and page.values("script", "type") == ["application/json"]


@pytest.mark.parametrize(("gpus", "invariant", "words"), [([], False, None), (["NVIDIA H100"], False, "is off"), (["NVIDIA H100"], True, "is on")])  # fmt: skip
def test_the_page_says_whether_a_verdict_depends_on_its_batch(
    folder: Path, tmp_path: Path, gpus: list[str], invariant: bool, words: str | None
) -> None:
    path = shutil.copytree(folder, tmp_path / "run") / "manifest" / "evaluate.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["recipe"]["engine"] = {"batch_invariant": invariant}
    manifest["machine"] = {"gpus": gpus}
    path.write_text(json.dumps(manifest), encoding="utf-8")
    write_report(tmp_path / "run")
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert ("engine.batch_invariant is" in page) == (words is not None)
    assert words is None or f"engine.batch_invariant {words}" in page


def test_the_protocol_matrix_is_in_both_reports_and_its_counts_add_up(folder: Path, page: Page) -> None:
    [benchmark] = read_run(folder).benchmarks
    table = protocol_table(benchmark)
    labels = [row[:2] for row in table.rows]
    protocols = ["official", "single order", "both orders averaged", "consistent", "majority of k"]
    assert labels == [(name, label) for name in benchmark.models for label in protocols]
    assert "Protocols" in page.titles
    markdown = (folder / "report.md").read_text(encoding="utf-8")
    for row in table.rows:
        assert all(cell in page.cells for cell in row)
        if (row[0] == "scalar" and row[1] != "official") or row[1] == "majority of k":
            assert set(row[2:]) == {"n/a"}
            continue
        n, *outcomes = (int(cell.replace(",", "")) for cell in row[5:])
        assert n == sum(outcomes) > 0
        assert (
            f"| {row[0]} | {row[1]} | {row[2].replace('[', chr(92) + '[').replace(']', chr(92) + ']')}"
            in markdown
        )
        score = benchmark.models[row[0]].score
        if row[1] in ("official", "consistent"):
            shown = score.score if row[1] == "official" else score.strict
            assert row[2].startswith(f"{100 * shown:.1f} ")
    assert any("no pair was judged in two orders" in note for note in table.notes)
    assert sum("evaluate.votes" in note for note in table.notes) == 3


@pytest.mark.parametrize("mode", ["pairs", "fourway"])
def test_only_log_odds_are_shown_as_probabilities(folder: Path, mode: str) -> None:
    [benchmark] = read_run(folder).benchmarks
    values = payload(replace(benchmark, mode=mode))
    shown = {
        name: any(pair["results"][at]["p"] is not None for pair in values["pairs"])
        for at, name in enumerate(values["models"])
    }
    assert shown["scalar"] and shown["genrm"] == (mode == "pairs")


def test_a_run_of_an_earlier_version_has_no_protocol_matrix(folder: Path, tmp_path: Path) -> None:
    old = shutil.copytree(folder, tmp_path / "old")
    scores = json.loads((old / "scores.json").read_text(encoding="utf-8"))
    for model in scores["benchmarks"]["toy"]["models"].values():
        del model["protocols"]
    (old / "scores.json").write_text(json.dumps(scores), encoding="utf-8")
    write_report(old)
    assert "Protocols" not in (old / "report.md").read_text(encoding="utf-8")
    assert "Protocols" not in Page((old / "report.html").read_text(encoding="utf-8")).titles


def test_text_of_the_run_stays_text(folder: Path, page: Page) -> None:
    assert len(page.inside["script"]) == 2  # the rows and the one script
    data = json.loads(page.inside["script"][0])
    [evil] = [row for row in data["rows"] if EVIL_ANSWER in row["answers"]]
    assert evil["turns"] == [["user", EVIL_PROMPT]]
    assert not re.search("[<>&\u2028\u2029]", page.inside["script"][0])
    assert "<i>toy</i>" in page.cells and "b" not in page.tags and "i" not in page.tags
    markdown = (folder / "report.md").read_text(encoding="utf-8")
    assert "<" not in markdown.replace("\\<", "")


def test_a_hostile_name_in_scores_json_stays_text(folder: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(folder, tmp_path / "evil")
    scores = json.loads((moved / "scores.json").read_text(encoding="utf-8"))
    scores["run"] = "<script>1</script> | {{ 7 * 7 }}"
    scores["benchmarks"]["toy"]["path"] = "<img src=x> \ud800 `x`"
    for model in scores["benchmarks"]["toy"]["models"].values():
        model["score"]["benchmark"] = "$<b>$ | name"
    (moved / "scores.json").write_text(json.dumps(scores), encoding="utf-8")
    html = write_report(moved).read_text(encoding="utf-8")
    seen = Page(html)
    assert len(seen.inside["script"]) == 2 and len(seen.values("img", "src")) == 4 and "b" not in seen.tags
    assert "&lt;script&gt;1&lt;/script&gt; | {{ 7 * 7 }}" in html
    markdown = (moved / "report.md").read_text(encoding="utf-8")
    assert "# \\<script>1\\</script> \\| {{ 7 \\* 7 }}" in markdown


def test_the_table_holds_the_scores_of_the_metric_itself(folder: Path, page: Page) -> None:
    [benchmark] = read_run(folder).benchmarks
    assert list(benchmark.models) == ["base", "genrm", "reasongenrm", "scalar"]
    for at, model in enumerate(benchmark.models.values()):
        real = rewardbench_score(model.results.values())
        cells = {line.label: line.cells[at] for line in metric_lines(benchmark)}
        assert cells["score [95%]"].startswith(f"{100 * real.score:.1f} [{100 * real.interval[0]:.1f}, ")
        assert cells["score [95%]"].endswith("]‡")
        assert cells["strict"] == f"{100 * real.strict:.1f}" and cells["n"] == str(real.counts.n)
        outcomes = ("correct", "wrong", "tie", "unparsed", "truncated", "error")
        assert sum(int(cells[name]) for name in outcomes) == real.counts.n
        diagnostics = diagnose(benchmark.judged_rows, model.results)
        assert model.diagnostics == diagnostics
        assert (
            cells["ECE"] == f"{diagnostics.ece:.3f}"
            and cells["length bias"] == f"{100 * (diagnostics.length_bias or 0):+.1f}"
        )
        assert set(cells.values()) <= set(page.cells)
    labels = [line.label for line in metric_lines(benchmark)]
    assert labels[:5] == [
        "score [95%]",
        *(f"{name} [95%]" for name in ("Chat", "Chat Hard", "Safety", "Reasoning")),
    ]
    scalar = {line.label: line.cells[3] for line in metric_lines(benchmark)}
    assert scalar["consistency [95%]"] == scalar["share of A"] == scalar["sampled tokens"] == "–"
    assert "1 more could not be read" in (folder / "report.md").read_text(encoding="utf-8")


def test_the_rows_hold_every_verdict(folder: Path, page: Page) -> None:
    [benchmark] = read_run(folder).benchmarks
    data = json.loads(page.inside["script"][0])
    assert data == json.loads(json.dumps(payload(benchmark)))
    assert len(data["rows"]) == len(data["pairs"]) == benchmark.rows == 25
    for pair, row in zip(data["pairs"], benchmark.judged_rows, strict=True):
        row_values = data["rows"][pair["row"]]
        assert row_values["answers"] == list(row.answers)
        assert row_values["turns"] == [[turn["role"], turn["content"]] for turn in row.history]
        for model, result in zip(benchmark.models.values(), pair["results"], strict=True):
            real = model.results[pair["id"]]
            assert result["p"] == (
                None if probability_right(real) is None else pytest.approx(probability_right(real), abs=1e-4)
            )
            assert [v["reason"] for v in result["verdicts"]] == [v.reason for v in real.verdicts]
            assert [v["winner"] for v in result["verdicts"]] == [v.winner for v in real.verdicts]
            assert [v["outcome"] for v in result["verdicts"]] == [*real.outcomes][: len(real.verdicts)]
            assert result["scores"] == (None if real.scores is None else list(real.scores))


def test_a_row_of_several_comparisons(tmp_path: Path) -> None:
    several = Row.make("toy-chat", [{"role": "user", "content": "which?"}], ["yes"], ["no", "nay", "never"])
    folder = write_run(tmp_path / "r", {"toy": ([several], {"base": judged([several], "base")})})
    seen = Page(write_report(folder).read_text(encoding="utf-8"))
    data = json.loads(seen.inside["script"][0])
    assert len(data["rows"]) == 1
    assert [(p["row"], p["right"], p["wrong"]) for p in data["pairs"]] == [(0, 0, 1), (0, 0, 2), (0, 0, 3)]
    assert [p["id"] for p in data["pairs"]] == [f"{several.id}.0-{n}" for n in (1, 2, 3)]


def test_a_run_of_scalar_scores_alone_and_one_of_two_benchmarks(tmp_path: Path) -> None:
    rows = [*rows_of(["hep-go", "donotanswer"], 3), evil_row("hep-go")]
    alone = write_run(tmp_path / "scalar", {"rewardbench": (rows, {"scalar": scored(rows)})})
    text = (write_report(alone).parent / "report.md").read_text(encoding="utf-8")
    assert "## RewardBench\n" in text and "† partial benchmark" in text
    toys = rows_of(["toy-chat"], 2)
    both = {
        "rewardbench": (rows, {"base": judged(rows, "base")}),
        "mine": (toys, {"base": judged(toys, "base")}),
    }
    seen = Page(write_report(write_run(tmp_path / "two", both)).read_text(encoding="utf-8"))
    assert seen.values("details", "data-json") == ["rows-1", "rows-2"] == seen.values("script", "id")
    assert len(list((tmp_path / "two" / "plots").iterdir())) == 8


def test_half_of_a_surrogate_pair_is_read_and_written(tmp_path: Path) -> None:
    rows = rows_of(["toy-chat"], 1)
    results = judged(rows, "base")
    [(name, one)] = results.items()
    broken = replace(one, verdicts=tuple(replace(v, reason="half \ud83d <") for v in one.verdicts))
    folder = write_run(tmp_path / "r", {"toy": (rows, {"base": {name: broken}})})
    data = json.loads(Page(write_report(folder).read_text(encoding="utf-8")).inside["script"][0])
    assert data["pairs"][0]["results"][0]["verdicts"][0]["reason"] == "half \ud83d <"


@pytest.mark.parametrize(
    ("file", "old", "new", "problem"),
    [
        ("scores.json", None, None, "file not found"),
        ("scores.json", '"run"', '"ran"', "missing required field `run`"),
        ("scores.json", '"position_bias": ', '"position_bias": "x", "y": ', "Expected"),
        ("scores.json", '"toy": {', '"../toy": {', "cannot be the name of a folder"),
        ("manifest/evaluate.json", None, None, "file not found"),
        ("manifest/evaluate.json", "{", "[", "broken"),
        ("evaluate/toy/rows.jsonl", None, None, "file not found"),
        ("evaluate/toy/rows.jsonl", '"right": 1', '"right": 2', "not a right answer and a wrong one"),
        ("evaluate/toy/rows.jsonl", '"answers"', '"replies"', "missing required field `answers`"),
        ("evaluate/toy/dropped.jsonl", None, None, "file not found"),
        ("evaluate/toy/scalar/results.jsonl", None, None, "file not found"),
        ("evaluate/toy/base/results.jsonl", '"order": "AB"', '"order": "XY"', "Invalid enum value 'XY'"),
        ("evaluate/toy/base/results.jsonl", '"pair_id": "', '"pair_id": "0', "are missing, and"),
    ],
)
def test_missing_or_broken_files_are_named(
    folder: Path, tmp_path: Path, file: str, old: str | None, new: str | None, problem: str
) -> None:
    moved = shutil.copytree(folder, tmp_path / "broken")
    path = moved / file
    if old is None or new is None:
        path.unlink()
    else:
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(DataError, match=re.escape(problem)) as caught:
        write_report(moved)
    assert str(path) in caught.value.location and caught.value.hint
    if path.suffix == ".jsonl" and problem.startswith(("missing req", "Invalid")):
        assert caught.value.location.endswith(":1")


def test_rows_that_scores_json_does_not_count(folder: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(folder, tmp_path / "short")
    path = moved / "evaluate" / "toy" / "rows.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    with pytest.raises(DataError, match="24 rows, but scores"):
        read_run(moved)
