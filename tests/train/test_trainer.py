"""Parts of all trainers: where a training is, as its callback reports it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from reasongenrm.console import TrainingStep
from reasongenrm.train.trainer import progress_callback

pytestmark = pytest.mark.unit


def state(step: int, first: bool = True) -> SimpleNamespace:
    return SimpleNamespace(global_step=step, max_steps=100, is_world_process_zero=first)


def test_progress_begins_at_the_resumed_step_and_ends_at_the_last() -> None:
    steps: list[TrainingStep] = []
    callback = progress_callback(steps.append)
    callback.on_train_begin(None, state(90), None)
    for step in range(91, 101):
        callback.on_step_end(None, state(step), None)  # quick steps are not reported one by one
        if step == 95:
            callback.on_log(None, state(step), None, {"loss": 0.5, "tokens_per_second": 1200.0})
            callback.on_log(None, state(step), None, {"eval_loss": 0.75})
    assert [(s.step, s.total, s.loss) for s in steps] == [(90, 100, None), (95, 100, 0.5), (100, 100, 0.5)]
    assert steps[0].tokens_per_second is None and steps[1].tokens_per_second == 1200.0


def test_progress_comes_from_one_process_only() -> None:
    steps: list[TrainingStep] = []
    callback = progress_callback(steps.append)
    callback.on_train_begin(None, state(0, first=False), None)
    callback.on_log(None, state(5, first=False), None, {"loss": 0.5})
    assert steps == []
