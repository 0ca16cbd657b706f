"""GRPO: its rows and their order, completions of two turns, and TRL's trainer on the toy base."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import yaml

from reasongenrm.chat.encoder import ChatEncoder, judge_encoder, load_tokenizer
from reasongenrm.chat.prompts import PromptFile, judge_prompt
from reasongenrm.chat.verdict import read_completion
from reasongenrm.config.recipe import Recipe
from reasongenrm.config.steps import GRPOStep, RewardWeights
from reasongenrm.demo.build import skywork_row
from reasongenrm.errors import ConfigError, DataError
from reasongenrm.reasons.records import direct_record, grpo_row
from reasongenrm.records import JudgePrompt, PreferencePair
from reasongenrm.store import to_json, write_jsonl
from reasongenrm.train import grpo
from reasongenrm.train.grpo import batch_order, build_trainer, row_sampler, step_batch, training_summary
from reasongenrm.train.grpo_rows import read_rows
from reasongenrm.train.grpo_trainer import (
    agreement,
    keep_informative,
    learned_tokens,
    verdict_number,
    with_other_order,
    without_padding,
)
from reasongenrm.train.guards import WHOLE
from reasongenrm.train.rewards import Judgement
from reasongenrm.train.rollouts import TwoTurns
from reasongenrm.train.tracking import steady_row
from reasongenrm.train.trainer import run_training
from support.pairs import load_pairs
from support.scripts import Fork, kill_at, stage_server
from support.training_runs import ROOT, begin_run, demo_recipe
from support.vllm_step import ENVIRONMENT

WORDS = ("apple", "bell", "coin", "drum", "fork", "gate")


def toy_pairs(count: int = len(WORDS)) -> list[PreferencePair]:
    return [
        PreferencePair.make(
            [{"role": "user", "content": f"say {word} {times} times"}],
            f"{word} " * times,
            word,
            "toy-chat",
            reference_points=(f"`needs {word} {times}`", f"`{word} 1 , wrong`"),
        )
        for times, word in enumerate(WORDS[:count], 2)
    ]


def small_recipe(**settings: Any) -> Recipe:
    overrides = {
        "name": "small",
        "judges": {"judge": {"template": "reason", "steps": ["sft", "grpo"]}},
        "train.grpo.batch": 4,
        "train.grpo.samples": 4,
        "train.grpo.max_tokens": 48,
        "train.grpo.args.learning_rate": 0.001,
        "train.args.per_device_train_batch_size": 16,
        **settings,
    }
    return demo_recipe(overrides)


@pytest.fixture
def run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toy_prompts: PromptFile) -> Path:
    """A folder with the files of stage 1 for six pairs, five of them worth learning, one of these in both orders; the pairs and
    their points are those of a file in Skywork's columns."""
    folder = begin_run("small", tmp_path, monkeypatch)
    write_jsonl(tmp_path / "toy-chat.jsonl", map(skywork_row, toy_pairs()))
    pairs = [
        pair for pair in load_pairs(str(tmp_path / "toy-chat.jsonl")) if isinstance(pair, PreferencePair)
    ]
    assert pairs == toy_pairs()
    prompts = [
        judge_prompt(pair, order, toy_prompts)
        for number, pair in enumerate(pairs)
        for order in (("AB", "BA") if number == 0 else ("AB",) if number % 2 else ("BA",))
    ]
    points = {pair.id: pair.reference_points for pair in pairs}
    write_jsonl(folder / "pairs.jsonl", (pair.to_row() for pair in pairs))
    write_jsonl(folder / "prompts.jsonl", map(to_json, prompts))
    rows = (grpo_row(prompt, 1, 2, points[prompt.pair_id]) for prompt in prompts[:-1])
    write_jsonl(folder / "grpo.jsonl", rows)
    return folder


@pytest.fixture
def toy_encoder() -> ChatEncoder:
    recipe = demo_recipe({})
    return judge_encoder(recipe, "reason", load_tokenizer(recipe.model))


def rows_of(recipe: Recipe, encoder: ChatEncoder) -> tuple[list[dict[str, Any]], dict[str, int]]:
    turns = TwoTurns.from_encoder(encoder, recipe.train.grpo.max_tokens)
    return read_rows(recipe, recipe.trained["judge@grpo"], encoder, turns)


@pytest.mark.unit
def test_rows_hold_both_orders_of_each_pair_once(
    run_folder: Path, toy_encoder: ChatEncoder, toy_prompts: PromptFile
) -> None:
    rows, counts = rows_of(small_recipe(), toy_encoder)
    assert counts == {"prompts": 6, "prompts_left_out": 1, "too_long": 0, "rows": 10}
    pairs = {pair.id: pair for pair in toy_pairs()}
    for one, other in zip(rows[::2], rows[1::2], strict=True):
        assert one["pair_id"] == other["pair_id"]
        assert {one["winner"], other["winner"]} == {"A", "B"}
    for row in rows:
        prompt = judge_prompt(pairs[row["pair_id"]], "AB" if row["winner"] == "A" else "BA", toy_prompts)
        assert (row["id"], row["prompt"]) == (prompt.id, list(prompt.messages))
        assert row["ids"] == toy_encoder.encode(prompt.messages, generation=True)


@pytest.mark.unit
def test_rows_of_one_order_are_those_of_the_file(run_folder: Path, toy_encoder: ChatEncoder) -> None:
    rows, counts = rows_of(small_recipe(**{"train.grpo.both_orders": False}), toy_encoder)
    assert [row["id"] for row in rows] == [
        json.loads(line)["id"] for line in (run_folder / "grpo.jsonl").read_text().splitlines()
    ]
    assert counts["rows"] == 6


@pytest.mark.unit
def test_pairs_without_room_for_a_reason_are_left_out(run_folder: Path, toy_encoder: ChatEncoder) -> None:
    rows, _ = rows_of(small_recipe(), toy_encoder)
    longest = max(len(row["ids"]) for row in rows)
    turns = TwoTurns.from_encoder(toy_encoder, 48)
    room = {"engine.max_model_len": longest + turns.longest, "evaluate.max_tokens": 8}
    assert rows_of(small_recipe(**room), toy_encoder)[1]["too_long"] == 0
    small = {**room, "engine.max_model_len": longest + turns.longest - 1}
    fewer, counts = rows_of(small_recipe(**small), toy_encoder)
    assert counts["too_long"] == 10 - len(fewer) > 0


@pytest.mark.unit
@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"winner": "C"}, "winner 'C' is not A or B"),
        ({"pair_id": "0000000000000000"}, "the pair 0000000000000000 is not in pairs.jsonl"),
        ({"prompt": None}, "prompt"),
        ({"reference_points": "one text"}, "`reference_points` is a string; make it a list of texts"),
        ({"reference_points": ["-"]}, "`reference_points[0]` has no letter or digit"),
    ],
)
def test_a_bad_row_is_located(
    run_folder: Path, toy_encoder: ChatEncoder, change: dict[str, Any], problem: str
) -> None:
    path = run_folder / "grpo.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[2] |= change
    write_jsonl(path, rows)
    with pytest.raises(DataError, match=r"grpo.jsonl:3") as error:
        rows_of(small_recipe(), toy_encoder)
    assert problem in str(error.value)


@pytest.mark.unit
def test_a_winner_that_is_not_that_of_the_pair_is_located(run_folder: Path, toy_encoder: ChatEncoder) -> None:
    """Its other order would be the same prompt, with the other winner."""
    path = run_folder / "grpo.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    right = rows[2]["winner"]
    rows[2]["winner"] = "B" if right == "A" else "A"
    write_jsonl(path, rows)
    with pytest.raises(DataError, match=rf"grpo.jsonl:3.*in pairs.jsonl {right} is the chosen answer"):
        rows_of(small_recipe(), toy_encoder)


@pytest.mark.unit
def test_both_orders_of_a_pair_have_its_points(run_folder: Path, toy_encoder: ChatEncoder) -> None:
    path = run_folder / "grpo.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    del rows[-1]["reference_points"]
    write_jsonl(path, rows)
    points = [tuple(row["reference_points"]) for row in rows_of(small_recipe(), toy_encoder)[0]]
    assert points == [points for pair in toy_pairs()[:4] for points in [pair.reference_points] * 2] + [()] * 2


@pytest.mark.unit
def test_no_rows_is_an_error(run_folder: Path, toy_encoder: ChatEncoder) -> None:
    write_jsonl(run_folder / "grpo.jsonl", [])
    with pytest.raises(DataError, match=r"grpo.jsonl: no prompts to train on"):
        rows_of(small_recipe(), toy_encoder)


@pytest.mark.unit
@pytest.mark.parametrize("both_orders", [True, False])
def test_every_row_comes_once_before_any_comes_again(both_orders: bool) -> None:
    settings = GRPOStep(batch=4, both_orders=both_orders)
    batches = list(islice(batch_order(10, settings, seed=3), 5))
    flat = [row for batch in batches for row in batch]
    assert [len(batch) for batch in batches] == [4] * 5
    assert sorted(flat[:10]) == sorted(flat[10:]) == list(range(10))
    assert flat[:10] != flat[10:]
    if both_orders:
        assert all(
            one + 1 == other and one % 2 == 0 for one, other in zip(flat[::2], flat[1::2], strict=True)
        )


@pytest.mark.unit
@pytest.mark.parametrize(("updates", "accumulation"), [(1, 1), (1, 2), (3, 2)])
def test_the_sampler_repeats_a_batch_for_each_of_its_passes(updates: int, accumulation: int) -> None:
    settings = GRPOStep(batch=2, samples=3, steps=6)
    sampler = row_sampler(10, settings, 3, updates, accumulation)
    numbers = list(sampler)
    assert len(numbers) == len(sampler) == 6 * accumulation * 6
    expected = [row for row in next(batch_order(10, settings, 3)) for _ in range(3)]
    for start in range(0, 6 * updates * accumulation, 6):
        assert numbers[start : start + 6] == expected


@pytest.mark.unit
def test_a_second_step_goes_on_where_the_first_has_ended() -> None:
    settings = GRPOStep(batch=2, samples=2, steps=3)
    first, second = (list(row_sampler(12, settings, 3, 1, 1, earlier=number)) for number in (0, 1))
    assert len(first) == len(second) == 12
    assert set(first) | set(second) == set(range(12)), "together they see all rows once"


@pytest.mark.unit
def test_a_consistency_that_would_cancel_out_is_refused() -> None:
    """Among the samples of one prompt all right verdicts earn the same, so that the scaling of a group undoes its weight."""
    consistent = {"train.grpo.rewards.consistency": 1}
    with pytest.raises(ConfigError, match=r"rewards.consistency needs baseline: pair"):
        small_recipe(**consistent)
    for kept in ({"train.grpo.baseline": "pair"}, {"train.grpo.args.scale_rewards": "none"}):
        assert small_recipe(**consistent, **kept).train.grpo.rewards.consistency == 1


@pytest.mark.unit
@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"train.grpo.rewards": {"verdict": 0}}, "all weights are 0"),
        ({"train.grpo.rewards": {"verdict": -1}}, "rewards.verdict"),
        ({"train.grpo.rewards": {"unreadable": 1}}, "rewards.unreadable"),
        ({"train.grpo.temperature": 1e-300}, "train.grpo.temperature"),
        ({"train.grpo.max_tokens": 1024}, "train.grpo.max_tokens must be below engine.max_model_len"),
    ],
)
def test_settings_that_can_teach_nothing_are_refused_at_once(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        small_recipe(**changes)


@pytest.mark.unit
def test_a_batch_is_divided_evenly() -> None:
    recipe = small_recipe()
    step = recipe.trained["judge@grpo"]
    assert step_batch(recipe, step, 1) == (16, 1)
    assert step_batch(recipe, step, 2) == (8, 1)
    assert step_batch(small_recipe(**{"train.args.per_device_train_batch_size": 3}), step, 2) == (2, 4)
    with pytest.raises(ConfigError, match=r"^train.grpo.batch: 16 records .* \(set train.grpo.batch=6\)"):
        step_batch(recipe, step, 3)


@pytest.mark.unit
@pytest.mark.parametrize("key", ["temperature", "top_p", "num_generations", "max_steps", "use_vllm"])
def test_keys_that_the_suite_sets(key: str) -> None:
    from trl import GRPOConfig

    from reasongenrm.train.arguments import check_args

    with pytest.raises(ConfigError, match=f"{key} is set by the suite"):
        check_args(GRPOConfig, {key: 1}, location="train.grpo.args", reserved=grpo.RESERVED)


@pytest.mark.unit
def test_vllm_needs_a_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    recipe = small_recipe(**{"train.grpo.rollouts": "vllm"})
    with pytest.raises(ConfigError, match=r"^train.grpo.rollouts: .*\(set it to generate\)"):
        build_trainer(recipe, recipe.trained["judge@grpo"], tmp_path)


JUDGEMENTS = [
    Judgement(winner, verdict, None, "", 1)
    for winner, verdict in [("A", "A"), ("A", "B"), ("B", "B"), ("B", None)]
]


@pytest.mark.unit
def test_each_judgement_knows_the_verdicts_on_the_other_order() -> None:
    verdicts = [verdict_number(one) for one in JUDGEMENTS]
    assert verdicts == [1, -1, 1, 0]
    whole = with_other_order(JUDGEMENTS, verdicts, 0, samples=2)
    assert [one.others for one in whole] == [(True, False)] * 2 + [(True, False)] * 2
    # The orders of a pair in two processes: the same.
    halves = [with_other_order(JUDGEMENTS[at : at + 2], verdicts, at, samples=2) for at in (0, 2)]
    assert halves[0] + halves[1] == whole


@pytest.mark.unit
@pytest.mark.parametrize(
    ("verdicts", "consistency", "both_right"),
    [
        ([1, -1, 1, 0], 0.5, 0.5),  # sample 1 is right twice; sample 2 cannot be read on one order
        ([1, 1, -1, -1], 0.0, 0.0),  # always A
        ([-1, -1, -1, 1], 0.5, 0.0),
        ([0, 0, 0, 0], 0.0, 0.0),
    ],
)
def test_agreement_of_both_orders(verdicts: list[int], consistency: float, both_right: float) -> None:
    assert agreement(verdicts, 2) == {"consistency": consistency, "both_right": both_right}


def batch_of(advantages: list[float]) -> dict[str, Any]:
    import torch

    rows = len(advantages)
    return {
        "advantages": torch.tensor(advantages),
        "completion_ids": torch.arange(rows * 3).view(rows, 3),
        "completion_mask": torch.ones(rows, 3, dtype=torch.long),
        "tool_mask": torch.tensor([[1, 0, 1]] * rows),
        "num_items_in_batch": torch.tensor(0),
    }


@pytest.mark.unit
def test_completions_without_an_advantage_are_left_out() -> None:
    batch = keep_informative(batch_of([1e-3, 1.0, -1.0, 0.0, 0.5, 0.0]), passes=1)
    assert batch["advantages"].tolist() == [1.0, -1.0, 0.5]
    assert batch["completion_ids"][:, 0].tolist() == [3, 6, 12]
    assert learned_tokens(batch) == 6


@pytest.mark.unit
@pytest.mark.parametrize(("advantages", "kept"), [([0.0, 1.0, -1.0, 0.5], 4), ([0.0] * 4, 2)])
def test_all_passes_stay_equally_large(advantages: list[float], kept: int) -> None:
    batch = keep_informative(batch_of(advantages), passes=2)
    assert len(batch["advantages"]) == kept
    assert learned_tokens(batch) == 2 * sum(map(bool, advantages))


@pytest.mark.unit
def test_a_process_keeps_as_many_completions_as_another_one() -> None:
    """TRL gathers a value of every completion: with different numbers in two processes, gloo ends the training."""
    advantages = [0.0, 1.0, -1.0, 0.0, 0.5, 0.0]
    batch = keep_informative(batch_of(advantages), passes=1, least=5)
    assert len(batch["advantages"]) == 5 and learned_tokens(batch) == 6


@pytest.mark.unit
def test_padding_of_all_rows_is_cut_off() -> None:
    import torch

    inputs = {
        "prompt_ids": torch.tensor([[0, 0, 5], [0, 6, 7]]),
        "prompt_mask": torch.tensor([[0, 0, 1], [0, 1, 1]]),
        "completion_ids": torch.tensor([[1, 2, 0, 0], [3, 0, 0, 0]]),
        "completion_mask": torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0]]),
        "old_per_token_logps": torch.arange(8.0).view(2, 4),
        "advantages": torch.tensor([1.0, -1.0]),
    }
    cut = without_padding(inputs)
    assert cut["prompt_ids"].tolist() == [[0, 5], [6, 7]]
    assert cut["completion_ids"].tolist() == [[1, 2], [3, 0]]
    assert cut["old_per_token_logps"].tolist() == [[0, 1], [4, 5]]
    assert cut["advantages"].tolist() == [1.0, -1.0]


@pytest.fixture
def adapted(run_folder: Path) -> Path:
    """The run folder with the adapter that GRPO starts from: on the toy base, without effect so far."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(ROOT / "data" / "toy-base")
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear"))
    model.save_pretrained(run_folder / "judges" / "judge" / "adapter")
    return run_folder


def trained(recipe: Recipe, work: Path) -> Any:
    """Return a step's trainer after `run_training`, which resumes from the last whole checkpoint in `work`."""
    trainer = build_trainer(recipe, recipe.trained["judge@grpo"], work)
    run_training(trainer, "train.grpo.args", lambda step: None)
    return trainer


@pytest.mark.engine
def test_two_steps_and_a_resumed_second_one(adapted: Path, tmp_path: Path) -> None:
    import torch

    weights = RewardWeights(consistency=1, format=0.5, length=0.001, calibration=0.5, rationale=0.5)
    recipe = small_recipe(**{
        "train.grpo.steps": 2, "train.grpo.rewards": weights.model_dump(), "train.grpo.args.save_steps": 1,
        "train.grpo.args.beta": 0.01, "train.grpo.baseline": "pair",
    })  # fmt: skip
    trainer = trained(recipe, tmp_path / "whole")
    log = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["step"] for entry in log] == [1, 2]
    for entry in log:
        assert {
            f"rewards/{term}/mean" for term in ("verdict", "consistency", "format", "length", "calibration")
        } <= entry.keys()
        assert 0 < entry["rewards/rationale/mean"] <= entry["right"], (
            "the points of the source file are rewarded"
        )
        assert {"entropy", "kl", "reward", "completions/mean_length"} <= entry.keys()
        assert 0.5 < entry["readable"] <= 1 and 0 <= entry["both_right"] <= entry["consistency"] <= 1
        assert entry["rewards/verdict/mean"] == pytest.approx(
            2 * entry["right"] - 1 - 0.5 * (1 - entry["readable"])
        )
    assert log[0]["kl"] == pytest.approx(0, abs=1e-6) and log[1]["kl"] > 1e-7
    moved = [p.abs().max() for name, p in trainer.model.named_parameters() if "lora_B.default" in name]
    assert all(value > 0 for value in moved)
    assert training_summary(recipe, trainer)["completions"] == 32

    checkpoint = tmp_path / "whole" / "checkpoints" / "checkpoint-1"
    assert (checkpoint / WHOLE).exists() and not (checkpoint / "ref").exists()
    resumed = trained(recipe, tmp_path / "whole")
    again = [entry for entry in resumed.state.log_history if "loss" in entry]
    assert [steady_row(entry) for entry in again] == [steady_row(entry) for entry in log]
    for one, other in zip(trainer.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.engine
def test_leaving_prompts_out_changes_no_gradient(adapted: Path, tmp_path: Path) -> None:
    """With all prompts, the same loss is divided by the tokens of all of them."""
    import torch

    gradients = []
    for skip in (True, False):
        recipe = small_recipe(**{"train.grpo.steps": 1, "train.grpo.skip_equal": skip})
        trainer = build_trainer(recipe, recipe.trained["judge@grpo"], tmp_path / str(skip))
        rows = [trainer.train_dataset[number] for number in trainer._row_sampler]
        trainer.current_gradient_accumulation_steps = 1
        trainer.model.train()
        inputs = trainer._prepare_inputs(rows)
        loss = trainer.compute_loss(trainer.model, inputs) * inputs["num_items_in_batch"]
        loss.backward()
        lora = [p.grad.clone() for name, p in trainer.model.named_parameters() if "lora_B" in name]
        gradients.append((len(inputs["advantages"]), lora))
    assert gradients[0][0] < gradients[1][0] == 16
    for one, other in zip(gradients[0][1], gradients[1][1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
    assert any(bool(value.abs().max() > 0) for value in gradients[0][1])


@pytest.mark.engine
@pytest.mark.slow
def test_a_step_with_rollouts_of_vllm(adapted: Path, tmp_path: Path) -> None:
    """In a process of its own, which can hold one engine; without the synchronisation of weights, see `vllm_step`."""
    recipe = small_recipe(**{
        "train.grpo.steps": 1, "train.grpo.rollouts": "vllm", "train.grpo.baseline": "pair",
        "train.grpo.rewards": {"consistency": 1, "calibration": 1},
        "train.grpo.args.vllm_mode": "colocate", "train.grpo.args.vllm_max_model_length": 256,
    })  # fmt: skip
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe.model_dump(mode="json")), encoding="utf-8")
    code = f"from support.vllm_step import main\nmain({str(path)!r}, {str(tmp_path / 'work')!r})"
    done = stage_server().run([], code=code, folder=Path.cwd(), environment=ENVIRONMENT)
    assert done.code == 0, done.stderr[-3000:]
    entry = json.loads(done.stdout.splitlines()[-1])
    assert entry["readable"] > 0.5 and entry["rewards/calibration/mean"] > 0.1
    # Both engines give the same log-probabilities to the sampled ids, letters included.
    assert entry["sampling/sampling_logp_difference/mean"] < 0.02
    assert entry["sampling/sampling_logp_difference/max"] < 0.5


ALL_WEIGHTS = (
    "judges={judge: {template: reason, steps: [sft, grpo]}}",
    "scalar=null",
    "train.parameters=all",
    "train.lora={}",
    "train.batch=4",
    "train.tokens=null",
    "train.args={per_device_train_batch_size: 4, logging_steps: 1, save_steps: 2, max_steps: 2, learning_rate: 0.0005}",
    "train.grpo={batch: 2, samples: 4, steps: 6, max_tokens: 24, baseline: pair, rewards: {consistency: 1, rationale: 0.5},"
    " args: {learning_rate: 0.0001, beta: 0.1}}",
)
"""GRPO of all weights in two processes with ZeRO-2, with a copy of the weights as its reference."""


@pytest.mark.engine
@pytest.mark.slow
def test_a_killed_training_of_all_weights_ends_with_those_of_an_undisturbed_one(
    run_folder: Path, toy_prompts: PromptFile
) -> None:
    import torch
    from safetensors.torch import load_file

    server, place = stage_server(), run_folder.parents[1]
    prompts = [judge_prompt(pair, "AB", toy_prompts) for pair in toy_pairs()]
    records = [direct_record(prompt, toy_prompts.verdict) for prompt in prompts]
    sft = (replace(record, reason="count it .").to_row() for record in records)
    write_jsonl(run_folder / "sft.jsonl", sft)

    def words(run: str, *more: str) -> list[str]:
        return ["train", "configs/demo.yaml", f"name={run}", *ALL_WEIGHTS, *more]

    def trained_run(run: str, *more: str) -> None:
        done = server.run(words(run, *more), folder=place)
        assert done.code == 0, done.stderr[-3000:]

    trained_run("small", "judges={judge: {template: reason, steps: [sft]}}")
    killed = shutil.copytree(run_folder, place / "runs" / "killed")
    trained_run("small")
    work = killed / "judges" / "judge@grpo.partial" / "checkpoints"
    for step, group in ((2, True), (4, False)):
        process = Fork(server, words("killed"), folder=place)
        kill_at(process, (work / f"checkpoint-{step}" / WHOLE).exists, 0.3, group=group, seed=step)
        assert not (killed / "judges" / "judge@grpo").exists()
    trained_run("killed")

    sides = [folder / "judges" / "judge@grpo" for folder in (killed, run_folder)]
    ours, theirs = (load_file(side / "model" / "model.safetensors") for side in sides)
    before = load_file(run_folder / "judges" / "judge" / "model" / "model.safetensors")
    assert ours.keys() == theirs.keys() == before.keys()
    for name, weights in ours.items():
        assert torch.equal(weights, theirs[name]), name
        assert not torch.equal(weights, before[name]), f"{name} was not trained"
    losses, expected = (json.loads((side / "loss.json").read_text()) for side in sides)
    assert losses == expected and [row["step"] for row in losses if "reward" in row] == list(range(1, 7))
    assert not list(killed.rglob("*.partial"))


@pytest.mark.unit
def test_rollouts_are_read_like_those_of_stage_3(toy_encoder: ChatEncoder) -> None:
    turns = TwoTurns.from_encoder(toy_encoder, 48)
    reason = [*toy_encoder.content("A is better ."), *turns.tokens.reason_end]
    rollout = turns.join("x", reason, turns.tokens.letters[0], dict.fromkeys(turns.tokens.letters, -0.7))
    prompt = JudgePrompt("x", "p", "AB", (), "A", "toy")
    verdict = read_completion(prompt, rollout.completion, toy_encoder, turns.tokens)
    assert (verdict.winner, verdict.prob_a, verdict.reason) == ("A", 0.5, "A is better .")
    assert list(rollout.completion.token_ids) == toy_encoder.completion("A is better .", "[[A]]")


@pytest.mark.unit
def test_fewer_rows_than_a_batch_come_several_times() -> None:
    assert Counter(next(batch_order(2, GRPOStep(batch=4), 0))) == {0: 2, 1: 2}
