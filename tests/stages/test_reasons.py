"""Reasons in stage 1: unfit ones are counted and explained once, and records come from one pass over the prompts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.chat.prompts import PromptFile, judge_prompt, place
from reasongenrm.config.recipe import Recipe
from reasongenrm.demo.world import toy_pairs
from reasongenrm.errors import DataError
from reasongenrm.reasons import records
from reasongenrm.records import JudgePrompt, Reason, ScoredReason
from reasongenrm.run import Run
from reasongenrm.stages import reasons as stage
from reasongenrm.store import read_jsonl, to_json, write_jsonl

pytestmark = pytest.mark.unit

RECIPE: dict[str, Any] = {
    "name": "r",
    "model": {"path": "owner/student"},
    "engine": {"max_model_len": 512},
    "evaluate": {"max_tokens": 64},
    "data": {"sources": [{"path": "train.jsonl"}]},
    "teachers": {"student": {"mode": "blind", "samples": 3, "max_tokens": 64}},
    "select": {"threshold": -1.0, "giveaway_words": 2},
    "judges": {"judge": {}},
    "train": {"launch": "configs/accelerate/cpu-2proc.yaml"},
}


def reason(prompt: JudgePrompt, number: int, text: str) -> Reason:
    name = f"{prompt.id}#student#{number}"
    verdict = prompt.winner if text else None
    return Reason(name, prompt.id, text, verdict, 5, "stop", "student", "blind")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toy_prompts: PromptFile) -> Run:
    """A run with four prompts; each has two reasons that are worth scoring, and an empty one."""
    recipe, pairs = Recipe(**RECIPE), list(toy_pairs("train", 1, seed=3))[:4]
    prompts = [judge_prompt(pair, place(pair.id, recipe.seed), toy_prompts) for pair in pairs]
    monkeypatch.chdir(tmp_path)
    run = Run(recipe, "prepare")
    write_jsonl(run.path("pairs.jsonl"), map(to_json, pairs))
    write_jsonl(run.path("prompts.jsonl"), map(to_json, prompts))
    texts = ("it is much better .", "", "the first one counts right .")
    rows = [reason(prompt, number, text) for prompt in prompts for number, text in enumerate(texts)]
    write_jsonl(stage.reasons_file(run, "student"), map(to_json, rows))
    return run


def score(run: Run, prompt_file: PromptFile, verdict_logprobs: Sequence[float] = (-0.1,) * 4) -> None:
    """Write `scored.jsonl`; the reasons of each prompt have one log-probability of the verdict."""
    groups = stage.fit_reasons(run.recipe, run, prompt_file)
    rows = [
        ScoredReason(one.id, prompt.id, one.text, prompt.winner, prompt.winner, -0.5, verdict, 5, one.teacher, one.mode)
        for (prompt, fit), verdict in zip(groups, verdict_logprobs, strict=True)
        for one in fit
    ]  # fmt: skip
    write_jsonl(run.path("scored.jsonl"), map(to_json, rows))


def test_reasons_that_are_worth_scoring(run: Run, toy_prompts: PromptFile) -> None:
    unfit_counts: list[int] = []
    groups = list(stage.fit_reasons(run.recipe, run, toy_prompts, unfit_counts.append))
    assert [len(fit) for _, fit in groups] == [2] * 4 and unfit_counts == [1] * 4


def test_no_reason_worth_scoring_is_an_error(run: Run, toy_prompts: PromptFile) -> None:
    prompts = list(stage.read_prompts(run))
    rows = [reason(prompt, number, "") for prompt in prompts for number in range(3)]
    write_jsonl(stage.reasons_file(run, "student"), map(to_json, rows))
    with pytest.raises(DataError, match="no reason is worth scoring; the first one: empty_reason"):
        list(stage.fit_reasons(run.recipe, run, toy_prompts))


def test_records_come_from_one_pass_over_the_prompts(
    run: Run, toy_prompts: PromptFile, encoders: dict[str, ChatEncoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    score(run, toy_prompts)
    calls: Counter[str] = Counter()

    def counting(name: str, function: Any) -> Any:
        def call(*args: Any) -> Any:
            calls[name] += 1
            return function(*args)

        return call

    monkeypatch.setattr(stage, "read_prompts", counting("prompts", stage.read_prompts))
    monkeypatch.setattr(records, "unfit_drop", counting("checks", records.unfit_drop))
    sections = stage.write_records(run.recipe, run, toy_prompts, encoders["reason"])
    assert calls == {"prompts": 1, "checks": 4}, "the records check no scored reason again"
    assert sections["records"] == {"sft": 4, "genrm": 4}
    assert sections["reasons"]["dropped"] == {"empty_reason": 4, "not_the_best": 4}
    rows = [json.loads(line) for line in run.path("genrm.jsonl").read_text(encoding="utf-8").splitlines()]
    prompts = list(stage.read_prompts(run))
    assert [(row["pair_id"], row["order"]) for row in rows] == [(one.pair_id, one.order) for one in prompts]
    asked, direct = prompts[0].messages[0]["content"], rows[0]["prompt"][0]["content"]
    assert asked.removesuffix(" explain why .") == direct, "a judge without reasons is not asked to explain"


def test_the_prompts_of_grpo_have_the_points_of_their_pairs(
    run: Run, toy_prompts: PromptFile, encoders: dict[str, ChatEncoder]
) -> None:
    score(run, toy_prompts)
    pairs = list(read_jsonl(run.path("pairs.jsonl")))
    for pair in pairs[1:]:
        del pair["reference_points"]
    write_jsonl(run.path("pairs.jsonl"), pairs)
    recipe = Recipe(**RECIPE | {"records": {"grpo": {}}})
    sections = stage.write_records(recipe, Run(recipe, "prepare"), toy_prompts, encoders["reason"])
    assert sections["records"] == {"sft": 4, "grpo": 4, "grpo_with_points": 1, "genrm": 4}
    rows = list(read_jsonl(run.path("grpo.jsonl")))
    assert [row.get("reference_points") for row in rows] == [pairs[0]["reference_points"], None, None, None]
    assert [row["pair_id"] for row in rows] == [pair["id"] for pair in pairs]


def test_a_right_reason_without_the_reference_points_is_not_selected(
    run: Run, toy_prompts: PromptFile, encoders: dict[str, ChatEncoder]
) -> None:
    pairs = list(read_jsonl(run.path("pairs.jsonl")))
    points = ["`much better`"], ["`first one`"], ["`much better`", "`first one`"], []
    write_jsonl(run.path("pairs.jsonl"), (pair | {"reference_points": some} for pair, some in zip(pairs, points, strict=True)))  # fmt: skip
    score(run, toy_prompts)
    for share, kept in ((1, [0, 1, 3]), (0.5, [0, 1, 2, 3])):
        strict = with_select(run, rationale=share)
        sections = stage.write_records(strict.recipe, strict, toy_prompts, encoders["reason"])
        rows = list(read_jsonl(run.path("sft.jsonl")))
        assert [row["pair_id"] for row in rows] == [pairs[number]["id"] for number in kept]
        assert "much better" in rows[0]["reason"] and "first one" in rows[1]["reason"]
        dropped = sections["reasons"]["dropped"]
        assert dropped["points_not_covered"] == (4 if share == 1 else 2)
        compared = stage.compare_selectors(strict.recipe, strict, ["longest_correct"], "rstar")
        assert (compared["longest_correct"].prompts, compared["longest_correct"].kept) == (4, len(kept))


def test_too_few_reasons_that_cover_the_points_name_the_share_that_they_have_to_cover(
    run: Run, toy_prompts: PromptFile, encoders: dict[str, ChatEncoder]
) -> None:
    pairs = list(read_jsonl(run.path("pairs.jsonl")))
    write_jsonl(run.path("pairs.jsonl"), (pair | {"reference_points": ["`absent`"]} for pair in pairs))
    score(run, toy_prompts)
    strict = with_select(run, rationale=1)
    with pytest.raises(DataError, match="0 of 4 prompts keep a reason") as caught:
        stage.write_records(strict.recipe, strict, toy_prompts, encoders["reason"])
    assert "lower select.rationale" in caught.value.hint and "threshold" not in caught.value.hint


def with_select(run: Run, **select: Any) -> Run:
    """Return the run with other settings of the selection."""
    return Run(Recipe(**RECIPE | {"select": RECIPE["select"] | {"formula": "verdict"} | select}), "prepare")


def test_too_few_prompts_with_a_reason_are_an_error_that_shows_the_distribution(
    run: Run, toy_prompts: PromptFile, encoders: dict[str, ChatEncoder], capsys: pytest.CaptureFixture[str]
) -> None:
    score(run, toy_prompts, (-0.1, -0.2, -0.3, -0.4))
    strict = with_select(run, threshold=-0.15)
    with pytest.raises(DataError) as caught:
        stage.write_records(strict.recipe, strict, toy_prompts, encoders["reason"])
    assert caught.value.location == "select.min_kept"
    assert caught.value.problem == "1 of 4 prompts keep a reason (25.0 %)"
    assert caught.value.hint == (
        "select.threshold=-0.2001 keeps 50 %, or select.min_kept=0.25 to accept these; "
        "reasons and scores are not computed again"
    )
    shown = capsys.readouterr().err
    for words in (("R*, best of each prompt", "4", "-0.400"), ("not_selected", "6"), ("empty_reason", "4")):
        assert any(all(word in line for word in words) for line in shown.splitlines()), words
    assert not list(run.folder.glob("*sft*")) and not list(run.folder.glob("*genrm*")), "no records"
    for accepted in (with_select(run, threshold=-0.2001), with_select(run, threshold=-0.15, min_kept=0.25)):
        sections = stage.write_records(accepted.recipe, accepted, toy_prompts, encoders["reason"])
        assert sections["records"]["sft"] >= 1


def test_no_prompt_with_a_reason_is_an_error_whatever_the_share(
    run: Run, toy_prompts: PromptFile, encoders: dict[str, ChatEncoder]
) -> None:
    score(run, toy_prompts)
    strict = with_select(run, threshold=0.0, min_kept=0.0)
    with pytest.raises(
        DataError, match=r"^select\.min_kept: 0 of 4 prompts keep a reason \(0\.0 %\)"
    ) as caught:
        stage.write_records(strict.recipe, strict, toy_prompts, encoders["reason"])
    assert "to accept" not in caught.value.hint


def counting_scorer(batches: list[list[str]]) -> Any:
    def score(batch: Any) -> list[ScoredReason]:
        found = [
            ScoredReason(
                one.id, one.prompt_id, one.text, one.verdict, "A", -0.5, -0.1, 5, one.teacher, one.mode
            )
            for group in batch
            for one in (continuation.reason for continuation in group.continuations)
        ]
        batches.append([one.id for one in found])
        return found

    return score


def with_teacher(run: Run) -> Run:
    """Return the run with a second teacher, whose reasons are there."""
    teachers = {"student": RECIPE["teachers"]["student"], "new": {"samples": 1, "max_tokens": 64}}
    rows = [
        Reason(
            f"{prompt.id}#new#0", prompt.id, "both are fine .", prompt.winner, 5, "stop", "new", "hindsight"
        )
        for prompt in stage.read_prompts(run)
    ]
    write_jsonl(stage.reasons_file(run, "new"), map(to_json, rows))
    return Run(Recipe(**RECIPE | {"teachers": teachers}), "prepare")


def test_only_the_reasons_of_an_added_teacher_are_scored(
    run: Run, toy_prompts: PromptFile, encoders: dict[str, ChatEncoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[list[str]] = []

    score = counting_scorer(batches)
    monkeypatch.setattr(stage, "score_batches", lambda recipe, groups, **_: map(score, groups))
    stage.score_all(run.recipe, run, toy_prompts, encoders["reason"], 4)
    before = run.path("scored.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(before) == 8 == sum(map(len, batches))
    more = with_teacher(run)
    batches.clear()
    stage.score_all(more.recipe, more, toy_prompts, encoders["reason"], 4)
    assert sorted(chain.from_iterable(batches)) == sorted(
        f"{prompt.id}#new#0" for prompt in stage.read_prompts(run)
    )
    after = run.path("scored.jsonl").read_text(encoding="utf-8").splitlines()
    assert [line for line in after if '"new"' not in line] == before and len(after) == 12
    groups = [[one.teacher for one in group] for _, group in stage.read_scored(more.recipe, more)]
    assert groups == [["student", "student", "new"]] * 4, "in the order of the prompts"
    batches.clear()
    for again in (run, more):  # a teacher less, and the same one again
        stage.score_all(again.recipe, again, toy_prompts, encoders["reason"], 4)
    assert not batches
    assert {one.teacher for _, group in stage.read_scored(run.recipe, run) for one in group} == {"student"}


def test_scored_reasons_that_are_unfit_now_are_not_selected(
    run: Run, toy_prompts: PromptFile, encoders: dict[str, ChatEncoder]
) -> None:
    prompts = list(stage.read_prompts(run))
    texts = ("so A is better .", "", "so B is better .")
    rows = [reason(prompt, number, text) for prompt in prompts for number, text in enumerate(texts)]
    write_jsonl(stage.reasons_file(run, "student"), map(to_json, rows))
    lenient = Run(Recipe(**RECIPE | {"select": {"threshold": -1.0, "giveaway_words": 0}}), "prepare")
    score(lenient, toy_prompts)
    assert (
        stage.write_records(lenient.recipe, lenient, toy_prompts, encoders["reason"])["reasons"]["kept"] == 4
    )
    strict = with_select(run, giveaway_words=9)
    with pytest.raises(DataError, match="0 of 4 prompts keep a reason"):
        stage.write_records(strict.recipe, strict, toy_prompts, encoders["reason"])
