"""Stage 2: the judges (accelerate, DeepSpeed, TRL, peft) and the scalar head."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from reasongenrm import errors
from reasongenrm.chat.encoder import judge_encoder, load_tokenizer
from reasongenrm.config.recipe import Recipe
from reasongenrm.config.scalar import ScalarConfig
from reasongenrm.console import say
from reasongenrm.errors import ConfigError, EngineError
from reasongenrm.processes import cores, die_with_parent
from reasongenrm.records import PreferencePair
from reasongenrm.run import Run, file_hash
from reasongenrm.store import read_jsonl
from reasongenrm.train.merge import merge_adapter
from reasongenrm.train.scalar import train_scalar
from reasongenrm.train.sft import STAGE_PROCESS, check_training, record_files, tokenise


def settings(recipe: Recipe) -> dict[str, Any]:
    """Return what this stage's files depend on."""
    keys = ("seed", "model", "templates", "judges", "train", "scalar")
    # Where it runs may change between two starts; what is computed may not.
    location = {"launch", "launch_args"}
    return {
        **recipe.model_dump(mode="json", include=set(keys), exclude={"train": location}),
        "max_tokens": recipe.data.max_tokens,
        "files": {str(path): file_hash(path) for path in _inputs(recipe)},
    }


def _inputs(recipe: Recipe) -> list[Path]:
    files = {file for name in recipe.judges for file in record_files(recipe, name)}
    return sorted(files | {recipe.folder / "pairs.jsonl"})


def train(recipe: Recipe) -> None:
    """Run stage 2 in the recipe's run folder.

    Raises:
        ConfigError, DataError, EngineError: what the user can mend.
    """
    check_training(recipe)
    if not Path(recipe.train.launch).is_file():
        raise ConfigError(
            f"{recipe.train.launch} is no file", location="train.launch", hint="see configs/accelerate/"
        )
    for path in _inputs(recipe):
        if not path.exists():
            raise ConfigError(
                f"{path} is missing", location=str(recipe.folder), hint="run 1_prepare.sh first"
            )
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
            _train_scalar(recipe, run)
        say(f"stage 2 done: {run.folder}")


def machine_rank(recipe: Recipe) -> int:
    """Return this machine's rank among several, from `--machine_rank` in `train.launch_args`; 0 on a single one.

    Raises:
        ConfigError: it is no number.
    """
    words = shlex.split(recipe.train.launch_args.replace("=", " "))
    if "--machine_rank" not in words:
        return 0
    value = dict(pairwise([*words, ""]))["--machine_rank"]
    if not value.isdigit():
        raise ConfigError(
            f"--machine_rank {value!r} is no number", location="train.launch_args", hint="count from 0"
        )
    return int(value)


def _follow(recipe: Recipe, run: Run) -> None:
    """Take part in the training that machine 0 leads: it prepares the run folder, which all machines see."""
    for name in recipe.judges:
        work = run.path("judges", name + ".partial")
        say(f"{name}: waiting for machine 0")
        while not (work / "tokens").exists() and not run.path("judges", name).exists():
            time.sleep(2)
        if not run.path("judges", name).exists():
            _check_exit(_launch(recipe, name, work, run.path("recipe.yaml")), work)


def _train_judge(recipe: Recipe, run: Run, name: str, resolved: Path) -> None:
    folder = run.path("judges", name)
    if not folder.exists():
        work = run.path("judges", name + ".partial")
        work.mkdir(parents=True, exist_ok=True)
        encoder = judge_encoder(recipe, recipe.judges[name].template, load_tokenizer(recipe.model))
        tokenise(recipe, name, encoder, work)
        say(f"{name}: training under {recipe.train.launch}; follow it with: tail -f {work / 'train.log'}")
        (work / "error.json").unlink(missing_ok=True)
        shutil.rmtree(work / "final", ignore_errors=True)
        _check_exit(_launch(recipe, name, work, resolved), work)
        (work / "final").rename(folder)
        shutil.rmtree(work)
    done = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    say(f"{name}: {done['steps']} steps, {done['tokens_seen']} tokens, final loss {done['final_loss']}")
    if recipe.train.merge and not (folder / "merged").exists():
        shutil.rmtree(folder / "merged.tmp", ignore_errors=True)
        merge_adapter(recipe.model, folder / "adapter", folder / "merged")


def _launch(recipe: Recipe, name: str, work: Path, resolved: Path) -> int:
    """Run `accelerate launch` on train/sft.py, its output into `work/train.log`, and return its exit code."""
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--config_file", recipe.train.launch,
        *shlex.split(recipe.train.launch_args), "-m", "reasongenrm.train.sft", str(resolved), "--judge", name, "--work", str(work),
    ]  # fmt: skip
    environment = os.environ | {"TOKENIZERS_PARALLELISM": "false", STAGE_PROCESS: str(os.getpid())}
    environment.setdefault("OMP_NUM_THREADS", str(max(1, cores() // 2)))
    with (work / "train.log").open("a", encoding="utf-8") as out:
        return subprocess.run(
            command,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=environment,
            preexec_fn=die_with_parent,  # one system call, so safe after a fork
            check=False,
        ).returncode


def _check_exit(code: int, work: Path) -> None:
    """Raise what the training process met, or an EngineError with the tail of its log."""
    if (work / "error.json").exists():
        told = json.loads((work / "error.json").read_text(encoding="utf-8"))
        raise getattr(errors, told.pop("kind"))(told.pop("problem"), **told)
    if code != 0:
        log = work / "train.log"
        tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
        raise EngineError(
            f"accelerate launch ended with code {code}; the end of its log:\n{tail}\n", location=str(log),
            hint="the whole log is there; run the same command again to go on from the last checkpoint",
        )  # fmt: skip


def _train_scalar(recipe: Recipe, run: Run) -> None:
    assert recipe.scalar is not None
    pairs = [
        PreferencePair(**(row | {"history": tuple(row["history"])}))
        for row in read_jsonl(run.path("pairs.jsonl"))
    ]
    report = train_scalar(pairs, recipe.scalar, output_dir=run.path("scalar"), seed=recipe.seed)
    say(told(report, recipe.scalar))


def told(report: Mapping[str, Any], config: ScalarConfig) -> str:
    """Return one line about a scalar head's training."""
    line = (
        f"scalar: {report['steps']} steps on {report['trained']} of {report['pairs']} pairs, {report['truncated']} cut to "
        f"{config.max_length} tokens, {len(report['dropped_identical'])} dropped, final loss {report['final_loss']}"
    )
    if found := report["validation"]:
        line += (
            f"; of {found['pairs']} held-out pairs ({found['prompts']} prompts) {100 * found['accuracy']:.1f}% right, "
            f"loss {found['loss']:.4f}"
        )
    return line
