"""Steps that need reference points, and runs without any."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from reasongenrm.config.recipe import Recipe
from reasongenrm.errors import ConfigError
from reasongenrm.store import write_jsonl
from reasongenrm.train.points import check_points, points_use
from support.training_runs import begin_run, demo_recipe

pytestmark = pytest.mark.unit

GRPO = {"train.grpo.max_tokens": 96, "train.grpo.rewards.rationale": 0.5}
ROUND = {"train.grpo.max_tokens": 96, "train.round.rationale": 1}


def recipe_of(**settings: Any) -> Recipe:
    judges = {"judge": {"template": "reason", "steps": ["sft", "round", "dpo", "grpo"]}}
    return demo_recipe(
        {"name": "points", "judges": judges, "records.dpo": {}, "records.grpo": {}, **settings}
    )


@pytest.mark.parametrize(
    ("settings", "used"),
    [
        ({"train.grpo.max_tokens": 96}, {}),
        (GRPO, {"judge@grpo": ("train.grpo.rewards.rationale", "grpo.jsonl")}),
        (GRPO | {"train.grpo.refresh": 2}, {"judge@grpo": ("train.grpo.rewards.rationale", "pairs.jsonl")}),
        (ROUND, {"judge@round": ("train.round.rationale", "pairs.jsonl")}),
        (
            ROUND | {"train.dpo.refresh": 2},
            {f"judge@{kind}": ("train.round.rationale", "pairs.jsonl") for kind in ("round", "dpo")},
        ),
    ],
)
def test_a_step_that_needs_points_is_refused_where_no_row_has_any(
    settings: dict[str, Any],
    used: dict[str, tuple[str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = begin_run("points", tmp_path, monkeypatch)
    recipe = recipe_of(**settings)
    uses = {model: points_use(recipe, step) for model, step in recipe.trained.items()}
    assert {model: (use[0], use[1].name) for model, use in uses.items() if use} == used
    for points in ([], ["it is so"]):
        for name in ("grpo.jsonl", "pairs.jsonl"):
            write_jsonl(folder / name, [{"id": "1"}, {"id": "2", "reference_points": points}])
        for model, step in recipe.trained.items():
            if points or model not in used:
                check_points(recipe, step)
                continue
            key, name = used[model]
            with pytest.raises(
                ConfigError, match=rf"^{key}: no row of .*{name} has reference points"
            ) as error:
                check_points(recipe, step)
            assert "the column reference_points" in (error.value.hint or "")
