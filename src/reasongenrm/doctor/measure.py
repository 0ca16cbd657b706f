"""`doctor --measure`: run every part in a process of its own, write a JSON file, and print a table."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

import psutil
import yaml

from reasongenrm.config.recipe import Recipe
from reasongenrm.console import say, show
from reasongenrm.doctor.estimate import GIB, zero_stage
from reasongenrm.doctor.geometry import DTYPE_BYTES, Geometry, read_geometry
from reasongenrm.doctor.job import TINY, TRAINING_STEPS, Job, Sizes, measured_pass
from reasongenrm.doctor.machine import Machine, free_gib, read_machine
from reasongenrm.errors import ConfigError, ReasonGenRMError
from reasongenrm.metrics.flops import training_flops
from reasongenrm.processes import die_with_parent
from reasongenrm.report.tables import MISSING, TextTable
from reasongenrm.run import build_manifest
from reasongenrm.store import write_json
from reasongenrm.train.batches import PER_DEVICE
from reasongenrm.train.builds import clear_build_locks
from reasongenrm.train.launch import (
    Launch,
    launch_command,
    launch_environment,
    launch_failure,
    read_launch,
)

LIMIT = 600.0
"""Seconds for all parts together; a part that would begin later is not measured."""

PART_LIMIT = {
    "matrix": 60.0,
    "build": 180.0,
    "sampling": 200.0,
    "judging": 240.0,
    "scoring": 120.0,
    "training": 120.0,
}
"""Seconds for each part."""

OFFLINE = {"HF_HUB_OFFLINE": "1"}

LAUNCHES = Path("configs/accelerate")

REWARDBENCH_JUDGEMENTS = 2 * 2985

MARKS = {
    "training": "LoRA SFT of a 7B at 4,096 tokens: 14,110 tokens/s on one H100 (published for NeMo Automodel)",
    "judging": "RewardBench, 2,985 rows in both orders with reasons of 300 tokens: 3 minutes on one H200",
}
"""What to reach, by part."""


def measure(recipe: Recipe, out: Path | None = None, *, tiny: bool = False) -> list[dict[str, Any]]:
    """Measure a recipe's geometry on this machine, with random weights; write JSON, print a table, and return its rows.

    Args:
        recipe: the resolved recipe.
        out: the JSON file; by default `bench/results/<machine>-<date>.json`.
        tiny: use a tiny model also on a GPU; without a GPU it is used in any case.

    Raises:
        ConfigError: a key of the training is unknown, or has a value that cannot be used.
        EngineError: the sizes of the model are unknown.
    """
    from reasongenrm.train.process import check_training

    check_training(recipe)  # an error here, and not after minutes
    machine = read_machine()
    if not machine.usable and not tiny:
        say(
            "no GPU is visible: a tiny model is measured, which shows that every part runs, and nothing about the recipe"
        )
        tiny = True
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="reasongenrm-doctor-") as folder:
        job = Job(Path(folder), tiny, TINY if tiny else Sizes())
        if not tiny:
            check_space(recipe, job.folder)
        job.save()
        raw = recipe.model_dump(mode="json")
        (job.folder / "source.yaml").write_text(yaml.safe_dump(raw, sort_keys=False), encoding="utf-8")
        for part, *words in ["matrix"], ["build"], ["judging"], ["scoring"], ["sampling", "1"]:
            run_part(job, part, words, began)
        rates: Geometry | None = None
        if (job.folder / "recipe.yaml").exists():
            rates = read_geometry(job.recipe.model)
            for launch, packing in product(sorted(LAUNCHES.glob("*.yaml")), (True, False)):
                time_training(job, machine, launch, packing, began)
            if (split := rates.splits(max(1, len(machine.usable)))[-1]) > 1:
                run_part(job, "sampling", [str(split)], began)
        rows = job.rows()
    if rates is not None:
        add_rates(rows, rates, tiny=tiny)
    path = out or Path("bench/results") / f"{machine_name(machine)}-{datetime.now(UTC):%Y-%m-%d}.json"
    seconds = round(time.monotonic() - began, 1)
    manifest = build_manifest(recipe, {})
    write_json(
        path,
        {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "tiny": tiny,
            "model": recipe.model.path,
            "sizes": asdict(job.sizes),
            "seconds": seconds,
            "marks": MARKS,
            "rows": rows,
            "gpus": [asdict(gpu) for gpu in machine.gpus],
        }
        | {key: manifest[key] for key in ("versions", "git", "python", "machine", "recipe")},
    )
    show(result_table(rows, tiny=tiny).markdown().rstrip())
    say(f"{path}: {len(rows)} rows in {seconds} s")
    return rows


def machine_name(machine: Machine) -> str:
    """Return a name for files, such as `8x-nvidia-h200` or `cpu-x86-64`."""
    name = (
        f"{len(machine.usable)}x {machine.usable[0].name}" if machine.usable else f"cpu {platform.machine()}"
    )
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def check_space(recipe: Recipe, folder: Path) -> None:
    """Check that the temporary disk has room for random weights.

    Raises:
        ConfigError: it has not.
        EngineError: the sizes of the model are unknown.
    """
    need = 1.1 * read_geometry(recipe.model).parameters * DTYPE_BYTES[recipe.model.dtype] / GIB
    if (free := free_gib(folder)) < need:
        raise ConfigError(
            f"{free:.1f} GiB free, and random weights of {recipe.model.path} take {need:.1f}",
            location=str(folder.parent),
            hint="set TMPDIR to a folder on a larger disk",
        )


def run_part(job: Job, part: str, words: Sequence[str], began: float) -> None:
    """Run one part; a failure is a row with its reason."""
    say(f"measuring: {' '.join([part, *words])}")
    command = [sys.executable, "-m", "reasongenrm.doctor.parts", part, str(job.folder), *words]
    log = job.folder / f"{part}-{'-'.join(words)}.log"
    code, problem = run_limited(command, os.environ | OFFLINE, log, PART_LIMIT[part], began)
    if code != 0:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
        job.add_row(
            part, way=" ".join(words), failed=problem or last_error(lines) or f"ended with code {code}"
        )


def last_error(lines: Sequence[str]) -> str:
    """Return the last line of a log that names an exception."""
    named = [line.strip() for line in lines if re.match(r"[\w.]*(Error|Exception)\b.*:", line.strip())]
    return named[-1][:300] if named else next((line for line in reversed(lines) if line.strip()), "")


def run_limited(
    command: Sequence[str], environment: dict[str, str], log: Path, limit: float, began: float
) -> tuple[int, str]:
    """Run a command with its output in a log; return its exit code, and why it was stopped or not started."""
    left = LIMIT - (time.monotonic() - began)
    if left <= 0:
        return 1, f"not measured: the limit of {LIMIT:g} s is reached"
    with (
        log.open("w", encoding="utf-8") as out,
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=environment,
            preexec_fn=die_with_parent,
        ) as process,
    ):
        try:
            return process.wait(min(limit, left)), ""
        except subprocess.TimeoutExpired:
            end_tree(process)
            return 1, f"stopped after {min(limit, left):.0f} s"
        except BaseException:
            end_tree(process)
            raise


def end_tree(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and all that it started; training processes and compilers have sessions of their own."""
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(process.pid)
        for one in (root, *root.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()


def time_training(job: Job, machine: Machine, launch_file: Path, packing: bool, began: float) -> None:
    """Time some steps of training under one accelerate config, if it fits this machine."""
    way = f"{launch_file.stem}, {'packed' if packing else 'padded'}"
    recipe = job.recipe
    recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update={"launch": str(launch_file), "launch_args": ""})})  # fmt: skip
    launch: Launch | None = None
    try:
        launch = read_launch(recipe.train)
        reason = unfit(launch, machine, launch_file)
    except ReasonGenRMError as error:
        reason = error.problem
    if launch is None or reason:
        if packing:  # one row says why, for both
            job.add_row("training", way=launch_file.stem, failed=f"not measured: {reason}")
        return
    say(f"measuring: training, {way}")
    work = job.folder / f"{launch_file.stem}-{packing}"
    work.mkdir()
    (work / "tokens").symlink_to(job.folder / "tokens")
    path = work / "recipe.yaml"
    path.write_text(
        yaml.safe_dump(training_recipe(job, recipe, launch, packing), sort_keys=False), encoding="utf-8"
    )
    log = work / "log"
    judge = next(iter(recipe.judges))
    command = launch_command(recipe.train, launch, "reasongenrm.doctor.training", str(path), judge, str(work))
    clear_build_locks()  # a part that was stopped may have left one
    environment = launch_environment(launch) | OFFLINE
    code, problem = run_limited(command, environment, log, PART_LIMIT["training"], began)
    measured = work / "measured.json"
    if measured.exists():
        job.add_row(
            "training",
            way=way,
            zero=zero_stage(str(launch_file)),
            gpus=launch.gpus,
            **json.loads(measured.read_text(encoding="utf-8")),
        )
        return
    if not problem:
        failure = launch_failure(work, log, 0, code or 1)
        problem = failure.problem if failure else f"ended with code {code}"
    job.add_row("training", way=way, failed=problem[:300])


def unfit(launch: Launch, machine: Machine, file: Path) -> str:
    """Return why a launch file is not for this machine; empty where it is."""
    if launch.machines > 1:
        return "for several machines"
    if not launch.gpus:
        return "for CPUs" if machine.usable else ""
    if not machine.usable:
        return "no GPU is visible"
    if launch.zero and launch.processes == 1 and "offload" not in file.stem:
        return "ZeRO has nothing to split on one GPU"
    return ""


def training_recipe(job: Job, recipe: Recipe, launch: Launch, packing: bool) -> dict[str, Any]:
    """Return the recipe of a timed training: TRAINING_STEPS + 1 steps of `sizes.passes` passes on every process."""
    raw = recipe.model_dump(mode="json")
    together = measured_pass(recipe)
    keys = {"learning_rate", "gradient_checkpointing", "bf16", "optim"}
    raw["train"] |= {
        "batch": together * job.sizes.passes * launch.processes,
        "packing": packing,
        "tokens": None,
        "args": {key: value for key, value in recipe.train.args.items() if key in keys}
        | {
            PER_DEVICE: together,
            "max_steps": TRAINING_STEPS + 1,
            "logging_steps": 1,
            "save_strategy": "no",
        },
    }
    raw["judges"] = {name: judge | {"args": {}} for name, judge in raw["judges"].items()}
    raw["data"]["max_tokens"] = job.sizes.longest_record
    return raw


def add_rates(rows: list[dict[str, Any]], geometry: Geometry, *, tiny: bool) -> None:
    """Add to the rows of training useful tokens/s and MFU, and to that of judging the minutes of RewardBench.

    MFU: the operations of a LoRA step without recomputation and padding, per second, as a share of the measured matrix
    rate of the devices (Chowdhery et al. 2022, arXiv 2204.02311, appendix B).
    """
    rate = next((row["tflops"] * 1e12 for row in rows if "tflops" in row), None)
    for row in rows:
        if "seconds_per_step" in row:
            tokens, seconds = row["useful_tokens_per_step"], row["seconds_per_step"]
            row["tokens_per_s"] = round(tokens / seconds, 1)
            devices = row["processes"] if row["gpus"] else 1  # processes on a CPU share its matrix rate
            flops = training_flops(geometry, tokens, row["length"], checkpointing=False)
            if rate:
                row["mfu"] = round(flops / seconds / (rate * devices), 4)
        if not tiny and "judgements_per_s" in row:
            row["rewardbench_minutes"] = round(REWARDBENCH_JUDGEMENTS / row["judgements_per_s"] / 60, 2)


def result_table(rows: Sequence[dict[str, Any]], *, tiny: bool) -> TextTable:
    """Return what was measured as a table, with the marks as notes."""
    cells = []
    for row in rows:
        rate = f"{row['tokens_per_s']:,.0f}" if "tokens_per_s" in row else MISSING
        cells.append((row["part"], str(row.get("way", "")), rate, details(row)))
    notes = (
        ["a tiny model: these numbers say nothing about the recipe"]
        if tiny
        else [f"mark: {mark}" for mark in MARKS.values()]
    )
    return TextTable(("part", "way", "tokens/s", "details"), tuple(cells), text_columns=4, notes=tuple(notes))


def details(row: dict[str, Any]) -> str:
    """Return the other numbers of a row in words."""
    if "failed" in row:
        return str(row["failed"])
    if "tflops" in row:
        return f"{row['tflops']} TFLOP/s"
    if row["part"] == "training":
        mfu = f", MFU {100 * row['mfu']:.1f} %" if "mfu" in row else ""
        return f"padding {100 * row['padding']:.0f} %{mfu}, peak {row['peak_gib']:.2f} GiB, {row['processes']} processes, {row['attention']}, loss {row['loss']:.4f}"
    if row["part"] == "judging":
        minutes = f", RewardBench in {row['rewardbench_minutes']} min" if "rewardbench_minutes" in row else ""
        moved = MISSING if row["largest_dp"] is None else f"{row['largest_dp']:.1e}"
        return f"{row['changed']} of {row['judgements']} verdicts change, max |dP(A)| {moved}, {row['judgements_per_s']} judgements/s{minutes}"
    if row["part"] == "adapter":
        return f"max |dP(A)| {row['largest_dp']:.1e} over {row['prompts']} prompts; P(A) itself spreads over {row['spread_of_p']}"
    names = ("tokens", "prompt_tokens", "reasons_per_s", "seconds", "tokenizer")
    return ", ".join(f"{name} {row[name]}" for name in names if name in row)
