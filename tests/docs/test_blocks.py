"""Every block of code in the documentation is run, or checked as far as it can be, or named here with a reason."""

from __future__ import annotations

import ast
import importlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from reasongenrm.chat.prompts import PromptFile
from reasongenrm.config.distil import DistilRecipe, RubricJudge
from reasongenrm.config.loading import validate
from reasongenrm.config.recipe import Recipe
from reasongenrm.config.rubric import Rubric
from reasongenrm.config.scalar import AnswersConfig, BestOfNConfig, ScalarRecipe
from reasongenrm.errors import ReasonGenRMError
from support import doc_commands
from support.doc_blocks import ROOT, CodeBlock, all_blocks, inline_code, pages
from support.doc_commands import commands, inline_problem, problem_of

pytestmark = pytest.mark.unit

LANGUAGES = {"bash", "python", "yaml", "json", "text"}
"""`text` is for output, and for figures made of letters."""

JUDGES = "tests/docs/test_judge_pages.py"
RUN_BY = {
    ("README.md", "*"): JUDGES,
    ("docs/usage.md", "*"): "tests/docs/test_usage_page.py",
    ("docs/usage.md", "On vLLM's own server"): "tests/scalar/test_vllm_pooling.py",
    ("docs/judging.md", "*"): JUDGES,
    ("docs/reward.md", "*"): JUDGES,
}
"""Page and heading (`*`: all others) -> the test that runs the Python there."""

NOT_RUN = {
    (
        "docs/judging.md",
        "The judge as a server",
    ): "serves until Ctrl-C; tests/e2e/chain/test_judge.py does so",
    (
        "docs/reward-modeling.md",
        "From two texts to one number",
    ): "needs the demo's head; tests/scalar runs score",
}
"""Page and heading -> why no test runs the Python there; its imports are checked."""

FRAGMENTS: tuple[tuple[Any, str], ...] = (
    (Recipe, "configs/qwen2.5-7b.yaml"),
    (DistilRecipe, "configs/distil/reward_model.yaml"),
    (RubricJudge, "configs/distil/judge.yaml"),
    (PromptFile, "configs/prompts/judge.yaml"),
    (Rubric, ""),
    (ScalarRecipe, "configs/scalar/distilbert.yaml"),
    (AnswersConfig, "configs/answers/phi-2.yaml"),
    (BestOfNConfig, "configs/distil/best_of_n.yaml"),
)
"""Settings that a block of YAML may be a part of, and the file that the rest comes from."""


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("RECIPE", raising=False)


def test_every_block_has_a_language() -> None:
    assert [f"{block.place}: {block.language!r}" for block in all_blocks() if block.language not in LANGUAGES] == []  # fmt: skip


def test_every_command_is_accepted_by_its_program() -> None:
    problems = [
        f"{block.place}: {' '.join(words)}: {problem}"
        for block in all_blocks("bash")
        for words in commands(block.code)
        if (problem := problem_of(words))
    ]
    assert problems == []


def test_the_commands_in_the_text_exist() -> None:
    problems = [
        f"{place}: `{code}`: {problem}"
        for page in pages()
        for place, code in inline_code(page)
        if (problem := inline_problem(code))
    ]
    assert problems == []


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("reasongenrm judge compare configs/demo.yaml --in x --out y", ""),
        ("RECIPE=x ./2_train.sh configs/demo.yaml train.batch=64 | head", ""),
        ("reasongenrm juge compare", "invalid choice"),
        ("./1_prepare.sh configs/demo.yaml --redoo x", "unrecognized arguments"),
        ("./1_prepare.sh configs/demo.yaml train.bach=64", "unknown key"),
        ("./1_prepare.sh configs/demo.yaml train.batch=0", "greater than or equal to 1"),
        ("./1_prepare.sh configs/gone.yaml", "no such file"),
        ("reasongenrm serve configs/demo.yaml --judge nobody", "no judge nobody"),
        ("reasongenrm evaluate --model a/b --benchmark rewardbnch", "unknown benchmark"),
        ("reasongenrm scalar train configs/scalar/distilbert.yaml scalar.max_length=1", "greater than"),
        ("make demo", ""),
        ("make dmeo", "no target"),
        ("python bench/gone.py", "no such file"),
        ("examples/tutor/run.sh jugde.samples=2", "unknown key"),
        ("frobnicate --hard", "unknown program"),
    ],
)
def test_a_wrong_command_is_found(line: str, problem: str) -> None:
    (words, *_) = commands(line + "\n")
    found = problem_of(words)
    assert problem in found and bool(found) == bool(problem)


@pytest.mark.parametrize(
    "code", ["reasongenrm juge", "reasongenrm judge rnk", "reasongenrm serve --prot", "make dmeo"]
)
def test_a_wrong_command_in_the_text_is_found(code: str) -> None:
    assert inline_problem(code)


def test_every_program_that_is_excused_is_used() -> None:
    used = {words[0] for block in all_blocks("bash") for words in commands(block.code)}
    assert used & doc_commands.EXTERNAL.keys() and all(doc_commands.EXTERNAL.values())


@pytest.mark.parametrize("block", all_blocks("json"), ids=lambda block: block.place)
def test_json_can_be_read(block: CodeBlock) -> None:
    try:
        json.loads(block.code)
    except ValueError:
        for line in block.code.splitlines():
            json.loads(line)


@pytest.mark.parametrize("block", all_blocks("yaml"), ids=lambda block: block.place)
def test_yaml_is_a_part_of_valid_settings(block: CodeBlock) -> None:
    raw = yaml.safe_load(block.code)
    fitting = [(kind, file) for kind, file in FRAGMENTS if raw.keys() <= kind.model_fields.keys()]
    assert fitting, f"{block.place}: no settings have the keys {', '.join(raw)}"
    problems = []
    for kind, file in fitting:
        rest = yaml.safe_load((ROOT / file).read_text(encoding="utf-8")) if file else {}
        try:
            validate(kind, merged(rest, raw), "", "")
            return
        except ReasonGenRMError as error:
            problems.append(str(error))
    pytest.fail(f"{block.place}: {problems}")


def merged(base: Any, part: Any) -> Any:
    """Return settings with a part of them replaced."""
    if not isinstance(base, Mapping) or not isinstance(part, Mapping):
        return part
    return {**base, **{key: merged(base.get(key), value) for key, value in part.items()}}


def test_every_python_block_is_run_or_excused() -> None:
    blocks = {(block.page, block.heading) for block in all_blocks("python")}
    known = {*RUN_BY, *NOT_RUN}
    assert {key for key in blocks if key not in known and (key[0], "*") not in known} == set()
    used = blocks | {(page, "*") for page, _ in blocks}
    assert known - used == set(), "a table names a block that is gone"


@pytest.mark.parametrize("place", RUN_BY, ids=str)
def test_the_test_that_runs_a_block_reads_its_page(place: tuple[str, str]) -> None:
    text = (ROOT / RUN_BY[place]).read_text(encoding="utf-8")
    assert place[0].removeprefix("docs/") in text and "code_blocks" in text


@pytest.mark.parametrize("block", all_blocks("python"), ids=lambda block: block.place)
def test_what_python_imports_of_ours_exists(block: CodeBlock) -> None:
    for node in ast.walk(ast.parse(block.code)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("reasongenrm"):
            module = importlib.import_module(node.module or "")
            for alias in node.names:
                assert hasattr(module, alias.name), f"{block.place}: {node.module} has no {alias.name}"


def test_marked_tables_name_the_command_that_writes_them() -> None:
    marker = re.compile(r"<!-- tables of (?P<command>[^:]+): (?P<side>begin|end) -->")
    for page in pages():
        open_marks: list[str] = []
        for match in marker.finditer(page.read_text(encoding="utf-8")):
            script = match["command"].split()[0]
            assert (ROOT / script).is_file(), f"{page.name}: no {script}"
            if match["side"] == "begin":
                open_marks.append(match["command"])
            else:
                assert open_marks.pop() == match["command"], page.name
        assert open_marks == [], page.name


def test_blocks_are_found_with_their_headings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A\n\n```bash\nx\n```\n\n- item\n\n  ```python\n  y\n    z\n  ```\n\n## B\n\n````text\n```\n````\n"
    )
    monkeypatch.setattr("support.doc_blocks.ROOT", tmp_path)
    from support.doc_blocks import code_blocks

    assert [tuple(block) for block in code_blocks(page)] == [
        ("page.md", 3, "A", "bash", "x\n"),
        ("page.md", 9, "A", "python", "y\n  z\n"),
        ("page.md", 16, "B", "text", "```\n"),
    ]
