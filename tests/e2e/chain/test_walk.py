"""docs/architecture.md lists the files that a row passes; here they are traced."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from support.scripts import ROOT, Bench, Chain, stage_server

pytestmark = pytest.mark.e2e

PAGE = ROOT / "docs" / "architecture.md"
SKYWORK, REWARDBENCH, SETTINGS = "## A Skywork row", "## A RewardBench row", "## Not counted"
MOST_FILES = {SKYWORK: 29, REWARDBENCH: 21}
ONE_JUDGE = ["judges={reasongenrm: {template: reason}}", "scalar=null"]
ONE_TEACHER = ["teachers={student: {mode: hindsight, samples: 2, max_tokens: 48}}", "records={}"]


def listed(heading: str) -> set[str]:
    """The files that the page names under a heading: `room/file.py` at the start of a table's row or a list's item."""
    part = PAGE.read_text(encoding="utf-8").split(f"{heading}\n", 1)[1].split("\n## ", 1)[0]
    return set(re.findall(r"^(?:\||[-*]) *`([\w/]+\.py)`", part, re.MULTILINE))


def check(files: set[str], heading: str) -> None:
    missing, extra = sorted(files - listed(heading)), sorted(listed(heading) - files)
    assert not missing, f"{PAGE.name} does not list: {' '.join(missing)}"
    assert not extra, f"{PAGE.name} lists, but no row passes: {' '.join(extra)}"


def traced(bench: Bench, run: str, output: str, verb: str, *overrides: str) -> set[str]:
    """The files that run while a stage makes `output` from a few toy rows, without those of settings."""
    bench.names.add(bench.name(run))
    words = [verb, bench.recipe, f"name={bench.name(run)}", *bench.shared, *ONE_JUDGE, *overrides]
    path = bench.folder(run) / output
    code = f"from support.walk import print_files\nprint_files({str(path)!r}, {words})"
    done = stage_server().run([], code=code)
    assert done.code == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1])) - listed(SETTINGS)


@pytest.mark.parametrize("heading", MOST_FILES)
def test_the_listed_files_exist_and_are_few(heading: str) -> None:
    files = listed(heading)
    assert [
        name for name in files | listed(SETTINGS) if not (ROOT / "src" / "reasongenrm" / name).is_file()
    ] == []
    assert 10 < len(files) <= MOST_FILES[heading]
    assert not files & listed(SETTINGS)


@pytest.mark.slow
def test_the_walk_of_a_skywork_row(chain: Chain) -> None:
    files = traced(chain.bench, "walk1", "sft.jsonl", "prepare", *ONE_TEACHER, "limit=6")
    check(files, SKYWORK)


@pytest.mark.slow
def test_the_walk_of_a_rewardbench_row(chain: Chain) -> None:
    folder = chain.bench.folder("walk3")
    shutil.copytree(chain.folder / "judges" / "reasongenrm", folder / "judges" / "reasongenrm")
    files = traced(chain.bench, "walk3", "scores.json", "evaluate", "evaluate.base=false", "limit=2")
    check(files, REWARDBENCH)
