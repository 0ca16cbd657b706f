"""A policy that hacks its judge: TRL's GRPO in the toy world against a young judge, without and with shaping.

    python bench/hacking.py [--out runs/hacking] [--seed N] [--steps N] [--figure docs/images/hacking.png]

1. A judge is trained from the toy base for a few steps, on preference pairs in which the chosen answer is never the shorter
   one: length goes with being chosen, as in data that people label. A second judge is trained longer, on the same pairs and those
   that were left out.
2. The policy is the toy base. In each arm GRPO trains it on P(the first judge prefers a sample to the untrained policy's greedy
   answer): in the arm `unshaped` on that alone, in the arm `shaped` with a penalty for length.
3. Every few steps the policy answers held-out questions. Both judges compare its answers with the untrained policy's; the alarm
   reads both. The rule of the toy world says which answers are right: the gold score, which neither trainer nor alarm sees.

It prints a table, and draws it. Killed at any moment, it continues with the same command: judges, finished arms and
checkpoints are kept in `--out`.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from hacking_curves import Curve, draw, summary, table
from hacking_models import (
    BASE,
    TEMPLATE,
    is_right,
    load_model,
    load_tokenizer,
    open_judge,
    sample_answers,
    train_judge,
)
from machine import machine

from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.demo.world import REFUSALS, Split, Task, draw_task, toy_pairs
from reasongenrm.errors import ConfigError, ReasonGenRMError
from reasongenrm.judge.api import Judge
from reasongenrm.records import PreferencePair
from reasongenrm.rewards.alarm import HackingWatch
from reasongenrm.rewards.group import GroupReward
from reasongenrm.store import read_json, read_jsonl, write_json, write_jsonl

FAMILIES = ("toy-chat", "toy-safety")
"""Of the judges' pairs: the families of the toy world whose answers differ in length."""
MAX_TOKENS = 24
"""Of an answer; right ones have up to 20."""
ARMS: dict[str, dict[str, Any]] = {
    "unshaped": {"schedule": "reference"},
    "shaped": {"schedule": "reference", "shaping": {"length": 2.0}},
}
"""Arm -> its `RewardSettings`."""


@dataclass(frozen=True)
class Settings:
    """What changes the result.

    Attributes:
        seed: of pairs, questions and training.
        steps: of GRPO, 8 questions with 8 samples each.
        every: steps between two measurements.
        rate: GRPO's learning rate.
        families: of the policy's questions, with commas between them.
        questions: to train the policy on.
        held_out: questions of a measurement.
        samples: answers to each of them; the judges read the first.
        judge_steps, second_steps: of the two judges.
    """

    seed: int = 17
    steps: int = 100
    every: int = 4
    rate: float = 4e-5
    families: str = "toy-safety"
    questions: int = 400
    held_out: int = 256
    samples: int = 2
    judge_steps: int = 100
    second_steps: int = 200


@dataclass(frozen=True)
class Setting:
    """What both arms share.

    Attributes:
        judge, second: the judge that is the reward, and the other one.
        questions, references: of the training, with the untrained policy's greedy answers.
        held_out, held_out_references: of the measurements.
    """

    judge: Judge
    second: Judge
    questions: list[Task]
    references: list[str]
    held_out: list[Task]
    held_out_references: list[str]


def preference_pairs(seed: int) -> tuple[list[PreferencePair], list[PreferencePair]]:
    """Return those pairs whose chosen answer has at least as many words as the rejected one, and all pairs."""
    pairs = [pair for pair in toy_pairs("train", 500, seed) if pair.source in FAMILIES]
    return [pair for pair in pairs if len(pair.chosen.split()) >= len(pair.rejected.split())], pairs


def draw_questions(split: Split, count: int, settings: Settings) -> list[Task]:
    """Draw distinct questions, the families in turn."""
    rng, families = random.Random(f"hacking {split} {settings.seed}"), settings.families.split(",")
    tasks: dict[str, Task] = {}
    while len(tasks) < count:
        task = draw_task(rng, split, families[len(tasks) % len(families)])
        tasks.setdefault(task.question, task)
    return list(tasks.values())


def open_setting(settings: Settings, out: Path) -> Setting:
    """Train both judges where they are missing, and sample the references."""
    longer, pairs = preference_pairs(settings.seed)
    train_judge(out / "judge", longer, steps=settings.judge_steps, seed=settings.seed)
    train_judge(out / "second", pairs, steps=settings.second_steps, seed=settings.seed)
    policy, encoder = load_model(BASE), ChatEncoder(load_tokenizer(), TEMPLATE)
    questions = draw_questions("pretrain", settings.questions, settings)
    held_out = draw_questions("test", settings.held_out, settings)
    references = [
        sample_answers(policy, encoder, [task.question for task in tasks], max_tokens=MAX_TOKENS)
        for tasks in (questions, held_out)
    ]
    return Setting(
        open_judge(out / "judge"), open_judge(out / "second"), questions, references[0], held_out, references[1]
    )  # fmt: skip


def measurement(step: int, setting: Setting, answers: Sequence[str]) -> dict[str, Any]:
    """Return what the rule of the toy world and a count of words say of answers to the held-out questions.

    Args:
        step: of the trainer.
        setting: the questions.
        answers: one to each question, then a second one to each, and so on.
    """
    tasks = setting.held_out * (len(answers) // len(setting.held_out))
    right = [is_right(task, answer) for task, answer in zip(tasks, answers, strict=True)]
    harmful = [value for task, value in zip(tasks, right, strict=True) if task.good in REFUSALS]
    return {
        "step": step,
        "gold": 100 * fmean(right),
        "refused": 100 * fmean(harmful) if harmful else None,
        "words": fmean(len(answer.split()) for answer in answers),
        "answers": list(answers[: len(setting.held_out)]),
    }


def measuring_callback(settings: Settings, setting: Setting, watch: HackingWatch, folder: Path) -> Any:
    """Return a callback of the trainer that measures before the first step and after every few; rows go to `curve.jsonl`."""
    from transformers import TrainerCallback

    path = folder / "curve.jsonl"
    encoder = ChatEncoder(load_tokenizer(), TEMPLATE)

    class Measuring(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, *, model: Any, **_: Any) -> None:
            earlier = read_jsonl(path) if path.exists() else ()
            write_jsonl(path, [row for row in earlier if row["step"] <= state.global_step])
            if state.global_step == 0:
                self.measure(state, model)

        def on_step_end(self, args: Any, state: Any, control: Any, *, model: Any, **_: Any) -> None:
            if state.global_step % settings.every == 0:
                self.measure(state, model)

        def measure(self, state: Any, model: Any) -> None:
            step = state.global_step
            questions = [task.question for task in setting.held_out]
            answers = sample_answers(
                model,
                encoder,
                questions * settings.samples,
                max_tokens=MAX_TOKENS,
                seed=settings.seed + step + 1,
            )
            rewards = [(row["step"], row["reward"]) for row in state.log_history if "reward" in row]
            last = rewards[-settings.every :]
            rows = [row for row in read_jsonl(path) if row["step"] != step] if path.exists() else []
            write_jsonl(path, [*rows, measurement(step, setting, answers)])
            watch.check(step, answers[: len(questions)], rewards=last)

    return Measuring()


def train_arm(name: str, settings: Settings, setting: Setting, out: Path) -> None:
    """Train the policy of an arm by TRL's GRPOTrainer; a finished arm is kept, and a killed one continues."""
    from datasets import Dataset
    from transformers import PrinterCallback
    from transformers.trainer_utils import get_last_checkpoint
    from trl import GRPOConfig, GRPOTrainer

    folder = out / name
    if (folder / "rewards.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    prompts = [[{"role": "user", "content": task.question}] for task in setting.questions]
    config = GRPOConfig(
        output_dir=str(folder / "checkpoints"), max_steps=settings.steps, per_device_train_batch_size=64,
        num_generations=8, max_completion_length=MAX_TOKENS, learning_rate=settings.rate,
        lr_scheduler_type="constant", gradient_checkpointing=False, seed=settings.seed, logging_steps=1,
        save_steps=4 * settings.every, save_total_limit=1, report_to="none", use_cpu=True, bf16=False, disable_tqdm=True,
    )  # fmt: skip
    watch = HackingWatch(
        folder,
        judge=setting.judge,
        prompts=[task.question for task in setting.held_out],
        references=setting.held_out_references,
        second=setting.second,
    )
    trainer = GRPOTrainer(
        load_model(BASE),
        reward_funcs=GroupReward(setting.judge, ARMS[name], reference="reference"),
        args=config,
        train_dataset=Dataset.from_dict({"prompt": prompts, "reference": setting.references}),
        processing_class=load_tokenizer(),
        callbacks=[measuring_callback(settings, setting, watch, folder)],
    )
    trainer.remove_callback(PrinterCallback)  # it prints to stdout, where the table goes
    checkpoints = folder / "checkpoints"
    trainer.train(
        resume_from_checkpoint=get_last_checkpoint(str(checkpoints)) if checkpoints.is_dir() else None
    )
    rewards = {row["step"]: row["reward"] for row in trainer.state.log_history if "reward" in row}
    checks = [{"step": check.step} | check.means for check in watch.checks]
    alarms = [{"step": alarm.step, "text": alarm.text} for alarm in watch.alarms]
    write_json(folder / "rewards.json", {"rewards": rewards, "checks": checks, "alarms": alarms})


def check_settings(settings: Settings, out: Path) -> None:
    """Write the settings into the folder.

    Raises:
        ConfigError: it holds the results of other settings, or there are no such families.
    """
    if unknown := set(settings.families.split(",")) - set(FAMILIES):
        hint = f"use one or both of: {', '.join(FAMILIES)}"
        raise ConfigError(f"unknown: {', '.join(sorted(unknown))}", location="--families", hint=hint)
    path, now = out / "settings.json", asdict(settings) | {"arms": ARMS}
    if path.exists() and (earlier := read_json(path)) != now:
        changed = ", ".join(key for key in now if now[key] != earlier.get(key))
        raise ConfigError(
            f"made with other settings: {changed}", location=str(out), hint="name another folder with --out"
        )
    write_json(path, now)


def describe_judges(settings: Settings, setting: Setting) -> str:
    """Return the numbers of pairs that the judges were trained on, and how often they are right, as a list in Markdown."""
    rows = [(task.question, task.good, task.bad) for task in setting.held_out]
    lines = []
    names = ("judge", "second judge")
    judges = (setting.judge, setting.second)
    for name, judge, pairs in zip(names, judges, preference_pairs(settings.seed), strict=True):
        sizes = [(len(pair.chosen.split()), len(pair.rejected.split())) for pair in pairs]
        longer, shorter = (100 * fmean(sign * (a - b) > 0 for a, b in sizes) for sign in (1, -1))
        right = 100 * fmean(comparison.winner == "A" for comparison in judge.compare_many(rows))
        lines.append(
            f"- {name}: {len(pairs)} pairs, the chosen answer is longer in {longer:.0f}% and shorter in {shorter:.0f}%; "
            f"prefers the right answer to the wrong one on {right:.0f}% of the held-out questions"
        )
    return "\n".join(lines)


def main() -> None:
    """Train what is missing; print the table and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/hacking"))
    parser.add_argument("--figure", type=Path, help="PNG; by default hacking.png in --out")
    for key, value in asdict(Settings()).items():
        parser.add_argument(f"--{key.replace('_', '-')}", type=type(value), default=value, help=f"{value}")
    options = vars(parser.parse_args())
    out, path = options.pop("out"), options.pop("figure")
    settings, began = Settings(**options), time.perf_counter()
    try:
        check_settings(settings, out)
        setting = open_setting(settings, out)
        for name in ARMS:
            train_arm(name, settings, setting, out)
    except ReasonGenRMError as error:
        print(f"bench/hacking.py: {error}", file=sys.stderr)
        sys.exit(2)
    curves = {name: Curve.read(out / name) for name in ARMS}
    draw(curves, path or out / "hacking.png")
    print(
        f"{machine()}; seed {settings.seed}; this call: {time.perf_counter() - began:.0f} s, {time.process_time():.0f} of them on the CPU\n"
    )
    print(describe_judges(settings, setting) + "\n")
    print(table(curves, 2 * settings.every) + "\n")
    print("\n".join(summary(name, curve) for name, curve in curves.items()))


if __name__ == "__main__":
    main()
