"""The examples of docs/usage.md, run in their order with a tiny head, a tiny model and local servers."""

from __future__ import annotations

import json
import shutil
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from reasongenrm.cli import main
from reasongenrm.scalar.model import ScalarRewardModel
from reasongenrm.service.head_server import SharedHead, create_head_app
from reasongenrm.store import write_jsonl
from support.app import running
from support.doc_blocks import CodeBlock, code_blocks, replaced
from support.doc_commands import commands
from support.engine_fixtures import LentEngine
from support.heads import save_random_head
from support.rubric_server import KEY, RubricServer
from support.servers import ReceivedRequest, Reply, serving

pytestmark = pytest.mark.engine

ROOT = Path(__file__).resolve().parents[2]
BLOCKS = code_blocks(ROOT / "docs" / "usage.md")
CRITERIA = ("accuracy", "personalisation", "engagement", "clarity")
"""Of the shipped rubric."""
ELSEWHERE = ("On vLLM's own server",)
"""Headings whose examples another test runs: tests/scalar/test_vllm_pooling.py."""


def speak(received: ReceivedRequest) -> Reply:
    text = f"reply {received.body['seed'] % 7}"
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return 200, {"id": "c", "object": "x", "created": 1, "model": received.body["model"], "choices": [choice]}


@pytest.fixture
def folder(_one_thread: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a head and the shipped data."""
    rows = json.loads((ROOT / "data" / "conversations.json").read_text(encoding="utf-8"))
    texts = [text for row in rows for text in row.values() if isinstance(text, str)]
    save_random_head(tmp_path / "runs" / "tutor" / "scalar", texts)
    (tmp_path / "data").mkdir()
    shutil.copy(ROOT / "data" / "conversations.json", tmp_path / "data")
    write_jsonl(tmp_path / "answers.jsonl", [{"prompt": "What is a verb?", "answer": "A word."}])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TEST_KEY", KEY)
    return tmp_path


def run(block: CodeBlock, values: dict[str, str], names: dict[str, Any]) -> None:
    """Run one block: Python in the namespace of those before it, our commands in this process, curl in a shell."""
    code = replaced(block.code, values)
    if block.language == "python":
        exec(compile(code, f"docs/usage.md: {block.heading}", "exec"), names)
    elif block.language == "json":
        names["json_example"] = json.loads(code)
    elif code.startswith("curl"):
        names["curl"] = subprocess.run(
            ["bash", "-ec", code], capture_output=True, text=True, check=True
        ).stdout
    else:
        for program, *arguments in commands(code):
            if arguments[0] != "serve":  # until Ctrl-C; the examples ask a server of this test
                assert program == "reasongenrm" and main(arguments) == 0, arguments


def test_the_page_has_examples_of_every_kind() -> None:
    assert {block.language for block in BLOCKS} == {"python", "bash", "json"}
    assert len({block.heading for block in BLOCKS}) == 7 and {*ELSEWHERE} < {b.heading for b in BLOCKS}


def test_the_examples_run(folder: Path, tiny_model: Path, engine_of_answers: LentEngine) -> None:
    head = ScalarRewardModel.from_pretrained("runs/tutor/scalar", device="cpu")
    names: dict[str, Any] = {}
    with ExitStack() as stack:
        server = stack.enter_context(serving(speak))
        judge = stack.enter_context(
            RubricServer(lambda texts: dict.fromkeys(CRITERIA, 1 + len(texts.response) % 5))
        )
        app = create_head_app(SharedHead(head), model="runs/tutor/scalar")
        url = stack.enter_context(running(app))
        values = {
            '"Qwen/Qwen2.5-7B-Instruct"}, "max_tokens": 128': f'"{tiny_model}", "dtype": "float32"}}, '
            '"engine": {"max_model_len": 512}, "max_tokens": 8',
            "Qwen/Qwen2.5-7B-Instruct": str(tiny_model),
            "http://127.0.0.1:8000": server.url,
            "http://127.0.0.1:8080": url,
            # These run on a machine without a GPU.
            'report_to="none"': 'report_to="none", use_cpu=True, bf16=False, save_strategy="no", disable_tqdm=True',
        }
        copy_settings(folder, server.url, judge.url)
        for block in BLOCKS:
            if block.heading not in ELSEWHERE:
                run(block, values, names)
    check_results(folder, names, head)


def copy_settings(folder: Path, model: str, judge: str) -> None:
    """Copy the shipped settings of distil, with local servers as the model and as the judge."""
    target = folder / "configs" / "distil"
    shutil.copytree(ROOT / "configs" / "distil", target)
    for name, url, more in (
        ("best_of_n.yaml", model, {"limit": 3}),
        ("judge.yaml", judge, {"samples": 1, "temperature": 0}),
    ):
        settings = yaml.safe_load((target / name).read_text(encoding="utf-8"))
        server = {
            "kind": "openai",
            "urls": [f"{url}/v1"],
            "model": "m",
            "api": "chat",
            "api_key_env": "TEST_KEY",
        }
        text = yaml.safe_dump(settings | more | {"server": server}, sort_keys=False)
        (target / name).write_text(text, encoding="utf-8")


def rows_of(path: str) -> list[Any]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def check_results(folder: Path, names: dict[str, Any], head: ScalarRewardModel) -> None:
    assert isinstance(names["score"], float) and len(names["scores"]) == 2
    assert len(names["best"].responses) == 8 and names["best"].response.startswith("reply")
    assert len(rows_of("scores.jsonl")) == 1 and len(rows_of("runs/tutor/best/best.jsonl")) == 3
    curve = json.loads(Path("runs/tutor/best/curve.json").read_text(encoding="utf-8"))
    assert curve["judged_messages"] == 3 and len(curve["judge_score"]) == len(curve["score"]) == 16
    assert 0 <= curve["judge_score"][0]["expected"] <= 1
    assert len(rows_of("kept.jsonl")) + len(rows_of("kept.jsonl.dropped.jsonl")) == len(
        json.loads((folder / "data" / "conversations.json").read_text(encoding="utf-8"))
    )
    pairs = rows_of("dpo.jsonl")
    assert pairs and set(pairs[0]) == set(names["json_example"]), "the example has the columns of the file"
    assert names["trainer"].state.global_step == 2
    assert names["trainer"].reward_func_names == ["head"]
    first, second = (json.loads(line) for line in names["curl"].replace("}{", "}\n{").splitlines())
    own = head.score("What is a verb?", "A word for an action.")
    assert first["data"][0]["score"] == pytest.approx(own, abs=1e-5)
    assert second["data"][0]["probs"] == pytest.approx([own], abs=1e-5)
