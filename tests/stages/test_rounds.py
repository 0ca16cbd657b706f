"""Records of a step from samples of its judge; the votes are there, so that no engine starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from reasongenrm.chat.encoder import ChatEncoder, judge_encoder, load_tokenizer
from reasongenrm.chat.prompts import PromptFile, judge_prompt
from reasongenrm.config.recipe import Recipe
from reasongenrm.demo.world import toy_pairs
from reasongenrm.errors import DataError
from reasongenrm.records import Completion, JudgePrompt, Letter, Order, SFTRecord
from reasongenrm.run import Run
from reasongenrm.stages.rounds import REPORT, refresh_records
from reasongenrm.store import PartStore, read_json, read_jsonl, to_json, write_jsonl
from reasongenrm.train.grpo_rows import read_rows
from reasongenrm.train.rollouts import TwoTurns
from support.training_runs import begin_run, demo_recipe

pytestmark = pytest.mark.unit
Vote = Callable[[JudgePrompt, int], Letter]


def right(prompt: JudgePrompt) -> Letter:
    return "A" if prompt.winner == "A" else "B"


def wrong(prompt: JudgePrompt) -> Letter:
    return "B" if prompt.winner == "A" else "A"


def rounds_recipe(**settings: object) -> Recipe:
    return demo_recipe({
        "name": "rounds",
        "judges": {"judge": {"template": "reason", "steps": ["sft", "round", "dpo", "grpo"]}},
        "train.round.samples": 2,
        "train.dpo.refresh": 2,
        "train.grpo.refresh": 2,
        "train.grpo.max_tokens": 96,
        **settings,
    })  # fmt: skip


@pytest.fixture
def recipe() -> Recipe:
    return rounds_recipe()


@pytest.fixture
def encoder(recipe: Recipe) -> ChatEncoder:
    return judge_encoder(recipe, "reason", load_tokenizer(recipe.model))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return begin_run("rounds", tmp_path, monkeypatch)


def write_prompts(folder: Path, wording: PromptFile, orders: Sequence[Order]) -> list[JudgePrompt]:
    """Write the pairs and the judge prompts of stage 1."""
    pairs = list(toy_pairs("train", 1, seed=2))
    prompts = [judge_prompt(pair, order, wording) for pair in pairs for order in orders]
    write_jsonl(folder / "pairs.jsonl", (pair.to_row() for pair in pairs))
    write_jsonl(folder / "prompts.jsonl", map(to_json, prompts))
    return prompts


@pytest.fixture
def prompts(folder: Path, toy_prompts: PromptFile) -> list[JudgePrompt]:
    return write_prompts(folder, toy_prompts, ["AB"])


@pytest.fixture
def both_orders(folder: Path, toy_prompts: PromptFile) -> list[JudgePrompt]:
    return write_prompts(folder, toy_prompts, ["AB", "BA"])


def votes_of(recipe: Recipe, model: str) -> Path:
    return recipe.folder / "votes" / model


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
    store_votes(votes_of(recipe, "judge@round"), prompts, encoder, lambda prompt, number: wrong(prompt) if prompt.id == first or number == 1 else right(prompt))  # fmt: skip
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
    store_votes(votes_of(recipe, "judge@dpo"), prompts, encoder, lambda prompt, number: wrong(prompt) if number == 1 else right(prompt))  # fmt: skip
    refresh_records(recipe, Run(recipe, "train"), recipe.trained["judge@dpo"], encoder)
    for row, prompt in zip(read_jsonl(folder / "dpo.jsonl"), prompts, strict=True):
        sides = {side: [turn["content"] for turn in row[side]] for side in ("chosen", "rejected")}
        assert sides == {
            "chosen": ["reason 2 .", f"[[{right(prompt)}]]"],
            "rejected": ["reason 1 .", f"[[{wrong(prompt)}]]"],
        }


@pytest.mark.parametrize(
    ("settings", "hint"),
    [
        ({}, "raise train.round.samples, or set train.round.fill"),
        ({"train.round.fill": True}, "raise train.round.samples"),
        (
            {"train.round.rationale": 0.5},
            "raise train.round.samples, or lower train.round.rationale, or set train.round.fill",
        ),
    ],
)
def test_the_hint_names_what_can_be_changed(
    settings: dict[str, object], hint: str, encoder: ChatEncoder, folder: Path, prompts: list[JudgePrompt]
) -> None:
    recipe = rounds_recipe(**settings)
    write_jsonl(folder / "sft.jsonl", [])
    store_votes(votes_of(recipe, "judge@round"), prompts, encoder, lambda prompt, _: wrong(prompt))
    with pytest.raises(DataError, match="no prompt gives a record") as failure:
        refresh_records(recipe, Run(recipe, "train"), recipe.trained["judge@round"], encoder)
    assert failure.value.hint == hint


def test_a_round_without_a_record_fails_in_the_same_way_again(
    recipe: Recipe, encoder: ChatEncoder, prompts: list[JudgePrompt]
) -> None:
    folder = recipe.folder / "rounds" / "judge@round"
    store_votes(votes_of(recipe, "judge@round"), prompts, encoder, lambda prompt, number: wrong(prompt))
    for _ in range(2):
        with pytest.raises(DataError, match=r"dropped\.jsonl: no prompt gives a record"):
            refresh_records(recipe, Run(recipe, "train"), recipe.trained["judge@round"], encoder)
    assert len(list(read_jsonl(folder / "dropped.jsonl"))) == len(prompts)


def earlier_record(prompt: JudgePrompt) -> dict[str, object]:
    """A record of stage 1."""
    letter = right(prompt)
    return SFTRecord(
        prompt.messages, "earlier .", f"[[{letter}]]", prompt.id, prompt.source, prompt.pair_id, prompt.order, "student", 0.5
    ).to_row()  # fmt: skip


def test_a_pair_that_the_judge_loses_keeps_its_records_of_stage_1(
    recipe: Recipe, encoder: ChatEncoder, both_orders: list[JudgePrompt]
) -> None:
    """The judge is right on pair 0 in both orders, on 1 in one order, on the others in none; pair 2 has a record in one order."""
    number = {
        pair_id: index
        for index, pair_id in enumerate(dict.fromkeys(prompt.pair_id for prompt in both_orders))
    }
    solved = {prompt.id for prompt in both_orders if number[prompt.pair_id] == 0 or (number[prompt.pair_id] == 1 and prompt.order == "AB")}  # fmt: skip
    earlier = [prompt for prompt in both_orders if number[prompt.pair_id] != 2 or prompt.order == "AB"]
    write_jsonl(recipe.folder / "sft.jsonl", map(earlier_record, earlier))
    filled = rounds_recipe(**{"train.round.fill": True})
    folder = recipe.folder / "rounds" / "judge@round"
    store_votes(votes_of(recipe, "judge@round"), both_orders, encoder, lambda prompt, _: right(prompt) if prompt.id in solved else wrong(prompt))  # fmt: skip
    refresh_records(filled, Run(filled, "train"), filled.trained["judge@round"], encoder)
    rows = list(read_jsonl(folder / "sft.jsonl"))
    own = [prompt.id for prompt in both_orders if number[prompt.pair_id] == 0]
    kept = [prompt.id for prompt in both_orders if number[prompt.pair_id] not in (0, 2)]
    assert [row["id"] for row in rows] == own + kept
    assert [row["reason"] for row in rows] == ["reason 1 ."] * len(own) + ["earlier ."] * len(kept)
    dropped = [row["location"] for row in read_jsonl(folder / "dropped.jsonl")]
    assert dropped == [prompt.id for prompt in both_orders if number[prompt.pair_id] == 2]
    report = read_json(folder / REPORT)
    votes = {"right": 2 * len(solved), "wrong": 2 * (len(both_orders) - len(solved))}
    assert report == {
        "prompts": len(both_orders), "records": len(own), "filled": len(kept), "no_right_reason": len(dropped), **votes,
    }  # fmt: skip


@pytest.mark.parametrize(("share", "kept"), [(0, 4), (0.5, 3), (1, 2)])
def test_a_right_vote_without_the_reference_points_is_not_used(
    share: float, kept: int, encoder: ChatEncoder, folder: Path, prompts: list[JudgePrompt]
) -> None:
    """All verdicts are right; pair 0 has no points, pair 1 two that are said, pair 2 two of which one is said, pair 3 one that is not."""
    recipe = rounds_recipe(**{"train.round.rationale": share})
    points = [[], ["`reason 1`", "reason"], ["`reason 2`", "reason"], ["`reason 3`"]]
    rows = list(read_jsonl(folder / "pairs.jsonl"))
    write_jsonl(
        folder / "pairs.jsonl",
        (row | {"reference_points": some} for row, some in zip(rows, points, strict=True)),
    )
    for model in ("judge@round", "judge@dpo"):
        store_votes(
            votes_of(recipe, model),
            prompts,
            encoder,
            lambda prompt, number: right(prompt) if number == 1 else wrong(prompt),
        )
    refresh_records(recipe, Run(recipe, "train"), recipe.trained["judge@round"], encoder)
    rounds = folder / "rounds"
    assert [row["id"] for row in read_jsonl(rounds / "judge@round" / "sft.jsonl")] == [
        prompt.id for prompt in prompts[:kept]
    ]
    drops = list(read_jsonl(rounds / "judge@round" / "dropped.jsonl"))
    assert [drop["reason"] for drop in drops] == ["points_not_covered"] * (4 - kept)
    assert all(f"none of 1 right votes covers {share:.0%} of" in drop["detail"] for drop in drops)
    refresh_records(recipe, Run(recipe, "train"), recipe.trained["judge@dpo"], encoder)
    assert [row["id"] for row in read_jsonl(rounds / "judge@dpo" / "dpo.jsonl")] == [
        prompt.id for prompt in prompts[:kept]
    ]


def test_prompts_of_grpo_are_those_that_its_judge_solves_sometimes(
    recipe: Recipe, encoder: ChatEncoder, both_orders: list[JudgePrompt]
) -> None:
    """With both orders, a pair counts as one: always right in one order and never in the other one is solved half of the times."""
    step, folder = recipe.trained["judge@grpo"], recipe.folder / "rounds" / "judge@grpo"
    easy, hard, letter_a, half = list(dict.fromkeys(prompt.pair_id for prompt in both_orders))[:4]

    def vote(prompt: JudgePrompt, number: int) -> Letter:
        if prompt.pair_id == letter_a:
            return "A"
        is_right = prompt.pair_id != hard and (prompt.pair_id != half or number == 1)
        return right(prompt) if is_right else wrong(prompt)

    store_votes(votes_of(recipe, "judge@grpo"), both_orders, encoder, vote)
    refresh_records(recipe, Run(recipe, "train"), step, encoder)
    rows = list(read_jsonl(folder / "grpo.jsonl"))
    assert [row["pair_id"] for row in rows] == [letter_a] * 2 + [half] * 2
    assert sorted(row["solve_rate"] for row in rows[:2]) == [0, 1]
    assert [row["solve_rate"] for row in rows[2:]] == [0.5, 0.5]
    points = {row["id"]: row.get("reference_points") for row in read_jsonl(recipe.folder / "pairs.jsonl")}
    assert [row.get("reference_points") for row in rows] == [points[row["pair_id"]] for row in rows]
    assert points[letter_a], "a toy pair of sums has points"
    reasons = {row["location"]: row["reason"] for row in read_jsonl(folder / "dropped.jsonl")}
    assert {prompt.pair_id for prompt in both_orders if reasons.get(prompt.id) == "too_hard"} == {hard}
    assert easy in {prompt.pair_id for prompt in both_orders if reasons.get(prompt.id) == "too_easy"}
    assert len(rows) + len(reasons) == len(both_orders)
    trained, _ = read_rows(recipe, step, encoder, TwoTurns.from_encoder(encoder, 96))
    assert [row["id"] for row in trained] == [row["id"] for row in rows]

    one_order = rounds_recipe(**{"train.grpo.both_orders": False})
    (folder / REPORT).unlink()
    refresh_records(one_order, Run(one_order, "train"), step, encoder)
    assert [row["pair_id"] for row in read_jsonl(folder / "grpo.jsonl")] == [half] * 2


def test_grpo_without_a_pair_to_learn_from_names_what_to_change(
    recipe: Recipe, encoder: ChatEncoder, both_orders: list[JudgePrompt]
) -> None:
    store_votes(votes_of(recipe, "judge@grpo"), both_orders, encoder, lambda prompt, _: right(prompt))
    with pytest.raises(DataError, match=r"no prompt gives a record .*too_easy") as failure:
        refresh_records(recipe, Run(recipe, "train"), recipe.trained["judge@grpo"], encoder)
    assert failure.value.hint == "leave out the step grpo, or raise train.grpo.refresh"
