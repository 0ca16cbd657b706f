"""`reasongenrm distil best`: sample N replies to each message, keep the best by a head, and report what larger N would bring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from reasongenrm.answers.model import AnswerModel, sampling_requests
from reasongenrm.config.scalar import BestOfNConfig
from reasongenrm.console import say
from reasongenrm.engines.base import Request, complete_missing
from reasongenrm.errors import ConfigError, DataError
from reasongenrm.metrics.best_of_n import best_of_n_curve
from reasongenrm.metrics.intervals import clustered_interval
from reasongenrm.records import Conversation, Drop
from reasongenrm.report.best_of_n import best_of_n_chart
from reasongenrm.rows.conversations import read_conversations
from reasongenrm.rows.turns import is_number
from reasongenrm.scalar.model import ScalarRewardModel
from reasongenrm.store import (
    PartStore,
    completion_from_json,
    read_jsonl,
    to_json,
    write_json,
    write_jsonl,
)

SOURCE = (
    "unbiased estimate from all subsets of N of the M samples (Nakano et al., arXiv:2112.09332, appendix I)"
)


@dataclass(frozen=True, slots=True)
class Candidates:
    """The sampled replies to one message.

    Attributes:
        message: a conversation with this context and message.
        replies: a conversation per sample that did not fail; equal ones stay.
        scores: one per reply.
    """

    message: Conversation
    replies: tuple[Conversation, ...]
    scores: tuple[float, ...]


def best_of_n(head: str, config: BestOfNConfig, out: Path, *, judgments: str | None = None) -> dict[str, Any]:
    """Sample replies, score them with a head, and write the best reply to each message and the curve into a folder.

    It writes `candidates.jsonl` (every reply with its score, as a file of conversations: `distil judge` can judge it),
    `best.jsonl` (the best reply to each message), `dropped.jsonl` (samples that failed or have no text, and messages without a reply),
    `curve.json` and `curve.png`: the expected score of the best of N for N = 1 … `n`, over the messages of which no sample failed,
    with a 95 % bootstrap interval over messages. A killed command resumes; samples are drawn once.

    Args:
        head: folder of a trained head.
        config: conversations, model and sampling.
        out: folder.
        judgments: a file of judgments of the candidates (`distil judge` on `candidates.jsonl`): the curve of the judge's score of
            the reply that the head chooses is added.

    Returns:
        The content of `curve.json`.

    Raises:
        ConfigError: the folder holds samples of other settings.
        DataError: a file cannot be read, every sample failed, or no judgment is of these candidates.
        EngineError: the model cannot be served, or the folder does not hold a trained head.
    """
    table = read_conversations(config.conversations)
    messages = list({(one.context, one.message): one for one in table.conversations}.values())[: config.limit]
    if not messages:
        hint = "see reasongenrm distil validate"
        raise DataError("no row can be used", location=config.conversations, hint=hint)
    loaded = ScalarRewardModel.from_pretrained(head)  # before the samples: they may take hours
    model = AnswerModel(config, out / "batches.jsonl")
    replies, drops = _sampled(model, config, messages, out)
    candidates = _scored(loaded, messages, replies, config.batch_size)
    drops += [*table.drops, *_without_reply(messages, candidates)]
    if not candidates:
        hint = "check the settings, and name another folder"
        raise DataError(f"every sample failed: {drops[0].detail}", location=str(out), hint=hint)
    write_jsonl(out / "dropped.jsonl", map(to_json, drops))
    write_jsonl(out / "candidates.jsonl", (row for one in candidates for row in _candidate_rows(one)))
    write_jsonl(out / "best.jsonl", map(_best_row, candidates))
    report = _curve(candidates, config, judgments) | {"head": head, "model": model.name}
    write_json(out / "curve.json", report)
    (out / "curve.png").write_bytes(best_of_n_chart(report))
    say(
        f"{out}: {len(candidates)} messages, {sum(len(one.replies) for one in candidates)} replies, {len(drops)} dropped"
    )
    say(_curve_line(report))
    return report


def _sampled(
    model: AnswerModel, config: BestOfNConfig, messages: Sequence[Conversation], out: Path
) -> tuple[list[list[Conversation]], list[Drop]]:
    """Return the replies to each message, and a drop for each sample that failed or has no text."""
    requests_by_message: list[list[Request]] = [
        sampling_requests(model, one.history, config.n, temperature=config.temperature) for one in messages
    ]
    requests = [request for some in requests_by_message for request in some]
    store = PartStore(out / "completions.jsonl")
    if store.finished and set(store) != {request.id for request in requests}:
        hint = "name another folder, or move this one away"
        raise ConfigError("the folder holds samples of other settings", location=str(out), hint=hint)
    if not store.finished:
        with closing(model.start()) as engine:
            complete_missing(engine, requests, store)
        store.finish(request.id for request in requests)
    replies: list[list[Conversation]] = []
    drops: list[Drop] = []
    for message, some in zip(messages, requests_by_message, strict=True):
        replies.append([])
        for request in some:
            completion = completion_from_json(store[request.id])
            text = model.text(completion)
            if completion.finish_reason == "error":
                detail = f"The engine failed: {completion.error}."
                drops.append(Drop(request.id, config.conversations, "error", detail, "sample"))
            elif not text.strip():  # no row of a file of conversations: nobody could judge it
                detail = "The sample has no text."
                drops.append(Drop(request.id, config.conversations, "empty_response", detail, "sample"))
            else:
                replies[-1].append(Conversation.make(message.context, message.message, text))
    return replies, drops


def _scored(
    head: ScalarRewardModel,
    messages: Sequence[Conversation],
    replies: Sequence[Sequence[Conversation]],
    batch_size: int,
) -> list[Candidates]:
    """Return the messages that have a reply, with all scores; a text that was sampled twice is scored once."""
    distinct = list({reply.id: reply for some in replies for reply in some}.values())
    contexts, texts = [one.history for one in distinct], [one.response for one in distinct]
    scores = head.score_batch(contexts=contexts, responses=texts, batch_size=batch_size)
    score_by_id = {one.id: score for one, score in zip(distinct, scores, strict=True)}
    return [
        Candidates(message, tuple(some), tuple(score_by_id[reply.id] for reply in some))
        for message, some in zip(messages, replies, strict=True)
        if some
    ]


def _without_reply(messages: Sequence[Conversation], candidates: Sequence[Candidates]) -> list[Drop]:
    answered = {one.message.id for one in candidates}
    detail = "No sample of this message succeeded."
    return [Drop(one.id, "?", "no_reply", detail, "sample") for one in messages if one.id not in answered]


def _candidate_rows(one: Candidates) -> list[dict[str, Any]]:
    return [
        _row(reply) | {"number": number, "score": score}
        for number, (reply, score) in enumerate(zip(one.replies, one.scores, strict=True), 1)
    ]


def _best_row(one: Candidates) -> dict[str, Any]:
    place = max(range(len(one.scores)), key=lambda i: (one.scores[i], -i))
    return _row(one.replies[place]) | {
        "number": place + 1,
        "score": one.scores[place],
        "of": len(one.replies),
    }


def _row(reply: Conversation) -> dict[str, Any]:
    return {"context": reply.context, "message": reply.message, "response": reply.response}


def _curve(candidates: Sequence[Candidates], config: BestOfNConfig, judgments: str | None) -> dict[str, Any]:
    """Return the content of `curve.json`."""
    whole = [one for one in candidates if len(one.replies) == config.n]
    report: dict[str, Any] = {
        "n": config.n,
        "messages": len(whole),
        "messages_left_out": len(candidates) - len(whole),
        "estimator": SOURCE,
        "seed": config.seed,
        "score": _mean_curve([best_of_n_curve(one.scores) for one in whole], config.seed),
    }
    if judgments is not None:
        value_by_id = _values(judgments)
        judged = [one for one in whole if all(reply.id in value_by_id for reply in one.replies)]
        if not judged:
            hint = "judge the file candidates.jsonl of this folder"
            raise DataError("no message has judgments of all its replies", location=judgments, hint=hint)
        curves = [
            best_of_n_curve(one.scores, [value_by_id[reply.id] for reply in one.replies]) for one in judged
        ]
        report |= {"judge_score": _mean_curve(curves, config.seed), "judged_messages": len(judged)}
    return report


def _values(judgments: str) -> dict[str, float]:
    """Return the judge's score of each reply that has one."""
    rows = read_jsonl(Path(judgments))
    return {row["id"]: row["score"] for row in rows if is_number(row.get("score")) and "id" in row}


def _mean_curve(curves: Sequence[Sequence[float]], seed: int) -> list[dict[str, Any]]:
    """Return, for each N, the mean over messages with its interval; None with a single message."""
    points = []
    for number, values in enumerate(zip(*curves, strict=True), 1):
        interval = clustered_interval(values, [1] * len(values), seed=seed)
        low, high = interval or (None, None)
        points.append({"n": number, "expected": fmean(values), "low": low, "high": high})
    return points


def _curve_line(report: Mapping[str, Any]) -> str:
    points = report.get("judge_score") or report["score"]
    if not points:
        return "no message has all its samples: no curve"
    kind = "judge's score" if "judge_score" in report else "score"
    return f"expected {kind} of the best: {points[0]['expected']:.3f} of 1, {points[-1]['expected']:.3f} of {len(points)}"
