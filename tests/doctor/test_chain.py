"""Memory and hours of the training steps: what they sample, what they train, and what fits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from reasongenrm.config.loading import load_recipe
from reasongenrm.config.recipe import Recipe
from reasongenrm.doctor.chain import (
    HUB_ROWS,
    Input,
    assumed_inputs,
    assumed_prompts,
    chain_table,
    chain_works,
    checkpoint_count,
    pass_tokens,
    sampled_tokens,
    step_hours,
    step_memory,
    trained_tokens,
)
from reasongenrm.doctor.estimate import VERDICT_TOKENS, Work, hours, reason_tokens
from reasongenrm.doctor.geometry import Geometry, read_geometry
from reasongenrm.metrics.flops import CARDS, forward_flops, training_flops

pytestmark = pytest.mark.unit

H100 = next(card for card in CARDS if card.name == "H100 SXM")
L40S = next(card for card in CARDS if card.name == "L40S")
CHAIN = ("train.steps=[sft, round, dpo, grpo]", "records={dpo: {}, grpo: {}}", "judges={j: {}}")
PROMPTS = Input(1000, 4_000_000)
"""1,000 prompts of 1,000 tokens."""


def recipe_of(*overrides: str) -> Recipe:
    return load_recipe("configs/qwen2.5-7b.yaml", [*CHAIN, *overrides])


@pytest.fixture(scope="module")
def qwen() -> Geometry:
    return read_geometry(recipe_of().model)


def works_of(model: str, size: Input, *overrides: str) -> Sequence[Work]:
    works = chain_works(recipe_of(*overrides), {model: size})
    assert works.keys() == {model}, "steps without an input have no work"
    return works[model]


def test_the_mean_reason_is_an_eighth_of_its_limit() -> None:
    assert [reason_tokens(limit) for limit in (50, 1024, 4096, 8192)] == [50, 300, 512, 1024]


def test_sft_trains_on_its_records() -> None:
    assert works_of("j", PROMPTS) == [Work("training j", "training", 2000, 1000)]
    assert works_of("j", PROMPTS, "train.tokens=500000")[0].prompts == 500
    assert works_of("j", PROMPTS, "train.args.max_steps=3")[0].prompts == 3 * 128
    assert chain_works(recipe_of(), {"j": Input(0, 0)}) == {}


def test_a_round_samples_all_prompts_and_trains_on_a_record_of_each() -> None:
    sampling, training = works_of("j@round", PROMPTS, "train.round={samples: 8, max_tokens: 4096}")
    new = 512 + VERDICT_TOKENS
    assert sampling == Work("sampling by j", "sampling", 1000, 1000, 8, new)
    assert training == Work("training j@round", "training", 2000, 1000 + new)
    changes = "train.round={tokens: 300000, max_tokens: 4096, args: {num_train_epochs: 1}}"
    assert works_of("j@round", PROMPTS, changes)[1].prompts == round(300_000 / (1000 + new))
    once = "train.round.args={num_train_epochs: 1}"
    assert works_of("j@round", PROMPTS, once)[1].prompts == 1000


def test_dpo_trains_two_sequences_of_a_pair_and_passes_over_them_for_the_reference() -> None:
    epoch = "train.dpo.args={num_train_epochs: 1}"
    training, passes = works_of("j@dpo", Input(1000, 9_600_000), epoch)  # a side has 1,200 tokens
    assert training == Work("training j@dpo", "training", 2000, 1200)
    assert passes == Work("forward passes of j@dpo", "scoring", 2000, 1200)
    sampling, training, _ = works_of("j@dpo", PROMPTS, epoch, "train.dpo.refresh=4")
    assert sampling == Work("sampling by j@round", "sampling", 1000, 1000, 4, 300 + VERDICT_TOKENS)
    assert (training.prompts, training.prompt_tokens) == (2000, 1000 + 300 + VERDICT_TOKENS)


@pytest.mark.parametrize(
    ("options", "forwards"),
    [("", 0), (", args: {beta: 0.0}", 0), (", args: {beta: 0.001}", 1), (", rollouts: vllm", 1),
     (", rollouts: vllm, args: {beta: 0.04}", 2)],
)  # fmt: skip
def test_grpo_samples_groups_and_trains_on_all_of_them(options: str, forwards: int) -> None:
    changes = "train.grpo={steps: 300, batch: 128, samples: 8, max_tokens: 4096" + options + "}"
    sampling, training, *passes = works_of("j@grpo", Input(500, 2_000_000), changes)
    new = 512 + VERDICT_TOKENS
    assert sampling == Work("sampling by j@grpo", "rollouts", 300 * 128, 1000, 8, new)
    assert training == Work("training j@grpo", "training", 300 * 128 * 8, 1000 + new)
    assert [work.prompts for work in passes] == [300 * 128 * 8 * forwards] * (forwards > 0)
    votes, *others = works_of("j@grpo", Input(500, 2_000_000), changes.replace("{", "{refresh: 4, ", 1))
    assert votes == Work("sampling by j@dpo", "sampling", 500, 1000, 4, new)
    assert others == [sampling, training, *passes]


def test_hours_are_those_of_the_tokens(qwen: Geometry) -> None:
    recipe = recipe_of(
        "train.grpo={steps: 10, batch: 64, samples: 8, rollouts: vllm, args: {beta: 0.1}}",
        "train.args.gradient_checkpointing=false",
    )
    step = recipe.trained["j@grpo"]
    works = chain_works(recipe, {"j@grpo": PROMPTS})["j@grpo"]
    sampling, training = step_hours(works, qwen, recipe, step, H100, 1)
    assert sampling and training
    tokens, length = 10 * 64 * 8 * 1308, 1308
    flops = training_flops(qwen, tokens, length, checkpointing=False) / 0.4
    flops += 2 * forward_flops(qwen, tokens, length) / 0.5
    assert training == pytest.approx(flops / (H100.tflops * 1e12) / 3600)
    assert 10 * 64 * 8 * 308 / (sampling * 3600) < 20_000, "tokens/s of a 7B on one H100"
    again = recipe.model_copy(
        update={"train": recipe.train.model_copy(update={"args": {"gradient_checkpointing": True}})}
    )
    checkpointed = step_hours(works, qwen, again, step, H100, 1)[1]
    assert checkpointed and checkpointed > training * 1.2
    refreshed = recipe.model_copy(update={"train": recipe.train.model_copy(update={"grpo": recipe.train.grpo.model_copy(update={"refresh": 4})})})  # fmt: skip
    votes, *same = chain_works(refreshed, {"j@grpo": PROMPTS})["j@grpo"]
    longer = step_hours([votes, *same], qwen, refreshed, step, H100, 1)[0]
    assert same == works and longer == pytest.approx(sampling + (hours(votes, qwen, recipe, H100, 1) or 0)), (
        "votes are sampled before the training, by an engine that has the GPU to itself"
    )
    eight = step_hours(works, qwen, recipe, step, H100, 8)
    assert eight[1] == pytest.approx(training / 8)
    assert eight[0] and sampling / 8 < eight[0] < sampling, (
        "a GPU with fewer sequences decodes them less efficiently"
    )


def test_vllm_in_the_training_processes_takes_its_share_of_each_gpu(qwen: Geometry) -> None:
    def memory(*overrides: str) -> float:
        recipe = recipe_of("train.grpo.args={per_device_train_batch_size: 1}", *overrides)
        return step_memory(qwen, recipe, recipe.trained["j@grpo"], H100, 1).total

    alone, beside = memory(), memory("train.grpo.rollouts=vllm")
    assert beside - alone == pytest.approx(0.3 * H100.memory_gib)
    assert memory("train.grpo.rollouts=vllm", "train.grpo.args.vllm_mode=server") == alone
    share = memory("train.grpo.rollouts=vllm", "train.grpo.args.vllm_gpu_memory_utilization=0.5")
    assert share - alone == pytest.approx(0.5 * H100.memory_gib)


def test_the_tokens_of_a_pass(qwen: Geometry) -> None:
    recipe = recipe_of("train.grpo={max_tokens: 2048, args: {per_device_train_batch_size: 4}}")
    tokens = {model: pass_tokens(recipe, step, 8) for model, step in recipe.trained.items()}
    assert tokens["j"] == tokens["j@round"] == (2 * 6144, 2 * 6144)
    assert tokens["j@dpo"] == (2 * 2 * 6144, 2 * 2 * 6144), "both sides of each pair"
    # A prompt leaves 1,024 tokens of a context of 8,192 for a teacher's reason, and is a record of 6,144 tokens at most.
    new = 2048 + VERDICT_TOKENS
    assert tokens["j@grpo"] == (4 * (6144 + new), 4 * new)
    short = recipe_of("engine.max_model_len=4096", "data.max_tokens=4096")
    assert pass_tokens(short, short.trained["j@grpo"], 1)[0] == 2 * (4096 - 1024 + 1024 + VERDICT_TOKENS)
    assert step_memory(qwen, recipe, recipe.trained["j@grpo"], H100, 1).training.logits == pytest.approx(
        4 * new * qwen.vocabulary * 14 / 2**30
    )


def test_pairs_that_eight_gpus_cannot_share_are_estimated_for_fewer() -> None:
    recipe = recipe_of("train.dpo.batch=12", "train.dpo.args.per_device_train_batch_size=2")
    assert pass_tokens(recipe, recipe.trained["j@dpo"], 8)[0] == 2 * 2 * 6144  # two pairs on each of six


@pytest.mark.parametrize(
    ("args", "count"),
    [
        ("save_steps=100", 4),  # 1,000 records, 3 epochs, in steps of 8
        ("save_steps=0.5", 2),
        ("save_strategy=epoch", 3),
        ("save_strategy='no'", 0),
        ("max_steps=20", 1),
    ],
)
def test_checkpoints_that_a_step_writes(args: str, count: int) -> None:
    recipe = recipe_of(
        "train.batch=8", "train.tokens=null", "train.args={num_train_epochs: 3}", f"train.args.{args}"
    )
    assert checkpoint_count(recipe, recipe.trained["j"], PROMPTS) == count
    grpo = recipe_of("train.grpo.steps=1000", "train.args={save_steps: 10}")
    assert checkpoint_count(grpo, grpo.trained["j@grpo"], PROMPTS) == 100
    assert checkpoint_count(grpo, grpo.trained["j@dpo"], Input(0, 0)) == 0


def test_one_row_per_step_and_kind_of_gpu_with_their_sum(qwen: Geometry) -> None:
    recipe = recipe_of(
        "train.args.per_device_train_batch_size=1", "train.grpo.args={per_device_train_batch_size: 1}"
    )
    inputs = dict.fromkeys(recipe.trained, PROMPTS)
    works = chain_works(recipe, inputs)
    table = chain_table(recipe, qwen, works, [(H100, 1), (H100, 8), (L40S, 1)])
    steps = ["j", "j@round", "j@dpo", "j@grpo", "all steps"]
    assert [row[0] for row in table.rows] == steps * 3
    assert [row[1] for row in table.rows[::5]] == ["1 × H100 SXM", "8 × H100 SXM", "1 × L40S"]
    for start in (0, 5):
        for column in (-2, -1):
            hours = [float(row[column]) for row in table.rows[start : start + 5]]
            assert hours[-1] == pytest.approx(sum(hours[:-1]), abs=0.03) and hours[-1] > 0
    assert table.rows[-1][-1] == "does not fit" and any(row[8].endswith("!") for row in table.rows[10:])
    own = works["j@round"]
    assert table.rows[1][9:11] == (f"{sampled_tokens(own) / 1e6:,.0f}", f"{trained_tokens(own) / 1e6:,.0f}")
    assert all(len(row) == len(table.headings) for row in table.rows)
    assert not any(cell == "nan" for row in table.rows for cell in row)
    assert "docs/gpu.md" in table.notes[0] and "GRPO samples" in table.notes[0]


def test_a_single_step_has_no_sum(qwen: Geometry) -> None:
    recipe = recipe_of("train.steps=[sft]")
    assert [row[0] for row in chain_table(recipe, qwen, {}, [(H100, 8)]).rows] == ["j"]


def test_sizes_before_stage_1_are_those_of_the_sources(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text("x" * 5_000_000, encoding="utf-8")
    hub = "{path: owner/pairs, weight: 0.5}"
    both = f"data.sources=[{hub}, {{path: {file}}}, {{path: none.csv, kind: ranked}}]"
    assert assumed_prompts(recipe_of(both)) == HUB_ROWS // 2 + 5000
    assert assumed_prompts(recipe_of(both, "limit=10", "data.both_orders=true")) == 20
    inputs = assumed_inputs(
        recipe_of(both, "limit=10", "judges={j: {}, d: {template: direct, steps: [sft]}}")
    )
    assert {model: size.characters / size.rows / 4 for model, size in inputs.items()} == {
        "j": 1800, "j@round": 1500, "j@dpo": 3600, "j@grpo": 1500, "d": 1500,
    }  # fmt: skip
    fresh = assumed_inputs(recipe_of(both, "limit=10", "train.dpo.refresh=4"))
    assert fresh["j@dpo"] == fresh["j@round"], "both sample on the prompts"


def test_training_all_weights_needs_16_bytes_of_each_and_their_gradients(qwen: Geometry) -> None:
    every = ("train.parameters=all", "train.lora={}")
    lora, whole = recipe_of(), recipe_of(*every)
    memory = {
        stage: step_memory(
            qwen,
            recipe_of(*every, f"train.launch=configs/accelerate/{stage}.yaml"),
            whole.trained["j"],
            H100,
            8,
        )
        for stage in ("zero2", "zero3")
    }
    own = {stage: (one.training.weights + one.training.optimizer) * 2**30 for stage, one in memory.items()}
    assert own["zero2"] == pytest.approx((2 + 14 / 8) * qwen.parameters)
    assert own["zero3"] == pytest.approx(2 * qwen.parameters), "16 bytes among 8 processes"
    assert (
        memory["zero3"].training.activations
        < step_memory(qwen, lora, lora.trained["j"], H100, 8).training.activations
    )
    dpo = step_memory(qwen, whole, whole.trained["j@dpo"], H100, 8).training.weights
    assert dpo == pytest.approx(2 * memory["zero2"].training.weights), "the reference is a model, too"
    works = chain_works(lora, {"j": PROMPTS})["j"]
    times = [step_hours(works, qwen, one, one.trained["j"], H100, 1)[1] for one in (lora, whole)]
    assert times[0] and times[1] and times[1] / times[0] == pytest.approx(4 / 3, rel=0.05), (
        "with checkpointing"
    )
