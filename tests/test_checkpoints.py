"""A checkpoint's Python files never run, and nothing on standard input makes them run."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import reasongenrm
from reasongenrm.checkpoints import load_adapter, load_checkpoint
from reasongenrm.config.engines import EngineConfig
from reasongenrm.errors import EngineError
from support.coded_checkpoints import WAYS, add_code
from support.heads import ENVIRONMENT

SOURCE = Path(reasongenrm.__file__).parent
YES = "y\n" * 1000
OWN = {"ScalarRewardModel", "Judge"}
"""Classes of the suite that have a `from_pretrained`."""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python with a standard input that agrees to everything."""
    environment = ENVIRONMENT | {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [sys.executable, *arguments],
        input=YES,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def coded(model: Path, folder: Path, *, known: bool) -> tuple[Path, Path]:
    """A checkpoint with code, and the file that the code would write."""
    shutil.copytree(model, folder)
    mark = folder.with_name(folder.name + ".ran")
    add_code(folder, mark, known=known)
    return folder, mark


def outcomes(folder: Path, *ways: str) -> dict[str, list[str]]:
    done = run("-m", "support.coded_checkpoints", str(folder), *ways)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "[y/N]" not in done.stdout + done.stderr
    results: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])
    return results


# --- one loading place


def calls(name: str) -> list[tuple[str, ast.Call]]:
    """All calls of a method, with `file: receiver`."""
    return [
        (f"{path.relative_to(SOURCE)}: {ast.unparse(node.func.value)}", node)
        for path in sorted(SOURCE.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == name
    ]


@pytest.mark.unit
def test_only_checkpoints_py_loads_checkpoints() -> None:
    others = [place for place, _ in calls("from_pretrained") if not place.startswith("checkpoints.py")]
    # peft's LoraConfig is read from JSON, and loads nothing else.
    allowed = {*OWN, "peft.LoraConfig"}
    assert [place for place in others if place.split(": ")[1] not in allowed] == []
    for place, call in calls("from_config"):
        assert "trust_remote_code" in {word.arg for word in call.keywords}, place


@pytest.mark.unit
def test_vllm_gets_the_permission_of_the_model_and_no_other() -> None:
    with pytest.raises(ValueError, match="belongs beside the model's path"):
        EngineConfig(args={"trust_remote_code": True})


# --- real checkpoints with code


@pytest.mark.engine
def test_the_code_would_run_if_transformers_asked(tiny_model: Path, tmp_path: Path) -> None:
    # Else the tests below would prove nothing.
    folder, mark = coded(tiny_model, tmp_path / "evil", known=False)
    run("-c", f"import transformers; transformers.AutoConfig.from_pretrained({str(folder)!r})")
    assert mark.is_file()


@pytest.mark.engine
def test_no_way_of_loading_runs_code(tiny_model: Path, tmp_path: Path) -> None:
    folder, mark = coded(tiny_model, tmp_path / "evil", known=False)
    results = outcomes(folder)
    assert not mark.exists()
    assert set(results) == set(WAYS)
    for way, (kind, message) in results.items():
        assert kind == ("ValueError" if way.startswith("a library") else "EngineError"), (way, message)
        assert "\n" not in message or way.startswith("a library"), way
    assert results["student"][1] == (
        f"{folder}: it needs Python files of its own, which are not run "
        "(set model.trust_remote_code=true if you trust its authors)"
    )
    assert "(give a model that transformers has a class for)" in results["head"][1]


@pytest.mark.engine
def test_a_model_of_a_known_class_loads_without_its_code(tiny_model: Path, tmp_path: Path) -> None:
    folder, mark = coded(tiny_model, tmp_path / "evil", known=True)
    ways = (
        "tokenizer of a judge",
        "student",
        "training: model",
        "doctor: sizes",
        "head: base's tokenizer",
        "head: LoRA",
    )
    assert outcomes(folder, *ways) == {way: ["", ""] for way in ways}
    assert not mark.exists()


@pytest.mark.engine
def test_rows_on_standard_input_do_not_consent(tiny_model: Path, tmp_path: Path) -> None:
    folder, mark = coded(tiny_model, tmp_path / "evil", known=False)
    done = run("-m", "reasongenrm.cli", "scalar", "score", str(folder))
    # The rows are invalid: none of them is read as an answer.
    assert done.returncode == 2 and not mark.exists()
    assert "Traceback" not in done.stderr and "[y/N]" not in done.stderr + done.stdout


@pytest.mark.engine
def test_the_recipes_key_lets_it_run(tiny_model: Path, tmp_path: Path) -> None:
    folder, mark = coded(tiny_model, tmp_path / "evil", known=False)
    script = "from reasongenrm.checkpoints import load_checkpoint as l; l('AutoConfig', {!r}, trust_remote_code=True)"
    done = run("-c", script.format(str(folder)))
    assert mark.is_file(), done.stderr


@pytest.mark.unit
@pytest.mark.parametrize("nested", [False, True])
def test_a_config_names_no_kernel_of_the_hub(nested: bool, tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "kernel"
    shutil.copytree(tiny_model, folder)
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    kernel = {"attn_implementation": "owner/kernel"}
    config |= {"text_config": kernel} if nested else kernel
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(EngineError, match="attention kernel 'owner/kernel' of the hub") as caught:
        load_checkpoint("AutoModelForCausalLM", folder, permission="model.trust_remote_code")
    assert "set model.trust_remote_code=true" in str(caught.value)


@pytest.mark.unit
def test_only_lora_adapters_with_safetensors_are_loaded(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "XLORA", "adapters": {"a": "b"}}')
    with pytest.raises(EngineError, match="of the kind XLORA"):
        load_adapter(None, tmp_path)
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (tmp_path / "adapter_model.bin").write_bytes(b"\x80\x04.")  # a pickle
    with pytest.raises(EngineError, match=r"adapter_model\.safetensors is missing"):
        load_adapter(None, tmp_path)
