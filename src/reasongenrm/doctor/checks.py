"""Checks of a recipe against the machine that runs it, before any work."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import chain
from typing import Literal, NamedTuple

from reasongenrm.config.recipe import Recipe
from reasongenrm.doctor.chain import (
    assumed_inputs,
    assumed_prompts,
    checkpoint_count,
    pass_tokens,
    step_args,
    step_memory,
)
from reasongenrm.doctor.estimate import (
    GIB,
    SERVING_OVERHEAD,
    adapter_parameters,
    reason_tokens,
    serving_memory,
    zero_stage,
)
from reasongenrm.doctor.geometry import DTYPE_BYTES, Geometry, read_geometry
from reasongenrm.doctor.machine import (
    DRIVERS,
    VLLM_RANGE,
    Card,
    Gpu,
    Machine,
    card_of,
    free_gib,
    read_machine,
)
from reasongenrm.errors import ConfigError, ReasonGenRMError
from reasongenrm.train.launch import Launch, read_launch
from reasongenrm.train.process import KINDS, check_training
from reasongenrm.train.trainer import DEFAULTS

BYTES_PER_TOKEN = 12
"""Of a stored reason or completion: its text, and of a completion also the token ids (assumed)."""


class Check(NamedTuple):
    """The result of one check.

    Attributes:
        status: `ok`; `warn`: it may run, but not as intended; `fail`: it cannot run; `skip`: not checked, as another check
            failed.
        location: what was checked; a key of the recipe where one can be changed.
        text: the facts, or the problem.
        hint: what to change.
    """

    status: Literal["ok", "warn", "fail", "skip"]
    location: str
    text: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.status:4} {self.location}: {self.text}" + (f" ({self.hint})" if self.hint else "")


def check_machine(recipe: Recipe, stage: str) -> None:
    """Fail before any work where this machine cannot run a stage; only what costs no time is checked.

    Args:
        recipe: the resolved recipe.
        stage: `prepare`, `train` or `evaluate`.

    Raises:
        ConfigError: the first failed check.
    """
    machine = read_machine()
    checks: Iterator[Check] = driver_checks(machine)
    if _serves(recipe, stage):
        checks = chain(checks, parallel_checks(recipe, machine))
        if machine.usable:
            checks = chain(checks, dtype_checks(recipe, machine), split_checks(recipe, machine))
    if stage == "train":
        checks = chain(checks, process_checks(recipe, machine), quantization_checks(recipe))
    for check in checks:
        if check.status == "fail":
            raise ConfigError(check.text, location=check.location, hint=check.hint)


def _serves(recipe: Recipe, stage: str) -> bool:
    """Whether a stage starts vLLM on this machine."""
    if stage == "evaluate":
        return True
    local = any(teacher.server is None for teacher in recipe.teachers.values())
    return stage == "prepare" and recipe.needs_reasons() and (local or recipe.select.scorer == "vllm")


def all_checks(recipe: Recipe) -> Iterator[Check]:
    """Yield every check of `reasongenrm doctor`, from facts of the machine to what fits."""
    machine = read_machine()
    yield from package_checks(machine)
    yield from gpu_checks(recipe, machine)
    yield from driver_checks(machine)
    yield from parallel_checks(recipe, machine)
    yield from dtype_checks(recipe, machine)
    try:
        geometry = read_geometry(recipe.model)
    except ReasonGenRMError as error:
        yield _failure(error)
        yield from _skipped(error.location, "serving", "training", "disk")
        return
    yield Check("ok", "model.path", geometry.describe())
    yield from head_checks(recipe, geometry)
    yield from serving_checks(recipe, machine, geometry)
    try:
        check_training(recipe)
        adapter_parameters(geometry, recipe.train.lora)
    except ReasonGenRMError as error:
        yield _failure(error)
        yield from _skipped(error.location, "training", "disk")
        return
    for checks in (training_checks(recipe, machine, geometry), disk_checks(recipe, geometry)):
        try:
            yield from checks
        except ReasonGenRMError as error:
            yield _failure(error)


def _failure(error: ReasonGenRMError) -> Check:
    return Check("fail", error.location, error.problem, error.hint)


def _skipped(location: str, *parts: str) -> Iterator[Check]:
    """Yield the parts that are not checked because of a failure."""
    for part in parts:
        yield Check("skip", part, f"not checked, as it depends on {location}")


def package_checks(machine: Machine) -> Iterator[Check]:
    """Yield what is installed, and whether this vLLM is one that the suite knows."""
    versions = [f"{name} {version}" for name, version in machine.packages.items() if "vllm" not in name]
    yield Check("ok", "packages", ", ".join(versions))
    build, version = machine.vllm
    if not build:
        yield Check("fail", "vllm", "not installed", "run `make setup`, or pip install .[gpu]")
        return
    numbers = re.findall(r"\d+", version)[:2]
    first, last = (".".join(map(str, end)) for end in VLLM_RANGE)
    known = len(numbers) == 2 and VLLM_RANGE[0] <= (int(numbers[0]), int(numbers[1])) <= VLLM_RANGE[1]
    hint = "" if known else f"this suite knows {first} to {last}"
    yield Check("ok" if known else "warn", "vllm", f"{version}, {build} build", hint)


def gpu_checks(recipe: Recipe, machine: Machine) -> Iterator[Check]:
    """Yield the visible GPUs, and whether torch and vLLM can use them."""
    if not machine.gpus:
        hint = "check the driver and CUDA_VISIBLE_DEVICES; nvidia-smi lists the GPUs"
        if machine.vllm[0] == "CPU":
            yield Check("ok", "GPUs", "none is visible: torch and vLLM compute on the CPU")
        else:
            yield Check("warn", "GPUs", "none is visible, but vLLM is the GPU build", hint)
        return
    for number, gpu in enumerate(machine.gpus):
        card = card_of(gpu)
        rates = f", data sheet: {card.tflops:g} TFLOP/s, {card.bandwidth:g} TB/s" if card else ""
        yield Check(
            "ok", f"GPU {number}", f"{gpu.name}, {gpu.memory_gib:.1f} GiB, driver {gpu.driver}{rates}"
        )
    builds = [name for name, cpu in (("torch", not machine.torch_cuda), ("vLLM", machine.vllm[0] == "CPU")) if cpu]  # fmt: skip
    if builds:
        text = f"{' and '.join(builds)} cannot use the GPUs: CPU build"
        yield Check("warn", "packages", text, "run `make setup PINS=gpu-py312`")


def driver_checks(machine: Machine) -> Iterator[Check]:
    """Yield whether the driver runs programs of torch's CUDA version."""
    needed = DRIVERS.get(int(machine.torch_cuda.partition(".")[0] or 0))
    for gpu in machine.usable[:1]:
        version = gpu.driver.partition(".")[0]
        if needed and version.isdecimal() and int(version) < needed:
            text = f"{gpu.driver} is too old for CUDA {machine.torch_cuda}, with which torch was built"
            hint = f"install driver {needed} or newer, or a torch and vLLM for an older CUDA"
            yield Check("fail", "driver", text, hint)
        else:
            yield Check("ok", "driver", f"{gpu.driver} runs CUDA {machine.torch_cuda}")


def parallel_checks(recipe: Recipe, machine: Machine) -> Iterator[Check]:
    """Yield a failure where there are fewer GPUs than `engine.workers` times `engine.tensor_parallel`."""
    split, workers, visible = recipe.engine.tensor_parallel, recipe.engine.workers, len(machine.usable)
    if recipe.engine.ray_address:
        return  # the GPUs of a cluster are counted when it is reached
    if workers != "auto" and split <= visible < workers * split:
        text = f"{workers} workers of {split} GPU{'s' * (split > 1)} each, but {_visible(machine)}"
        yield Check("fail", "engine.workers", text, f"set engine.workers={visible // split}, or auto")
    if split > max(1, visible):
        hint = f"set engine.tensor_parallel={max(1, visible)}"
        yield Check("fail", "engine.tensor_parallel", f"{split}, but {_visible(machine)}", hint)


def _visible(machine: Machine) -> str:
    count = len(machine.usable)
    if count:
        return f"{count} GPU{'s are' if count > 1 else ' is'} visible"
    return "this torch cannot use the GPUs (CPU build)" if machine.gpus else "no GPU is visible"


def dtype_checks(recipe: Recipe, machine: Machine) -> Iterator[Check]:
    """Yield a failure where a GPU cannot compute in bfloat16."""
    for gpu in machine.usable:
        if recipe.model.dtype == "bfloat16" and 0 < gpu.capability < 8:
            text = f"bfloat16 needs compute capability 8.0; {gpu.name} has {gpu.capability}"
            yield Check("fail", "model.dtype", text, "set model.dtype=float16")
            return


def split_checks(recipe: Recipe, machine: Machine) -> Iterator[Check]:
    """Yield the checks of a stage that need the sizes of the model."""
    geometry = read_geometry(recipe.model)
    yield from head_checks(recipe, geometry)
    yield from (check for check in serving_checks(recipe, machine, geometry) if check.status == "fail")


def head_checks(recipe: Recipe, geometry: Geometry) -> Iterator[Check]:
    """Yield whether heads and KV heads can be divided among the GPUs of an engine, as vLLM divides them."""
    split, heads, kv_heads = recipe.engine.tensor_parallel, geometry.heads, geometry.kv_heads
    if split == 1:
        return
    valid = geometry.splits(heads)
    if split in valid:
        yield Check("ok", "engine.tensor_parallel", f"{split} divides {heads} heads and {kv_heads} KV heads")
        return
    kind = f"{heads} heads" if heads % split else f"{kv_heads} KV heads, and is no multiple of them"
    text = f"{split} does not divide the model's {kind}"
    yield Check("fail", "engine.tensor_parallel", text, f"give one of {', '.join(map(str, valid))}")


def serving_checks(recipe: Recipe, machine: Machine, geometry: Geometry) -> Iterator[Check]:
    """Yield whether weights and KV cache of an engine fit into each GPU."""
    for gpu in _distinct(machine.usable):
        engine = recipe.engine
        need = serving_memory(geometry, recipe.model.dtype, engine, as_card(gpu))
        longest = need.tokens / engine.max_model_len
        share = (
            f"{gpu.memory_gib * engine.gpu_memory_utilization:.1f} of {gpu.memory_gib:.1f} GiB of {gpu.name}"
        )
        if need.cache <= 0:
            text = f"its weights take {need.weights:.1f} GiB per GPU and vLLM about {SERVING_OVERHEAD:g} more; it may use {share}"
            hint = "raise engine.tensor_parallel or engine.gpu_memory_utilization, or choose a smaller model"
            yield Check("fail", "model.path", text, hint)
        elif longest < 1:
            text = f"a sequence of {engine.max_model_len} tokens does not fit into {need.cache:.1f} GiB of KV cache ({gpu.name})"
            hint = f"set it to {need.tokens // 64 * 64} or less, or raise engine.tensor_parallel"
            yield Check("fail", "engine.max_model_len", text, hint)
        else:
            yield Check(
                "ok", "serving", f"weights {need.weights:.1f} GiB, KV cache {need.cache:.1f} GiB = {need.tokens:,} tokens, or "
                f"{longest:.0f} sequences of {engine.max_model_len} ({share})",
            )  # fmt: skip


def process_checks(recipe: Recipe, machine: Machine) -> Iterator[Check]:
    """Yield whether there is a GPU for each training process of this machine; nothing where the launch file is wrong,
    which the training itself says."""
    try:
        launch = read_launch(recipe.train)
    except ReasonGenRMError:
        return
    here, visible = -(-launch.processes // launch.machines), len(machine.usable)
    if launch.gpus and visible and here > visible:
        text = f"{here} processes on this machine, but {_visible(machine)}"
        yield Check("fail", "train.launch_args", text, "lower --num_processes, or leave it out")


def quantization_checks(recipe: Recipe) -> Iterator[Check]:
    """Yield a failure where the package for a base of 4 bits is missing."""
    if recipe.train.quantization == "nf4" and find_spec("bitsandbytes") is None:
        text, hint = "the package bitsandbytes is not installed", "pip install bitsandbytes"
        yield Check("fail", "train.quantization", text, hint)


def training_checks(recipe: Recipe, machine: Machine, geometry: Geometry) -> Iterator[Check]:
    """Yield the processes of the training, its attention, and whether it fits into each GPU; its keys are checked before.

    Raises:
        ConfigError: the launch cannot be used, or its processes cannot share a step.
    """
    from reasongenrm.doctor.geometry import read_config
    from reasongenrm.train.model import choose_attention

    launch = read_launch(recipe.train)
    kernel, packed = choose_attention(recipe, read_config(recipe.model).get_text_config())
    steps = recipe.trained.values()
    sizes = {step.model: KINDS[step.kind].batch(recipe, step, launch.processes) for step in steps}
    yield from process_checks(recipe, machine)
    yield from quantization_checks(recipe)
    together, accumulation = next(iter(sizes.values()))
    stage = zero_stage(recipe.train.launch)
    yield Check(
        "ok", "training", f"{launch.processes} processes ({_describe(launch, stage)}), {together} records each, "
        f"{accumulation} passes per step of {recipe.train.batch}; attention {kernel}, {'packed' if packed else 'padded'}",
    )  # fmt: skip
    for gpu in _distinct(machine.usable) if launch.gpus else ():
        yield from _step_checks(recipe, geometry, gpu, launch.processes)


def _step_checks(recipe: Recipe, geometry: Geometry, gpu: Gpu, processes: int) -> Iterator[Check]:
    """Yield whether each training step fits into a GPU, one line for steps of one kind that need the same."""
    lines: dict[tuple[str, float], Check] = {}
    for step in recipe.trained.values():
        need = step_memory(geometry, recipe, step, as_card(gpu), processes)
        parts, tokens = need.training, pass_tokens(recipe, step, processes)[0]
        text = (
            f"{step.kind}: about {need.total:.1f} GiB for {tokens} tokens (base {parts.weights:.1f}, optimizer "
            f"{parts.optimizer:.1f}, activations {parts.activations:.1f}, logits {parts.logits:.1f}"
            f"{f', vLLM {need.sampler:.1f}' if need.sampler else ''}) of {gpu.memory_gib:.1f} GiB of {gpu.name}"
        )
        fits = need.total <= gpu.memory_gib
        keys = {"dpo": "train.dpo.args", "grpo": "train.grpo.args", "round": "train.round.args"}.get(
            step.kind, "train.args"
        )
        hint = (
            f"lower {keys}.per_device_train_batch_size or data.max_tokens, set gradient_checkpointing, "
            "quantization=nf4, or launch=configs/accelerate/zero3.yaml"
        )
        check = Check("ok" if fits else "warn", "training", text, "" if fits else hint)
        lines.setdefault((step.kind, need.total), check)
    yield from lines.values()


def _describe(launch: Launch, stage: int) -> str:
    kind = f"ZeRO-{stage}" if launch.zero else "no sharding"
    return f"{'GPU' if launch.gpus else 'CPU'}, {kind}"


def _distinct(gpus: tuple[Gpu, ...]) -> list[Gpu]:
    """Return one GPU of each name and size; those of unknown size are left out."""
    return list({(gpu.name, gpu.memory_gib): gpu for gpu in gpus if gpu.memory_gib}.values())


def as_card(gpu: Gpu) -> Card:
    """Return the data sheet of a GPU; rates of 0 for an unknown one, of which only the memory is known."""
    return card_of(gpu) or Card(gpu.name, "", gpu.memory_gib, 0, 0)


def disk_checks(recipe: Recipe, geometry: Geometry) -> Iterator[Check]:
    """Yield whether the disk of the run folder has room for what the run writes."""
    need, parts = run_gib(recipe, geometry)
    free = free_gib(recipe.folder)
    text = f"{free:.1f} GiB free at {recipe.folder}; a run writes about {need:.1f} ({parts})"
    status: Literal["ok", "warn", "fail"] = "fail" if free < need else "warn" if free < 2 * need else "ok"
    hint = (
        ""
        if status == "ok"
        else "free some space, or set limit, records or train.merge so that less is written"
    )
    yield Check(status, "disk", text, hint)


def run_gib(recipe: Recipe, geometry: Geometry) -> tuple[float, str]:
    """Return about how many GiB a run writes, and of what."""
    prompts = assumed_prompts(recipe)
    samples = sum(t.samples * reason_tokens(t.max_tokens) for t in recipe.teachers.values())
    # Reasons, then the same with scores; pairs, prompts and records hold each pair's texts about six times.
    reasons = prompts * samples * BYTES_PER_TOKEN * 2 if recipe.needs_reasons() else 0
    data = reasons + prompts * 6 * 4000 + prompts * _vote_tokens(recipe) * BYTES_PER_TOKEN
    kept, unlimited = _kept_checkpoints(recipe)
    model = geometry.parameters * DTYPE_BYTES[recipe.model.dtype]
    kind = "adapters" if recipe.train.parameters == "lora" else "models"
    if kind == "models":
        judges = len(recipe.trained) * model + kept * 16 * geometry.parameters
    else:
        adapter = adapter_parameters(geometry, recipe.train.lora)
        judges = adapter * 4 * (len(recipe.trained) + 4 * kept)  # float32; with Adam's state and a copy
        judges += len(recipe.trained) * model * recipe.train.merge
    parts = {"reasons and records": data, f"checkpoints and {kind}": judges}
    total = sum(parts.values()) / GIB
    text = ", ".join(f"{name} {size / GIB:.1f}" for name, size in parts.items())
    return total, text + (
        f"; checkpoints are not limited: {unlimited} keeps all, about {kept}" if unlimited else ""
    )


def _kept_checkpoints(recipe: Recipe) -> tuple[int, str]:
    """Return how many checkpoints are there at most, and the step whose number is not limited, if any.

    They are those of the step that is trained, its limit and one more; those of a finished step are removed.
    """
    most, unlimited = 0, ""
    inputs = assumed_inputs(recipe)
    for model, step in recipe.trained.items():
        limit = step_args(recipe, step).get("save_total_limit", DEFAULTS["save_total_limit"])
        kept = limit + 1 if limit else checkpoint_count(recipe, step, inputs[model])
        if kept >= most:
            most, unlimited = kept, "" if limit else model
    return most, unlimited


def _vote_tokens(recipe: Recipe) -> int:
    """Return the tokens per judge prompt that the training steps sample and keep in `votes/`."""
    train = recipe.train
    votes = {
        "round": train.round.samples * reason_tokens(train.round.max_tokens),
        "dpo": (train.dpo.refresh or 0) * reason_tokens(train.round.max_tokens),
        "grpo": (train.grpo.refresh or 0) * reason_tokens(train.grpo.max_tokens),
    }
    return sum(votes.get(step.kind, 0) for step in recipe.trained.values())
