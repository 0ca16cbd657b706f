"""`evaluate --model` with a model on a server: the same run folder as any other, continued and reported."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest

from reasongenrm import cli
from reasongenrm.chat.prompts import PromptFile
from reasongenrm.config.models import models_recipe
from reasongenrm.demo.build import rewardbench_row
from reasongenrm.demo.world import toy_pairs
from reasongenrm.run import Run
from reasongenrm.stages.fingerprints import models_steps
from reasongenrm.stages.models import load_models
from reasongenrm.store import read_json, read_jsonl, write_json, write_jsonl
from support.servers import ReceivedRequest, Reply, serving

pytestmark = pytest.mark.unit
ROOT = Path(__file__).resolve().parents[2]
PROMPTS, TOY_BASE = ROOT / "configs" / "prompts", ROOT / "data" / "toy-base"


def answer(received: ReceivedRequest) -> Reply:
    """A model that says A; with reasons, where it is asked for them."""
    asked = received.body["messages"][-1]["content"]
    text = "[[A]]" if "verdict alone" in asked else "A is right . so A is better .\n\n[[A]]"
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    return 200, {
        "id": "c", "object": "chat.completion", "created": 0, "model": received.body["model"], "choices": [choice],
        "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7},
    }  # fmt: skip


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    rows = [rewardbench_row(number, pair) for number, pair in enumerate(toy_pairs("test", 2, 17))]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    benchmarks = f"rewardbench:{tmp_path / 'rows.jsonl'}"
    return ["evaluate", "--benchmark", benchmarks, f"prompts={PROMPTS / 'judge.yaml'}", "name=served"]


def test_a_server_is_judged_with_and_without_reasons_and_only_once(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(answer) as server:
        words += ["--model", "org/gpt", "--server", f"{server.url}/v1", "--limit", "6"]
        assert cli.main(words) == 0
        assert len(server.received) == 2 * 6 * 2, "two models, both orders"
        out = capsys.readouterr().out
        assert "gpt" in out and "gpt-direct" in out
        assert cli.main(words) == 0 and len(server.received) == 24, "nothing is asked for again"
    folder = Path("runs/served")
    models = read_json(folder / "scores.json")["benchmarks"]["rewardbench"]["models"]
    assert models.keys() == {"gpt", "gpt-direct"}
    for model in models.values():
        assert model["score"]["rows"] == 6 and model["diagnostics"]["position_bias"] == 1.0
    reasons = Counter(
        row["reason"] for row in read_jsonl(folder / "evaluate/rewardbench/gpt-direct/verdicts.jsonl")
    )
    assert reasons == {"": 12}
    assert (folder / "report.html").is_file() and "gpt-direct" in (folder / "table.md").read_text()
    recipe = read_json(folder / "manifest" / "evaluate.json")["recipe"]
    assert recipe["limit"] == 6 and json.dumps(recipe["evaluate"]["others"]["gpt"]["reasons"]) == "true"


def test_another_server_changes_no_result_and_another_limit_names_the_steps(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(answer) as server:
        assert cli.main([*words, "--model", "m", "--server", f"{server.url}/v1", "--limit", "1"]) == 0
    moved = [*words, "--model", "m", "--server", "http://127.0.0.1:9/v1"]
    assert cli.main([*moved, "--limit", "1"]) == 0
    assert cli.main([*moved, "--limit", "2"]) == 2
    assert "limit changed from 1 to 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["configs/demo.yaml", "--model", "a/b"], "configs/demo.yaml: a recipe names its models itself"),
        (["--model", "./none"], "--model: directory not found: ./none"),
        (["--model", "a/b", "--dry-run"], "--dry-run: it needs a recipe"),
        (["--scalar", "./none"], "scalar: directory not found"),
        ([], "there is no model to evaluate"),
    ],
)
def test_errors_name_the_option(
    words: list[str], more: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    head, *tail = more or [""]
    line = [words[0], head, *tail, *words[1:]] if head else words
    assert cli.main(line) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_an_adapter_brings_its_template_and_wording(tmp_path: Path) -> None:
    folder = tmp_path / "genrm" / "adapter"
    write_json(folder / "adapter_config.json", {"r": 8, "base_model_name_or_path": str(TOY_BASE)})
    for source, name in (
        (PROMPTS / "direct.jinja", "chat_template.jinja"),
        (PROMPTS / "toy.yaml", "judge.yaml"),
    ):
        shutil.copy(source, folder / name)
    recipe = models_recipe(
        model=str(TOY_BASE), adapter=str(folder), server=None, api_key_env=None, scalar=None,
        benchmarks="rewardbench", overrides=[f"prompts={PROMPTS / 'judge.yaml'}"],
    )  # fmt: skip
    with ExitStack() as stack:
        base, direct, adapter = load_models(recipe, Run(recipe, "evaluate"), stack)
    assert [one.name for one in (base, direct, adapter)] == ["toy-base", "toy-base-direct", "genrm"]
    assert [one.adapter for one in (base, direct, adapter)] == [None, None, str(folder)]
    shipped, toy = PromptFile.load(PROMPTS / "judge.yaml"), PromptFile.load(PROMPTS / "toy.yaml")
    assert (base.wording, direct.wording) == (shipped, shipped.for_direct())
    assert adapter.wording == toy.for_direct(), "a judge of verdicts alone, in the wording of its training"
    assert [one.encoder and one.encoder.reasons_first for one in (base, direct, adapter)] == [
        True,
        False,
        False,
    ]
    assert models_steps(recipe, None).keys() == {
        f"evaluate.rewardbench.{one.name}" for one in (base, direct, adapter)
    }
