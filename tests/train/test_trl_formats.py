"""TRL's own trainers read the records as they are, token for token as the judge is served."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.chat.grammar import DEFAULT_GRAMMAR
from reasongenrm.chat.prompts import PromptFile, judge_prompt, place
from reasongenrm.config.prepare import DPOConfig, GeneralConfig
from reasongenrm.demo.build import toy_general
from reasongenrm.demo.world import toy_pairs
from reasongenrm.reasons.records import dpo_pair, dpo_row, final_verdict, grpo_row
from reasongenrm.records import JudgePrompt, ScoredReason, SFTRecord
from reasongenrm.store import write_jsonl

pytestmark = pytest.mark.engine

Sides = tuple[JudgePrompt, ScoredReason, ScoredReason]
TEXTS = (
    "the first count is right , so A is better .",
    "it reads well . so B is better .",
    "“curly” – and é,\n\n1. a list\n2. of two [[A]]",
    "short",
)


def scored(prompt: JudgePrompt, number: int) -> ScoredReason:
    right = number % 2 == 0
    other = "B" if prompt.winner == "A" else "A"
    return ScoredReason(
        id=f"{prompt.id}#t#{number}",
        prompt_id=prompt.id,
        text=TEXTS[number],
        verdict=prompt.winner if right else other,
        winner=prompt.winner,
        reason_logprob=-0.5 - number / 8,
        verdict_logprob=-0.1 if right else -2.0,
        tokens=9,
        teacher="t",
        mode="hindsight",
    )


@pytest.fixture(scope="module")
def encoder(toy_tokenizer: Any) -> ChatEncoder:
    return ChatEncoder(toy_tokenizer, toy_tokenizer.chat_template)


@pytest.fixture(scope="module")
def sides(toy_prompts: PromptFile) -> list[Sides]:
    found = []
    for pair in toy_pairs("train", 1, seed=3):
        prompt = judge_prompt(pair, place(pair.id, 3), toy_prompts)
        both = dpo_pair([scored(prompt, number) for number in range(4)], DPOConfig())
        assert both is not None
        found.append((prompt, *both))
    return found


def load(path: Path, rows: Any) -> Any:
    """Write rows as the suite does, and read them as TRL's users do."""
    from datasets import load_dataset

    write_jsonl(path, rows)
    return load_dataset("json", data_files=str(path), split="train", cache_dir=str(path.parent / "cache"))


def options(folder: Path, **more: Any) -> dict[str, Any]:
    return dict(output_dir=str(folder), max_steps=1, per_device_train_batch_size=2, use_cpu=True, bf16=False,
                report_to="none", save_strategy="no", disable_tqdm=True, seed=1, logging_steps=1, **more)  # fmt: skip


def loss_of(trainer: Any) -> float:
    return float(trainer.train().training_loss)


def asked(encoder: ChatEncoder, prompt: JudgePrompt) -> list[int]:
    return encoder.encode(prompt.messages, generation=True)


def test_sft_records(tiny_model: Path, encoder: ChatEncoder, sides: list[Sides], tmp_path: Path) -> None:
    from trl import SFTConfig, SFTTrainer

    from reasongenrm.data.general import load_general

    records = [
        SFTRecord(
            p.messages,
            right.text,
            DEFAULT_GRAMMAR.text(p.winner),
            p.id,
            p.source,
            p.pair_id,
            p.order,
            "t",
            0.5,
        )
        for p, right, _ in sides
    ]
    write_jsonl(tmp_path / "chat.jsonl", toy_general(4, seed=3))
    general = list(load_general(GeneralConfig(path=str(tmp_path / "chat.jsonl"), weight=1)))
    records += [record for record in general if isinstance(record, SFTRecord)]
    assert len(records) == 8
    rows = load(tmp_path / "sft.jsonl", [r.to_row() for r in records])
    config = SFTConfig(**options(tmp_path), completion_only_loss=True, max_length=None)
    trainer = SFTTrainer(
        model=str(tiny_model), args=config, train_dataset=rows, processing_class=encoder.tokenizer
    )
    end = encoder.structure("\n")  # the template's own, behind the last turn
    for record, row in zip(records, trainer.train_dataset, strict=True):
        said = encoder.completion(record.reason, record.response) + end
        before = encoder.encode(record.prompt, generation=True)
        assert row["input_ids"] == before + said
        assert row["labels"] == [-100] * len(before) + said, "the loss is on reason and verdict alone"
    assert 0 < loss_of(trainer) < 20


def test_genrm_records(tiny_model: Path, toy_tokenizer: Any, sides: list[Sides], tmp_path: Path) -> None:
    from copy import deepcopy

    from trl import SFTConfig, SFTTrainer

    tokenizer = deepcopy(toy_tokenizer)
    tokenizer.chat_template = Path("configs/prompts/direct.jinja").read_text(encoding="utf-8")
    encoder = ChatEncoder(tokenizer, tokenizer.chat_template)
    rows = load(
        tmp_path / "genrm.jsonl",
        [
            SFTRecord(p.messages, "", DEFAULT_GRAMMAR.text(p.winner), p.id, p.source).to_row()
            for p, _, _ in sides
        ],
    )
    config = SFTConfig(**options(tmp_path), completion_only_loss=True, max_length=None)
    trainer = SFTTrainer(model=str(tiny_model), args=config, train_dataset=rows, processing_class=tokenizer)
    for (prompt, _, _), row in zip(sides, trainer.train_dataset, strict=True):
        said = encoder.completion("", DEFAULT_GRAMMAR.text(prompt.winner)) + encoder.structure("\n")
        assert row["input_ids"] == asked(encoder, prompt) + said
    assert 0 < loss_of(trainer) < 20


def test_dpo_rows(tiny_model: Path, encoder: ChatEncoder, sides: list[Sides], tmp_path: Path) -> None:
    from trl import DPOConfig as TRLConfig
    from trl import DPOTrainer

    rows = load(tmp_path / "dpo.jsonl", [dpo_row(*side) for side in sides])
    config = TRLConfig(**options(tmp_path), max_length=None)
    trainer = DPOTrainer(
        model=str(tiny_model), args=config, train_dataset=rows, processing_class=encoder.tokenizer
    )
    for (prompt, chosen, rejected), row in zip(sides, trainer.train_dataset, strict=True):
        assert row["prompt_ids"] == asked(encoder, prompt)
        for name, reason in (("chosen_ids", chosen), ("rejected_ids", rejected)):
            said = encoder.completion(reason.text, DEFAULT_GRAMMAR.text(final_verdict(reason)))
            assert row[name] == said + encoder.structure("\n")
        assert final_verdict(chosen) == prompt.winner != final_verdict(rejected)
    assert loss_of(trainer) == pytest.approx(math.log(2), abs=1e-4), "before it learns, it prefers neither"


def test_grpo_rows(tiny_model: Path, encoder: ChatEncoder, sides: list[Sides], tmp_path: Path) -> None:
    from trl import GRPOConfig, GRPOTrainer

    rows = load(tmp_path / "grpo.jsonl", [grpo_row(prompt, 1, 4) for prompt, _, _ in sides])
    seen: list[tuple[Any, ...]] = []

    def reward(prompts: Any, completions: Any, winner: Any, solve_rate: Any, **_: Any) -> list[float]:
        seen.extend(zip([p[-1]["content"] for p in prompts], winner, solve_rate, strict=True))
        return [float(len(turns[-1]["content"])) for turns in completions]

    config = GRPOConfig(**options(tmp_path), num_generations=2, max_completion_length=4)
    trainer = GRPOTrainer(model=str(tiny_model), reward_funcs=reward, args=config, train_dataset=rows,
                          processing_class=encoder.tokenizer)  # fmt: skip
    prompt_ids: list[list[int]] = []
    generate = trainer.model.generate

    def logprobs(*args: Any, **kwargs: Any) -> Any:
        ids, mask = kwargs["input_ids"], kwargs["attention_mask"]
        prompt_ids.extend(row[keep.bool()].tolist() for row, keep in zip(ids, mask, strict=True))
        return generate(*args, **kwargs)

    trainer.model.generate = logprobs
    assert math.isfinite(loss_of(trainer))
    expected = {prompt.messages[0]["content"]: (prompt.winner, 0.25) for prompt, _, _ in sides}
    assert seen and all(expected[text] == tuple(rest) for text, *rest in seen)
    assert prompt_ids and all(ids in [asked(encoder, prompt) for prompt, _, _ in sides] for ids in prompt_ids)
