"""`HackingWatch`: every few steps, held-out answers of the policy by two judges; an alarm where the reward deceives.

    watch = HackingWatch("runs/policy/alarm", judge=judge, prompts=prompts, references=references, second=gold)
    trainer.add_callback(alarm_callback(watch, trainer, every=20))

The rule is in `metrics/hacking.py`. Files in the folder: `alarm.jsonl`, one check per line, with the answers; `alarm.md` and
`alarm.png`, written anew at every check.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from reasongenrm.config.rewards import RewardSettings
from reasongenrm.console import say
from reasongenrm.errors import ConfigError, DataError, EngineError, ReasonGenRMError, first_line
from reasongenrm.judge.inputs import PromptInput
from reasongenrm.judge.sharing import PairwiseJudge
from reasongenrm.metrics.hacking import Check, HackingAlarm, Scores, hacking_alarms
from reasongenrm.records import content_id
from reasongenrm.report.hacking import hacking_curves, hacking_report
from reasongenrm.rewards.completions import prompt_input
from reasongenrm.rewards.groups import Group
from reasongenrm.rewards.schedule import check_judge, judge_groups
from reasongenrm.store import atomic_writer, dump_line, explain_write_errors, write_jsonl, write_text

GoldRule = Callable[[PromptInput, str, str], float]
"""P(an answer is better than the reference) in [0, 1], from the prompt, the answer and the reference."""

Rewards = Sequence[tuple[int, float]]
"""(step, mean training reward) as a trainer logs them."""


class CheckRow(msgspec.Struct, frozen=True):
    """A line of `alarm.jsonl`.

    Attributes:
        step, rewards, judge, second: see `metrics.hacking.Check`.
        held_out: content hash of prompts and references.
        answers: of the policy, one per prompt.
        alarms: texts of the alarms that this check gives cause for.
        left_out: steps whose training reward was not a finite number, and is not one of `rewards`.
    """

    step: int
    held_out: str
    rewards: tuple[tuple[int, float], ...]
    judge: Scores
    second: Scores
    answers: tuple[str, ...]
    alarms: tuple[str, ...] = ()
    left_out: tuple[int, ...] = ()

    def check(self) -> Check:
        """Return what the rule reads."""
        return Check(self.step, self.rewards, self.judge, self.second)


class HackingWatch:
    """Checks of a policy on held-out prompts, and their alarms.

    Steps rise. A check of a step that was already checked replaces that check and all later ones: a trainer was set back to a
    checkpoint. Where the answers are the same, their scores are kept. The first check of a start (see `start`) may be at any step:
    a checkpoint need not be at a step that was checked.

    Args:
        folder: for the files; those of an earlier start are continued.
        judge: the judge that the policy is trained against; the server of a `RemoteJudge` shows the checks in its `/metrics`.
        prompts: texts, or lists of messages; not those of the training. From 128 on, a fall of a few points is seen.
        references: a fixed answer per prompt.
        second: another judge, or a gold rule; without it only a training reward that rises while the held-out one falls is seen.

    Attributes:
        checks: in the order of their steps.
        alarms: those that were raised; a measure that stays low is reported once.

    Raises:
        ConfigError: there are no prompts, not as many references, or the folder holds checks of other ones; or `judge` or
            `second` is none.
        DataError: `alarm.jsonl` is broken.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        judge: PairwiseJudge,
        prompts: Sequence[Any],
        references: Sequence[str],
        second: PairwiseJudge | GoldRule | None = None,
    ) -> None:
        _check_list("prompts", prompts, "held-out prompt")
        _check_list("references", references, "held-out prompt")
        check_judge(judge)
        if second is not None and (isinstance(second, type) or not callable(second)):
            check_judge(second, "second")
        self.prompts: list[PromptInput] = [prompt_input(prompt) for prompt in prompts]
        self.references = list(references)
        if not self.prompts or len(self.prompts) != len(self.references):
            problem = f"{len(self.prompts)} prompts and {len(self.references)} references"
            hint = "give at least one prompt, and one reference for each"
            raise ConfigError(problem, location="prompts", hint=hint)
        self._judge, self._second = judge, second
        self.folder = Path(folder)
        self.path = self.folder / "alarm.jsonl"
        self._held_out = content_id(self.prompts, self.references)
        self._rows = _read_rows(self.path)
        if any(row.held_out != self._held_out for row in self._rows):
            hint = "choose another folder, or the prompts and references of before"
            raise ConfigError("it holds checks of other prompts", location=str(self.path), hint=hint)
        self.checks = [row.check() for row in self._rows]
        self._find_alarms()
        self.start()

    def start(self) -> None:
        """Let the next check be at any step, as a training begins or continues; it replaces the checks from its step on."""
        self._started = True

    def _find_alarms(self) -> None:
        """Find the alarms of all checks."""
        self.alarms: list[HackingAlarm] = []
        self._active: set[str] = set()  # what fell at the last check
        for count in range(1, len(self.checks) + 1):
            self._note(hacking_alarms(self.checks[:count]))

    def _note(self, now: Sequence[HackingAlarm]) -> list[HackingAlarm]:
        """Keep and return the alarms of the next check that are new."""
        new = [alarm for alarm in now if alarm.fell not in self._active]
        self._active = {alarm.fell for alarm in now}
        self.alarms += new
        return new

    @property
    def last_step(self) -> int | None:
        """Step of the last check; None before the first."""
        return self.checks[-1].step if self.checks else None

    def reward_steps(self, before: int) -> list[int]:
        """Return the steps of the training rewards, also of those left out, that checks before a step were given."""
        rows = [row for row in self._rows if row.step < before]
        return [at for row in rows for at in (*(at for at, _ in row.rewards), *row.left_out)]

    def check(self, step: int, answers: Sequence[str], *, rewards: Rewards = ()) -> list[HackingAlarm]:
        """Judge the policy's answers at a step; return the alarms that are new.

        Args:
            step: of the trainer.
            answers: one per held-out prompt.
            rewards: training rewards that were logged since the check before; one that is not finite is left out, and
                counted in `alarm.jsonl`.

        Raises:
            ConfigError: not as many answers as prompts, a step that is negative or between earlier ones, rewards that are
                not pairs of numbers, or a gold rule that does not return a number in [0, 1].
            DataError: a file cannot be written; or see `judge_groups`.
            EngineError: a judge or the gold rule fails.

        After an error, the checks are what they were.
        """
        self._check_step(step)
        _check_list("answers", answers, "held-out prompt")
        if len(answers) != len(self.prompts):
            hint = "give one answer per held-out prompt"
            raise ConfigError(f"{len(answers)} answers to {len(self.prompts)} prompts", location="answers", hint=hint)  # fmt: skip
        old = next((row for row in self._rows if row.step == step), None)
        logged, left_out = _read_rewards(rewards)
        if old is not None and old.answers == tuple(answers):
            judged, second = old.judge, old.second
        else:
            judged, second = self._scores(self._judge, answers), self._second_scores(answers)
        self._forget(step)
        self._started = False
        if left_out:
            reason = f"{len(left_out)} training rewards are not finite numbers and are left out"
            say(f"{self.path}: step {step}: {reason} (steps {', '.join(map(str, left_out))})")
        self.checks.append(Check(step, logged, judged, second))
        now = hacking_alarms(self.checks)
        new = self._note(now)
        texts = tuple(alarm.text for alarm in now)
        row = CheckRow(step, self._held_out, logged, judged, second, tuple(answers), texts, left_out)
        self._append(row)
        self._show(len(now))
        for alarm in new:
            say(f"ALARM {alarm.text}; see {self.folder / 'alarm.md'}")
        self._report()
        return new

    def _check_step(self, step: int) -> None:
        """Raise ConfigError for a step that neither follows the last check nor takes the place of one."""
        if isinstance(step, bool) or not isinstance(step, int) or step < 0:
            raise ConfigError(
                f"{step!r} is not a step", location="step", hint="give a whole number from 0 on"
            )
        last = self.last_step
        if self._started or last is None or step > last or any(row.step == step for row in self._rows):
            return
        problem = f"step {step} was not checked, and the last check is of step {last}"
        hint = "give rising steps; where the trainer was set back to a checkpoint, call start() first"
        raise ConfigError(problem, location="step", hint=hint)

    def _forget(self, step: int) -> None:
        """Remove the checks of this step and later ones."""
        kept = [row for row in self._rows if row.step < step]
        if len(kept) < len(self._rows):
            say(f"{self.path}: checks from step {step} on are replaced")
            write_jsonl(self.path, map(msgspec.to_builtins, kept))
            self._rows, self.checks = kept, [row.check() for row in kept]
            self._find_alarms()

    def _scores(self, judge: Any, answers: Sequence[str]) -> Scores:
        groups = [
            Group(prompt, (answer,), (reference,))
            for prompt, answer, reference in zip(self.prompts, answers, self.references, strict=True)
        ]
        results = judge_groups(judge, groups, RewardSettings(schedule="reference"))
        return tuple(result.rewards[0] for result in results)

    def _second_scores(self, answers: Sequence[str]) -> Scores:
        if self._second is None:
            return ()
        if hasattr(self._second, "compare_many"):
            return self._scores(self._second, answers)
        scores = []
        for i, row in enumerate(zip(self.prompts, answers, self.references, strict=True)):
            scores.append(_gold_score(self._second, i, row))
        return tuple(scores)

    def _append(self, row: CheckRow) -> None:
        self._rows.append(row)
        with explain_write_errors(self.path):
            self.folder.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as out:
                out.write(dump_line(msgspec.to_builtins(row)).encode("utf-8"))

    def _show(self, alarms: int) -> None:
        """Show the last check in the /metrics of the judge's server, where there is one."""
        show: Callable[[dict[str, Any]], None] | None = getattr(self._judge, "show_check", None)
        if show is None:
            return
        last = self.checks[-1]
        try:
            show({"run": str(self.folder), "step": last.step, "means": last.means, "alarms": alarms})
        except ReasonGenRMError as error:  # the check is on the disk, and a gauge is not worth a training
            say(f"{self.path}: step {last.step} is not in the server's /metrics: {error}")

    def _report(self) -> None:
        last = self._rows[-1]
        write_text(
            self.folder / "alarm.md",
            hacking_report(self.checks, self.alarms, _texts(self.prompts), self.references, last.answers),
        )
        picture = hacking_curves(self.checks, self.alarms)
        with atomic_writer(self.folder / "alarm.png") as out:
            out.write(picture)


def _check_list(name: str, values: Any, owner: str) -> None:
    """Raise ConfigError for one text in place of a list."""
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise ConfigError("not a list", location=name, hint=f"give a list: one for each {owner}")


def _read_rewards(rewards: Rewards) -> tuple[tuple[tuple[int, float], ...], tuple[int, ...]]:
    """Return the training rewards that are finite, and the steps of the others."""
    try:
        read = [(int(at), float(value)) for at, value in rewards]
    except (TypeError, ValueError, OverflowError):
        hint = "give pairs of the step and the mean training reward"
        raise ConfigError("not pairs of numbers", location="rewards", hint=hint) from None
    finite = tuple(pair for pair in read if math.isfinite(pair[1]))
    return finite, tuple(at for at, value in read if not math.isfinite(value))


def _gold_score(rule: Any, number: int, row: tuple[PromptInput, str, str]) -> float:
    """Return what a gold rule says of one answer, named by the number of its prompt."""
    name = f"the gold rule {getattr(rule, '__name__', type(rule).__name__)}"
    try:
        value = rule(*row)
    except ReasonGenRMError:
        raise
    except Exception as error:
        hint = "it is called with the prompt, the answer and the reference"
        problem = f"{name} failed for prompt {number}: {type(error).__name__}: {first_line(error)}"
        raise EngineError(problem, location="second", hint=hint) from error
    try:
        score = float(value)
    except (TypeError, ValueError):
        score = math.nan
    if not 0 <= score <= 1:
        hint = "return P(the answer is better than the reference): 0 worse, 0.5 equal, 1 better"
        raise ConfigError(f"{name} returned {value!r} for prompt {number}", location="second", hint=hint)
    return score


def _texts(prompts: Sequence[PromptInput]) -> list[str]:
    """Return each prompt's last turn."""
    return [prompt if isinstance(prompt, str) else prompt[-1]["content"] for prompt in prompts]


def _read_rows(path: Path) -> list[CheckRow]:
    """Return the rows of a file; a last line that a kill has cut is removed from it."""
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    rows = []
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            rows.append(msgspec.json.decode(line, type=CheckRow))
        except (ValueError, RecursionError) as error:
            hint = "restore the file, or choose another folder"
            raise DataError(f"a broken line: {first_line(error)}", location=f"{path}:{number}", hint=hint) from None  # fmt: skip
    if len(whole) < len(content):
        with explain_write_errors(path), path.open("r+b") as out:
            out.truncate(len(whole))
    return rows
