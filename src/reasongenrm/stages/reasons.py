"""Stage 1, second part: sample every teacher's reasons, score them under the student, select, and write records.

`reasongenrm select` compares selectors on the scored reasons of a run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any

import msgspec

from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.chat.prompts import PromptFile, placed_prompts
from reasongenrm.config.engines import check_model
from reasongenrm.config.recipe import Recipe
from reasongenrm.console import bar, say, stderr, stdout
from reasongenrm.engines.base import Engine
from reasongenrm.engines.loading import load_engine, open_server
from reasongenrm.errors import DataError
from reasongenrm.reasons.records import RecordWriter
from reasongenrm.reasons.sample import PairPrompt, sample_reasons, teacher_encoder
from reasongenrm.reasons.score import score_reasons
from reasongenrm.reasons.select import eligible_reasons, group_by_prompt, selector, unfit_drop
from reasongenrm.reasons.shortfall import ScoreDistribution, advice, drop_table
from reasongenrm.reasons.student import default_batch_tokens, score_batches
from reasongenrm.records import (
    REFERENCE_POINTS,
    SELECTORS,
    AnswerList,
    Drop,
    JudgePrompt,
    PreferencePair,
    Reason,
    ScoredReason,
    Selector,
)
from reasongenrm.report.tables import TextTable
from reasongenrm.run import Run
from reasongenrm.store import PartStore, read_jsonl


def read_prompts(run: Run) -> Iterator[JudgePrompt]:
    """Yield the judge prompts of `prompts.jsonl`."""
    return (msgspec.convert(row, JudgePrompt) for row in read_jsonl(run.path("prompts.jsonl")))


def read_pair_prompts(run: Run, pairs: str = "pairs.jsonl") -> Iterator[PairPrompt]:
    """Yield the judge prompts with the pairs, or the lists, of a file that they were rendered from."""
    prompts_by_pair = groupby(read_prompts(run), key=lambda prompt: prompt.pair_id)
    for row, (pair_id, prompts) in zip(read_jsonl(run.path(pairs)), prompts_by_pair, strict=True):
        assert row["id"] == pair_id, f"prompts.jsonl and {pairs} are of different runs"
        kind: type[AnswerList | PreferencePair] = AnswerList if "answers" in row else PreferencePair
        pair = msgspec.convert(row, kind)
        for prompt in prompts:
            yield pair, prompt


def read_reasons(recipe: Recipe, run: Run) -> Iterator[tuple[JudgePrompt, list[Reason]]]:
    """Yield every judge prompt with the reasons of all teachers."""
    streams = {name: read_jsonl(reasons_file(run, name)) for name in recipe.teachers}
    for prompt in read_prompts(run):
        samples = (islice(streams[name], teacher.samples) for name, teacher in recipe.teachers.items())
        reasons = [Reason(**row) for row in chain.from_iterable(samples)]
        assert all(reason.prompt_id == prompt.id for reason in reasons), "reasons of another run"
        yield prompt, reasons


def read_scored(recipe: Recipe, run: Run) -> Iterator[tuple[str, list[ScoredReason]]]:
    """Yield each prompt's id with its scored reasons; those of teachers that the recipe no longer has are left out."""
    rows = (ScoredReason(**row) for row in read_jsonl(run.path("scored.jsonl")))
    return group_by_prompt(row for row in rows if row.teacher in recipe.teachers)


def reasons_file(run: Run, teacher: str) -> Path:
    """Return the file of a teacher's reasons."""
    return run.path("reasons", f"{teacher}.jsonl")


def check_teachers(recipe: Recipe) -> None:
    """Fail before any work where a teacher's model directory or API key is missing.

    Raises:
        EngineError: names the recipe key.
    """
    for name, teacher in recipe.teachers.items():
        if teacher.model is not None:
            check_model(teacher.model.path, key=f"teachers.{name}.model.path")
        if teacher.server is not None:
            _open_teacher(recipe, name, Path()).close()


def _open_teacher(recipe: Recipe, name: str, folder: Path) -> Engine:
    """Return the engine of a teacher; `folder` is for a file that records Anthropic's batches."""
    teacher = recipe.teachers[name]
    if teacher.server is None:
        model, logs = teacher.model or recipe.model, folder.parent / "logs"
        return load_engine(
            model, recipe.engine, seed=recipe.seed, task=f"reasons of {name}", logs=logs, on_event=say
        )
    return open_server(
        teacher.server,
        max_model_len=recipe.engine.max_model_len,
        state=folder / f"{name}.batches.jsonl",
        key=f"teachers.{name}.server",
        on_event=say,
    )


def sample_all(
    recipe: Recipe, run: Run, prompt_file: PromptFile, count: int, pairs: str = "pairs.jsonl"
) -> None:
    """Sample the reasons of every teacher that has not finished.

    Args:
        recipe, run: the teachers, and the folder with the prompts.
        prompt_file: the wording.
        count: number of judge prompts.
        pairs: file of the pairs, or of the lists.

    Raises:
        EngineError: a model cannot be loaded, or a server cannot be used; completed reasons are kept.
    """

    def model_key(name: str) -> str:
        teacher = recipe.teachers[name]
        return name if teacher.server else repr(teacher.model or recipe.model)

    stores = {name: PartStore(reasons_file(run, name)) for name in recipe.teachers}
    unfinished = sorted((name for name, store in stores.items() if not store.finished), key=model_key)
    # Teachers of the same model in this process come one after the other, so that it is loaded once.
    for _, names in groupby(unfinished, key=model_key):
        first, *others = names
        with closing(_open_teacher(recipe, first, run.path("reasons"))) as engine:
            for name in (first, *others):
                teacher = recipe.teachers[name]
                with bar(f"reasons of {name}", count * teacher.samples) as progress:
                    sample_reasons(
                        read_pair_prompts(run, pairs), engine, teacher_encoder(recipe, name), prompt_file, teacher,
                        name=name, seed=recipe.seed, store=stores[name], progress=progress,
                    )  # fmt: skip


def fit_reasons(
    recipe: Recipe, run: Run, prompt_file: PromptFile, on_unfit: Callable[[int], None] = lambda count: None
) -> Iterator[tuple[JudgePrompt, list[Reason]]]:
    """Yield every judge prompt with its reasons that are worth scoring; `on_unfit` gets the number of the others.

    Raises:
        DataError: at the end, where no reason is worth scoring.
    """
    unfit: Drop | None = None
    any_fit = False
    for prompt, reasons in read_reasons(recipe, run):
        fit = []
        for reason in reasons:
            if drop := unfit_drop(reason, prompt, prompt_file, recipe.select.giveaway_words):
                unfit = unfit or drop
            else:
                fit.append(reason)
        on_unfit(len(reasons) - len(fit))
        any_fit = any_fit or bool(fit)
        yield prompt, fit
    if unfit and not any_fit:
        raise DataError(
            f"no reason is worth scoring; the first one: {unfit.reason}: {unfit.detail}",
            location="teachers",
            hint="see the files in reasons/",
        )


def score_all(recipe: Recipe, run: Run, prompt_file: PromptFile, encoder: ChatEncoder, count: int) -> None:
    """Score every reason that is worth scoring under the student into `scored.jsonl`; `count` is the number of judge
    prompts. A finished file is continued with the reasons of teachers that were added.

    Raises:
        EngineError: the student cannot be loaded.
        DataError: no reason is worth scoring.
    """
    store = PartStore(run.path("scored.jsonl"))
    if store.finished:
        if all(one.id in store for _, reasons in fit_reasons(recipe, run, prompt_file) for one in reasons):
            return
        store.reopen()
    samples = sum(teacher.samples for teacher in recipe.teachers.values())
    with bar("scoring", count * samples) as progress:
        score_reasons(
            fit_reasons(recipe, run, prompt_file, progress), partial(score_batches, recipe, logs=run.path("logs")), encoder,
            store, batch_tokens=recipe.select.batch_tokens or default_batch_tokens(),
            letter_only=recipe.select.verdict_tokens == "letter", progress=progress,
        )  # fmt: skip


def read_scored_prompts(
    recipe: Recipe, run: Run, prompt_file: PromptFile
) -> Iterator[tuple[JudgePrompt, list[Reason], list[ScoredReason]]]:
    """Yield every judge prompt with the reasons of all teachers, and the scores of those that are worth it.

    `scored.jsonl` may also have reasons that were worth it under another `select.giveaway_words`.
    """
    groups, words = read_scored(recipe, run), recipe.select.giveaway_words
    scored_id, scored_reasons = next(groups, ("", []))
    for prompt, reasons in read_reasons(recipe, run):
        if prompt.id == scored_id:
            fit = {reason.id for reason in reasons if not unfit_drop(reason, prompt, prompt_file, words)}
            yield prompt, reasons, [reason for reason in scored_reasons if reason.id in fit]
            scored_id, scored_reasons = next(groups, ("", []))
        else:
            yield prompt, reasons, []
    assert not scored_id, "scored.jsonl and prompts.jsonl are of different runs"


def write_records(recipe: Recipe, run: Run, prompt_file: PromptFile, encoder: ChatEncoder) -> dict[str, Any]:
    """Write the training records of all judge prompts; return the data report's sections `reasons` and `records`.

    Raises:
        ConfigError: the selector's formula cannot be evaluated.
        DataError: fewer prompts keep a reason than `select.min_kept`; the records of an earlier selection are unchanged.
    """
    direct, both_orders = prompt_file.for_direct(), recipe.data.both_orders
    with RecordWriter(recipe, run, prompt_file, encoder) as writer:
        for row in read_jsonl(run.path("pairs.jsonl")):
            pair = msgspec.convert(row, PreferencePair)
            for worded in placed_prompts(pair, direct, seed=recipe.seed, both_orders=both_orders):
                writer.add_direct(worded)
        if recipe.needs_reasons():
            prompts_by_pair = groupby(
                read_scored_prompts(recipe, run, prompt_file), key=lambda group: group[0].pair_id
            )
            rows = read_jsonl(run.path("pairs.jsonl"))
            for row, (pair_id, groups) in zip(rows, prompts_by_pair, strict=True):
                assert row["id"] == pair_id, "prompts.jsonl and pairs.jsonl are of different runs"
                for prompt, reasons, scored_reasons in groups:
                    writer.add_reasoned(prompt, reasons, scored_reasons, row.get(REFERENCE_POINTS, ()))
            _check_kept(recipe, run, writer)
    config = recipe.records
    if not recipe.needs_reasons():
        return {"records": {"genrm": writer.records["genrm"]}}
    names = ["sft", *["dpo", "dpo_too_long"] * bool(config.dpo), *["grpo"] * bool(config.grpo)]
    names += [*["grpo_with_points"] * bool(writer.records["grpo_with_points"]), "genrm"]
    return {"reasons": writer.to_dict(), "records": {name: writer.records[name] for name in names}}


def _check_kept(recipe: Recipe, run: Run, writer: RecordWriter) -> None:
    """Show the distribution of the scores, and fail, where too few prompts keep a reason."""
    from rich.console import Console

    kept, config = writer.kept.total(), recipe.select
    if kept and kept >= config.min_kept * writer.prompts:
        return
    points = _reference_points(recipe, run)
    groups = (
        eligible_reasons(group, points.get(prompt_id, ()), config)
        for prompt_id, group in read_scored(recipe, run)
    )
    scores = ScoreDistribution.from_groups(groups, config)
    for table in (scores.table(), drop_table(writer.sampled, writer.kept, writer.dropped)):
        Console(file=stderr(), width=110).print(table.rich())
    share = kept / writer.prompts
    accept = f", or select.min_kept={math.floor(1000 * share) / 1000:g} to accept these" if kept else ""
    raise DataError(
        f"{kept} of {writer.prompts} prompts keep a reason ({100 * share:.1f} %)",
        location="select.min_kept",
        hint=f"{advice(config, scores, writer.prompts, writer.dropped)}{accept}; reasons and scores are not computed again",
    )


@dataclass
class SelectorComparison:
    """What one selector selects, compared with another one.

    Attributes:
        kept: prompts with a selected reason.
        prompts: prompts with a scored reason.
        tokens: of all selected reasons, under the student's tokenizer.
        both, same: prompts for which the other selector selects a reason too, and those of them with the same one.
    """

    kept: int = 0
    prompts: int = 0
    tokens: int = 0
    both: int = 0
    same: int = 0

    @property
    def mean_tokens(self) -> float:
        """Mean length of the selected reasons, in tokens."""
        return self.tokens / self.kept if self.kept else 0.0

    @property
    def overlap(self) -> float:
        """Share of `both` that is the same, in [0, 1]."""
        return self.same / self.both if self.both else 0.0


def compare_selectors(
    recipe: Recipe, run: Run, names: Sequence[Selector], against: Selector
) -> dict[Selector, SelectorComparison]:
    """Apply each of the selectors to `scored.jsonl`; no sampling, no scoring, and no file is written.

    Raises:
        ConfigError: the formula cannot be evaluated.
        DataError: the run has no scored reasons.
    """
    rules = {name: selector(recipe.select, recipe.seed, name) for name in (*names, against)}
    comparisons = {name: SelectorComparison() for name in names}
    points = _reference_points(recipe, run)
    for prompt_id, group in read_scored(recipe, run):
        eligible = eligible_reasons(group, points.get(prompt_id, ()), recipe.select)
        choices = {name: rule(eligible, group) for name, rule in rules.items()}
        other = choices[against]
        for name, row in comparisons.items():
            row.prompts += 1
            if choice := choices[name]:
                row.kept += 1
                row.tokens += choice.reason.tokens
                row.both += other is not None
                row.same += other is not None and choice.reason.id == other.reason.id
    return comparisons


def points_by_pair(run: Run) -> dict[str, Sequence[str]]:
    """Return the reference points of the pairs that have some, by the pair's id."""
    pairs = read_jsonl(run.path("pairs.jsonl"))
    return {row["id"]: row[REFERENCE_POINTS] for row in pairs if row.get(REFERENCE_POINTS)}


def _reference_points(recipe: Recipe, run: Run) -> dict[str, Sequence[str]]:
    """Return the points that the reasons of each prompt have to cover, by the prompt's id; empty where none have to."""
    if not recipe.select.rationale:
        return {}
    points = points_by_pair(run)
    return {prompt.id: points.get(prompt.pair_id, ()) for prompt in read_prompts(run)}


def select(recipe: Recipe, names: Sequence[Selector], against: Selector | None) -> None:
    """Print what other selectors would select from the reasons of a finished run.

    Raises:
        ConfigError, DataError: see `compare_selectors`.
    """
    from rich.console import Console

    against = against or recipe.select.selector
    comparisons = compare_selectors(recipe, Run(recipe, "prepare"), names or SELECTORS, against)
    headings = ("selector", "prompts", "kept", "share", "mean tokens", f"same as {against}")
    rows = [
        (name, str(row.prompts), str(row.kept), f"{100 * row.kept / max(1, row.prompts):.1f} %",
         f"{row.mean_tokens:.1f}", f"{100 * row.overlap:.1f} %")
        for name, row in comparisons.items()
    ]  # fmt: skip
    title = f"{recipe.name}: prompts with a scored reason, and what each selector keeps"
    Console(file=stdout(), width=110).print(TextTable(headings, tuple(rows), title=title).rich())
