"""The notebook runs with any head, from any folder, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from reasongenrm.errors import DataError, EngineError
from reasongenrm.processes import has_ended
from reasongenrm.scalar.inputs import encode
from reasongenrm.scalar.model import ScalarRewardModel
from reasongenrm.scalar.notebook import execute
from reasongenrm.scalar.sequence import sequence_figure, sequence_table, token_runs
from support.heads import ENVIRONMENT, train

pytestmark = pytest.mark.engine

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "analyse.ipynb"
PRACTICE = NOTEBOOK.with_name("practice.ipynb")


@pytest.fixture(scope="module")
def head(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("run") / "scalar"
    train(base, output, args={"max_steps": 2, "disable_tqdm": True})
    return output


def write(path: Path, *sources: str) -> Path:
    import nbformat

    codes = [nbformat.v4.new_code_cell(source, id=f"cell-{n}") for n, source in enumerate(sources)]
    words = nbformat.v4.new_markdown_cell("# words", id="words")
    nbformat.write(nbformat.v4.new_notebook(cells=[words, *codes]), path)
    return path


@pytest.mark.slow
def test_the_notebook_runs_with_any_head(head: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before = NOTEBOOK.read_bytes()
    copy = Path(shutil.copy(NOTEBOOK, tmp_path))  # another folder, and no repository around it
    first, second = tmp_path / "first.ipynb", tmp_path / "second.ipynb"
    execute(NOTEBOOK, scalar=head, out=first)
    monkeypatch.chdir(head.parent)
    execute(copy, scalar=Path("scalar"), out=second)  # relative to the caller, not to the notebook
    assert first.read_bytes() == second.read_bytes()
    assert NOTEBOOK.read_bytes() == before
    ran, committed = (json.loads(path.read_text("utf-8")) for path in (first, NOTEBOOK))
    assert [cell["source"] for cell in ran["cells"]] == [cell["source"] for cell in committed["cells"]]
    assert ran["metadata"] == committed["metadata"] and "version" not in ran["metadata"]["language_info"]
    score = ScalarRewardModel.from_pretrained(head, "cpu").score(
        "Which country owns Antarctica?", "No country owns it."
    )
    assert f"'Z = {score:+.3f}'" in json.dumps(ran["cells"])


def table_of(notebook: Any, cell_id: str) -> list[list[str]]:
    """The cells of the rows of the Markdown table that a code cell shows."""
    [cell] = [cell for cell in notebook.cells if cell.id == cell_id]
    lines = cell.outputs[0].data["text/markdown"].splitlines()
    return [[text.strip() for text in line.strip("|").split(" | ")] for line in lines[2:]]


def first_number(cell: str) -> float:
    return float(cell.split()[0])


@pytest.mark.slow
def test_the_practice_trains_heads_that_learn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("REASONGENRM_BASE", raising=False)
    before = PRACTICE.read_bytes()
    out = tmp_path / "practice.ipynb"
    notebook = execute(PRACTICE, scalar=tmp_path, out=out)  # needs no head
    assert PRACTICE.read_bytes() == before
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    kinds = {output.output_type for cell in code for output in cell.outputs}
    assert kinds == {"execute_result"}, "no progress and no warning"
    (_, _, by_heart, _), (_, pairs, _, guesses) = table_of(notebook, "train-answers")
    assert first_number(by_heart) > 80 and pairs == "12" and guesses == "25.0 – 75.0"
    _, (_, _, accuracy, guesses) = table_of(notebook, "train-refusals")
    assert first_number(accuracy) > float(guesses.split(" – ")[1])
    rows = {row[0]: first_number(row[3]) for row in table_of(notebook, "summary")}
    assert rows["second head, new answers"] > rows["first head, new answers"]


def test_the_tokens_that_the_model_reads(head: Path) -> None:
    tokenizer = ScalarRewardModel.from_pretrained(head, device="cpu").tokenizer
    runs = token_runs(tokenizer, "The good [SEP]", "of it")
    assert [part for part, _ in runs] == ["special", "query", "special", "response", "special"]
    parts = [tokens for _, tokens in runs]
    tokens = [token for part in parts for token in part]
    ids = encode(tokenizer, "The good [SEP]", "of it", 512)["input_ids"]
    assert tokenizer.convert_tokens_to_ids(tokens) == ids
    assert parts[1][:2] == ["the", "good"] and "[SEP]" not in parts[1]
    assert parts[3] == ["of", "it"]
    assert (parts[0], parts[-1]) == (["[CLS]"], ["[SEP]"])
    table = sequence_table(tokenizer, "The good [SEP]", "of it").splitlines()
    assert table[2] == r"| special | 0 | \[CLS\] |"
    first = len(tokens) - 3
    assert table[5] == f"| response | {first}–{first + 1} | of it |"
    long = token_runs(tokenizer, "of it " * 400, "the good")
    assert (sum(len(part) for _, part in long), long[3]) == (512, ("response", ["the", "good"]))
    turns = token_runs(tokenizer, [{"role": "user", "content": "of it"}], "the")
    assert turns[1] == ("query", ["of", "it"])
    responses = {"a": "of it", "b": "the " * 60}
    plain = sequence_figure(tokenizer, "The good [SEP]", responses)
    scored = sequence_figure(tokenizer, "The good [SEP]", responses, {"a": 1.0, "b": -1.0})
    assert plain == sequence_figure(tokenizer, "The good [SEP]", responses) != scored
    slow_tokenizer = type("Slow", (), {"is_fast": False, "name_or_path": "slow"})()
    with pytest.raises(EngineError, match="fast tokenizer"):
        token_runs(slow_tokenizer, "a", "b")


def test_a_cell_that_fails_is_named(tmp_path: Path) -> None:
    out = tmp_path / "out.ipynb"
    failing = write(tmp_path / "failing.ipynb", "1", "raise ValueError('the first line\\nand more')", "2")
    with pytest.raises(EngineError, match=r"failing\.ipynb, code cell 2: ValueError: the first line \("):
        execute(failing, scalar=tmp_path, out=out)
    dying = write(tmp_path / "dying.ipynb", "import os\nos._exit(3)")
    with pytest.raises(EngineError, match=r"dying\.ipynb, code cell 1: "):
        execute(dying, scalar=tmp_path, out=out)
    slow = write(tmp_path / "slow.ipynb", "import time\ntime.sleep(60)")
    with pytest.raises(EngineError, match=r"slow\.ipynb, code cell 1: "):
        execute(slow, scalar=tmp_path, out=out, timeout=1)
    revealing = write(tmp_path / "revealing.ipynb", "import os", "print(os.getcwd())")
    with pytest.raises(DataError, match=r"revealing\.ipynb, code cell 2: an output holds the path /"):
        execute(revealing, scalar=tmp_path, out=out)
    assert not out.exists()


def test_missing_and_broken_notebooks(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="file not found"):
        execute(tmp_path / "none.ipynb", scalar=tmp_path)
    for content in ("{", "[]", '{"cells": 3, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}'):
        (tmp_path / "broken.ipynb").write_text(content)
        with pytest.raises(DataError, match="not a notebook") as caught:
            execute(tmp_path / "broken.ipynb", scalar=tmp_path)
        assert "\n" not in str(caught.value)


def test_the_users_settings_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    startup = tmp_path / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "00.py").write_text("print('hello')\nmine = 1\n")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    ran = execute(write(tmp_path / "a.ipynb", "'mine' in globals()"), scalar=tmp_path)
    assert ran.cells[1].outputs[0].data["text/plain"] == "False"


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux to end the kernel")
def test_the_kernel_ends_with_this_process(tmp_path: Path) -> None:
    source = "import os, time\nopen('pid', 'w').write(str(os.getpid()))\n"
    done = write(tmp_path / "done.ipynb", source)
    execute(done, scalar=tmp_path)
    assert has_ended(int((tmp_path / "pid").read_text()))
    (tmp_path / "pid").unlink()
    endless = write(tmp_path / "endless.ipynb", source + "time.sleep(600)")
    script = "import sys; from pathlib import Path; from reasongenrm.scalar.notebook import execute as e; "
    script += "e(Path(sys.argv[1]), scalar=Path('.'))"
    process = subprocess.Popen([sys.executable, "-c", script, str(endless)], env=ENVIRONMENT)
    try:
        until = time.monotonic() + 60
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            assert time.monotonic() < until and process.poll() is None
            time.sleep(0.1)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    kernel = int((tmp_path / "pid").read_text())
    until = time.monotonic() + 10
    while not has_ended(kernel):
        assert time.monotonic() < until
        time.sleep(0.05)
