"""Records of a round, from votes that are there: no engine starts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from reasongenrm.chat.encoder import ChatEncoder, judge_encoder, load_tokenizer
from reasongenrm.chat.prompts import PromptFile, judge_prompt
from reasongenrm.config.recipe import Recipe
from reasongenrm.demo.world import toy_pairs
from reasongenrm.errors import DataError
from reasongenrm.records import Completion, JudgePrompt, Letter
from reasongenrm.run import Run
from reasongenrm.stages.rounds import REPORT, refresh_records
from reasongenrm.store import PartStore, read_json, read_jsonl, to_json, write_jsonl
from support.training_runs import begin_run, demo_recipe

pytestmark = pytest.mark.unit
Vote = Callable[[JudgePrompt, int], Letter]


def right(prompt: JudgePrompt) -> Letter:
    return "A" if prompt.winner == "A" else "B"


def wrong(prompt: JudgePrompt) -> Letter:
    return "B" if prompt.winner == "A" else "A"


@pytest.fixture
def recipe() -> Recipe:
    return demo_recipe({
        "name": "rounds",
        "judges": {"judge": {"template": "reason", "steps": ["sft", "round", "dpo"]}},
        "train.round.samples": 2,
        "train.dpo.refresh": 2,
    })  # fmt: skip


@pytest.fixture
def encoder(recipe: Recipe) -> ChatEncoder:
    return judge_encoder(recipe, "reason", load_tokenizer(recipe.model))


@pytest.fixture
def prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toy_prompts: PromptFile) -> list[JudgePrompt]:
    folder = begin_run("rounds", tmp_path, monkeypatch)
    made = [judge_prompt(pair, "AB", toy_prompts) for pair in toy_pairs("train", 1, seed=2)]
    write_jsonl(folder / "prompts.jsonl", map(to_json, made))
    return made


def store_votes(folder: Path, prompts: list[JudgePrompt], encoder: ChatEncoder, vote: Vote) -> None:
    """Write two finished votes on each prompt."""
    store = PartStore(folder / "completions.jsonl")
    for prompt in prompts:
        for number in (1, 2):
            name = prompt.id if number == 1 else f"{prompt.id}#2"
            ids = encoder.completion(f"reason {number} .", f"[[{vote(prompt, number)}]]")
            store.append([to_json(Completion(name, "", "stop", tuple(ids)))])
    store.finish(name for prompt in prompts for name in (prompt.id, f"{prompt.id}#2"))


def test_a_round_keeps_right_reasons_and_counts_the_others(
    recipe: Recipe, encoder: ChatEncoder, prompts: list[JudgePrompt]
) -> None:
    folder = recipe.folder / "rounds" / "judge@round"
    first = prompts[0].id
    store_votes(folder, prompts, encoder, lambda prompt, number: wrong(prompt) if prompt.id == first or number == 1 else right(prompt))  # fmt: skip
    refresh_records(recipe, Run(recipe, "train"), recipe.trained["judge@round"], encoder)
    rows = list(read_jsonl(folder / "sft.jsonl"))
    assert [row["id"] for row in rows] == [prompt.id for prompt in prompts[1:]]
    assert all(row["reason"] == "reason 2 ." and row["teacher"] == "judge" for row in rows)
    assert [row["reason"] for row in read_jsonl(folder / "dropped.jsonl")] == ["no_right_reason"]
    count = len(prompts)
    assert read_json(folder / REPORT) == {
        "prompts": count, "right": count - 1, "wrong": count + 1, "records": count - 1, "no_right_reason": 1,
    }  # fmt: skip


def test_pairs_for_dpo_have_a_right_and_a_wrong_side(
    recipe: Recipe, encoder: ChatEncoder, prompts: list[JudgePrompt]
) -> None:
    folder = recipe.folder / "rounds" / "judge@dpo"
    store_votes(folder, prompts, encoder, lambda prompt, number: wrong(prompt) if number == 1 else right(prompt))  # fmt: skip
    refresh_records(recipe, Run(recipe, "train"), recipe.trained["judge@dpo"], encoder)
    for row, prompt in zip(read_jsonl(folder / "dpo.jsonl"), prompts, strict=True):
        sides = {side: [turn["content"] for turn in row[side]] for side in ("chosen", "rejected")}
        assert sides == {
            "chosen": ["reason 2 .", f"[[{right(prompt)}]]"],
            "rejected": ["reason 1 .", f"[[{wrong(prompt)}]]"],
        }


def test_a_round_without_a_record_fails_in_the_same_way_again(
    recipe: Recipe, encoder: ChatEncoder, prompts: list[JudgePrompt]
) -> None:
    folder = recipe.folder / "rounds" / "judge@round"
    store_votes(folder, prompts, encoder, lambda prompt, number: wrong(prompt))
    for _ in range(2):
        with pytest.raises(DataError, match=r"dropped\.jsonl: no prompt gives a record"):
            refresh_records(recipe, Run(recipe, "train"), recipe.trained["judge@round"], encoder)
    assert len(list(read_jsonl(folder / "dropped.jsonl"))) == len(prompts)
