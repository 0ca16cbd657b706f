"""Formulas of memory and time, against published facts and against what torch counts."""

from __future__ import annotations

from typing import Any

import pytest

from reasongenrm.config.engines import EngineConfig, ModelConfig
from reasongenrm.config.loading import load_recipe
from reasongenrm.config.recipe import Recipe
from reasongenrm.doctor.estimate import (
    GIB,
    MATRIX_SHARE,
    Work,
    estimate_table,
    hours,
    layer_bytes,
    serving_memory,
    trained_bytes,
    training_memory,
    zero_stage,
)
from reasongenrm.doctor.geometry import Geometry, geometry_of, read_geometry
from reasongenrm.metrics.flops import CARDS, Card, forward_flops, training_flops

pytestmark = pytest.mark.unit

H100 = next(card for card in CARDS if card.name == "H100 SXM")
RTX = next(card for card in CARDS if card.name == "RTX 4090")


@pytest.fixture(scope="module")
def qwen() -> Geometry:
    return read_geometry(ModelConfig(path="Qwen/Qwen2.5-7B"))


def recipe_of(*overrides: str) -> Recipe:
    return load_recipe("configs/qwen2.5-7b.yaml", ["engine.tensor_parallel=1", *overrides])


@pytest.mark.parametrize(("stage", "gigabytes"), [(0, 120), (1, 31.4), (2, 16.6), (3, 1.9)])
def test_zero_splits_as_in_the_first_figure_of_its_paper(stage: int, gigabytes: float) -> None:
    assert 7.5 * trained_bytes(stage, 64) == pytest.approx(gigabytes, abs=0.05)


def test_a_7b_takes_its_known_memory_in_vllm(qwen: Geometry) -> None:
    served = serving_memory(qwen, "bfloat16", EngineConfig(), H100)
    assert served.weights == pytest.approx(14.2, abs=0.05)  # vLLM's log: "Model loading took 14.2 GiB"
    assert served.tokens == int(served.cache * GIB / (56 * 1024))
    split = serving_memory(qwen, "bfloat16", EngineConfig(tensor_parallel=4), H100)
    assert split.weights == served.weights / 4 and split.tokens > 4 * served.tokens
    assert serving_memory(qwen, "float32", EngineConfig(), RTX).tokens == 0


def test_forward_flops_are_those_that_torch_counts(toy_tokenizer: Any) -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from reasongenrm.demo.base import untrained_model

    model = untrained_model(toy_tokenizer)
    model.set_attn_implementation("eager")
    ids = torch.zeros(1, 256, dtype=torch.long)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=ids, use_cache=False)
    geometry = geometry_of(model.config, "toy")
    attention = 2 * geometry.layers * geometry.heads * geometry.head_dim * 256 * 256
    # Eager attention computes both halves of the matrix, of which causal attention needs one.
    assert counter.get_total_flops() - attention == pytest.approx(forward_flops(geometry, 256, 256), rel=0.01)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_layer_keeps_about_what_torch_saves(toy_tokenizer: Any, dtype: str) -> None:
    import torch
    from peft import LoraConfig, get_peft_model

    from reasongenrm.demo.base import untrained_model

    sizes = dict(hidden_size=256, intermediate_size=1024, num_attention_heads=8, num_key_value_heads=2)
    model = untrained_model(toy_tokenizer, **sizes).to(getattr(torch, dtype))
    geometry = geometry_of(model.config, "toy")
    tuned = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=8, target_modules="all-linear"))
    weights = {tensor.untyped_storage().data_ptr() for tensor in tuned.parameters()}
    saved: dict[int, tuple[int, Any]] = {}  # the tensor is kept, so that its address is not used again

    def note(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        out = tuned.base_model.model.model(input_ids=torch.zeros(1, 512, dtype=torch.long))
    assert out.last_hidden_state.requires_grad
    measured = sum(size for size, _ in saved.values()) / (512 * geometry.layers)
    assert 0.8 < measured / layer_bytes(geometry, 4 if dtype == "float32" else 2) < 1.1


def test_training_at_the_assumed_share_is_near_the_published_rate(qwen: Geometry) -> None:
    """NeMo Automodel: 14,110 tokens/s, LoRA on a 7B at 4,096 tokens on one H100."""
    flops = training_flops(qwen, 1, 4096, checkpointing=False)
    assert flops == pytest.approx(4 * qwen.multiplied, rel=0.12)
    assert H100.tflops * 1e12 * MATRIX_SHARE["training"] / flops == pytest.approx(14_110, rel=0.15)
    again = training_flops(qwen, 1, 4096, checkpointing=True)
    assert again - flops == pytest.approx(forward_flops(qwen, 1, 4096))


def test_qlora_of_a_7b_fits_24_gb_and_lora_does_not(qwen: Geometry) -> None:
    def total(*overrides: str) -> float:
        recipe = recipe_of(*overrides)
        return training_memory(qwen, recipe, tokens=4096, processes=1, stage=0).total

    assert total("train.quantization=nf4") < RTX.memory_gib < total()
    assert total("train.quantization=nf4") < total("train.args.gradient_checkpointing=false")


def test_hours_follow_from_rates(qwen: Geometry) -> None:
    recipe = recipe_of("train.args.gradient_checkpointing=false")
    training = hours(Work("t", "training", 1000, 4096), qwen, recipe, H100, 1)
    assert training is not None
    assert 1000 * 4096 / (training * 3600) == pytest.approx(14_110, rel=0.15)
    both = hours(Work("t", "training", 1000, 4096), qwen, recipe, H100, 2)
    assert both == pytest.approx(training / 2)
    judging = Work("j", "sampling", 5970, 700, 1, 300)
    time = hours(judging, qwen, recipe, H100, 1)
    assert time is not None and 0.02 < time < 0.2  # minutes, not seconds or hours
    assert hours(Work("j", "sampling", 0, 700, 1, 300), qwen, recipe, H100, 1) == 0
    scored = hours(Work("s", "scoring", 100, 700, 8, 300), qwen, recipe, H100, 1)
    alone = hours(Work("s", "scoring", 800, 700, 1, 300), qwen, recipe, H100, 1)
    assert scored is not None and alone is not None and scored < alone  # a prompt is computed once
    small = Card("small", "", 16, 100, 1)
    assert hours(judging, qwen, recipe, small, 1) is None


def test_the_table_says_what_does_not_fit(qwen: Geometry) -> None:
    recipe = recipe_of()
    work = [Work("sampling by student", "sampling", 10, 700, 2, 300)]
    table = estimate_table(recipe, qwen, work, [(H100, 1), (Card("tiny", "", 8, 100, 1), 1)])
    assert table.headings[-1] == "h sampling by student"
    assert [row[-1] for row in table.rows] == ["0.00", "does not fit"]
    assert "docs/gpu.md" in table.notes[0]


def test_workers_share_the_hours_of_serving(qwen: Geometry) -> None:
    work = [
        Work("sampling by student", "sampling", 50_000, 1000, 300, 16),
        Work("scoring", "scoring", 50_000, 1000, 300, 16),
    ]
    times = {}
    for name, overrides in (
        ("auto", []),
        ("two", ["engine.workers=2"]),
        ("split", ["engine.tensor_parallel=2"]),
    ):
        recipe = load_recipe("configs/qwen2.5-7b.yaml", overrides)
        cards = [(H100, 8)] if name == "split" else [(H100, 1), (H100, 8)]
        table = estimate_table(recipe, qwen, work, cards)
        times[name] = [[float(cell) for cell in row[-2:]] for row in table.rows]
    for one, eight in zip(*times["auto"], strict=True):
        assert eight == pytest.approx(one / 8, abs=0.01), "an engine per GPU"
    for one, eight in zip(*times["two"], strict=True):
        assert eight == pytest.approx(one / 2, abs=0.01), "two of eight GPUs work"
    assert times["split"][0][1] == times["auto"][1][1], "a scorer on transformers takes one GPU"


def test_zero_stages_are_read_from_the_launch_files() -> None:
    stages = {
        name: zero_stage(f"configs/accelerate/{name}.yaml") for name in ("single-gpu", "zero2", "zero3")
    }
    assert stages == {"single-gpu": 0, "zero2": 2, "zero3": 3}
    assert zero_stage("none.yaml") == 0
