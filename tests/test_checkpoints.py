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
WITHOUT_CODE = (
    "tokenizer of a judge",
    "student",
    "training: model",
    "doctor: sizes",
    "head: base's tokenizer",
    "head: LoRA",
)
"""Ways that load a model of a class that transformers has without its code."""
OWN = {"ScalarRewardModel", "Judge"}
"""Classes of the suite that have a `from_pretrained`."""


def run(*arguments: str, rows: str = YES) -> subprocess.CompletedProcess[str]:
    """Run Python with a standard input that agrees to everything."""
    environment = ENVIRONMENT | {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [sys.executable, *arguments],
        input=rows,
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
def test_the_code_runs_where_transformers_asks_or_the_recipe_allows_it(
    tiny_model: Path, tmp_path: Path
) -> None:
    # Else the test below would prove nothing.
    (asked, ran), (allowed, ran_too) = (
        coded(tiny_model, tmp_path / name, known=False) for name in ("asked", "allowed")
    )
    script = (
        f"import transformers; transformers.AutoConfig.from_pretrained({str(asked)!r})\n"
        "from reasongenrm.checkpoints import load_checkpoint\n"
        f"load_checkpoint('AutoConfig', {str(allowed)!r}, trust_remote_code=True)"
    )
    done = run("-c", script)
    assert ran.is_file() and ran_too.is_file(), done.stderr


@pytest.mark.engine
def test_no_way_of_loading_runs_code(tiny_model: Path, tmp_path: Path) -> None:
    evil, ran = coded(tiny_model, tmp_path / "evil", known=False)
    known, ran_too = coded(tiny_model, tmp_path / "known", known=True)
    done = run("-m", "support.coded_checkpoints", str(evil), f"{known}={','.join(WITHOUT_CODE)}")
    assert done.returncode == 0, done.stderr[-3000:]
    assert not ran.exists() and not ran_too.exists() and "[y/N]" not in done.stdout + done.stderr
    outcomes: dict[str, dict[str, list[str]]] = json.loads(done.stdout.splitlines()[-1])
    assert outcomes[str(known)] == {way: ["", ""] for way in WITHOUT_CODE}
    assert set(outcomes[str(evil)]) == set(WAYS)
    for way, (kind, message) in outcomes[str(evil)].items():
        assert kind == ("ValueError" if way == "a library by itself" else "EngineError"), (way, message)
        assert any(text in message for text in ("needs Python files", "custom code", "of the kind SHADOW")), (
            way
        )
    assert outcomes[str(evil)]["student"][1] == (
        f"{evil}: it needs Python files of its own, which are not run "
        "(set model.trust_remote_code=true if you trust its authors)"
    )
    assert "(give a model that transformers has a class for)" in outcomes[str(evil)]["head"][1]


@pytest.mark.engine
def test_rows_on_standard_input_do_not_consent(tiny_model: Path, tmp_path: Path) -> None:
    folder, mark = coded(tiny_model, tmp_path / "evil", known=False)
    row = json.dumps({"prompt": "what", "answer": "that"})
    done = run("-m", "reasongenrm.cli", "scalar", "score", str(folder), rows=f"{row}\n{YES}")
    assert done.returncode == 2 and not mark.exists()
    assert "needs Python files of its own" in done.stderr
    assert "Traceback" not in done.stderr and "[y/N]" not in done.stderr + done.stdout


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
