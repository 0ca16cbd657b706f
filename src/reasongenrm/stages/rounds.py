"""Records that a training step makes from samples of the judge it starts from: a round of rejection sampling, or pairs for DPO."""

from __future__ import annotations

from contextlib import closing
from itertools import groupby
from operator import attrgetter

from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.config.evaluate import JudgingConfig
from reasongenrm.config.recipe import Recipe, TrainStep
from reasongenrm.console import bar, say
from reasongenrm.engines.loading import load_engine
from reasongenrm.errors import DataError
from reasongenrm.judge.ask import VerdictTask, ask_all, read_votes
from reasongenrm.reasons.votes import VoteRecords
from reasongenrm.records import Drop
from reasongenrm.run import Run
from reasongenrm.stages.reasons import read_prompts
from reasongenrm.store import PartStore, jsonl_writer, to_json, write_json
from reasongenrm.train.tokens import record_files, refresh_folder

REPORT = "report.json"
"""File in a round's folder with its counts; it is written last."""


def refresh_records(recipe: Recipe, run: Run, step: TrainStep, encoder: ChatEncoder) -> None:
    """Sample votes on all judge prompts from the previous step's judge, and write the records that follow from them.

    The folder `rounds/<model>` gets `completions.jsonl`, the record file, `dropped.jsonl` and `report.json`. A killed run
    continues with the completions that are there.

    Args:
        recipe, run: the settings, and the folder with `prompts.jsonl`.
        step: a step of the kind `round`, or `dpo` with `refresh`.
        encoder: of the judge.

    Raises:
        DataError: no prompt gives a record.
        EngineError: the judge cannot be served.
    """
    assert step.previous is not None
    folder, settings = refresh_folder(recipe, step), recipe.train.round
    if (folder / REPORT).exists():
        return
    votes = recipe.train.dpo.refresh if step.kind == "dpo" else settings.samples
    config = JudgingConfig(
        max_tokens=settings.max_tokens, temperature=settings.temperature, votes=votes or 1, rescue=False
    )
    prompts = list(read_prompts(run))
    task = VerdictTask(config, encoder, recipe.engine.max_model_len, seed=recipe.seed)
    store = PartStore(folder / "completions.jsonl")
    if not store.finished:
        model, adapter = recipe.serving(step.previous)
        engine = load_engine(
            model, recipe.engine, seed=recipe.seed, adapters=[adapter] if adapter else [], task=f"votes of {step.previous}",
            logs=run.path("logs"), on_event=say,
        )  # fmt: skip
        with closing(engine), bar(f"votes of {step.previous}", len(prompts) * config.votes) as progress:
            ask_all(
                prompts, engine, task, store, adapter=str(adapter) if adapter else None, progress=progress
            )
    records = VoteRecords(step.previous, encoder, recipe.data.max_tokens)
    to_rows = records.dpo_rows if step.kind == "dpo" else records.sft_rows
    path = record_files(recipe, step)[0]
    with jsonl_writer(path) as write, jsonl_writer(folder / "dropped.jsonl") as write_drop:
        for _, orders in groupby(
            prompts, key=attrgetter("pair_id")
        ):  # stage 1 writes them one after the other
            for row in to_rows([(prompt, read_votes(prompt, task, store)) for prompt in orders]):
                if isinstance(row, Drop):
                    write_drop(to_json(row))
                else:
                    write(row)
    counts = ", ".join(f"{count} {name}" for name, count in records.counts.items())
    if not records.counts["records"]:
        hint = "raise the number of samples or train.round.temperature"
        raise DataError(
            f"no prompt gives a record ({counts})", location=str(folder / "dropped.jsonl"), hint=hint
        )
    say(f"{step.model}: {counts}")
    write_json(folder / REPORT, dict(records.counts))
