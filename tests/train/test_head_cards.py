"""Model cards of scalar heads: what a head scores, and no loss that was not logged."""

from __future__ import annotations

from typing import Any

import pytest

from reasongenrm.config.scalar import ScalarConfig
from reasongenrm.scalar.scale import ScoreScale
from reasongenrm.train.head import head_card

pytestmark = pytest.mark.unit


def pair_card(*, judges: bool, loss: float | None = 0.25) -> str:
    report = {"trained": 40, "steps": 2, "final_loss": loss, "truncated": 0, "dropped_identical": []}
    validation = {"pairs": 8, "prompts": 4, "accuracy": 0.75, "loss": 0.5}
    values: dict[str, Any] = {"report": report, "validation": validation, "seed": 3, "judges": judges}
    return head_card("scalar_card.md.jinja", ScalarConfig(model="org/base"), **values)


def score_card(loss: float | None) -> str:
    report = {"rows": 40, "steps": 2, "final_loss": loss, "truncated": 0, "validation": None}
    scale = ScoreScale(objective="regression", mean=(0.5,), sd=(0.1,))
    values: dict[str, Any] = {"report": report, "scale": scale, "seed": 3, "huber": 0.0}
    return head_card("score_card.md.jinja", ScalarConfig(model="org/base"), **values)


def test_a_head_for_responses() -> None:
    card = pair_card(judges=False)
    assert "# A scalar reward model\n" in card and "two responses to one prompt, the better" in card
    assert (
        "40 preference pairs, 2 steps,\nseed 3. Last logged loss: 0.25 nats (a guess: 0.6931). Held out: 8 pairs of 4 prompts"
        in card
    )
    assert "tokenizer(prompt, response, " in card and "judge" not in card


def test_a_head_for_judgements_is_not_called_one_for_responses() -> None:
    card = pair_card(judges=True)
    assert "# A judge of judges\n" in card
    assert "a judge's prompt with its two answers, and the reason and verdict" in card
    assert "right and\nwrong judgements of the same prompt" in card and "40 pairs of judgements" in card
    assert "tokenizer(prompt, judgement, " in card
    assert "response" not in card and "scalar reward model" not in card


def test_a_loss_that_was_not_logged_is_left_out() -> None:
    for card in (pair_card(judges=False, loss=None), pair_card(judges=True, loss=None), score_card(None)):
        assert (
            "None" not in card
            and "logged" not in card
            and "seed 3.\n" in card.replace("seed 3. Held", "seed 3.\n")
        )
    assert "seed 3. Last logged loss: 0.5.\n" in score_card(0.5)
