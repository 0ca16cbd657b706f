"""`bench/recipes.py`: its rows are recipes that load, rows of one run share stage 1, and the table of the docs has these rows."""

from __future__ import annotations

import sys
from collections import defaultdict
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

from reasongenrm.config.loading import load_recipe
from reasongenrm.config.recipe import Recipe

pytestmark = pytest.mark.unit

ROOT = Path(__file__).resolve().parents[2]
RECIPE = str(ROOT / "configs" / "demo-rl.yaml")


@pytest.fixture(scope="module")
def bench() -> Any:
    sys.path.insert(0, str(ROOT / "bench"))
    try:
        spec = spec_from_file_location("bench_recipes", ROOT / "bench" / "recipes.py")
        assert spec and spec.loader
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(ROOT / "bench"))


def recipe_of(bench: Any, name: str) -> Recipe:
    return load_recipe(RECIPE, bench.row_words("toy", 17, bench.ROWS[name], []))


def test_every_row_trains_the_model_whose_scores_it_shows(bench: Any) -> None:
    for name, row in bench.ROWS.items():
        assert row.model == list(recipe_of(bench, name).trained)[-1], name


def test_rows_of_one_run_have_the_same_stage_1(bench: Any) -> None:
    runs: defaultdict[str, list[Any]] = defaultdict(list)
    for name in bench.ROWS:
        recipe = recipe_of(bench, name)
        stage_1 = (recipe.limit, recipe.seed, recipe.data, recipe.teachers, recipe.select, recipe.records)
        runs[recipe.name].append(stage_1)
    assert list(runs) == ["toy-17", "toy-17-all", "toy-17-points"]
    assert all(one == stages[0] for stages in runs.values() for one in stages)


def test_the_best_chain_is_the_recipe(bench: Any) -> None:
    plain, chain = load_recipe(RECIPE), recipe_of(bench, "best chain: the recipe")
    assert chain.chain(chain.trained["best@grpo"]) == plain.train.steps
    assert (chain.train, chain.evaluate.benchmarks) == (plain.train, plain.evaluate.benchmarks)


def test_votes_leave_the_results_with_one_vote_alone(bench: Any) -> None:
    one, votes = recipe_of(bench, "all pairs: SFT"), recipe_of(bench, "all pairs: SFT, 8 votes")
    assert (one.evaluate.votes, votes.evaluate.votes) == (1, 8) and votes.train == one.train
    assert not one.evaluate.benchmarks.keys() & votes.evaluate.benchmarks.keys()
    assert [*one.evaluate.benchmarks.values()] == [*votes.evaluate.benchmarks.values()], "the same rows"


def test_the_table_of_the_docs_has_these_rows(bench: Any) -> None:
    text = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    table = text.partition("bench/recipes.py: begin -->")[2].partition("<!--")[0]
    names = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("|")]
    assert names[2:] == list(bench.ROWS)
