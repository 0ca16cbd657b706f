"""Rows of comparisons as prompts: which answer is shown first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest

from reasongenrm.chat.prompts import PromptFile
from reasongenrm.config.evaluate import JudgingConfig
from reasongenrm.config.rewards import RewardSettings
from reasongenrm.config.rubric import Rubric
from reasongenrm.judge.comparisons import ComparisonBatch
from reasongenrm.judge.inputs import ComparisonInput, PlacedRow
from reasongenrm.judge.remote import request_body
from reasongenrm.records import Comparison
from reasongenrm.rewards.schedule import Group, reward_batches
from reasongenrm.service.bodies import UNLIMITED, CompareRequest
from support.scripted_judge import Scripted

pytestmark = pytest.mark.unit

ROWS: list[ComparisonInput] = [("p", f"a{n}", f"b{n}") for n in range(40)]


def orders(rows: list[ComparisonInput], *, both: bool) -> list[str]:
    prompts = PromptFile.load("configs/prompts/toy.yaml")
    batch = ComparisonBatch(enumerate(rows), prompts, JudgingConfig(both_orders=both), seed=17)
    return [prompt.order for prompt in batch.prompts]


def test_a_judge_of_one_order_places_rows_by_its_seed_and_placed_rows_as_they_are() -> None:
    seeded = orders(ROWS, both=False)
    assert 10 < seeded.count("AB") < 30
    placed = [PlacedRow(row) for row in ROWS]
    assert orders([*placed, *ROWS], both=False) == ["AB"] * 40 + seeded
    assert orders(placed, both=True) == orders(ROWS, both=True)


def test_a_placed_row_stays_one_over_http() -> None:
    rubric = Rubric.model_validate(["short"])
    for row in (("p", "x", "y"), ("p", "x", "y", rubric)):
        for sent in (row, PlacedRow(row)):
            got = CompareRequest.model_validate(request_body(sent, "a", "b")).row(UNLIMITED)
            assert type(got) is type(sent)
            assert got == ([{"role": "user", "content": "p"}], *row[1:])


def test_the_games_of_a_ranking_are_placed() -> None:
    rows: list[ComparisonInput] = []

    class Noted(Scripted):
        def compare_many(self, batch: Iterable[ComparisonInput]) -> Iterator[Comparison]:
            rows.extend(batch := list(batch))
            return super().compare_many(batch)

    Noted().rank("p", ["1", "22", "333", "4444", "55555"])
    assert orders(rows, both=False) == ["AB"] * 10
    assert sorted(row[1] for row in rows) == sorted(["1", "22", "333", "4444", "55555"] * 2)


@pytest.mark.parametrize("schedule", ["all_pairs", "circular", "regular", "pivot"])
def test_comparisons_within_a_group_are_placed(schedule: str) -> None:
    settings = RewardSettings.model_validate({"schedule": schedule})
    batch = next(reward_batches([Group("p", ["x", "y", "z", "v", "w"])], settings))
    assert all(isinstance(row, PlacedRow) for row in batch.rows)
    shown = orders(list(batch.rows), both=False)
    assert shown == ["AB"] * len(batch.rows)
    for text in "xyzvw":
        first = sum(row[1] == text for row in batch.rows)
        assert 2 * first == sum(text in row[1:] for row in batch.rows)
