"""Evaluate a head that repeats a judge's scores on the judgments that its training did not read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import msgspec

from reasongenrm.config.distil import DistilRecipe
from reasongenrm.console import say
from reasongenrm.data.split import ConversationSplit, conversation_key, split_conversations
from reasongenrm.errors import DataError
from reasongenrm.records import Conversation, Drop, Judgment
from reasongenrm.rows.files import read_rows
from reasongenrm.rows.turns import is_number
from reasongenrm.run import Run
from reasongenrm.scalar.agreement import JudgeAgreement, evaluate_agreement
from reasongenrm.scalar.agreement_report import agreement_line, write_agreement_report
from reasongenrm.scalar.model import ScalarRewardModel
from reasongenrm.scalar.reply_pairs import ScoredReply
from reasongenrm.store import read_json, read_jsonl, to_json, write_jsonl

FOLDER = "evaluation"
"""Folder of the results in the run folder."""


def evaluate_distilled(recipe: DistilRecipe, run: Run) -> JudgeAgreement:
    """Score the held-out test part with the head in `runs/<name>/scalar`, and report in `runs/<name>/evaluation`.

    The folder gets `metrics.json`, `report.html`, `agreement.png`, `scores.jsonl`, and `dropped.jsonl` with the replies that have no
    score by the judge and the lines of `people` that cannot be used.

    Args:
        recipe: the resolved recipe; split and seed as in the training.
        run: the run folder, claimed.

    Raises:
        DataError: a file of the run is missing or broken, the file of `people` cannot be read, or no test reply has a score.
        EngineError: the head cannot be loaded.
    """
    rows = [msgspec.convert(row, Conversation) for row in read_jsonl(run.path("conversations.jsonl"))]
    judgments = {row["id"]: msgspec.convert(row, Judgment) for row in read_jsonl(run.path("judgments.jsonl"))}
    split = split_conversations(rows, recipe.split.validation, recipe.split.test, recipe.seed)
    scored = [row for row in split.test if row.id in judgments and judgments[row.id].score is not None]
    if not scored:
        hint = "judge more conversations: judgments.jsonl has the outcomes"
        raise DataError(
            f"none of {len(split.test)} test replies has a score", location=str(run.folder), hint=hint
        )
    known = {row.id for row in scored}
    drops = [_unscored(row) for row in split.test if row.id not in known]
    people, bad_lines = read_people(recipe.people, {row.id for row in rows}) if recipe.people else ({}, [])
    model = ScalarRewardModel.from_pretrained(run.path("scalar"))
    replies = score_replies(model, scored, judgments, recipe, people)
    training = [score for row in split.train if (score := _score(judgments.get(row.id))) is not None]
    metrics = evaluate_agreement(
        replies,
        seed=recipe.seed,
        training_mean=fmean(training) if training else None,
        judge_scale=model.scale.is_judge_scale,
    )
    out = run.path(FOLDER)
    write_jsonl(out / "dropped.jsonl", map(to_json, [*drops, *bad_lines]))
    write_agreement_report(
        out,
        replies,
        metrics,
        name=recipe.name,
        facts=_facts(recipe, run, split, len(drops), len(bad_lines)),
        loss_curve=_bytes(run.path("scalar", "loss.png")),
    )
    say(agreement_line(metrics))
    say(f"report: {out / 'report.html'}")
    return metrics


def _score(judgment: Judgment | None) -> float | None:
    return None if judgment is None else judgment.score


def _unscored(row: Conversation) -> Drop:
    return Drop(row.id, "test", "no_score", "The judge gave no score that can be read.", "evaluate")


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def score_replies(
    model: ScalarRewardModel,
    rows: Sequence[Conversation],
    judgments: Mapping[str, Judgment],
    recipe: DistilRecipe,
    people: Mapping[str, float],
) -> list[ScoredReply]:
    """Return the rows with the scores of the head, of the judge and of people."""
    texts = [row.history for row in rows], [row.response for row in rows]
    if model.scale.rubric is None:
        criteria: list[dict[str, float]] = [{}] * len(rows)
        scores = model.score_batch(*texts)
    else:
        criteria = model.criterion_scores(*texts)
        scores = [model.scale.rubric.weighted_score(row) for row in criteria]
    rubric, replies = recipe.judge.rubric, []
    for row, score, own in zip(rows, scores, criteria, strict=True):
        judgment = judgments[row.id]
        assert judgment.score is not None
        tokens, truncated = model.lengths(row.history, row.response)
        names = [criterion.name for criterion in rubric.criteria]
        samples = [sample for sample in judgment.samples if all(name in sample for name in names)]
        replies.append(
            ScoredReply(
                id=row.id,
                conversation=conversation_key(row),
                context=row.context,
                message=row.message,
                response=row.response,
                judge=judgment.score,
                head=score,
                judge_criteria=judgment.scores,
                head_criteria=own,
                samples=tuple(map(rubric.weighted_score, samples)),
                people=people.get(row.id),
                tokens=tokens,
                truncated=truncated,
                rationale=judgment.rationale,
            )
        )
    return replies


def read_people(path: str, ids: Iterable[str]) -> tuple[dict[str, float], list[Drop]]:
    """Return the mean score that people gave to each reply, by id, and the lines that cannot be used.

    Args:
        path: JSONL with `id` and `score`, one line per person and reply; further columns are not read.
        ids: of all conversations of the run.

    Raises:
        DataError: the file cannot be read.
    """
    known, scores, drops = set(ids), dict[str, list[float]](), []
    for row in read_rows(path, required=("id", "score")):
        if isinstance(row, Drop):
            drops.append(row)
            continue
        name, score = row.columns.get("id"), row.columns.get("score")
        if not is_number(score):
            drops.append(Drop(row.location, "people", "bad_score", "`score` is not a number.", "load"))
        elif not isinstance(name, str) or name not in known:
            detail = "`id` is not that of a conversation of this run (see conversations.jsonl)."
            drops.append(Drop(row.location, "people", "unknown_id", detail, "load"))
        else:
            scores.setdefault(name, []).append(float(score))
    return {name: fmean(values) for name, values in scores.items()}, drops


def _facts(
    recipe: DistilRecipe, run: Run, split: ConversationSplit, unscored: int, bad_lines: int
) -> dict[str, Any]:
    """Return what the report says about judge, split, head and training."""
    report = read_json(run.path("scalar", "done.json"))["report"]
    judge = recipe.judge
    model = judge.server.model if judge.server else f"{judge.judge.name or 'judge'} of {judge.judge.recipe}"  # type: ignore[union-attr]
    facts = {
        "judge": model,
        "samples per reply": judge.samples,
        "criteria": ", ".join(f"{c.name} ({c.weight:g})" for c in judge.rubric.criteria),
        "replies for training, validation, test": ", ".join(str(len(part)) for part in split),
        "test replies without a score (left out)": unscored,
        "lines of people left out": bad_lines if recipe.people else None,
        "base": recipe.head.model,
        "objective": recipe.objective,
        "trained on": f"{report['trained']} pairs" if "trained" in report else f"{report['rows']} replies",
        "optimizer steps": report["steps"],
        "limit in tokens": recipe.head.max_length,
        "LoRA": "yes, merged" if recipe.head.lora is not None else "no",
        "seed": recipe.seed,
    }
    return {name: value for name, value in facts.items() if value is not None}
