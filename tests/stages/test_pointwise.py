"""Judges that rate one answer: their records, what they learn, and how stage 3 asks them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from reasongenrm.chat.encoder import judge_encoder, load_tokenizer, template_wording
from reasongenrm.chat.prompts import PromptFile, rating_prompt
from reasongenrm.config.recipe import Recipe
from reasongenrm.demo.world import toy_pairs
from reasongenrm.errors import ConfigError
from reasongenrm.reasons.sample import LengthPolicy
from reasongenrm.run import Run
from reasongenrm.stages.evaluate import _choose, _judge, _judging, _rate
from reasongenrm.stages.judges import ServedJudge
from reasongenrm.stages.pointwise import check_pointwise, write_rating_records
from reasongenrm.store import read_jsonl, to_json, write_jsonl
from reasongenrm.train.tokens import record_files, training_rows

pytestmark = pytest.mark.unit
ROOT = Path(__file__).resolve().parents[2]
TOY = ROOT / "configs/prompts/toy.yaml"
RATING = "[Question]\n{{ conversation }}\n[Answer]\n{{ answer }}\n[End]\nhow good ?"


@pytest.fixture
def make_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Recipe]:
    """A recipe with a judge that rates, in an empty folder; its prompt file has a wording for ratings."""
    monkeypatch.chdir(tmp_path)
    data = yaml.safe_load(TOY.read_text()) | {"rating": RATING, "rating_delimiters": ["[Answer]"]}
    Path("rating.yaml").write_text(yaml.safe_dump(data))

    def make(**changes: Any) -> Recipe:
        own = {
            "name": "r",
            "model": {"path": str(ROOT / "data/toy-base"), "dtype": "float32"},
            "prompts": "rating.yaml",
            "templates": {"pointwise": str(ROOT / "configs/prompts/direct.jinja")},
            "data": {"sources": [{"path": "train.jsonl"}], "max_tokens": 400},
            "judges": {"rater": {"template": "pointwise"}},
            "train": {"launch": "cpu.yaml"},
            "evaluate": {"max_tokens": 64},
            "engine": {"max_model_len": 1100},
        }  # fmt: skip
        return Recipe(**(own | changes))

    return make


def test_records_of_a_judge_that_rates(make_recipe: Callable[..., Recipe]) -> None:
    recipe = make_recipe()
    run, wording = Run(recipe, "prepare"), PromptFile.load(recipe.prompts)
    pairs = list(toy_pairs("train", 3, seed=4))
    long = replace(pairs[0], id="long", rejected="word " * 500)
    write_jsonl(run.path("pairs.jsonl"), map(to_json, [*pairs, long]))
    assert write_rating_records(recipe, run, wording) == {"pointwise": 25, "pointwise_too_long": 1}
    rows = list(read_jsonl(run.path("pointwise.jsonl")))
    assert [row["response"] for row in rows] == ["[[8]]", "[[3]]"] * 12 + ["[[8]]"]
    for row, answer in zip(
        rows, (text for pair in pairs for text in (pair.chosen, pair.rejected)), strict=False
    ):
        [turn] = row["prompt"]
        assert row["reason"] == "" and turn["content"].endswith(f"[Answer]\n{answer}\n[End]\nhow good ?")
    assert not recipe.needs_reasons(), "nothing has to be sampled"

    encoder = judge_encoder(recipe, "pointwise", load_tokenizer(recipe.model))
    [file] = record_files(recipe, recipe.trained["rater"])
    assert file == run.path("pointwise.jsonl")
    first = next(training_rows([file], encoder, 400))
    learned = [token for token, one in zip(first["input_ids"], first["completion_mask"], strict=True) if one]
    assert encoder.tokenizer.decode(learned) == "[[8]]<|im_end|>"
    asked = rating_prompt(pairs[0].history, pairs[0].chosen, template_wording(wording, "pointwise"))
    assert first["input_ids"][: -len(learned)] == encoder.encode(asked.messages, generation=True)


def test_other_recipes_have_no_ratings(make_recipe: Callable[..., Recipe]) -> None:
    recipe = make_recipe(judges={"genrm": {"template": "direct"}}, prompts=str(TOY))
    check_pointwise(recipe)
    assert write_rating_records(recipe, Run(recipe, "prepare"), PromptFile.load(TOY)) == {}


def test_a_prompt_file_without_ratings_is_an_error(make_recipe: Callable[..., Recipe]) -> None:
    with pytest.raises(ConfigError, match=r"judges.rater.template: .*toy.yaml has no key `rating`"):
        check_pointwise(make_recipe(prompts=str(TOY)))


def test_pairs_are_not_measured_for_a_judge_that_reads_none(make_recipe: Callable[..., Recipe]) -> None:
    [pair, *_] = toy_pairs("train", 1, seed=4)
    recipe = make_recipe()
    policy = LengthPolicy(recipe, PromptFile.load(recipe.prompts))
    assert policy.tokens(pair, []) == {} and policy.problem(pair, [], {}) is None


def test_a_judge_that_rates_does_so_in_every_mode(make_recipe: Callable[..., Recipe]) -> None:
    kinds = {"pairs": "rewardbench", "ratings": "rewardbench", "fourway": "rewardbench2"}
    benchmarks = {mode: {"kind": kind, "path": "toy.jsonl", "mode": mode} for mode, kind in kinds.items()}
    recipe = make_recipe(evaluate={"benchmarks": benchmarks, "max_tokens": 64})
    wording = PromptFile.load(recipe.prompts)

    def judged_by(rates: bool) -> list[Any]:
        judge = ServedJudge("one", lambda folder: None, None, wording, 99, rates=rates)  # type: ignore[arg-type]
        return [_judging(recipe, mode, judge) for mode in kinds]

    assert judged_by(True) == [_rate] * 3
    assert judged_by(False) == [_judge, _rate, _choose]
