"""Charts: the same values give the same bytes."""

from __future__ import annotations

from pathlib import Path

import pytest

from reasongenrm.report.charts import loss_curve

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
