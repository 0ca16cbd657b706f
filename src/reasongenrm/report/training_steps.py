"""The training steps of a run, from the files beside their weights: a table with scores, curves, and alarms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

from reasongenrm.metrics.curves import reward_rises
from reasongenrm.report.charts import training_curves
from reasongenrm.report.comparison import ComparedModel, compare_models
from reasongenrm.report.run_files import BenchmarkRun, RunFiles, read_json, read_lines
from reasongenrm.report.tables import MISSING, TextTable, percent, points, score_cell

MetricRow = dict[str, float | int | str | None]
"""A line of metrics.jsonl."""


@dataclass(frozen=True, slots=True)
class TrainedStep:
    """A step of a judge's training.

    Attributes:
        kind, previous: as in `config.recipe.TrainStep`; training.json of an earlier version knows only the first step.
        records, prompts, steps, tokens_seen, final_loss: of its training, which learns from records or samples on prompts;
            None where training.json does not say it.
        settings: those that matter most.
        alarms: those of its training.
        model: its name, from the folder.
        logged: the lines of metrics.jsonl; empty for a step of an earlier version.
    """

    kind: str = "sft"
    previous: str | None = None
    records: int | None = None
    prompts: int | None = None
    steps: int | None = None
    tokens_seen: int | None = None
    final_loss: float | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    alarms: list[str] = field(default_factory=list)
    model: str = ""
    logged: tuple[MetricRow, ...] = ()


Steps = Mapping[str, TrainedStep]
"""Trained steps by model, each after the one that it starts from."""


def read_steps(folder: Path, judges: Sequence[str]) -> Steps:
    """Read the trained steps of a run.

    Args:
        folder: a run folder.
        judges: names of its judges, in the order in which their steps are returned.

    Raises:
        DataError: a file is broken.
    """
    steps = {path.parent.name: _read_step(path) for path in sorted(folder.glob("judges/*/training.json"))}
    order = {name: place for place, name in enumerate(judges)}

    def place(model: str) -> tuple[int, str, int]:
        judge = model.partition("@")[0]
        return order.get(judge, len(order)), judge, len(chain_of(steps, model))

    return {model: steps[model] for model in sorted(steps, key=place)}


def _read_step(path: Path) -> TrainedStep:
    metrics = path.with_name("metrics.jsonl")
    rows = tuple(read_lines(metrics, MetricRow)) if metrics.exists() else ()
    return replace(read_json(path, TrainedStep), model=path.parent.name, logged=rows)


def chain_of(steps: Steps, model: str) -> list[TrainedStep]:
    """Return the steps that led to a model, the first one first; of those that are known."""
    chain: list[TrainedStep] = []
    step = steps.get(model)
    while step is not None and step not in chain:
        chain.insert(0, step)
        step = steps.get(step.previous or "")
    return chain


def step_table(steps: Sequence[TrainedStep], benchmarks: Sequence[BenchmarkRun]) -> TextTable:
    """Return what each step trained on, and its score on each benchmark."""
    headings = ("model", "step", "from", "settings", "records or prompts", "steps", "tokens", "final loss")
    rows = [
        (
            step.model,
            step.kind,
            step.previous or "base",
            ", ".join(f"{name} {_setting(value)}" for name, value in step.settings.items()) or MISSING,
            *(_count(number) for number in (step.records or step.prompts, step.steps, step.tokens_seen)),
            MISSING if step.final_loss is None else f"{step.final_loss:.4g}",
            *(
                score_cell(benchmark.models[step.model].score) if step.model in benchmark.models else MISSING
                for benchmark in benchmarks
            ),
        )
        for step in steps
    ]
    scores = tuple(f"{benchmark.name} [95%]" for benchmark in benchmarks)
    return TextTable((*headings, *scores), tuple(rows), text_columns=4)


def speed_table(steps: Sequence[TrainedStep]) -> TextTable:
    """Return how fast each step was: the medians of its logged values, and the most memory."""
    headings = ("", "tokens/s", "MFU %", "peak memory GiB")
    rows = []
    for step in steps:
        speed, mfu, memory = (_values(step, key) for key in ("tokens_per_second", "mfu", "peak_memory_gib"))
        rows.append(
            (
                f"speed of {step.model}",
                f"{median(speed):,.0f}" if speed else MISSING,
                percent(median(mfu) if mfu else None),
                f"{max(memory):.1f}" if memory else MISSING,
            )
        )
    note = "Medians of the logged values, rollouts included; the memory is that of the first process."
    return TextTable(headings, tuple(rows), notes=(note,))


def step_curves(steps: Sequence[TrainedStep]) -> dict[str, tuple[str, bytes]]:
    """Return a picture of each step's curves: name of the file without its ending -> title and PNG."""
    titles = {step.model: f"{step.model}: training" for step in steps if step.logged}
    return {
        f"training-{step.model}": (titles[step.model], training_curves(step.logged, titles[step.model]))
        for step in steps
        if step.model in titles
    }


def training_alarms(run: RunFiles, steps: Steps) -> list[str]:
    """Return the alarms of all steps: those of their trainings, and scores that fell while the reward rose."""
    found = [f"{step.model}: {alarm}" for step in steps.values() for alarm in step.alarms]
    return found + [alarm for step in steps.values() for alarm in _lower_scores(run, step)]


def _lower_scores(run: RunFiles, step: TrainedStep) -> Iterator[str]:
    """Yield the benchmarks on which a step whose reward rises is worse than the step before it, its interval below 0."""
    if not reward_rises(step.logged):
        return
    seed = run.manifest.recipe.get("seed", 0)
    for benchmark in run.benchmarks:
        models = [benchmark.models.get(name) for name in (step.previous or "", step.model)]
        before, after = (model and ComparedModel("", benchmark, model, seed) for model in models)
        comparison = compare_models(before, after) if before and after else None
        if comparison is not None and comparison.interval[1] < 0:
            low, high = comparison.interval
            yield (
                f"{step.model}: reward rises while the score on {benchmark.name} falls, by {points(comparison.difference)} "
                f"points [{points(low)}, {points(high)}] from {step.previous}"
            )


def _values(step: TrainedStep, key: str) -> list[float]:
    return [value for row in step.logged if isinstance(value := row.get(key), float | int)]


def _count(number: int | None) -> str:
    return MISSING if number is None else f"{number:,}"


def _setting(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return "+".join(map(str, value)) if isinstance(value, list) else str(value)
