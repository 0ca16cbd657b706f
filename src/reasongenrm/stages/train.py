"""Stage 2: the judges (accelerate, DeepSpeed, TRL, peft) and the scalar head."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import yaml

from reasongenrm import errors
from reasongenrm.chat.encoder import judge_encoder, load_tokenizer
from reasongenrm.config.recipe import Recipe
from reasongenrm.config.scalar import ScalarConfig
from reasongenrm.console import TrainingStep, say, training_bar
from reasongenrm.errors import ConfigError, EngineError, first_line
from reasongenrm.processes import cores, die_with_parent
from reasongenrm.records import PreferencePair
from reasongenrm.run import Run, file_hash
from reasongenrm.store import read_jsonl
from reasongenrm.train.merge import merge_adapter
from reasongenrm.train.scalar import train_scalar
from reasongenrm.train.sft import PROGRESS, STAGE_PROCESS, check_training, record_files, tokenise


def settings(recipe: Recipe) -> dict[str, Any]:
    """Return the settings and input files that this stage's files depend on."""
    keys = ("seed", "model", "templates", "judges", "train", "scalar")
    # The processes that compute may change between two starts; the computation may not.
    launch = {"launch", "launch_args"}
    return {
        **recipe.model_dump(mode="json", include=set(keys), exclude={"train": launch}),
        "max_tokens": recipe.data.max_tokens,
        "files": {str(path): file_hash(path) for path in _input_files(recipe)},
    }


def _input_files(recipe: Recipe) -> list[Path]:
    files = {file for name in recipe.judges for file in record_files(recipe, name)}
    return sorted(files | {recipe.folder / "pairs.jsonl"})


def train(recipe: Recipe) -> None:
    """Run stage 2 in the recipe's run folder.

    Raises:
        ConfigError, DataError, EngineError: a setting, an input file or a model that the user has to change.
    """
    check_training(recipe)
    if not os.path.isfile(recipe.train.launch):  # False also for a name that is too long
        raise ConfigError(
            f"file not found: {recipe.train.launch}", location="train.launch", hint="see configs/accelerate/"
        )
    for path in _input_files(recipe):
        if not path.exists():
            raise ConfigError("file not found", location=str(path), hint="run 1_prepare.sh first")
    run = Run(recipe, "train")
    if machine_rank(recipe) > 0:
        _follow(recipe, run)
        return
    with run.claim(settings(recipe)):
        resolved = run.path("recipe.yaml")
        resolved.write_text(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False), encoding="utf-8")
        for name in recipe.judges:
            _train_judge(recipe, run, name, resolved)
        if recipe.scalar is not None:
            pairs = [msgspec.convert(row, PreferencePair) for row in read_jsonl(run.path("pairs.jsonl"))]
            train_head(pairs, recipe.scalar, run, seed=recipe.seed)
        say(f"stage 2 done: {run.folder}")


def machine_rank(recipe: Recipe) -> int:
    """Return the rank of this machine, from `--machine_rank` in `train.launch_args`; 0 on a single machine.

    Raises:
        ConfigError: a quote is not closed, or the rank is not a number.
    """
    try:
        words = shlex.split(recipe.train.launch_args.replace("=", " "))
    except ValueError as error:
        raise ConfigError(
            f"not valid as a command line: {first_line(error)}",
            location="train.launch_args",
            hint="close every quote",
        ) from None
    if "--machine_rank" not in words:
        return 0
    value = dict(pairwise([*words, ""]))["--machine_rank"]
    if not value.isdecimal():
        raise ConfigError(
            f"--machine_rank {value!r} is not a number", location="train.launch_args", hint="count from 0"
        )
    return int(value)


def _follow(recipe: Recipe, run: Run) -> None:
    """Take part in the training that machine 0 leads; machine 0 prepares the run folder, which all machines share."""
    for name in recipe.judges:
        work = run.path("judges", name + ".partial")
        say(f"{name}: waiting for machine 0")
        while not (work / "tokens").exists() and not run.path("judges", name).exists():
            time.sleep(2)
        if not run.path("judges", name).exists():
            log = run.path("logs", f"train-{name}-{machine_rank(recipe)}.log")
            _launch(recipe, name, work, run.path("recipe.yaml"), log)


def _train_judge(recipe: Recipe, run: Run, name: str, resolved: Path) -> None:
    folder = run.path("judges", name)
    if not folder.exists():
        work = run.path("judges", name + ".partial")
        work.mkdir(parents=True, exist_ok=True)
        encoder = judge_encoder(recipe, recipe.judges[name].template, load_tokenizer(recipe.model))
        tokenise(recipe, name, encoder, work)
        log = run.path("logs", f"train-{name}.log")
        say(f"{name}: training with {recipe.train.launch}; log: {log}")
        for left in ("error.json", PROGRESS):
            (work / left).unlink(missing_ok=True)
        shutil.rmtree(work / "final", ignore_errors=True)
        _launch(recipe, name, work, resolved, log)
        (work / "final").rename(folder)
        shutil.rmtree(work)
    summary = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    say(
        f"{name}: {summary['steps']} steps, {summary['tokens_seen']} tokens, final loss {summary['final_loss']}"
    )
    if recipe.train.merge and not (folder / "merged").exists():
        shutil.rmtree(folder / "merged.tmp", ignore_errors=True)
        merge_adapter(recipe.model, folder / "adapter", folder / "merged")


def _launch(recipe: Recipe, name: str, work: Path, resolved: Path, log: Path) -> None:
    """Run `accelerate launch` on train/sft.py, its output appended to `log`, and show its progress.

    Raises:
        ReasonGenRMError: the error of the training process, or an EngineError with the tail of its log.
    """
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--config_file", recipe.train.launch,
        *shlex.split(recipe.train.launch_args), "-m", "reasongenrm.train.sft", str(resolved), "--judge", name, "--work", str(work),
    ]  # fmt: skip
    environment = os.environ | {"TOKENIZERS_PARALLELISM": "false", STAGE_PROCESS: str(os.getpid())}
    environment.setdefault("OMP_NUM_THREADS", str(max(1, cores() // 2)))
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        log.open("a", encoding="utf-8") as out,
        training_bar(name) as show_step,
        # preexec_fn: one system call, so safe after a fork
        subprocess.Popen(
            command, stdout=out, stderr=out, env=environment, preexec_fn=die_with_parent
        ) as process,
    ):
        try:
            _show_steps(process, work / PROGRESS, show_step)
        except BaseException:
            process.kill()
            raise
    if (work / "error.json").exists():
        error = json.loads((work / "error.json").read_text(encoding="utf-8"))
        raise getattr(errors, error.pop("kind"))(error.pop("problem"), **error)
    if process.returncode != 0:
        tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
        raise EngineError(
            f"accelerate launch ended with code {process.returncode}; the end of its log:\n{tail}\n", location=str(log),
            hint="the same command resumes from the last checkpoint",
        )  # fmt: skip


def _show_steps(
    process: subprocess.Popen[bytes], path: Path, show_step: Callable[[TrainingStep], None]
) -> None:
    """Follow the file of a training's steps until the process ends."""
    path.touch()
    torn_line, ended = "", False
    with path.open(encoding="utf-8") as steps:
        while not ended:
            ended = process.poll() is not None  # before the file is read, so that its last lines are shown
            *lines, torn_line = (torn_line + steps.read()).split("\n")
            for line in lines:
                show_step(TrainingStep(**json.loads(line)))
            if not ended:
                time.sleep(0.2)


def train_head(pairs: Sequence[PreferencePair], config: ScalarConfig, run: Run, *, seed: int) -> None:
    """Train the scalar head of a run, and print a line about it."""
    report = train_scalar(pairs, config, output_dir=run.path("scalar"), seed=seed)
    line = (
        f"scalar: {report['steps']} steps on {report['trained']} of {report['pairs']} pairs, {report['truncated']} cut to "
        f"{config.max_length} tokens, {len(report['dropped_identical'])} dropped, final loss {report['final_loss']}"
    )
    if validation := report["validation"]:
        line += (
            f"; of {validation['pairs']} held-out pairs ({validation['prompts']} prompts) "
            f"{100 * validation['accuracy']:.1f}% right, loss {validation['loss']:.4f}"
        )
    say(line)
