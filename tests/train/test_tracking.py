"""metrics.jsonl of a real training: its values, its lines after a kill, and the trackers of `train.report_to`."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from reasongenrm.config.loading import load_recipe
from reasongenrm.config.recipe import Recipe
from reasongenrm.doctor.geometry import geometry_of
from reasongenrm.errors import ConfigError
from reasongenrm.metrics import flops
from reasongenrm.train import tracking
from reasongenrm.train.process import check_training
from reasongenrm.train.tracking import (
    MEASURED,
    METRICS,
    add_tracker,
    flops_per_token,
    metric_row,
    metrics_callback,
    model_sizes,
    peak_rate,
    set_tracking_environment,
    steady_row,
)
from reasongenrm.train.trainer import run_training
from support.sft_fixtures import MakeTrainer

DEMO = Path(__file__).resolve().parents[2] / "configs" / "demo.yaml"


def rows_of(work: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (work / METRICS).read_text(encoding="utf-8").splitlines()]


def run(trainer: Any) -> list[dict[str, Any]]:
    return run_training(trainer, "train.args", lambda step: None)


class Killed(Exception):
    """Raised inside a training, in place of a kill."""


def kill_at(trainer: Any, step: int) -> None:
    from transformers import TrainerCallback

    class Kill(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == step:
                raise Killed

    trainer.add_callback(Kill())


@pytest.fixture(scope="module")
def calm(
    make_trainer: MakeTrainer, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[dict[str, Any]]]:
    """The work folder and the returned log of an undisturbed training of eight steps."""
    work = tmp_path_factory.mktemp("calm")
    return work, run(make_trainer(work))


def test_a_line_per_logged_step_with_all_values(calm: tuple[Path, list[dict[str, Any]]]) -> None:
    work, log = calm
    rows = rows_of(work)
    assert [row["step"] for row in rows] == list(range(1, 9))
    for row in rows:
        assert next(iter(row)) == "step"
        assert {"loss", "learning_rate", "grad_norm", "entropy", "epoch", *MEASURED} <= row.keys()
        assert row["tokens_per_second"] > 0 and row["peak_memory_gib"] > 0.1
        assert row["mfu"] is None  # on a CPU
        assert "num_tokens" not in row
    assert [steady_row(row) for row in rows] == [metric_row(entry) for entry in log]
    assert not any(set(MEASURED) & entry.keys() for entry in log)


def test_a_kill_after_step_7_with_a_checkpoint_at_6_leaves_no_line_doubled_or_lost(
    calm: tuple[Path, list[dict[str, Any]]], make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    trainer = make_trainer(tmp_path)
    kill_at(trainer, 8)
    with pytest.raises(Killed):
        run(trainer)
    before = rows_of(tmp_path)
    assert [row["step"] for row in before] == list(range(1, 9))
    with (tmp_path / METRICS).open("a", encoding="utf-8") as file:
        file.write('{"step": 9, "lo')  # a torn line
    log = run(make_trainer(tmp_path))
    rows = rows_of(tmp_path)
    assert [row["step"] for row in rows] == list(range(1, 9))
    assert rows[:6] == before[:6], "lines up to the checkpoint stay as they were"
    assert rows[6:] != before[6:], "the others are written anew"
    assert log == calm[1] and list(map(steady_row, rows)) == list(map(steady_row, rows_of(calm[0])))
    assert all(0 < row["tokens_per_second"] < 1e7 for row in rows)


def test_a_row_is_valid_json_whatever_the_loss() -> None:
    row = metric_row(
        {"loss": float("nan"), "grad_norm": float("inf"), "reward": -0.5, "num_tokens": 7, "step": 3}
    )
    assert row == {"step": 3, "loss": None, "grad_norm": None, "reward": -0.5}


def test_an_alarm_is_in_its_row_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from torch.nn import Linear

    callback = metrics_callback(tmp_path / METRICS, Linear(2, 2), 1)
    state = SimpleNamespace(
        global_step=0, is_world_process_zero=True, log_history=[], num_input_tokens_seen=0, max_steps=20
    )
    callback.on_train_begin(None, state, None)
    for step in range(1, 31):
        logs = {"loss": 0.0, "reward": 0.1 * step, "consistency": 1 - 0.02 * step, "num_tokens": 50 * step}
        state.global_step = step
        state.log_history.append({**logs, "step": step})
        callback.on_log(None, state, None, logs)
    rows = rows_of(tmp_path)
    assert [row["step"] for row in rows if "alarm" in row] == [10]
    text = "reward rises while both-order consistency falls from step 1"
    assert rows[9]["alarm"] == text and capsys.readouterr().out.count(f"alarm: {text}") == 1
    # A training that resumes from here does not raise it again.
    resumed = metrics_callback(tmp_path / "resumed.jsonl", Linear(2, 2), 1)
    resumed.on_train_begin(None, state, None)
    assert (tmp_path / "resumed.jsonl").read_bytes() == (tmp_path / METRICS).read_bytes()


def test_tokens_count_from_where_the_trainer_begins_to_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 10.0, 20.0])
    monkeypatch.setattr(tracking, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    callback = metrics_callback(tmp_path / METRICS, torch.nn.Linear(2, 2), 1)
    # TRL's GRPO keeps its count in the state, and so in checkpoints.
    state = SimpleNamespace(is_world_process_zero=True, log_history=[], num_input_tokens_seen=5000)
    callback.on_train_begin(None, state, None)
    for step, total in ((6, 5100), (7, 5300)):
        logs = {"loss": 0.0, "num_tokens": total}
        state.log_history.append({**logs, "step": step})
        callback.on_log(None, state, None, logs)
    assert [row["tokens_per_second"] for row in rows_of(tmp_path)] == [10.0, 20.0]


def test_mfu_counts_the_operations_that_doctor_counts(
    calm: tuple[Path, list[dict[str, Any]]], make_trainer: MakeTrainer, tiny_model: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from transformers import AutoConfig, AutoModelForCausalLM

    geometry = geometry_of(AutoConfig.from_pretrained(tiny_model), "tiny")
    expected = flops.training_flops(geometry, 1, 0, checkpointing=False)
    trainer = make_trainer(tmp_path, max_steps=2, save_strategy="no")
    sizes = model_sizes(trainer.model)
    assert sizes.trained == 0 and flops_per_token(sizes) == pytest.approx(
        expected, rel=0.02
    )  # norms and biases
    whole = model_sizes(AutoModelForCausalLM.from_pretrained(tiny_model))
    assert whole.trained == whole.multiplied == sizes.multiplied
    assert flops_per_token(whole) == 6 * whole.multiplied  # Kaplan et al. 2020
    # On a GPU with a known data sheet; this one is as slow as the tiny model.
    monkeypatch.setattr(tracking, "peak_rate", lambda processes: 1e12 * processes)
    run(trainer)
    for row in rows_of(tmp_path):
        assert row["mfu"] == pytest.approx(row["tokens_per_second"] * flops_per_token(sizes) / 1e12, abs=1e-4)
        assert row["mfu"] > 0


@pytest.mark.parametrize(
    ("name", "rate"),
    [("NVIDIA H100 80GB HBM3", 4 * 989e12), ("NVIDIA A100-SXM4-80GB", 4 * 312e12), ("GeForce 210", None)],
)
def test_the_rate_of_a_gpu_is_that_of_its_data_sheet(
    name: str, rate: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: name)
    assert peak_rate(4) == rate


def recipe(report_to: str, name: str = "demo") -> Recipe:
    return load_recipe(DEMO, [f"train.report_to={report_to}", f"name={name}"])


def test_report_to_is_none_by_default_and_no_other_name_is_accepted() -> None:
    assert load_recipe(DEMO, []).train.report_to == "none"
    with pytest.raises(ConfigError, match=r"train\.report_to"):
        recipe("mlflow")


@pytest.mark.parametrize("package", ["tensorboard", "trackio", "wandb"])
def test_a_missing_package_is_an_error_of_stages_1_and_2(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_training(recipe("none"))
    monkeypatch.setattr(tracking, "find_spec", lambda name: None if name == package else find_spec(name))
    with pytest.raises(ConfigError) as caught:
        check_training(recipe(package))
    assert str(caught.value).startswith(f"train.report_to: the package {package} is not installed")
    assert "reasongenrm[tracking]" in caught.value.hint


def test_report_to_is_not_a_key_of_the_trainer() -> None:
    with pytest.raises(ConfigError, match=r"train.args.report_to: .*set train.report_to"):
        check_training(load_recipe(DEMO, ["train.args.report_to=wandb"]))


def test_trackers_stay_in_the_run_folder_and_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    environment = {"HOME": str(tmp_path)}
    monkeypatch.setattr(os, "environ", environment)
    for name in ("wandb", "trackio"):
        of_name = Recipe.model_validate(recipe(name).model_dump())
        set_tracking_environment(of_name, of_name.trained["reasongenrm"])
    folder = tmp_path / "runs" / "demo" / "tracking"
    assert environment["TRACKIO_DIR"] == str(folder / "trackio")
    assert environment["WANDB_MODE"] == "offline" and environment["WANDB_DIR"] == str(folder / "wandb")
    assert environment["WANDB_PROJECT"] == "demo" and "WANDB_API_KEY" not in environment
    assert (folder / "wandb").is_dir()
    environment["WANDB_MODE"] = "online"
    set_tracking_environment(of_name, of_name.trained["reasongenrm"])
    assert environment["WANDB_MODE"] == "online"


def test_tensorboard_gets_the_rows(
    make_trainer: MakeTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    settings = recipe("tensorboard", "tracked")
    monkeypatch.chdir(tmp_path)
    step = settings.trained["reasongenrm"]
    trainer = make_trainer(tmp_path)
    add_tracker(trainer, settings, step)
    kill_at(trainer, 8)
    with pytest.raises(Killed):
        run(trainer)
    trainer = make_trainer(tmp_path)
    add_tracker(trainer, settings, step)
    run(trainer)
    events = accumulator.EventAccumulator(str(tmp_path / "runs/tracked/tracking/tensorboard/reasongenrm"))
    events.Reload()
    for key in ("loss", "grad_norm", "tokens_per_second", "peak_memory_gib"):
        shown = {event.step: event.value for event in events.Scalars(f"train/{key}")}
        assert shown == {row["step"]: pytest.approx(row[key], rel=1e-6) for row in rows_of(tmp_path)}, key
        assert len(events.Scalars(f"train/{key}")) == 8
