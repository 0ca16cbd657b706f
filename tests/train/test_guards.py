"""Guards of a real training: it stops when it fails, and names the last checkpoint from before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from reasongenrm.errors import EngineError
from reasongenrm.train.guards import WHOLE, last_checkpoint
from reasongenrm.train.tracking import METRICS
from reasongenrm.train.trainer import run_training
from support.sft_fixtures import MakeTrainer


def spoil(trainer: Any, step: int, learning_rate: float | None = None, gradient: float = 1.0) -> None:
    """From a step on, train at another learning rate, or multiply the gradient by a number."""
    from transformers import TrainerCallback

    class Spoil(TrainerCallback):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
            if state.global_step + 1 >= step:
                for group in parts["optimizer"].param_groups:
                    group["lr"] = learning_rate if learning_rate is not None else group["lr"]

        def on_substep_end(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
            if state.global_step + 1 >= step:
                for weights in parts["model"].parameters():
                    if weights.grad is not None:
                        weights.grad *= gradient

    trainer.add_callback(Spoil())


def stopped(trainer: Any) -> EngineError:
    with pytest.raises(EngineError) as caught:
        run_training(trainer, "train.args", lambda step: None)
    assert caught.value.location == "train.args.learning_rate"
    return caught.value


def rows_of(work: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (work / METRICS).read_text(encoding="utf-8").splitlines()]


def test_a_loss_that_diverges_stops_with_the_checkpoint_from_before(
    make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    """From step 40 on the learning rate is 100 times as high."""

    def diverging() -> Any:
        trainer = make_trainer(tmp_path, whole=True, max_steps=60, save_steps=6)
        spoil(trainer, 40, learning_rate=1.0)
        return trainer

    error = stopped(diverging())
    assert [row["step"] for row in rows_of(tmp_path)] == list(range(1, 46)), "it stops at the fifth high loss"
    assert "the loss diverges from step 41 on: " in str(error) and "lower it: 0.01 is too high" in error.hint
    good = tmp_path / "checkpoints" / "checkpoint-36"
    assert (good / WHOLE).exists() and f"the last good checkpoint is {good}" in error.hint
    # The same command resumes from the checkpoint at 42, whose history has high losses already, and stops again.
    assert (tmp_path / "checkpoints" / "checkpoint-42" / WHOLE).exists()
    assert str(stopped(diverging())) == str(error)


@pytest.mark.parametrize(
    ("gradient", "accumulation", "problem"),
    [(float("nan"), 2, "the gradient's norm is nan at step 5"), (float("inf"), 2, "the gradient's norm is")],
)
def test_a_gradient_that_is_not_finite_stops_before_the_checkpoint(
    gradient: float, accumulation: int, problem: str, make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    options = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": accumulation, "save_steps": 5}
    trainer = make_trainer(tmp_path, max_steps=8, **options)
    spoil(trainer, 5, gradient=gradient)
    error = stopped(trainer)
    assert problem in str(error) and "there is no good checkpoint" in error.hint
    assert not list((tmp_path / "checkpoints").glob("checkpoint-*"))
    assert [row["step"] for row in rows_of(tmp_path)] == [1, 2, 3, 4, 5] and rows_of(tmp_path)[-1][
        "grad_norm"
    ] is None


def test_a_loss_that_is_not_finite_stops(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, max_steps=8)
    spoil(trainer, 5, learning_rate=float("nan"))
    error = stopped(trainer)
    assert "the loss is nan at step 6" in str(error)
    assert f"the last good checkpoint is {tmp_path / 'checkpoints' / 'checkpoint-3'}" in error.hint
    assert rows_of(tmp_path)[-1]["loss"] is None


def test_the_last_whole_checkpoint(tmp_path: Path) -> None:
    for step in (5, 10, 100):
        (tmp_path / f"checkpoint-{step}").mkdir()
    assert last_checkpoint(tmp_path) is None
    for step in (5, 10):
        (tmp_path / f"checkpoint-{step}" / WHOLE).touch()
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")
    assert last_checkpoint(tmp_path, before=10) == str(tmp_path / "checkpoint-5")
    assert last_checkpoint(tmp_path, before=5) is None
