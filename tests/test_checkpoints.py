"""A checkpoint's Python files never run, and nothing on standard input makes them run."""

from __future__ import annotations

import ast
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import reasongenrm
from reasongenrm.checkpoints import check_base, check_template, load_adapter, load_checkpoint
from reasongenrm.config.engines import EngineConfig
from reasongenrm.errors import EngineError
from support.coded_checkpoints import WAYS, add_code
from support.scripts import Done, stage_server

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


def run(*words: str, code: str = "", rows: str = YES) -> Done:
    """Run the command line, or Python, in a process of its own with a standard input that agrees to everything."""
    return stage_server().run(words, rows, code=code, environment={"CUDA_VISIBLE_DEVICES": ""})


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
    done = run(code=script)
    assert ran.is_file() and ran_too.is_file(), done.stderr


@pytest.mark.engine
def test_no_way_of_loading_runs_code(tiny_model: Path, tmp_path: Path) -> None:
    evil, ran = coded(tiny_model, tmp_path / "evil", known=False)
    known, ran_too = coded(tiny_model, tmp_path / "known", known=True)
    tries = (str(evil), f"{known}={','.join(WITHOUT_CODE)}")
    done = run(code=f"from support.coded_checkpoints import main\nmain(*{tries})")
    assert done.code == 0, done.stderr[-3000:]
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
    done = run("scalar", "score", str(folder), rows=f"{row}\n{YES}")
    assert done.code == 2 and not mark.exists()
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


# --- an adapter and its base


@pytest.fixture
def adapter_on(tmp_path: Path) -> Callable[[str], Path]:
    """Return a function: name of the base -> folder with the config of an adapter on it."""

    def make(base: str) -> Path:
        (tmp_path / "adapter").mkdir(exist_ok=True)
        config = {"peft_type": "LORA", "base_model_name_or_path": base}
        (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
        return tmp_path / "adapter"

    return make


@pytest.mark.unit
def test_an_adapter_of_another_base_is_refused(
    adapter_on: Callable[[str], Path], tiny_model: Path, tmp_path: Path
) -> None:
    copy, other = (
        shutil.copytree(tiny_model, tmp_path / "copy"),
        shutil.copytree(tiny_model, tmp_path / "other"),
    )
    config = json.loads((other / "config.json").read_text(encoding="utf-8"))
    (other / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}), encoding="utf-8")
    retrained = shutil.copytree(tiny_model, tmp_path / "retrained")
    weights = bytearray((retrained / "model.safetensors").read_bytes())
    weights[len(weights) // 2] ^= 1
    (retrained / "model.safetensors").write_bytes(weights)
    hub = "Qwen/Qwen2.5-7B-Instruct"
    for trained_on, base in (
        (hub, hub),
        (hub, "/models/Qwen2.5-7B-Instruct"),
        (str(tiny_model), str(copy)),
        (str(tiny_model), f"{tiny_model}/."),
        ("", hub),
    ):
        check_base(adapter_on(trained_on), base)
    for trained_on, base in (
        (hub, "Qwen/Qwen2.5-7B"),
        (str(tiny_model), str(other)),
        (str(tiny_model), str(retrained)),
        (str(tiny_model), hub),
    ):
        with pytest.raises(EngineError) as caught:
            check_base(adapter_on(trained_on), base)
        assert str(caught.value).startswith(
            f"{tmp_path / 'adapter'}: the adapter was trained on {trained_on}, and the base is {base}"
        )
        assert trained_on in caught.value.hint and "adapter_config.json" in caught.value.hint


@pytest.mark.unit
def test_a_judge_of_another_chat_template_is_refused(tmp_path: Path) -> None:
    reason, direct = (
        Path(f"configs/prompts/{name}.jinja").read_text(encoding="utf-8") for name in ("reason", "direct")
    )
    check_template(tmp_path, reason)  # nothing is saved beside it
    (tmp_path / "chat_template.jinja").write_text(reason, encoding="utf-8")
    check_template(tmp_path, reason)
    for template in (direct, reason + "\n"):
        with pytest.raises(EngineError, match="trained in another chat template"):
            check_template(tmp_path, template)


@pytest.mark.unit
def test_the_api_refuses_an_adapter_of_another_base_or_template_before_it_starts_an_engine(
    adapter_on: Callable[[str], Path], tiny_model: Path, toy_tokenizer: Any
) -> None:
    from reasongenrm import Judge

    with pytest.raises(EngineError, match=r"was trained on other/base, and the base is .*tiny-model"):
        Judge.from_pretrained(str(tiny_model), adapter=adapter_on("other/base"))
    folder = adapter_on(str(tiny_model))
    toy_tokenizer.save_pretrained(folder)  # with the template of reasons, as a training saves it
    with pytest.raises(EngineError, match="trained in another chat template"):
        Judge.from_pretrained(str(tiny_model), adapter=folder, template="direct")


@pytest.mark.unit
def test_a_step_and_an_evaluation_refuse_a_judge_of_another_base_or_template(
    adapter_on: Callable[[str], Path], tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from reasongenrm.chat.encoder import check_judge
    from reasongenrm.config.loading import load_recipe
    from reasongenrm.train.model import load_policy

    demo = Path("configs/demo.yaml").resolve()
    template = Path("configs/prompts/reason.jinja").resolve()
    overrides = [
        f"model.path={tiny_model}",
        f"templates.reason={template}",
        "records.dpo={}",
        "train.steps=[sft, dpo]",
    ]
    recipe = load_recipe(demo, ["name=other", *overrides])
    monkeypatch.chdir(tmp_path)
    folder = recipe.folder / "judges" / "reasongenrm" / "adapter"
    shutil.copytree(adapter_on("other/base"), folder)
    with pytest.raises(EngineError, match="was trained on other/base"):
        load_policy(recipe, recipe.trained["reasongenrm@dpo"], "sdpa")
    shutil.copy(adapter_on(str(tiny_model)) / "adapter_config.json", folder)
    check_judge(recipe, "reasongenrm")
    (folder / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
    with pytest.raises(EngineError, match="trained in another chat template"):
        load_policy(recipe, recipe.trained["reasongenrm@dpo"], "sdpa")
