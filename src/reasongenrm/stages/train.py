"""Stage 2: the judges (accelerate, DeepSpeed, TRL, peft) and the scalar head."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import yaml

from reasongenrm.chat.encoder import judge_encoder, load_tokenizer
from reasongenrm.chat.prompts import PromptFile
from reasongenrm.config.arguments import library_arguments
from reasongenrm.config.recipe import Recipe, TrainStep
from reasongenrm.config.scalar import ScalarConfig
from reasongenrm.console import TrainingStep, say, training_bar
from reasongenrm.errors import ConfigError, DataError, ReasonGenRMError
from reasongenrm.processes import die_with_parent
from reasongenrm.records import PreferencePair
from reasongenrm.run import Run, file_hash
from reasongenrm.scalar.meta import judgement_pairs
from reasongenrm.stages.fingerprints import blind_reasons, train_steps
from reasongenrm.stages.reasons import read_reasons
from reasongenrm.stages.rounds import refresh_records
from reasongenrm.steps import FILE
from reasongenrm.store import read_json, read_jsonl
from reasongenrm.train.builds import LockWatch, clear_build_locks
from reasongenrm.train.grpo import check_rollouts
from reasongenrm.train.launch import (
    PROCESSES,
    Launch,
    launch_command,
    launch_environment,
    launch_failure,
    read_launch,
    record_processes,
)
from reasongenrm.train.merge import merge_adapter
from reasongenrm.train.points import check_points
from reasongenrm.train.process import KINDS, PROGRESS, check_training
from reasongenrm.train.scalar import train_scalar
from reasongenrm.train.tokens import input_files, is_on_policy, record_files, tokenise

LEFT = "left.{}"
"""Name of the empty file with which a machine says that its processes have ended, by the machine's rank."""


def train(recipe: Recipe, redo: Sequence[str] = ()) -> None:
    """Run stage 2 in the recipe's run folder.

    Args:
        recipe: the resolved recipe.
        redo: words that name steps to do again.

    Raises:
        ConfigError, DataError, EngineError: a setting, an input file or a model that the user has to change.
    """
    launch = check_settings(recipe)
    steps = recipe.trained
    for path in missing_inputs(recipe):
        raise ConfigError("file not found", location=str(path), hint="run 1_prepare.sh first")
    run = Run(recipe, "train")
    again = run.steps_to_redo(train_steps(recipe), redo) if redo and launch.rank == 0 else ()
    for step in steps.values():  # an error here, and not when the steps before it have been trained
        check_records(recipe, step, again)
    check_wording(recipe)
    if launch.rank > 0:
        if redo:
            raise ConfigError(
                "machine 0 alone moves files",
                location="--redo",
                hint='leave it out here, and start this machine after machine 0 has printed "to do again"',
            )
        _follow(recipe, run, launch)
        return
    with run.claim(train_steps(recipe), redo):
        resolved = run.path("recipe.yaml")
        resolved.write_text(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False), encoding="utf-8")
        for step in steps.values():
            _train_step(recipe, run, step, launch)
        if recipe.scalar is not None:
            pairs = [msgspec.convert(row, PreferencePair) for row in read_jsonl(run.path("pairs.jsonl"))]
            train_head(pairs, recipe.scalar, run, seed=recipe.seed)
        if recipe.meta is not None:
            train_meta(recipe, recipe.meta, run)
        say(f"stage 2 done: {run.folder}")


def check_settings(recipe: Recipe) -> Launch:
    """Check the keys of all trainers, and that the processes can share the records of every step; return the launch.

    Raises:
        ConfigError: a key, or the number of processes, that the user has to change; or a launch or rollouts without their GPU.
    """
    check_training(recipe)
    launch = read_launch(recipe.train)
    for step in recipe.trained.values():
        KINDS[step.kind].batch(recipe, step, launch.processes)
        if step.kind == "grpo":
            check_rollouts(recipe.train.grpo)
    return launch


def missing_inputs(recipe: Recipe) -> list[Path]:
    """Return the files of stage 1 that stage 2 reads and that do not exist."""
    files = {file for step in recipe.trained.values() for file in input_files(recipe, step)}
    if recipe.meta is not None:
        files |= {recipe.folder / "prompts.jsonl", *blind_reasons(recipe)}
    return [path for path in sorted(files | {recipe.folder / "pairs.jsonl"}) if not path.exists()]


def check_records(recipe: Recipe, step: TrainStep, again: Collection[str] = ()) -> None:
    """Check that a step whose files exist has records, and reference points where it needs them.

    Args:
        again: names of the steps that are done again.

    Raises:
        ConfigError, DataError: it has none.
    """
    files = input_files(recipe, step)
    records = [path for path in record_files(recipe, step) if path in files]
    if records and not any(path.stat().st_size for path in records):
        hint = f"leave out the step {step.kind}, or see data_report.html for what was dropped"
        raise DataError("no records to train on", location=str(records[0]), hint=hint)
    if f"judges.{step.model}" in again or not (recipe.folder / "judges" / step.model).exists():
        check_points(recipe, step)


def check_wording(recipe: Recipe) -> None:
    """Check that the records are in the wording that is saved beside the adapter.

    Raises:
        ConfigError: the prompt file is not the one of stage 1.
    """
    pairs = Run(recipe, "prepare").recorded_steps().get("pairs")
    key = f"{FILE}{recipe.prompts}"
    if pairs is not None and pairs.settings.get(key) != file_hash(recipe.prompts):
        hint = "run 1_prepare.sh, which names the steps to do again, or restore the file"
        raise ConfigError("not the prompt file that stage 1 has used", location=recipe.prompts, hint=hint)


def _follow(recipe: Recipe, run: Run, launch: Launch) -> None:
    """Take part in the training that machine 0 leads; machine 0 prepares the run folder, which all machines share."""
    for name, step in recipe.trained.items():
        work = run.path("judges", name + ".partial")
        say(f"{name}: waiting for machine 0")
        while not (work / PROCESSES).exists() and not run.path("judges", name).exists():
            time.sleep(2)
        if not run.path("judges", name).exists():
            _launch(recipe, step, work, run.path("logs", f"train-{name}-{launch.rank}.log"), launch)
            (work / LEFT.format(launch.rank)).touch()


def _train_step(recipe: Recipe, run: Run, step: TrainStep, launch: Launch) -> None:
    name = step.model
    folder = run.path("judges", name)
    if not folder.exists():
        work = run.path("judges", name + ".partial")
        work.mkdir(parents=True, exist_ok=True)
        encoder = judge_encoder(recipe, recipe.judges[step.judge].template, load_tokenizer(recipe.model))
        if is_on_policy(recipe, step):
            refresh_records(recipe, run, step, encoder)
        if step.kind != "grpo":  # which reads its prompts itself
            tokenise(recipe, step, encoder, work)
        for path in (work / PROGRESS, *work.glob("error.*.json"), *work.glob(LEFT.format("*"))):
            path.unlink(missing_ok=True)
        shutil.rmtree(work / "final", ignore_errors=True)
        record_processes(work, launch, name)  # machines that follow wait for its file
        log = run.path("logs", f"train-{name}.log")
        say(f"{name}: {launch.processes} processes by {recipe.train.launch}; log: {log}")
        _launch(recipe, step, work, log, launch)
        _wait_for_others(work, launch)
        (work / "final").rename(folder)
    shutil.rmtree(run.path("judges", name + ".partial"), ignore_errors=True)  # also one that a kill has left
    summary = read_json(folder / "training.json")
    say(
        f"{name}: {summary['steps']} steps, {summary['tokens_seen']} tokens, final loss {summary['final_loss']}"
    )
    for alarm in summary["alarms"]:
        say(f"{name}: alarm: {alarm}; see {folder / 'curves.png'}")
    if recipe.train.merge and not (folder / "merged").exists():
        shutil.rmtree(folder / "merged.tmp", ignore_errors=True)
        merge_adapter(recipe.model, folder / "adapter", folder / "merged")


def _launch(recipe: Recipe, step: TrainStep, work: Path, log: Path, launch: Launch) -> None:
    """Run `accelerate launch` on train/process.py, its output appended to `log`, and show its progress.

    Where the processes waited for another run's build that was killed, they are launched again, on one machine: the others of a
    launch on several have ended, too, and are started by hand.

    Raises:
        ReasonGenRMError: the cause of a failure, whatever process it was in.
    """
    arguments = (str(recipe.folder / "recipe.yaml"), "--model", step.model, "--work", str(work))
    library_arguments(KINDS[step.kind].args(recipe, step))  # sets HF_TOKEN for the processes
    command = launch_command(recipe.train, launch, "reasongenrm.train.process", *arguments)
    log.parent.mkdir(parents=True, exist_ok=True)
    while True:
        if launch.zero:
            clear_build_locks()
        locks = LockWatch() if launch.zero else None
        failure = _run_processes(command, step, work, log, launch, locks)
        if failure is None:
            return
        if locks is None or not locks.removed or launch.machines > 1:
            raise failure
        say(f"{step.model}: starting again: a build that it waited for was killed")
        for path in work.glob("error.*.json"):
            path.unlink()


def _run_processes(
    command: Sequence[str],
    step: TrainStep,
    work: Path,
    log: Path,
    launch: Launch,
    locks: LockWatch | None,
) -> ReasonGenRMError | None:
    """Run the processes of a launch to their end; return why they failed, or None."""
    with (
        log.open("a", encoding="utf-8") as out,
        training_bar(step.model) as show_step,
        # preexec_fn: one system call, so safe after a fork
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=launch_environment(launch),
            preexec_fn=die_with_parent,
        ) as process,
    ):
        start = out.tell()
        try:
            _show_steps(process, work / PROGRESS, show_step, locks)
        except BaseException:
            process.kill()
            raise
    return launch_failure(work, log, start, process.returncode)


def _wait_for_others(work: Path, launch: Launch) -> None:
    """Wait until the processes of all machines have ended, two minutes at most: until then they may use the work folder."""
    waiting = [work / LEFT.format(rank) for rank in range(1, launch.machines)]
    end = time.monotonic() + 120
    while time.monotonic() < end and not all(path.exists() for path in waiting):
        time.sleep(0.5)


def _show_steps(
    process: subprocess.Popen[bytes],
    path: Path,
    show_step: Callable[[TrainingStep], None],
    locks: LockWatch | None = None,
) -> None:
    """Follow the file of a training's steps until the process ends; watch the locks until the first step is there."""
    path.touch()
    torn_line, ended = "", False
    with path.open(encoding="utf-8") as steps:
        while not ended:
            ended = process.poll() is not None  # before the file is read, so that its last lines are shown
            *lines, torn_line = (torn_line + steps.read()).split("\n")
            for line in lines:
                show_step(TrainingStep(**json.loads(line)))
                locks = None  # what the training needs is built
            if not ended:
                if locks is not None:
                    locks.look()
                time.sleep(0.2)


def train_head(pairs: Sequence[PreferencePair], config: ScalarConfig, run: Run, *, seed: int) -> None:
    """Train the scalar head of a run, and print a line about it."""
    report = train_scalar(pairs, config, output_dir=run.path("scalar"), seed=seed)
    say(head_line("scalar", report, config))


def train_meta(recipe: Recipe, config: ScalarConfig, run: Run) -> None:
    """Train the judge of judges on the blind judgements of stage 1, and print a line about it.

    Raises:
        DataError: no prompt has a right and a wrong judgement.
    """
    grammar = PromptFile.load(recipe.prompts).verdict
    pairs = list(judgement_pairs(read_reasons(recipe, run), grammar))
    if not pairs:
        hint = "sample more of them: teachers.<a blind one>.samples"
        raise DataError("no prompt has both a right and a wrong blind judgement", location="meta", hint=hint)
    report = train_scalar(pairs, config, output_dir=run.path("meta"), seed=recipe.seed, key="meta")
    say(head_line("meta", report, config))


def head_line(name: str, report: Mapping[str, Any], config: ScalarConfig) -> str:
    """Return the line about a trained head."""
    line = (
        f"{name}: {report['steps']} steps on {report['trained']} of {report['pairs']} pairs, {report['truncated']} cut to "
        f"{config.max_length} tokens, {len(report['dropped_identical'])} dropped, final loss {report['final_loss']}"
    )
    if validation := report["validation"]:
        line += (
            f"; of {validation['pairs']} held-out pairs ({validation['prompts']} prompts) "
            f"{100 * validation['accuracy']:.1f}% right, loss {validation['loss']:.4f}"
        )
    return line
