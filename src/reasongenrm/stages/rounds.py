"""Records that a training step makes from samples of the judge it starts from: a round of rejection sampling, pairs for DPO, or
prompts for GRPO."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.config.evaluate import JudgingConfig
from reasongenrm.config.prepare import GRPOConfig
from reasongenrm.config.recipe import Recipe, TrainStep
from reasongenrm.console import bar, say
from reasongenrm.engines.loading import load_engine
from reasongenrm.errors import DataError
from reasongenrm.judge.ask import VerdictTask, ask_all, read_votes
from reasongenrm.reasons.votes import PromptVotes, VoteRecords
from reasongenrm.records import Drop, JudgePrompt
from reasongenrm.run import Run
from reasongenrm.stages.reasons import points_by_pair, read_prompts
from reasongenrm.store import PartStore, jsonl_writer, read_jsonl, to_json, write_json
from reasongenrm.train.tokens import record_files, refresh_folder, sampling, votes_folder

REPORT = "report.json"
"""File in a round's folder with its counts; it is written last."""
ToRows = Callable[[Sequence[PromptVotes]], Iterator[dict[str, Any] | Drop]]


def refresh_records(recipe: Recipe, run: Run, step: TrainStep, encoder: ChatEncoder) -> None:
    """Sample votes on all judge prompts from the previous step's judge, and write the records that follow from them.

    The folder `votes/<model>` gets `completions.jsonl`, and `rounds/<model>` the record file, `dropped.jsonl` and `report.json`. A killed
    run continues with the completions that are there.

    Args:
        recipe, run: the settings, and the folder with `prompts.jsonl`.
        step: a step of the kind `round`, or `dpo` or `grpo` with `refresh`.
        encoder: of the judge.

    Raises:
        DataError: no prompt gives a record.
        EngineError: the judge cannot be served.
    """
    assert step.previous is not None
    folder = refresh_folder(recipe, step)
    if (folder / REPORT).exists():
        return
    prompts = list(read_prompts(run))
    task = VerdictTask(_judging(recipe, step), encoder, recipe.engine.max_model_len, seed=recipe.seed)
    store = PartStore(votes_folder(recipe, step) / "completions.jsonl")
    if not store.finished:
        _sample(recipe, run, step.previous, prompts, task, store)
    records = VoteRecords(step.previous, encoder, recipe.data.max_tokens, recipe.train.round.rationale)
    to_rows = _to_rows(recipe, run, step, records)
    lost: dict[str, Sequence[Drop]] = {}
    with (
        jsonl_writer(record_files(recipe, step)[0]) as write,
        jsonl_writer(folder / "dropped.jsonl") as write_drop,
    ):
        # Stage 1 writes the prompts of a pair one after the other.
        for pair_id, orders in groupby(prompts, key=attrgetter("pair_id")):
            rows = list(to_rows([(prompt, read_votes(prompt, task, store)) for prompt in orders]))
            drops = [row for row in rows if isinstance(row, Drop)]
            if step.kind == "round" and recipe.train.round.fill and drops:  # of all its prompts
                lost[pair_id] = drops
                continue
            for row in rows:
                if isinstance(row, Drop):
                    write_drop(to_json(row))
                else:
                    write(row)
        for pair_id, filled in _earlier_records(recipe.folder / "sft.jsonl", lost):
            records.counts.subtract(drop.reason for drop in lost.pop(pair_id))
            records.counts["filled"] += len(filled)
            for row in filled:
                write(row)
        for drop in (drop for drops in lost.values() for drop in drops):
            write_drop(to_json(drop))
    counts = +records.counts  # without zeros
    shown = ", ".join(f"{count} {name}" for name, count in counts.items())
    if not counts["records"] + counts["filled"]:
        raise DataError(
            f"no prompt gives a record ({shown})",
            location=str(folder / "dropped.jsonl"),
            hint=_hint(recipe, step),
        )
    say(f"{step.model}: {shown}")
    write_json(folder / REPORT, dict(counts))


def _hint(recipe: Recipe, step: TrainStep) -> str:
    """Return what to change where no prompt gives a record."""
    if step.kind == "grpo":
        return "leave out the step grpo, or raise train.grpo.refresh"
    settings = recipe.train.round
    hints = ["raise train.round.samples" if step.kind == "round" else "raise train.dpo.refresh"]
    if settings.rationale:
        hints.append("lower train.round.rationale")
    if step.kind == "round" and not settings.fill:
        hints.append("set train.round.fill")
    return ", or ".join(hints)


def _judging(recipe: Recipe, step: TrainStep) -> JudgingConfig:
    """Return the settings of a step's votes."""
    votes, max_tokens, temperature = sampling(recipe, step)
    return JudgingConfig(max_tokens=max_tokens, temperature=temperature, votes=votes, rescue=False)


def _sample(
    recipe: Recipe, run: Run, judge: str, prompts: Sequence[JudgePrompt], task: VerdictTask, store: PartStore
) -> None:
    """Serve a judge of the run, and store its votes."""
    model, adapter = recipe.serving(judge)
    engine = load_engine(
        model, recipe.engine, seed=recipe.seed, adapters=[adapter] if adapter else [], task=f"votes of {judge}",
        logs=run.path("logs"), on_event=say,
    )  # fmt: skip
    with closing(engine), bar(f"votes of {judge}", len(prompts) * task.config.votes) as progress:
        ask_all(prompts, engine, task, store, adapter=str(adapter) if adapter else None, progress=progress)


def _to_rows(recipe: Recipe, run: Run, step: TrainStep, records: VoteRecords) -> ToRows:
    """Return what makes the rows, or drops, of a pair from the votes on its prompts."""
    points: dict[str, Sequence[str]] = {}
    if step.kind == "grpo" or recipe.train.round.rationale:
        points = points_by_pair(run)
    bounds, whole = recipe.records.grpo or GRPOConfig(), recipe.train.grpo.both_orders

    def rows(orders: Sequence[PromptVotes]) -> Iterator[dict[str, Any] | Drop]:
        own = points.get(orders[0][0].pair_id, ())
        if step.kind == "grpo":
            return records.grpo_rows(orders, bounds, own, whole_pairs=whole)
        return records.dpo_rows(orders, own) if step.kind == "dpo" else records.sft_rows(orders, own)

    return rows


def _earlier_records(
    path: Path, lost: Mapping[str, Sequence[Drop]]
) -> Iterator[tuple[str, Sequence[dict[str, Any]]]]:
    """Yield the records of stage 1 for each lost pair that has one for all its prompts; from one order alone a judge that prefers a
    letter would learn to prefer it more."""
    rows: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in read_jsonl(path) if lost else ():
        if row.get("pair_id") in lost:
            rows[row["pair_id"]].append(row)
    for pair_id, filled in rows.items():
        if {drop.location for drop in lost[pair_id]} <= {row.get("id") for row in filled}:
            yield pair_id, filled
