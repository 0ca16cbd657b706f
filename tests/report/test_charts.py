"""Charts: the same values give the same bytes."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest

from reasongenrm.report.charts import CURVES, loss_curve, training_curves

pytestmark = pytest.mark.unit


def test_loss_curve(tmp_path: Path) -> None:
    log = [
        {"step": 5, "loss": 0.7},
        {"step": 10, "loss": 0.5},
        {"step": 10, "eval_loss": 0.6},
        {"train_loss": 0.6},
    ]
    for name in ("a.png", "sub/b.png"):
        loss_curve(log, tmp_path / name, "a $title_ of 5$ dollars")
    first, second = (tmp_path / "a.png").read_bytes(), (tmp_path / "sub" / "b.png").read_bytes()
    assert first == second and first.startswith(b"\x89PNG")
    loss_curve([], tmp_path / "none.png", "nothing")
    assert (tmp_path / "none.png").exists()


def grpo_rows(**more: Any) -> list[dict[str, Any]]:
    """Rows as a GRPO step logs them, with two terms of the reward."""
    row = {
        "reward": 0.5,
        "rewards/verdict/mean": 0.4,
        "rewards/verdict/std": 0.1,
        "rewards/format $x$/mean": 0.1,
    }
    row |= {"readable": 0.9, "consistency": 0.8, "completions/mean_length": 40.0, "entropy": 1.2, "loss": 0.0}
    return [{"step": step, **row, **more} for step in range(1, 6)]


def drawn(rows: list[dict[str, Any]]) -> dict[str, list[str]]:
    """The panels that are drawn and the labels of their lines."""
    from unittest.mock import patch

    from matplotlib.axes import Axes

    titles: dict[str, list[str]] = {}
    with patch("reasongenrm.report.charts.encode_png", side_effect=lambda drawing, **_: drawing):
        drawing: Any = training_curves(rows, "a title")
    for axes in drawing.axes:
        assert isinstance(axes, Axes)
        if axes.get_visible():
            titles[axes.get_title()] = [str(line.get_label()) for line in axes.lines]
    return titles


def test_curves_of_a_training_have_a_panel_per_quantity_that_was_logged() -> None:
    panels = drawn(grpo_rows())
    assert list(panels) == [
        "loss", "reward", "share of verdicts", "both orders agree", "completion length (tokens)", "entropy (nats)"
    ]  # fmt: skip
    assert panels["reward"] == ["all terms, weighted", "verdict", "format $x$"]
    rows = grpo_rows()
    rows[3]["alarm"] = "reward rises"
    assert all(labels[-1] == "alarm" for labels in drawn(rows).values())
    assert list(drawn([{"step": 1, "loss": None, "grad_norm": 1.0}])) == ["gradient norm"]
    assert list(drawn([])) == ["nothing was logged"]


def test_curves_are_the_same_bytes_and_grow_with_the_panels() -> None:
    png = training_curves(grpo_rows(), "a $title_ of 5$ dollars")
    assert png == training_curves(grpo_rows(), "a $title_ of 5$ dollars") and png.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", png[16:24])
    assert (width, height) == (700, 60 + 3 * 300)
    assert len({title for title, _ in CURVES}) == len(CURVES)
