"""Checkpoints with Python files of their own, and every way in which the suite loads a checkpoint.

`python -m support.coded_checkpoints FOLDER=WAY,WAY … ` tries these ways in one process, and prints what became of them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

CODE = """
from pathlib import Path
Path({mark!r}).write_text("ran")
from transformers import PretrainedConfig, Qwen2ForCausalLM, PreTrainedTokenizerFast
class EvilConfig(PretrainedConfig):
    model_type = "evil"
class EvilModel(Qwen2ForCausalLM):
    config_class = EvilConfig
class EvilTokenizer(PreTrainedTokenizerFast):
    pass
"""


def add_code(folder: Path, mark: Path, *, known: bool) -> None:
    """Give a checkpoint Python files that write `mark` when they are imported.

    Args:
        folder: a checkpoint that transformers saved.
        mark: the file that shows that the code ran.
        known: whether transformers has a class for the model, so that it loads without the code.
    """
    (folder / "evil.py").write_text(CODE.format(mark=str(mark)), encoding="utf-8")
    (folder / "custom_generate").mkdir(exist_ok=True)
    (folder / "custom_generate" / "generate.py").write_text(CODE.format(mark=str(mark)), encoding="utf-8")
    models = ("AutoModel", "AutoModelForCausalLM", "AutoModelForSequenceClassification")
    for name, classes in (
        ("config.json", {"AutoConfig": "evil.EvilConfig", **dict.fromkeys(models, "evil.EvilModel")}),
        ("tokenizer_config.json", {"AutoTokenizer": ["evil.EvilTokenizer", "evil.EvilTokenizer"]}),
        ("processor_config.json", {"AutoProcessor": "evil.EvilTokenizer"}),
    ):
        path = folder / name
        content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        content["auto_map"] = classes
        if not known:
            replaced = {
                "model_type": "evil",
                "tokenizer_class": "EvilTokenizer",
                "processor_class": "EvilProcessor",
            }
            content |= {
                key: value for key, value in replaced.items() if key in content or name.startswith(key[:5])
            }
            content.pop("architectures", None)
        path.write_text(json.dumps(content), encoding="utf-8")


def _recipe(folder: str) -> Any:
    from reasongenrm.config.loading import load_recipe

    return load_recipe("configs/demo.yaml", [f"model.path={folder}", "model.dtype=float32"])


def _train_head(folder: str, **changes: Any) -> None:
    from support.heads import easy_pairs, train

    train(
        Path(folder),
        Path(folder) / "head",
        easy_pairs(4, 0),
        args={"max_steps": 1, "disable_tqdm": True},
        **changes,
    )


def _reward_trainer(folder: str) -> None:
    """TRL loads the base itself."""
    from reasongenrm.config.scalar import ScalarConfig
    from reasongenrm.train.head import HeadTask
    from reasongenrm.train.scalar import _reward_config, _reward_trainer

    task = HeadTask(ScalarConfig(model=folder), Path(folder) / "x", 1, "scalar", {}, "")
    arguments = {"save_steps": 1, "bf16": False, "report_to": "none"}
    args = _reward_config(task, arguments, task.output_dir)
    _reward_trainer(task, args, [{"chosen_ids": [1], "rejected_ids": [2]}], [], None)


def _lora_shape(folder: str) -> None:
    from reasongenrm.config.scalar import ScalarConfig
    from reasongenrm.train.head import lora_config

    lora_config(ScalarConfig(model=folder, lora={"r": 2}), "scalar")


def _ways() -> dict[str, Callable[[str], Any]]:
    from reasongenrm.answers.model import AnswerModel
    from reasongenrm.chat.encoder import load_tokenizer
    from reasongenrm.checkpoints import load_adapter
    from reasongenrm.config.engines import EngineConfig, ModelConfig
    from reasongenrm.config.scalar import AnswersConfig, TransformersConfig
    from reasongenrm.doctor.geometry import read_config, read_geometry
    from reasongenrm.engines.transformers import TransformersEngine
    from reasongenrm.engines.vllm import VLLMEngine
    from reasongenrm.judge.api import Judge
    from reasongenrm.reasons.student import Student
    from reasongenrm.scalar.inputs import load_base_tokenizer
    from reasongenrm.scalar.model import ScalarRewardModel
    from reasongenrm.train.merge import merge_adapter
    from reasongenrm.train.model import load_base
    from reasongenrm.train.sft import build_trainer

    def model(folder: str) -> ModelConfig:
        return ModelConfig(path=folder, dtype="float32")

    def adapter_of_another_model(folder: str) -> Any:
        adapter = Path(folder) / "adapter"
        adapter.mkdir(exist_ok=True)
        config = {"peft_type": "SHADOW", "shadow_model": folder, "base_model_name_or_path": folder}
        (adapter / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
        return load_adapter(None, adapter)

    def processor(folder: str) -> Any:
        import transformers

        return transformers.AutoProcessor.from_pretrained(folder)

    answers = {"prompts": [{"prompt": "hi"}]}
    return {
        "tokenizer of a judge": lambda folder: load_tokenizer(model(folder)),
        "tokenizer of answers": lambda folder: AnswerModel(AnswersConfig(model=model(folder), **answers), Path(folder)),
        "Judge.from_pretrained": lambda folder: Judge.from_pretrained(model(folder)),
        "student": lambda folder: Student(model(folder)),
        "training: model": lambda folder: load_base(_recipe(folder), "sdpa"),
        "training: trainer": lambda folder: build_trainer(
            _recipe(folder), _recipe(folder).trained["reasongenrm"], Path(folder)
        ),
        "merge": lambda folder: merge_adapter(model(folder), Path(folder), Path(folder) / "merged"),
        "adapter": adapter_of_another_model,
        "doctor: config": lambda folder: read_config(model(folder)),
        "doctor: sizes": lambda folder: read_geometry(model(folder)),
        "head: base's tokenizer": lambda folder: load_base_tokenizer(folder, None, 64),
        "head: training": _train_head,
        "head: training with LoRA": lambda folder: _train_head(folder, lora={"r": 2}),
        "head: LoRA": _lora_shape,
        "head: TRL": _reward_trainer,
        "head": ScalarRewardModel.from_pretrained,
        "a library by itself": processor,
        "transformers": lambda folder: TransformersEngine(model(folder), TransformersConfig(kind="transformers")),
        "vllm": lambda folder: VLLMEngine(model(folder), EngineConfig(max_model_len=128, enforce_eager=True, cpu_kv_gib=1)).close(),
    }  # fmt: skip


WAYS = (
    "tokenizer of a judge", "tokenizer of answers", "Judge.from_pretrained", "student", "training: model",
    "training: trainer", "merge", "adapter", "doctor: config", "doctor: sizes", "head: base's tokenizer",
    "head: training", "head: training with LoRA", "head: LoRA", "head: TRL", "head",
    "a library by itself", "transformers", "vllm",
)  # fmt: skip


def main(*tries: str) -> None:
    """Print `{folder: {way: [kind of error or "", message]}}` as JSON."""
    ways = _ways()
    assert set(ways) == set(WAYS)
    outcomes: dict[str, dict[str, list[str]]] = {}
    for folder, _, names in (one.partition("=") for one in tries):
        outcomes[folder] = {}
        for name in names.split(",") if names else WAYS:
            try:
                ways[name](folder)
                outcomes[folder][name] = ["", ""]
            except BaseException as error:
                outcomes[folder][name] = [type(error).__name__, str(error)]
    print("\n" + json.dumps(outcomes))


if __name__ == "__main__":
    main(*sys.argv[1:])
