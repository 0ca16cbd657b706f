"""The notebook runs, with any head, from any folder, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reasongenrm.errors import DataError, EngineError
from reasongenrm.processes import is_gone
from reasongenrm.scalar.explain import show_sequence
from reasongenrm.scalar.model import ScalarRewardModel, encode
from reasongenrm.scalar.notebook import execute
from support.heads import ENVIRONMENT, train

pytestmark = pytest.mark.engine

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "analyse.ipynb"


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
    ran, kept = (json.loads(path.read_text("utf-8")) for path in (first, NOTEBOOK))
    assert [cell["source"] for cell in ran["cells"]] == [cell["source"] for cell in kept["cells"]]
    assert ran["metadata"] == kept["metadata"] and "version" not in ran["metadata"]["language_info"]
    score = ScalarRewardModel.from_pretrained(head, "cpu").score(
        "Which country owns Antarctica?", "No country owns it."
    )
    assert f"'Z = {score:+.3f}'" in json.dumps(ran["cells"])


def test_what_the_model_is_fed(head: Path) -> None:
    tokenizer = ScalarRewardModel.from_pretrained(head, device="cpu").tokenizer
    shown = show_sequence(tokenizer, "The good [SEP]", "of it")
    assert [token.id for token in shown.tokens] == encode(tokenizer, "The good [SEP]", "of it", 512)[
        "input_ids"
    ]
    assert [run.part for run in shown.runs] == ["special", "query", "special", "response", "special"]
    assert shown.query[:2] == ["the", "good"] and "[SEP]" not in shown.query
    assert shown.response == ["of", "it"]
    assert [token.position for token in shown.tokens] == list(range(len(shown.tokens)))
    assert (shown.runs[0].text, shown.runs[-1].text, shown.cut) == ("[CLS]", "[SEP]", 0)
    long = show_sequence(tokenizer, "of it " * 400, "the good")
    assert (len(long.tokens), long.response, long.cut) == (512, ["the", "good"], 800 + 2 + 3 - 512)
    turns = show_sequence(tokenizer, [{"role": "user", "content": "of it"}], "the")
    assert turns.query == ["of", "it"]
    tokenizer_in_python = type("Slow", (), {"is_fast": False})()
    with pytest.raises(EngineError, match="fast tokenizer"):
        show_sequence(tokenizer_in_python, "a", "b")


def test_a_cell_that_fails_is_named(tmp_path: Path) -> None:
    out = tmp_path / "out.ipynb"
    failing = write(tmp_path / "failing.ipynb", "1", "raise ValueError('the first line\\nand more')", "2")
    with pytest.raises(EngineError, match=r"failing\.ipynb, code cell 2: ValueError: the first line$"):
        execute(failing, scalar=tmp_path, out=out)
    dying = write(tmp_path / "dying.ipynb", "import os\nos._exit(3)")
    with pytest.raises(EngineError, match=r"dying\.ipynb, code cell 1: "):
        execute(dying, scalar=tmp_path, out=out)
    slow = write(tmp_path / "slow.ipynb", "import time\ntime.sleep(60)")
    with pytest.raises(EngineError, match=r"slow\.ipynb, code cell 1: "):
        execute(slow, scalar=tmp_path, out=out, timeout=1)
    telling = write(tmp_path / "telling.ipynb", "import os", "print(os.getcwd())")
    with pytest.raises(DataError, match=r"telling\.ipynb, code cell 2: an output holds the path /"):
        execute(telling, scalar=tmp_path, out=out)
    assert not out.exists()


def test_what_is_no_notebook(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such notebook"):
        execute(tmp_path / "none.ipynb", scalar=tmp_path)
    for content in ("{", "[]", '{"cells": 3, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}'):
        (tmp_path / "broken.ipynb").write_text(content)
        with pytest.raises(DataError, match="not a notebook") as caught:
            execute(tmp_path / "broken.ipynb", scalar=tmp_path)
        assert "\n" not in str(caught.value)


def test_users_settings_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    startup = tmp_path / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "00.py").write_text("print('hello')\nmine = 1\n")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    ran = execute(write(tmp_path / "a.ipynb", "'mine' in globals()"), scalar=tmp_path)
    assert ran.cells[1].outputs[0].data["text/plain"] == "False"


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux to end the kernel")
def test_the_kernel_ends_with_us(tmp_path: Path) -> None:
    told = "import os, time\nopen('pid', 'w').write(str(os.getpid()))\n"
    done = write(tmp_path / "done.ipynb", told)
    execute(done, scalar=tmp_path)
    assert is_gone(int((tmp_path / "pid").read_text()))
    (tmp_path / "pid").unlink()
    endless = write(tmp_path / "endless.ipynb", told + "time.sleep(600)")
    script = "import sys; from pathlib import Path; from reasongenrm.scalar.notebook import execute as e; "
    script += "e(Path(sys.argv[1]), scalar=Path('.'))"
    ours = subprocess.Popen([sys.executable, "-c", script, str(endless)], env=ENVIRONMENT)
    try:
        until = time.monotonic() + 60
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            assert time.monotonic() < until and ours.poll() is None
            time.sleep(0.1)
    finally:
        os.kill(ours.pid, signal.SIGKILL)
        ours.wait()
    kernel = int((tmp_path / "pid").read_text())
    until = time.monotonic() + 10
    while not is_gone(kernel):
        assert time.monotonic() < until
        time.sleep(0.05)
