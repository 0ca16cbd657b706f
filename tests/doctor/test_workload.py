"""The work of a stage from its row counts, and the estimate of a dry run."""

from __future__ import annotations

from pathlib import Path

import pytest

from reasongenrm.config.loading import load_recipe
from reasongenrm.config.recipe import Recipe
from reasongenrm.doctor import workload
from reasongenrm.doctor.chain import Input
from reasongenrm.doctor.estimate import Work
from reasongenrm.doctor.machine import Gpu, Machine
from reasongenrm.doctor.workload import (
    VERDICT_TOKENS,
    WORDING_TOKENS,
    estimated_cards,
    evaluate_works,
    prepare_works,
    show_chain_estimate,
    show_estimate,
)

pytestmark = pytest.mark.unit


def recipe_of(*overrides: str) -> Recipe:
    return load_recipe("configs/qwen2.5-7b.yaml", overrides)


def test_stage_1_samples_from_local_teachers_and_scores_all_reasons() -> None:
    length = 4000 / 4 + WORDING_TOKENS
    works = prepare_works(recipe_of(), 100, 400_000)
    assert works[0] == Work("sampling by student", "sampling", 100, length, 8, 300)
    assert [work.name for work in works] == ["sampling by student", "sampling by blind", "scoring"]
    assert works[2] == Work("scoring", "scoring", 100, length, 16, 300 + VERDICT_TOKENS)
    both = prepare_works(recipe_of("data.both_orders=true", "teachers.blind.max_tokens=50"), 100, 400_000)
    assert both[0].prompts == 200 and both[1].new_tokens == 50
    served = recipe_of(
        "teachers.blind.server={kind: openai, urls: [http://a/v1], model: m, api: chat}",
        "records={general: [{path: x, weight: 0.1}]}",
    )
    works = prepare_works(served, 100, 400_000)
    assert [(work.name, work.kind) for work in works] == [
        ("sampling by student", "sampling"),
        ("sampling by blind", "served"),
        ("scoring", "scoring"),
    ]
    long = prepare_works(
        recipe_of("teachers.blind={mode: blind, samples: 2, max_tokens: 4096}"), 100, 400_000
    )
    assert long[1].new_tokens == 512
    assert long[2].new_tokens == pytest.approx((8 * 300 + 2 * 512) / 10 + VERDICT_TOKENS), (
        "the mean of all reasons"
    )
    assert prepare_works(recipe_of(), 0, 0) == []
    assert prepare_works(recipe_of("judges={genrm: {template: direct}}"), 100, 400_000) == []


def test_stage_3_judges_with_every_local_model() -> None:
    recipe = load_recipe("configs/demo.yaml", ["evaluate.max_tokens=90"])
    works = {work.name: work for work in evaluate_works(recipe, 10, 4000)}
    judges = ("base", "base-direct", "reasongenrm", "reasongenrm-wgen", "genrm")
    assert works.keys() == {f"judging with {name}" for name in judges}
    assert works["judging with base"].prompts == 20  # both orders
    assert works["judging with base-direct"].new_tokens == VERDICT_TOKENS
    assert works["judging with reasongenrm"].new_tokens == 90 + VERDICT_TOKENS
    assert works["judging with genrm"].new_tokens == VERDICT_TOKENS
    assert evaluate_works(recipe, 0, 0) == []


def test_the_estimate_is_for_the_visible_gpus_or_for_named_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    def names(*gpus: Gpu) -> list[tuple[str, int]]:
        monkeypatch.setattr(workload, "read_machine", lambda: Machine(gpus, {}, "13.0"))
        return [(card.name, count) for card, count in estimated_cards()]

    h200, other = Gpu("NVIDIA H200", 140.4, "580", 9.0), Gpu("NVIDIA X1", 10.0, "580", 9.0)
    assert names(h200, h200) == [("H200", 2)]
    nodes = [(name, count) for name in ("H200", "H100 SXM", "A100 80 GB") for count in (1, 8)]
    named = [*nodes, ("L40S", 1), ("RTX 4090", 1)]
    assert names() == named and names(other) == named


def test_the_estimate_is_printed_and_needs_no_weights(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workload, "read_machine", lambda: Machine((), {}, ""))
    recipe = recipe_of()
    show_estimate(recipe, prepare_works(recipe, 77_000, 77_000 * 3000))
    output = capsys.readouterr().out
    assert "Qwen/Qwen2.5-7B-Instruct: 7.62B parameters" in output and "56 KiB of KV cache per token" in output
    row = next(line for line in output.splitlines() if line.startswith("| 1 × H100 SXM"))
    sampling, _, scoring = (float(cell) for cell in row.strip("| ").split(" | ")[-3:])
    assert 0.5 < sampling < 10 and 0.5 < scoring < 10
    assert output.splitlines()[-1].startswith("assumed: ")


def test_a_served_teacher_is_a_note(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workload, "read_machine", lambda: Machine((), {}, ""))
    recipe = load_recipe("configs/qwen2.5-7b-best.yaml")
    show_estimate(recipe, prepare_works(recipe, 54_000, 54_000 * 6000))
    lines = capsys.readouterr().out.splitlines()
    assert (
        "sampling by qwen3: 442 M tokens, on its server" in lines
    )  # 54,000 pairs × 2 orders × 4 samples × 1,024 tokens
    assert any(
        line.startswith("| GPUs ") and line.endswith("| h sampling by student | h scoring |")
        for line in lines
    )


def test_the_best_plan_takes_hours_on_a_node_and_days_on_a_gpu(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workload, "read_machine", lambda: Machine((), {}, ""))
    recipe = load_recipe("configs/qwen2.5-7b-best.yaml")
    prompts = Input(108_000, 108_000 * 6000)
    show_chain_estimate(
        recipe,
        {
            "reasongenrm": Input(108_000, 108_000 * 10_000),
            "reasongenrm@round": prompts,
            "reasongenrm@grpo": prompts,
        },
    )
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if "H100" in line]
    assert [row[0] for row in rows[:4]] == [
        "reasongenrm",
        "reasongenrm@round",
        "reasongenrm@grpo",
        "all steps",
    ]
    one, node = (sum(map(float, row[-2:])) for row in rows if row[0] == "all steps")
    assert 24 < one < 7 * 24 and 3 < node < 24


def test_a_model_of_unknown_size_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    show_estimate(recipe_of("model.path=./none"), [])
    assert capsys.readouterr().out.startswith("--- estimate\nnone: model.path: directory not found: ./none")
