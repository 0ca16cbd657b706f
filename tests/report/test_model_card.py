"""The model card: the Hub's own reader reads its scores, and no text of the run becomes structure."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from reasongenrm.errors import ConfigError, DataError
from reasongenrm.report.model_card import write_model_card
from reasongenrm.report.run_files import read_run
from reasongenrm.store import write_json
from support.judged import rewardbench_score
from support.judged_run import judged, rows_of, toy_run, write_run

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy run with the training report of one judge."""
    run = toy_run(tmp_path_factory.mktemp("runs") / "toy", each=6)
    training = {"records": 2650, "tokens_seen": 900997, "steps": 319, "final_loss": 0.03818}
    write_json(run / "judges" / "reasongenrm" / "training.json", training)
    return run


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """A run folder to spoil."""
    return shutil.copytree(folder, tmp_path / "copy")


def front_and_body(text: str) -> tuple[dict[str, Any], str]:
    _, front, body = text.split("---\n", 2)
    return yaml.safe_load(front), body


def blocks(body: str, language: str) -> list[str]:
    return re.findall(rf"^(?:`{{3,}}){language}\n(.*?)\n`{{3,}}$", body, re.DOTALL | re.MULTILINE)


def change(path: Path, edit: Any) -> None:
    value = json.loads(path.read_text(encoding="utf-8"))
    edit(value)
    path.write_text(json.dumps(value), encoding="utf-8")


def test_the_hub_reads_the_scores_from_it(folder: Path) -> None:
    from huggingface_hub import ModelCard

    path = write_model_card(folder, "reasongenrm")
    assert path == folder / "judges" / "reasongenrm" / "README.md"
    data = ModelCard.load(path).data
    assert data.base_model == "Qwen/Qwen2.5-7B-Instruct" and data.library_name == "peft"
    assert data.pipeline_tag == "text-generation" and "reward-model" in data.tags
    assert data.model_name == "toy-reasongenrm"
    real = rewardbench_score(read_run(folder).benchmarks[0].models["reasongenrm"].results.values())
    values = {result.metric_name: result.metric_value for result in data.eval_results}
    assert values["score (%)"] == round(100 * real.score, 2) and values["strict (%)"] == round(
        100 * real.strict, 2
    )
    sections = {f"{name} (%)": round(100 * (share or 0), 2) for name, share in real.sections.items()}
    assert sections.items() <= values.items()
    assert {result.dataset_type for result in data.eval_results} == {
        "rewardbench"
    }  # a local file has no hub id
    assert {result.metric_type for result in data.eval_results} == {"accuracy"}


def test_it_states_the_judge_its_training_and_its_limits(folder: Path) -> None:
    _, body = front_and_body(write_model_card(folder, "reasongenrm").read_text(encoding="utf-8"))
    assert "# toy-reasongenrm\n" in body and "reasons first" in body
    assert "| | base | reasongenrm | scalar |" in body and "genrm |" not in body.replace("reasongenrm |", "")
    for fact in (
        "Training records: 2,650",
        "Training tokens: 900,997",
        "Optimizer steps: 319",
        "0.03818 nats",
    ):
        assert fact in body, fact
    assert "Skywork/Skywork-Reward-Preference-80K-v0.2" in body
    assert "same answer in both orders" in body and "is a toy benchmark" in body
    [recipe] = blocks(body, "yaml")
    recipe_values = yaml.safe_load(recipe)
    assert recipe_values["train"]["lora"] == {"r": 64, "lora_alpha": 128} and list(
        recipe_values["judges"]
    ) == ["reasongenrm"]


def test_a_judge_without_reasons(folder: Path) -> None:
    text = write_model_card(folder, "genrm").read_text(encoding="utf-8")
    front, body = front_and_body(text)
    assert "judge-template-direct" in front["tags"] and "without a reason" in body
    assert "Training records" not in body  # training.json is missing


def test_a_loss_that_was_not_logged_is_said_to_be_so(copy: Path) -> None:
    path = copy / "judges" / "reasongenrm" / "training.json"
    change(path, lambda training: training.update(final_loss=None))
    _, body = front_and_body(write_model_card(copy, "reasongenrm").read_text(encoding="utf-8"))
    assert "- Final loss: not logged\n" in body and "None" not in body


def test_a_grpo_step_shows_the_keys_of_the_recipe_beside_the_trainers(copy: Path) -> None:
    """With the baseline `pair` TRL's `num_generations` is twice the recipe's `samples`."""

    def recipe(manifest: dict[str, Any]) -> None:
        manifest["recipe"]["train"]["grpo"] = {"samples": 4, "baseline": "pair"}

    change(copy / "manifest" / "evaluate.json", recipe)
    settings = {"learning_rate": 1e-6, "num_generations": 8, "temperature": 1.0}
    training = {"kind": "grpo", "previous": "reasongenrm", "settings": settings}
    write_json(copy / "judges" / "reasongenrm@grpo" / "training.json", training)
    _, body = front_and_body(write_model_card(copy, "reasongenrm@grpo").read_text(encoding="utf-8"))
    assert "learning_rate 1e-06, num_generations 8, samples 4, baseline pair, temperature 1" in body
    assert "Final loss" not in body, "the loss of GRPO measures nothing"


def test_the_code_in_it_calls_existing_functions(folder: Path) -> None:
    [code] = blocks(write_model_card(folder, "reasongenrm").read_text(encoding="utf-8"), "python")
    tree = ast.parse(code)
    [imported] = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    judge = getattr(importlib.import_module(str(imported.module)), imported.names[0].name)
    calls = {
        node.func.attr: node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }
    load, compare = calls["from_pretrained"], calls["compare"]
    inspect.signature(judge.from_pretrained).bind(
        *[ast.literal_eval(arg) for arg in load.args],
        **{k.arg or "": ast.literal_eval(k.value) for k in load.keywords},
    )
    inspect.signature(judge.compare).bind(None, *[ast.literal_eval(arg) for arg in compare.args])
    attributes = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "comparison"
    }
    from reasongenrm.records import Comparison

    assert attributes == {"winner", "prob_a", "reason"} <= set(Comparison.__slots__)


def test_the_same_folder_gives_the_same_card(folder: Path, tmp_path: Path) -> None:
    before = write_model_card(folder, "genrm").read_bytes()
    assert write_model_card(shutil.copytree(folder, tmp_path / "moved"), "genrm").read_bytes() == before


def test_a_published_benchmark_keeps_its_hub_id_and_is_called_partial(tmp_path: Path) -> None:
    rows = rows_of(["hep-go", "donotanswer"], 3)
    run = write_run(tmp_path / "r", {"rewardbench": (rows, {"genrm": judged(rows, "genrm")})})
    front, body = front_and_body(write_model_card(run, "genrm").read_text(encoding="utf-8"))
    [result] = front["model-index"][0]["results"]
    assert result["dataset"] == {"name": "RewardBench, partial", "type": "allenai/reward-bench"}
    assert [metric["name"] for metric in result["metrics"]][:3] == [
        "score (%)",
        "Reasoning (%)",
        "Safety (%)",
    ]
    assert "was judged in part" in body and "toy" not in body


def test_benchmarks_of_one_dataset_keep_their_own_results(tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    rows = rows_of(["hep-go", "donotanswer"], 3)
    benchmarks = {key: (rows, {"genrm": judged(rows, key)}) for key in ("mine", "yours")}
    data = ModelCard.load(write_model_card(write_run(tmp_path / "r", benchmarks), "genrm")).data
    scores = {r.dataset_config: r.metric_value for r in data.eval_results if r.metric_name == "score (%)"}
    run = read_run(tmp_path / "r")
    assert scores == {b.key: round(100 * b.models["genrm"].score.score, 2) for b in run.benchmarks}
    assert len({result.dataset_name for result in data.eval_results}) == 2


def test_names_and_paths_are_escaped(copy: Path) -> None:
    evil = "<script>*x*</script>\n---\n# heading | `code` [a](b)"

    def recipe(manifest: dict[str, Any]) -> None:
        manifest["recipe"]["model"] |= {"path": evil, "revision": "'); import os #"}
        manifest["recipe"]["data"]["sources"] = [{"path": evil + "\n```\n````\nout"}]
        manifest["git"] = evil

    change(copy / "manifest" / "evaluate.json", recipe)
    change(copy / "scores.json", lambda scores: scores.update(run=evil))
    text = write_model_card(copy, "reasongenrm").read_text(encoding="utf-8")
    front, body = front_and_body(text)
    flat = " ".join(evil.split())
    assert front["base_model"] == flat and front["model-index"][0]["name"] == f"{flat}-reasongenrm"
    outside = re.sub(r"^(`{3,})\w+\n.*?\n\1$", "", body, flags=re.DOTALL | re.MULTILINE)
    assert "<script" not in outside.replace("\\<", "") and "\n# heading" not in outside
    assert "import os" in outside and "```" not in outside
    code = re.search(r"^(`{3,})python\n(.*?)\n\1$", body, re.DOTALL | re.MULTILINE)
    assert code is not None
    assert [type(node).__name__ for node in ast.parse(code[2]).body] == ["ImportFrom", "With"]
    block = re.search(r"^(`{3,})yaml\n(.*?)\n\1$", body, re.DOTALL | re.MULTILINE)
    assert block is not None and yaml.safe_load(block[2])["data"]["sources"][0]["path"].startswith("<script>")


def test_folders_and_servers_of_this_machine_stay_out(copy: Path) -> None:
    def recipe(manifest: dict[str, Any]) -> None:
        manifest["recipe"]["model"]["path"] = "/srv/someone/models/base"
        [step] = manifest["steps"].values()
        step["settings"]["file /srv/someone/models/base"] = "0123456789abcdef"
        server = {
            "kind": "openai",
            "urls": ["http://10.1.2.3:8000/v1"],
            "model": "teacher",
            "api_key_env": "KEY",
        }
        manifest["recipe"]["teachers"] = {"fleet": {"mode": "blind", "server": server}}

    change(copy / "manifest" / "evaluate.json", recipe)
    text = write_model_card(copy, "reasongenrm").read_text(encoding="utf-8")
    assert "someone" not in text and "10.1.2.3" not in text and "KEY" not in text
    assert "base_model: base\n" in text and "put its hub id here" in text and "model: teacher" in text


def test_a_card_that_cannot_be_written_is_an_error(copy: Path) -> None:
    with pytest.raises(ConfigError, match="no judge 'nobody'") as caught:
        write_model_card(copy, "nobody")
    assert "reasongenrm" in caught.value.hint
    (copy / "judges" / "reasongenrm" / "training.json").write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match="broken"):
        write_model_card(copy, "reasongenrm")
    (copy / "scores.json").unlink()
    with pytest.raises(DataError, match="file not found"):
        write_model_card(copy, "genrm")


def test_the_card_of_a_judge_that_rates_and_of_a_whole_model(copy: Path) -> None:
    def edit(manifest: dict[str, Any]) -> None:
        manifest["recipe"]["judges"]["reasongenrm"]["template"] = "pointwise"
        manifest["recipe"]["train"]["parameters"] = "all"

    change(copy / "manifest" / "evaluate.json", edit)
    front, body = front_and_body(write_model_card(copy, "reasongenrm").read_text(encoding="utf-8"))
    assert front["base_model_relation"] == "finetune" and front["library_name"] == "transformers"
    assert "lora" not in front["tags"]
    assert "rates one answer to a conversation" in body and "all weights trained from" in body
    [usage] = blocks(body, "python")
    ast.parse(usage)
    assert 'from_pretrained("model")' in usage and "rate_many" in usage and "compare(" not in usage


def test_it_shows_the_recipe_of_the_training_and_not_that_of_stage_3(copy: Path) -> None:
    manifest = json.loads((copy / "manifest" / "evaluate.json").read_text(encoding="utf-8"))
    manifest["recipe"]["train"] = manifest["recipe"]["train"] | {"batch": 12345}
    write_json(copy / "manifest" / "train.json", manifest)
    _, body = front_and_body(write_model_card(copy, "reasongenrm").read_text(encoding="utf-8"))
    assert "batch: 12345" in body
