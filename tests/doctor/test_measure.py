"""A measurement runs every part in a process of its own; a part that fails is a row with its reason."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest

from reasongenrm.config.engines import ModelConfig
from reasongenrm.config.loading import load_recipe
from reasongenrm.doctor import measure as module
from reasongenrm.doctor.geometry import read_geometry
from reasongenrm.doctor.job import TINY, Job, Sizes, encoder_of, judge_prompts, reasons_of, record_lengths
from reasongenrm.doctor.machine import Gpu, Machine
from reasongenrm.doctor.measure import (
    add_rates,
    check_space,
    last_error,
    machine_name,
    result_table,
    run_limited,
    run_part,
    training_recipe,
    unfit,
)
from reasongenrm.errors import ConfigError
from reasongenrm.processes import has_ended
from reasongenrm.train.launch import Launch
from support.scripts import Fork, stage_server

SLEEPER = "setsid sleep 60 & echo $!; sleep 60"
MEASUREMENT = """
from pathlib import Path
from reasongenrm.config.loading import load_recipe
from reasongenrm.doctor import measure
from support.forked_programs import start_spawner
start_spawner()
measure.LIMIT = 3000.0  # other tests may use the same cores
measure.PART_LIMIT = dict.fromkeys(measure.PART_LIMIT, 1500.0)
measure.LAUNCHES = Path({launches!r})
measure.measure(load_recipe("configs/qwen2.5-7b.yaml"), Path({out!r}))
"""
H200 = Machine((Gpu("NVIDIA H200", 140.4, "580.65.06", 9.0),), {}, "13.0")
NO_GPU = Machine((), {}, "")


@pytest.mark.unit
def test_a_part_that_takes_too_long_is_stopped_with_its_children(tmp_path: Path) -> None:
    log = tmp_path / "log"
    code, problem = run_limited(["sh", "-c", SLEEPER], dict(os.environ), log, 2.0, time.monotonic())
    assert (code, problem) == (1, "stopped after 2 s")
    child = int(log.read_text())
    deadline = time.monotonic() + 60
    while not has_ended(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert has_ended(child)


@pytest.mark.unit
def test_a_part_after_the_limit_is_not_measured(tmp_path: Path) -> None:
    job = Job(tmp_path, True, TINY)
    run_part(job, "scoring", [], time.monotonic() - module.LIMIT)
    reason = f"not measured: the limit of {module.LIMIT:g} s is reached"
    assert job.rows() == [{"part": "scoring", "way": "", "failed": reason}]


@pytest.mark.unit
def test_a_part_that_fails_is_a_row_with_its_reason(tmp_path: Path) -> None:
    job = Job(tmp_path, True, TINY)
    job.save()
    (tmp_path / "job.json").write_text('{"tiny": true}', encoding="utf-8")
    run_part(job, "matrix", [], time.monotonic())
    assert job.rows() == [{"part": "matrix", "way": "", "failed": "KeyError: 'sizes'"}]
    assert "KeyError" in result_table(job.rows(), tiny=True).markdown()


@pytest.mark.unit
def test_the_last_error_of_a_log_is_its_reason() -> None:
    log = ["Traceback (most recent call last):", "ValueError: first", "", "torch.OutOfMemoryError: CUDA out of memory. Tried", "[rank0] bye"]  # fmt: skip
    assert last_error(log) == "torch.OutOfMemoryError: CUDA out of memory. Tried"
    assert last_error(["some", "text", ""]) == "text" and last_error([]) == ""


@pytest.mark.unit
def test_launch_files_that_do_not_fit_say_why() -> None:
    def reason(file: str, machine: Machine, **facts: object) -> str:
        launch = Launch(**{"processes": 1, "machines": 1, "rank": 0, "zero": True, "gpus": True} | facts)  # type: ignore[arg-type]
        return unfit(launch, machine, Path(f"configs/accelerate/{file}.yaml"))

    assert reason("zero2", H200) == "ZeRO has nothing to split on one GPU"
    assert reason("zero3-offload", H200) == "" and reason("single-gpu", H200, zero=False) == ""
    assert reason("zero2", H200, processes=8) == ""
    assert (
        reason("cpu-2proc", H200, gpus=False) == "for CPUs" and reason("cpu-2proc", NO_GPU, gpus=False) == ""
    )
    assert reason("multi-node", H200, machines=2) == "for several machines"
    assert reason("zero2", NO_GPU) == "no GPU is visible"


@pytest.mark.unit
def test_rates_follow_from_what_was_measured() -> None:
    geometry = read_geometry(ModelConfig(path="Qwen/Qwen2.5-7B"))
    training = {
        "part": "training",
        "seconds_per_step": 2.0,
        "useful_tokens_per_step": 32768.0,
        "length": 4096.0,
    }
    training |= {"processes": 1, "gpus": True, "padding": 0.0, "peak_gib": 1.0, "attention": "a", "loss": 1.0}
    rows = [{"part": "matrix rate", "tflops": 700.0}, training, {"part": "judging", "judgements_per_s": 33.2}]
    add_rates(rows, geometry, tiny=False)
    assert rows[1]["tokens_per_s"] == 16384.0
    assert rows[1]["mfu"] == pytest.approx(16384 * 4 * 7.07e9 / 700e12, rel=0.12)
    assert rows[2]["rewardbench_minutes"] == pytest.approx(3.0, abs=0.01)
    eight = [rows[0], training | {"processes": 8}]
    add_rates(eight, geometry, tiny=False)
    assert eight[1]["mfu"] == pytest.approx(training["mfu"] / 8, abs=1e-4)
    tiny = [{"part": "judging", "judgements_per_s": 33.2}]
    add_rates(tiny, geometry, tiny=True)
    assert "rewardbench_minutes" not in tiny[0]


@pytest.mark.unit
def test_marks_are_shown_beside_a_real_model_alone() -> None:
    notes = "".join(result_table([], tiny=False).notes)
    assert "14,110 tokens/s on one H100" in notes and "3 minutes on one H200" in notes
    assert "say nothing about the recipe" in "".join(result_table([], tiny=True).notes)


@pytest.mark.unit
def test_names_and_splits() -> None:
    geometry = read_geometry(ModelConfig(path="Qwen/Qwen2.5-7B"))
    assert [geometry.splits(gpus)[-1] for gpus in (1, 2, 3, 4, 8)] == [1, 2, 2, 4, 4]
    assert machine_name(H200) == "1x-nvidia-h200" and machine_name(NO_GPU).startswith("cpu-")


@pytest.mark.unit
def test_random_weights_need_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "free_gib", lambda folder: 3.0)
    with pytest.raises(
        ConfigError, match=r"3\.0 GiB free, and random weights of Qwen/Qwen2\.5-7B-Instruct take 15\.6"
    ):
        check_space(load_recipe("configs/qwen2.5-7b.yaml"), tmp_path / "job")


@pytest.mark.unit
def test_inputs_have_the_sizes_that_are_asked_for() -> None:
    recipe = load_recipe("configs/demo.yaml")
    prompts = judge_prompts(recipe, 5, 20)
    assert len({prompt.id for prompt in prompts}) == 5
    encoder = encoder_of(recipe)
    assert all(len(encoder.encode(prompt.messages, generation=True)) > 40 for prompt in prompts)
    reasons = reasons_of(prompts[0], 3, 7)
    assert [len(reason.text.split()) for reason in reasons] == [7] * 3 and len({r.id for r in reasons}) == 3
    lengths = sorted(record_lengths(Sizes(), 2000))
    assert 900 < lengths[1000] < 1200 and lengths[-1] == 4096 and lengths[0] >= 32


@pytest.mark.unit
@pytest.mark.parametrize("change", ["per_device_train_batch_size=0", "nothing=1"])
def test_a_wrong_key_of_the_training_is_named_before_anything_is_measured(
    change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "read_machine", lambda: pytest.fail("measured"))
    with pytest.raises(ConfigError, match=rf"^train\.args\.{change.partition('=')[0]}: "):
        module.measure(load_recipe("configs/demo.yaml", [f"train.args.{change}"]))


@pytest.mark.unit
def test_a_timed_training_takes_a_fixed_number_of_steps(tmp_path: Path) -> None:
    recipe = load_recipe("configs/qwen2.5-7b.yaml")
    launch = Launch(processes=4, machines=1, rank=0, zero=True, gpus=True)
    raw = training_recipe(Job(tmp_path, False, Sizes()), recipe, launch, True)
    train = raw["train"]
    assert (train["batch"], train["packing"], train["tokens"]) == (2 * 4 * 4, True, None)
    assert train["args"]["max_steps"] == 6 and train["args"]["gradient_checkpointing"] is True
    assert "num_train_epochs" not in train["args"]


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(3600)  # DeepSpeed compiles an extension: a minute, or several beside other tests
def test_everything_is_measured_on_a_cpu(tmp_path: Path) -> None:
    shutil.copy("configs/accelerate/cpu-2proc-zero3.yaml", tmp_path)  # one launch file is enough
    out = tmp_path / "results" / "cpu.json"
    process = Fork(stage_server(), code=MEASUREMENT.format(launches=str(tmp_path), out=str(out)))
    assert process.wait(3000) == 0, process.communicate()
    saved = json.loads(out.read_text(encoding="utf-8"))
    rows = saved["rows"]
    assert saved["tiny"] and saved["versions"]["torch"]
    failed = [row for row in rows if "failed" in row]
    assert [row for row in failed if "not measured" not in row["failed"]] == []
    done = {(row["part"], row["way"]): row for row in rows if "failed" not in row}
    assert {part for part, _ in done} == {"matrix rate", "model", "judging", "adapter", "scoring", "sampling", "training"}  # fmt: skip
    adapter = done["adapter", "vLLM against merged"]
    assert adapter["largest_dp"] < 1e-4 < adapter["spread_of_p"]  # float32
    judging = done["judging", "twice, reshuffled"]
    assert judging["judgements"] == judging["read"] == 40 and judging["changed"] == 0
    assert judging["largest_dp"] < 1e-4
    assert done["scoring", "shared"]["tokens_per_s"] > 0
    assert {way for part, way in done if part == "sampling"} == {
        "log-probabilities off",
        "log-probabilities on",
    }
    packed, padded = (done["training", f"cpu-2proc-zero3, {way}"] for way in ("packed", "padded"))
    assert packed["steps"] == padded["steps"] == 5 and packed["processes"] == 2
    assert packed["padding"] == 0 < padded["padding"]
    assert packed["loss"] == pytest.approx(padded["loss"], abs=0.01)  # the recipe has dropout
    assert packed["mfu"] > 0 and packed["tokens_per_s"] > 0 and packed["peak_gib"] > 0
