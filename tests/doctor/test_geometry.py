"""Sizes of a model from its config, against published numbers and against a model that is built."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reasongenrm.config.engines import ModelConfig
from reasongenrm.doctor.geometry import geometry_of, read_geometry
from reasongenrm.errors import ConfigError, EngineError

pytestmark = pytest.mark.unit

PARAMETERS = {
    "0.5B": 0.494,
    "1.5B": 1.544,
    "3B": 3.086,
    "7B": 7.616,
    "14B": 14.770,
    "32B": 32.764,
    "72B": 72.706,
}
"""Size of Qwen2.5 -> parameters, 1e9, that the hub counts in the safetensors of its page."""


@pytest.mark.parametrize("size", PARAMETERS)
def test_qwen_has_its_published_size_without_a_network(size: str) -> None:
    geometry = read_geometry(ModelConfig(path=f"Qwen/Qwen2.5-{size}-Instruct"))
    assert geometry.parameters / 1e9 == pytest.approx(PARAMETERS[size], abs=0.001)


def test_qwen_7b_has_its_published_heads_cache_and_adapter() -> None:
    geometry = read_geometry(ModelConfig(path="Qwen/Qwen2.5-7B"))
    assert (geometry.heads, geometry.kv_heads, geometry.head_dim, geometry.layers) == (28, 4, 128, 28)
    assert geometry.kv_bytes(2) == 56 * 1024
    assert "7.62B parameters" in geometry.describe() and "56 KiB of KV cache" in geometry.describe()
    assert geometry.parameters - geometry.table - geometry.vocabulary * geometry.hidden == pytest.approx(
        6.53e9, abs=0.005e9
    )  # the model card's non-embedding parameters
    assert geometry.adapter_parameters(16) == 40_370_176  # what peft prints for rank 16 on all linear layers


@pytest.mark.parametrize("targets", ["all-linear", None, ["q_proj", "v_proj"], r".*layers\.0\..*_proj"])
@pytest.mark.parametrize("tied", [True, False])
def test_sizes_are_those_of_the_built_model(toy_tokenizer: Any, targets: Any, tied: bool) -> None:
    from peft import LoraConfig, get_peft_model

    from reasongenrm.demo.base import untrained_model

    model = untrained_model(toy_tokenizer, num_hidden_layers=2, tie_word_embeddings=tied)
    geometry = geometry_of(model.config, "toy")
    assert geometry.parameters == sum(weights.numel() for weights in model.parameters())
    assert geometry.table == (0 if tied else model.get_input_embeddings().weight.numel())
    tuned = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=targets))
    trained = sum(weights.numel() for weights in tuned.parameters() if weights.requires_grad)
    assert geometry.adapter_parameters(4, targets) == trained


def test_a_model_without_default_targets_is_named(tiny_model: Path) -> None:
    geometry = replace(read_geometry(ModelConfig(path=str(tiny_model))), model_type="new")
    with pytest.raises(ConfigError, match=r"^train\.lora\.target_modules: peft has no default .* type new"):
        geometry.adapter_parameters(4, None)


def test_a_folder_is_read_and_a_wrong_one_named(tiny_model: Path, tmp_path: Path) -> None:
    geometry = read_geometry(ModelConfig(path=str(tiny_model)))
    assert (geometry.heads, geometry.kv_heads) == (2, 1)
    assert f"{geometry.parameters / 1e6:.2f}M parameters" in geometry.describe()
    (tmp_path / "config.json").write_text('{"model_type": "no-such-model"}', encoding="utf-8")
    with pytest.raises(EngineError, match=r"model\.path: cannot load the config of"):
        read_geometry(ModelConfig(path=str(tmp_path)))
    with pytest.raises(EngineError, match=r"model\.path: directory not found"):
        read_geometry(ModelConfig(path="./none"))
