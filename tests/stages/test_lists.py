"""Judges of lists in stage 1: lists from pairs, reasons of their own, and records; and what stage 2 reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from reasongenrm.chat.encoder import judge_encoder, load_tokenizer, template_wording
from reasongenrm.chat.prompts import PromptFile, judge_prompt, placed_prompts
from reasongenrm.config.engines import ModelConfig
from reasongenrm.config.recipe import Recipe
from reasongenrm.engines.vllm import VLLMEngine
from reasongenrm.errors import ConfigError
from reasongenrm.judge.ask import VerdictTask
from reasongenrm.records import Completion, Message, PreferencePair, Reason, ScoredReason, SFTRecord
from reasongenrm.run import Run
from reasongenrm.stages import reasons as reasons_stage
from reasongenrm.stages.lists import LISTS, ListPolicy, list_run, reason_lists, write_list_records
from reasongenrm.store import read_jsonl, to_json, write_jsonl
from reasongenrm.train.process import write_wording
from reasongenrm.train.tokens import record_files, training_rows
from support.engine_fixtures import LentEngine

ROOT = Path(__file__).resolve().parents[2]
JUDGES = {"lists": {"template": "listwise"}, "reasoned": {"template": "listwise-reason"}, "judge": {}}


def recipe_of(model: str, **changes: Any) -> Recipe:
    own = {
        "name": "r",
        "model": {"path": model, "dtype": "float32"},
        "engine": {"max_model_len": 512},
        "prompts": str(ROOT / "configs/prompts/toy.yaml"),
        "templates": {name: str(ROOT / f"configs/prompts/{file}.jinja") for name, file in
                      (("reason", "reason"), ("direct", "direct"), ("listwise", "direct"), ("listwise-reason", "reason"))},
        "evaluate": {"max_tokens": 64},
        "data": {"sources": [{"path": "train.jsonl"}], "max_tokens": 400, "both_orders": True},
        "teachers": {"student": {"samples": 2, "max_tokens": 24}},
        "select": {"threshold": -1.0},
        "judges": JUDGES,
        "train": {"launch": str(ROOT / "configs/accelerate/cpu-2proc.yaml")},
    }  # fmt: skip
    return Recipe(**(own | changes))


def ranked(prompt: int, count: int) -> list[PreferencePair]:
    history: list[Message] = [{"role": "user", "content": f"add {prompt} and 2 ."}]
    texts = [f"{prompt + 2 + off}" for off in range(count)]
    return [PreferencePair.make(history, texts[a], texts[b], "s") for a, b in combinations(range(count), 2)]


PAIRS = [*ranked(1, 4), *ranked(2, 2), *ranked(3, 3)]
SIZES = [4, 3, 2, 2, 3, 2]
"""Answers of the lists that these pairs give."""


@pytest.fixture
def make_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Recipe], Run]:
    """A run with pairs; the prompts of every pair have a selected reason in order AB alone."""
    monkeypatch.chdir(tmp_path)

    def make(recipe: Recipe) -> Run:
        run, wording = Run(recipe, "prepare"), PromptFile.load(recipe.prompts)
        write_jsonl(run.path("pairs.jsonl"), map(to_json, PAIRS))
        rows = [
            SFTRecord(p.messages, f"because {p.order}", f"[[{p.winner}]]", p.id, "s", p.pair_id, p.order, "student", 0.5)
            for pair in PAIRS
            for p in placed_prompts(pair, wording, seed=recipe.seed, both_orders=True)
            if p.order == "AB"
        ]  # fmt: skip
        write_jsonl(run.path("sft.jsonl"), (row.to_row() for row in rows))
        return run

    return make


def choose(run: Run) -> None:
    """Write a reason for every prompt of the longer lists; every second one leads the student astray."""
    lists = list_run(run)
    prompts = list(read_jsonl(lists.path("prompts.jsonl")))
    reasons = [
        Reason(f"{row['id']}#student#{n}", row["id"], f"it is longest , {n} .", row["winner"], 5, "stop", "student", "hindsight")
        for row in prompts for n in range(2)
    ]  # fmt: skip
    write_jsonl(lists.path("reasons", "student.jsonl"), map(to_json, reasons))
    winners = {row["id"]: row["winner"] for row in prompts}
    scored = [
        ScoredReason(one.id, one.prompt_id, one.text, winners[one.prompt_id], winners[one.prompt_id], -0.5,
                     -0.1 if number % 4 < 2 else -9.0, 5, "student", "hindsight")
        for number, one in enumerate(reasons)
    ]  # fmt: skip
    write_jsonl(lists.path("scored.jsonl"), map(to_json, scored))


@pytest.mark.unit
def test_records_of_lists(make_run: Callable[[Recipe], Run], monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = recipe_of(str(ROOT / "data/toy-base"), select={"threshold": 0.0})
    run, wording = make_run(recipe), PromptFile.load(recipe.prompts)
    monkeypatch.setattr("reasongenrm.stages.lists.sample_all", lambda *_: None)
    monkeypatch.setattr("reasongenrm.stages.lists.score_all", lambda *_: None)
    reason_lists(recipe, run, wording)
    lists = list_run(run)
    assert [len(row["answers"]) for row in read_jsonl(lists.path(LISTS))] == [4, 3, 3]
    choose(run)
    counts = write_list_records(recipe, run, wording)
    direct = list(read_jsonl(run.path("listwise.jsonl")))
    assert counts["listwise"] == len(direct) == 2 * len(SIZES)
    assert [len(row["order"]) for row in direct] == [size for size in SIZES for _ in "ab"]
    for row in direct:
        assert row["reason"] == "" and row["response"] == f"[[{row['order'][0]}]]"
        [turn] = row["prompt"]
        assert "explain" not in turn["content"], "the wording without a reason"
        assert [turn["content"].count(f"[Answer {letter}]") for letter in sorted(row["order"])] == [1] * len(
            row["order"]
        )
    reasoned = list(read_jsonl(run.path("listwise-reason.jsonl")))
    assert counts["listwise-reason"] == len(reasoned)
    two = [row for row in reasoned if len(row["order"]) == 2]
    assert [(row["order"], row["reason"]) for row in two] == [("AB", "because AB")] * 3
    longer = [row for row in reasoned if len(row["order"]) > 2]
    assert [row["reason"] for row in longer] == ["it is longest , 0 ."] * 3, (
        "half of six prompts lead to the verdict"
    )
    assert all("explain why" in row["prompt"][0]["content"] for row in reasoned)
    assert "listwise_too_long" not in counts

    for name in ("lists", "reasoned"):
        [file] = record_files(recipe, recipe.trained[name])
        template = recipe.judges[name].template
        encoder = judge_encoder(recipe, template, load_tokenizer(recipe.model))
        rows = list(training_rows([file], encoder, recipe.data.max_tokens))
        decode = encoder.tokenizer.decode
        for row, record in zip(rows, read_jsonl(file), strict=True):
            learned = decode(
                [t for t, own in zip(row["input_ids"], row["completion_mask"], strict=True) if own]
            )
            head = f"{record['reason']}{encoder.reason_verdict_separator}" if name == "reasoned" else ""
            assert learned == f"{head}{record['response']}<|im_end|>"


@pytest.mark.unit
def test_a_list_that_is_too_long_is_halved(make_run: Callable[[Recipe], Run]) -> None:
    judges = {"lists": {"template": "listwise"}}

    def sizes(limit: int) -> tuple[list[int], dict[int, int]]:
        data = {"sources": [{"path": "train.jsonl"}], "max_tokens": limit}
        recipe = recipe_of(str(ROOT / "data/toy-base"), data=data, judges=judges)
        run, wording = make_run(recipe), PromptFile.load(recipe.prompts)
        counts = write_list_records(recipe, run, wording)
        policy = ListPolicy(recipe, wording, "listwise")
        rows = [SFTRecord(**{k: v for k, v in row.items() if k != "completion"})
                for row in read_jsonl(run.path("listwise.jsonl"))]  # fmt: skip
        lengths = {len(str(row.order)): policy.length(row) for row in rows}
        assert all(length <= limit for length in lengths.values())
        too_long = counts.get("listwise_too_long", 0)
        found = [len(str(row.order)) for row in rows]
        assert sum(size - 1 for size in found) + too_long == len(PAIRS), "no pair is lost"
        return found, lengths

    whole, lengths = sizes(400)
    assert whole == SIZES and lengths[2] < lengths[3] < lengths[4]
    assert sizes(lengths[4] - 1)[0] == [2, 3, 3, 2, 2, 3, 2], "three pairs become one and two"
    assert sizes(lengths[3] - 1)[0] == [2] * len(PAIRS)
    assert sizes(lengths[2] - 1)[0] == []


@pytest.mark.unit
def test_a_prompt_file_without_hindsight_for_lists_is_refused(make_run: Callable[[Recipe], Run]) -> None:
    recipe = recipe_of(str(ROOT / "data/toy-base"))
    run, wording = make_run(recipe), PromptFile.load(recipe.prompts)
    with pytest.raises(ConfigError, match="no key `listwise_hindsight`"):
        reason_lists(recipe, run, wording.model_copy(update={"listwise_hindsight": None}))
    with pytest.raises(ConfigError, match="no key `listwise`"):
        reason_lists(recipe, run, wording.model_copy(update={"listwise": None}))


@pytest.mark.unit
def test_the_wording_beside_an_adapter(tmp_path: Path) -> None:
    recipe = recipe_of(str(ROOT / "data/toy-base"))
    for name, judge in recipe.judges.items():
        write_wording(recipe, judge.template, tmp_path / f"{name}.yaml")
        assert ("answers" in PromptFile.load(tmp_path / f"{name}.yaml").judge) == (name != "judge")
    assert (tmp_path / "judge.yaml").read_text() == Path(recipe.prompts).read_text()


class Lent(LentEngine):
    """An untrained model ends no turn: a cut reason counts as a whole one."""

    def complete(self, requests: Any, *, adapter: str | None = None) -> Iterator[Completion]:
        for completion in super().complete(requests, adapter=adapter):
            yield replace(completion, finish_reason="stop")


@pytest.mark.engine
def test_reasons_on_lists_are_sampled_and_scored(
    engine: VLLMEngine,
    student: ModelConfig,
    make_run: Callable[[Recipe], Run],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = recipe_of(student.path, select={"threshold": -1.0, "giveaway_words": 0})
    run, wording = make_run(recipe), PromptFile.load(recipe.prompts)
    monkeypatch.setattr(reasons_stage, "load_engine", lambda *_, **__: Lent(engine))
    reason_lists(recipe, run, wording)
    lists = list_run(run)
    prompts = list(read_jsonl(lists.path("prompts.jsonl")))
    sampled = list(read_jsonl(lists.path("reasons", "student.jsonl")))
    assert len(prompts) == 6 and [row["prompt_id"] for row in sampled] == [
        p["id"] for p in prompts for _ in "ab"
    ]
    scored = list(read_jsonl(lists.path("scored.jsonl")))
    assert scored and {row["winner"] for row in scored} <= set("ABCD")
    assert all(row["verdict_logprob"] < 0 for row in scored)
    files = {path: path.read_bytes() for path in lists.folder.rglob("*.jsonl")}
    reason_lists(recipe, run, wording)
    assert files == {path: path.read_bytes() for path in lists.folder.rglob("*.jsonl")}, "done work is kept"
    counts = write_list_records(recipe, run, wording)
    assert counts["listwise"] == 12 and counts["listwise-reason"] >= 3


@pytest.mark.unit
@pytest.mark.parametrize("template", ["listwise", "listwise-reason"])
def test_a_judge_of_lists_compares_a_pair_as_a_list_of_two(template: Any) -> None:
    recipe = recipe_of(str(ROOT / "data/toy-base"))
    encoder = judge_encoder(recipe, template, load_tokenizer(recipe.model))
    wording = template_wording(PromptFile.load(recipe.prompts), template)
    task = VerdictTask(recipe.evaluate, encoder, 512, wording.verdict, seed=17)
    tokens = task.verdict_tokens
    assert tokens and len(tokens.letters) == 2 and encoder.reasons_first == (template == "listwise-reason")
    for order in ("AB", "BA"):
        prompt = judge_prompt(PAIRS[0], order, wording)  # type: ignore[arg-type]
        assert "which answer is best ?" in prompt.messages[0]["content"]
        for text, winner in (("[[A]]", "A"), ("[[B]]", "B"), ("[[C]]", None)):
            ids = encoder.completion("so", text)
            place = len(ids) - len(tokens.closing) - 2
            logprobs = {place: dict(zip(tokens.letters, (-0.1, -2.0), strict=True))} if winner else {}
            verdict = task.read(prompt, Completion(prompt.id, "", "stop", tuple(ids), logprobs))
            assert (verdict.winner, verdict.order) == (winner, order)
            assert (verdict.prob_a is not None) == (winner is not None)
