"""What `reasongenrm scalar` reads: bad files are a clear line each, and nothing is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from reasongenrm.config.loading import load_config
from reasongenrm.config.scalar import AnswersConfig, ScalarRecipe
from reasongenrm.demo.world import toy_pairs
from reasongenrm.errors import ConfigError, DataError
from reasongenrm.stages.scalar import evaluate, train
from reasongenrm.stages.scalar_answers import (
    EvaluationAnswer,
    EvaluationAnswers,
    known_prompts,
    load,
    read_evaluation_answers,
)
from reasongenrm.store import write_json

pytestmark = pytest.mark.unit


def recipe(path: Path, **changes: object) -> ScalarRecipe:
    values = {"name": "bad", "sources": [{"path": str(path), "kind": "ranked"}]} | changes
    return ScalarRecipe.model_validate(values)


BAD: list[tuple[str, bytes, str]] = [
    ("empty.csv", b"", "missing column prompt, answer, rank"),
    ("header.csv", b"prompt,answer,rank\n", r"no pair can be used \(no rows\)"),
    ("one.csv", b"prompt,answer,rank\nq,a,1\n", "1 nothing_to_compare"),
    ("same.csv", b"prompt,answer,rank\nq,a,1\nq,b,1\n", "1 nothing_to_compare"),
    ("missing.csv", b"prompt,answer,rank\nq,a,1\nq,b,\n", "1 missing_rank"),
    ("latin.csv", "prompt,answer,rank\nq,caf\xe9,1\n".encode("latin-1"), "UTF-8"),
    ("quote.csv", b'prompt,answer,rank\nq,"a,1\nq,b,2\n', "quote"),
]


@pytest.mark.parametrize(("file", "content", "message"), BAD, ids=[name for name, *_ in BAD])
def test_bad_input_is_one_clear_line(tmp_path: Path, file: str, content: bytes, message: str) -> None:
    path = tmp_path / file
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        load(recipe(path))
    assert file in str(caught.value) and "\n" not in str(caught.value)


def test_good_rows_beside_bad_ones_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "mixed.csv"
    path.write_text("prompt,answer,rank\nq,a,1\nq,b,2\nq,c,\nq,a,1\n,x,1\nr,only,1\n", encoding="utf-8-sig")
    pairs, drops = load(recipe(path))
    assert [(pair.chosen, pair.rejected, pair.distance) for pair in pairs] == [("a", "b", 1.0)]
    assert sorted(drop.reason for drop in drops) == [
        "duplicate_answer",
        "empty_prompt",
        "missing_rank",
        "nothing_to_compare",
    ]


def test_answers_with_and_without_ranks(tmp_path: Path) -> None:
    ranked, plain = tmp_path / "ranked.csv", tmp_path / "plain.jsonl"
    ranked.write_text(
        "prompt,answer,rank,annotator\nq,a,1,x\nq,b,2,x\nq,a,2,y\nq,b,1,y\nq,c,3,y\n", encoding="utf-8"
    )
    answers, _ = read_evaluation_answers(str(ranked))
    assert [(one.answer, one.rank) for one in answers] == [("a", 1.5), ("b", 1.5), ("c", 3.0)]
    plain.write_text(
        '{"prompt": "q", "answer": "a", "model": "m"}\n{"prompt": "q", "answer": ""}\n', encoding="utf-8"
    )
    answers, drops = read_evaluation_answers(str(plain))
    assert [(one.answer, one.rank, one.extra["model"]) for one in answers] == [("a", None, "m")]
    assert [drop.reason for drop in drops] == ["empty_answer"]


def test_an_evaluation_without_a_head_or_without_answers_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    scalar_recipe = recipe(tmp_path / "none.csv")
    with pytest.raises(ConfigError, match=r"no scalar head.*scalar train first"):
        evaluate(scalar_recipe)
    (scalar_recipe.folder / "scalar").mkdir(parents=True)
    with pytest.raises(ConfigError, match="the training held nothing out"):
        evaluate(scalar_recipe)
    held_out_recipe = scalar_recipe.model_copy(
        update={"scalar": scalar_recipe.scalar.model_copy(update={"validation": 0.2})}
    )
    with pytest.raises(ConfigError, match="the settings of scalar-train are unknown"):
        evaluate(held_out_recipe)


def test_an_evaluation_of_other_held_out_prompts_names_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def held_out(seed: int) -> ScalarRecipe:
        values = {"scalar": {"validation": 0.2, "model": "hub/id"}, "seed": seed}
        return recipe(tmp_path / "none.csv", **values)

    with pytest.raises(DataError, match=r"none\.csv"):
        train(held_out(1))
    write_json(held_out(1).folder / "scalar" / "done.json", {})
    with pytest.raises(ConfigError) as caught:
        evaluate(held_out(2))
    assert str(caught.value).endswith(
        "seed changed from 1 to 2; the step scalar would be done again (run scalar train with --redo scalar, or restore the "
        "value, or set name=… for a new run)"
    )


def test_the_demo_answers_prompts_that_its_training_does_not_have() -> None:
    demo = load_config(ScalarRecipe, "configs/scalar/demo.yaml")
    assert demo.evaluate.generate is not None and demo.evaluate.held_out
    prompts = [one.prompt for one in demo.evaluate.generate.prompts]
    trained = {pair.history[-1]["content"] for pair in toy_pairs("train", 700, 17)}
    for prompt in prompts:
        assert prompt.startswith("how do i "), "of the family that the head learns"
        assert prompt not in trained
    assert len({prompt.rsplit(" ", 1)[-1] for prompt in prompts}) == len(prompts)


def test_prompts_that_the_head_was_trained_on_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "ranked.csv"
    rows = [f"question {n},{answer},{rank}" for n in range(8) for rank, answer in ((1, "a"), (2, "b"))]
    path.write_text("prompt,answer,rank\n" + "\n".join(rows) + "\n", encoding="utf-8")
    prompts = [{"prompt": f"question {n}"} for n in (*range(8), 99)]
    held = recipe(path, scalar={"validation": 0.25}, evaluate={"generate": {"prompts": prompts}})
    assert held.evaluate.generate is not None
    known = known_prompts(held, held.evaluate.generate)
    assert len(known) == 6 and "question 99" not in known, "two of the eight are held out"


def test_answers_of_two_parts_name_theirs(tmp_path: Path) -> None:
    one, two = EvaluationAnswer((), "a", 1.0, {"x": 1}), EvaluationAnswer((), "b", None, {})
    both = EvaluationAnswers({"first": [one], "second": [two]})
    assert both.origin == "first and second"
    assert [row.extra for row in both.rows()] == [{"x": 1, "origin": "first"}, {"origin": "second"}]
    assert EvaluationAnswers({"first": [one]}).rows() == [one]


def test_the_shipped_recipes_can_be_read() -> None:
    shipped = load_config(ScalarRecipe, "configs/scalar/distilbert.yaml")
    assert shipped.scalar.model == "distilbert-base-uncased" and shipped.scalar.args["max_steps"] == 100
    kinds = {one.kind for one in shipped.evaluate.generate.prompts}
    assert kinds == {"story", "explanation", "joke", "advice", "summary"} and shipped.evaluate.held_out
    assert not known_prompts(shipped, shipped.evaluate.generate), "new answers to new prompts"
    collected = load_config(AnswersConfig, "configs/answers/phi-2.yaml").prompts
    new = {one.prompt for one in shipped.evaluate.generate.prompts}
    assert not new & {one.prompt for one in collected}, "a training on collected answers does not know them"
    assert load_config(ScalarRecipe, "configs/scalar/demo.yaml").drop_sources
    with pytest.raises(ConfigError, match=r"scalar\.marginn: unknown key.*did you mean 'margin'"):
        load_config(ScalarRecipe, "configs/scalar/distilbert.yaml", ["scalar.marginn=1"])
    with pytest.raises(ConfigError, match="give answers or generate, not both"):
        load_config(
            ScalarRecipe,
            "configs/scalar/distilbert.yaml",
            ["evaluate.answers=x.csv"],
        )
